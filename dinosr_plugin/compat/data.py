"""Which dataset and checkpoint fairseq's audio tasks and models read, and how ``fairseq-generate`` reads batches."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from ..files import is_file, read_lines
from .wrapping import wrap_once


@contextmanager
def audio_dataset(make: Callable) -> Iterator[None]:
    """Within this context fairseq's audio tasks build their dataset with ``make``.

    fairseq's code names its dataset class; the alternative is a copy of its 100 lines.
    """
    from fairseq.tasks import audio_pretraining

    previous = audio_pretraining.FileAudioDataset
    audio_pretraining.FileAudioDataset = make
    try:
        yield
    finally:
        audio_pretraining.FileAudioDataset = previous


@contextmanager
def label_files_as_text(change: Callable[[str], str] = str) -> Iterator[None]:
    """Within this context fairseq's fine-tuning task reads label files with ``files.read_lines``.

    ``change`` is applied to every line.

    Its own ``open`` has the encoding of the locale, and a byte order mark becomes part of the first label.
    """
    from fairseq.tasks import audio_finetuning

    def open_labels(path, mode="r"):
        return nullcontext(f"{change(line)}\n" for line in read_lines(path, "make it with `dinosr manifest`"))

    audio_finetuning.open = open_labels  # hides the built-in function
    try:
        yield
    finally:
        del audio_finetuning.open


def dictionaries_as_text():
    """fairseq reads dictionaries with ``files.read_lines``, so that a byte order mark is not part of a symbol."""
    from fairseq.data import Dictionary

    def make(previous):
        def add_from_file(self, f):
            if isinstance(f, str) and is_file(f):
                f = io.StringIO("".join(f"{line}\n" for line in read_lines(f, "give a dictionary")))
            return previous(self, f)

        return add_from_file

    wrap_once(Dictionary, "add_from_file", make)


def one_corpus_per_batch():
    """Batches of fairseq's ``MultiCorpusDataset`` contain one corpus each, read as without the mixture.

    fairseq mixes rows of several corpora in a batch and has the first row's dataset collate them all by row number.
    In that dataset these are the numbers of other files, or do not exist.
    """
    from fairseq.data.multi_corpus_dataset import MultiCorpusDataset

    def batch_by_corpus(previous):
        def __init__(self, *args, **kwargs):
            previous(self, *args, **kwargs)
            self.batch_sample = True

        return __init__

    def read_batch(previous):
        def __getitems__(self, indices):
            rows, keys = zip(*map(self._map_index, indices))
            corpus = self.datasets[keys[0]]
            if not hasattr(corpus, "__getitems__"):
                return previous(self, indices)
            return [{**item, "full_id": index} for item, index in zip(corpus.__getitems__(rows), indices)]

        return __getitems__

    wrap_once(MultiCorpusDataset, "__init__", batch_by_corpus)
    wrap_once(MultiCorpusDataset, "__getitems__", read_batch)


@contextmanager
def loaded_checkpoints(change: Callable) -> Iterator[None]:
    """Within this context every checkpoint that fairseq loads is passed through ``change``.

    fairseq's ``wav2vec_ctc`` loads the pre-trained checkpoint itself and offers no other way to convert it.
    """
    from fairseq import checkpoint_utils

    previous = checkpoint_utils.load_checkpoint_to_cpu
    checkpoint_utils.load_checkpoint_to_cpu = lambda *args, **kwargs: change(previous(*args, **kwargs))
    try:
        yield
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = previous


def transform_batches(batches, make: Callable[[Iterator], Iterator]) -> None:
    """Replace the rest of fairseq-generate's iterator ``batches`` with ``make`` of it.

    fairseq-generate decodes each batch before it reads the next one; ``make`` may read ahead.
    """
    counting = batches._cur_epoch_itr
    counting._itr = make(counting._itr)

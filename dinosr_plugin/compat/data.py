"""Which dataset and which checkpoint fairseq's audio tasks and models read, and how ``fairseq-generate`` walks through a dataset."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .wrapping import wrap_once


@contextmanager
def audio_dataset(make: Callable) -> Iterator[None]:
    """fairseq's audio tasks name their dataset class; while this lasts they call ``make`` instead. The other way is a copy of 100 lines."""
    from fairseq.tasks import audio_pretraining

    previous = audio_pretraining.FileAudioDataset
    audio_pretraining.FileAudioDataset = make
    try:
        yield
    finally:
        audio_pretraining.FileAudioDataset = previous


def one_corpus_a_batch():
    """fairseq's mixture of corpora puts rows of several into a batch, and lets the first row's dataset collate them all: by row numbers, which are
    those of other files there, if there are so many. Here a batch is of one corpus, which reads it as it would without the mixture.
    """
    from fairseq.data.multi_corpus_dataset import MultiCorpusDataset

    def apart(previous):
        def __init__(self, *args, **kwargs):
            previous(self, *args, **kwargs)
            self.batch_sample = True

        return __init__

    def together(previous):
        def __getitems__(self, indices):
            rows, keys = zip(*map(self._map_index, indices))
            corpus = self.datasets[keys[0]]
            if not hasattr(corpus, "__getitems__"):
                return previous(self, indices)
            return [{**item, "full_id": index} for item, index in zip(corpus.__getitems__(rows), indices)]

        return __getitems__

    wrap_once(MultiCorpusDataset, "__init__", apart)
    wrap_once(MultiCorpusDataset, "__getitems__", together)


@contextmanager
def loaded_checkpoints(change: Callable) -> Iterator[None]:
    """fairseq's ``wav2vec_ctc`` loads the pre-trained checkpoint by itself; while this lasts it gets what ``change`` makes of each."""
    from fairseq import checkpoint_utils

    previous = checkpoint_utils.load_checkpoint_to_cpu
    checkpoint_utils.load_checkpoint_to_cpu = lambda *args, **kwargs: change(previous(*args, **kwargs))
    try:
        yield
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = previous


def through(batches, make: Callable[[Iterator], Iterator]) -> None:
    """fairseq-generate wants the text of a batch before it reads the next one. From here on it reads what ``make`` makes of its batches."""
    counted = batches._cur_epoch_itr
    counted._itr = make(counted._itr)

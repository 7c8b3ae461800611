"""Which dataset and which checkpoint fairseq's audio tasks and models read, and how ``fairseq-generate`` walks through a dataset."""

from contextlib import contextmanager
from typing import Callable, Iterator


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

"""Which dataset fairseq's audio tasks read, and how ``fairseq-generate`` walks through it."""

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


def through(batches, make: Callable[[Iterator], Iterator]) -> None:
    """fairseq-generate wants the text of a batch before it reads the next one. From here on it reads what ``make`` makes of its batches."""
    counted = batches._cur_epoch_itr
    counted._itr = make(counted._itr)

"""What probes predict: for each utterance, examples, that is spans of frames, and the label of each.

A span is a frame, the frames of a word, or all frames of an utterance; a probe sees the mean of its frames. Labels are
classes (phone, word, gender) or numbers (log-F0, log energy, position).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ....modules.frame_grid import FrameGrid
from ....units.frames import UtteranceArrays
from ...phones import PhoneAlignment


class Place(NamedTuple):
    """Where the frames of an utterance are: ``n`` of them, ``rate`` per second, frame 0 at ``first_centre`` seconds."""

    n: int
    rate: float
    first_centre: float

    @property
    def centres(self) -> np.ndarray:
        """(n,) float64 seconds."""
        return self.first_centre + np.arange(self.n) / self.rate


class Examples(NamedTuple):
    """Of one utterance: frames ``starts[i]`` to ``stops[i]`` - 1 have ``labels[i]``; each (k,), int64 or float64."""

    starts: np.ndarray
    stops: np.ndarray
    labels: np.ndarray

    @classmethod
    def of_frames(cls, labels: np.ndarray, labelled: np.ndarray) -> "Examples":
        """Single frames. ``labels``: (n,), ``labelled``: (n,) bool, which of the frames have one."""
        (frames,) = np.nonzero(labelled)
        return cls(frames, frames + 1, labels[frames])


class Labels(ABC):
    """What a probe predicts. ``classes``: their names; None: a number."""

    classes: Sequence[str] | None = None

    @abstractmethod
    def examples(self, utt: str, place: Place) -> Examples:
        """The examples of an utterance, which may have none."""


def class_numbers(alignment: PhoneAlignment, classes: Sequence[str]) -> np.ndarray:
    """The class of each of ``alignment.names``, -1 for those that are not among ``classes``."""
    numbers = {name: i for i, name in enumerate(classes)}
    return np.array([numbers.get(name, -1) for name in alignment.names])


class PhoneLabels(Labels):
    """The phone at the centre of each frame; frames of phones that are not among ``classes`` are left out."""

    def __init__(self, phones: PhoneAlignment, classes: Sequence[str]):
        self.phones, self.classes, self.class_of = phones, classes, class_numbers(phones, classes)

    def examples(self, utt: str, place: Place) -> Examples:
        labels = self.class_of[self.phones.frame_phones(utt, *place)]
        return Examples.of_frames(labels, labels >= 0)


class WordLabels(Labels):
    """Words among ``classes``: the frames whose centres are in the word, or the frame nearest to its middle."""

    def __init__(self, words: PhoneAlignment, classes: Sequence[str]):
        self.words, self.classes, self.class_of = words, classes, class_numbers(words, classes)

    def examples(self, utt: str, place: Place) -> Examples:
        begins, words = self.words.segments[utt]  # microseconds
        ends, labels = self.words.ends[utt], self.class_of[words]
        centres = np.rint(place.centres * 1e6).astype(np.int64)
        starts, stops = np.searchsorted(centres, begins), np.searchsorted(centres, ends)
        nearest = np.rint(((begins + ends) / 2e6 - place.first_centre) * place.rate).astype(np.int64)
        empty = starts == stops
        starts = np.where(empty, nearest, starts)
        stops = np.where(empty, nearest + 1, stops)
        used = (labels >= 0) & (starts >= 0) & (stops <= place.n)
        return Examples(starts[used], stops[used], labels[used])


class UtteranceLabels(Labels):
    """One class for all frames of an utterance together, such as the gender of its speaker."""

    def __init__(self, names: Mapping[str, str], classes: Sequence[str]):
        self.classes = classes
        self.label_of = {utt: classes.index(name) for utt, name in names.items()}

    def examples(self, utt: str, place: Place) -> Examples:
        return Examples(*(np.array([number]) for number in (0, place.n, self.label_of[utt])))


class TrackLabels(Labels):
    """A number that was measured over time: the one that is nearest to the centre of a frame.

    Args:
        tracks: utterance -> (m, 1) float32 on ``grid``; frames where it is ``MISSING`` are left out.
    """

    def __init__(self, tracks: UtteranceArrays, grid: FrameGrid):
        self.tracks, self.grid = tracks, grid

    def examples(self, utt: str, place: Place) -> Examples:
        track = np.asarray(self.tracks[utt])[:, 0].astype(np.float64)  # (m,)
        nearest = np.rint((place.centres - self.grid.first_centre) * self.grid.rate).astype(np.int64)
        labels = track[nearest.clip(0, len(track) - 1)]
        return Examples.of_frames(labels, labels != MISSING)


class PositionLabels(Labels):
    """The place of each frame in its utterance, from 0, the first frame, to 1, the last."""

    def examples(self, utt: str, place: Place) -> Examples:
        return Examples.of_frames(np.arange(place.n) / max(place.n - 1, 1), np.ones(place.n, dtype=bool))


MISSING = float(np.float32(-1e9))
"""Marks frames of a track that have no value. Feature folders refuse NaN."""

"""Random parts of random recordings, such as noise, music, other voices or room responses."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from ..errors import UserError
from .audio import MONO_COPIES, SAMPLE_RATE, AudioError, read_header, read_part, with_retries, wrong_format
from .dataset import SpeechDataset
from .manifest import NO_ROWS


class Recordings:
    """The recordings of a manifest, from which transforms of views draw.

    What is drawn depends on the generator only. A bad recording is treated as ``files`` treats bad files: UserError or,
    with ``skip_bad_audio``, it is logged and counted, and the next usable one of the manifest takes its place.

    Args:
        files: the manifest.

    Raises:
        UserError: the manifest is empty.
    """

    def __init__(self, files: SpeechDataset):
        if not len(files):
            raise UserError(f"{files.manifest_path}: {NO_ROWS}")
        self.files = files

    @classmethod
    def read(cls, manifest: Path, skip_bad_audio: bool = False, max_bad_files: int | None = None) -> "Recordings":
        """The recordings of a ``.tsv`` file, at 16 kHz.

        Args:
            skip_bad_audio, max_bad_files: as for ``SpeechDataset``.

        Raises:
            UserError: the manifest cannot be read or is empty. Without ``skip_bad_audio``, the first recording cannot
                be used.
        """
        options = {"skip_bad_audio": skip_bad_audio, "max_bad_files": max_bad_files}
        recordings = cls(SpeechDataset(str(manifest), SAMPLE_RATE, **options))
        if not skip_bad_audio:
            require_format(recordings.files.path(0))
        return recordings

    def __call__(self, rng: np.random.Generator, length: int, utterance: int = 0) -> np.ndarray:
        """A random part of a random recording, (length,) float32; a shorter recording is repeated.

        Raises:
            UserError: the recording cannot be used; with ``skip_bad_audio``, more than ``max_bad_files`` or all.
        """
        return self.part(int(rng.integers(len(self.files))), rng.random(), length)

    def beginning(self, rng: np.random.Generator, longest: int) -> np.ndarray:
        """The first ``longest`` samples of a random recording, or all of a shorter one: (n,) float32.

        Raises UserError as above.
        """
        read = lambda number: self.read_samples(number, 0, min(longest, int(self.files.sizes[number])))
        return self.first_usable(int(rng.integers(len(self.files))), read)

    def part(self, number: int, place: float, length: int, excluded: int | None = None) -> np.ndarray:
        """(length,) float32 of this recording: from its first possible sample for place 0, from its last for almost 1.

        ``excluded``: a recording that never takes the place of a bad one.
        """
        return self.first_usable(number, lambda number: self.part_of(number, place, length), excluded)

    def part_of(self, number: int, place: float, length: int) -> np.ndarray:
        """(length,) float32. Raises AudioError if this recording cannot be used."""
        samples = int(self.files.sizes[number])
        spare = samples - length
        if spare >= 0:
            return self.read_samples(number, int(place * (spare + 1)), length)
        return np.resize(np.roll(self.read_samples(number, 0, samples), -int(place * samples)), length)

    def read_samples(self, number: int, start: int, length: int) -> np.ndarray:
        files = self.files
        path, samples = files.path(number), int(files.sizes[number])
        read = partial(read_part, path, samples, start, length, files.sample_rate)
        return read() if files.bad[number] else with_retries(read)

    def first_usable(self, first: int, read: Callable[[int], np.ndarray], excluded: int | None = None) -> np.ndarray:
        """What ``read`` returns for the first recording from this one on for which it does not raise AudioError.

        A bad recording is tried again every time, because only a part of it may be damaged: what another process has
        read changes no view.
        """
        for number in chain(range(first, len(self.files)), range(first)):
            if number == excluded:
                continue
            try:
                return read(number)
            except AudioError as error:
                self.files.refuse(number, error)
        manifest = self.files.manifest_path
        raise UserError(
            f"{manifest}: none of its recordings can be used; `dinosr check {manifest}` lists all such files"
        )


class OtherUtterances(Recordings):
    """The utterances of a dataset, from which parts of all but the utterance itself are drawn.

    Raises:
        UserError: there is one utterance only.
    """

    def __init__(self, files: SpeechDataset):
        super().__init__(files)
        if len(files) == 1:
            raise UserError(
                f"{files.manifest_path}: has one utterance, so there is no other one for babble; set task.babble to a "
                "manifest of speech"
            )

    def __call__(self, rng: np.random.Generator, length: int, utterance: int = 0) -> np.ndarray:
        """A random part of another utterance, (length,) float32. Raises UserError as ``Recordings``."""
        number = int(rng.integers(len(self.files) - 1))
        return self.part(number + (number >= utterance), rng.random(), length, excluded=utterance)


def require_format(path: Path) -> None:
    """Raises UserError for a file that cannot be read or is not mono at 16 kHz."""
    try:
        wrong = wrong_format(read_header(path))
    except AudioError as error:
        raise UserError(f"{path}: {error}") from error
    if wrong:
        raise UserError(f"{path}: {wrong}; {MONO_COPIES}")

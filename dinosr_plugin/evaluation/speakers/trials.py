"""Trial lists: pairs of recordings, of the same speaker or of two, in VoxCeleb's format.

    1 id10270/x6uYqmx31kE/00001.wav id10270/8jEAjG6SegY/00008.wav
    0 id10270/x6uYqmx31kE/00001.wav id10300/ize_eiCFEg0/00003.wav

Names are those of ``recordings``.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...data.audio import SAMPLE_RATE
from ...errors import UserError, first_few
from ...files import read_lines, text_output
from .recordings import Recording, file_of, read_recordings, speaker_of_name

REMEDY = "a line is `1 FILE FILE` for the same speaker, `0 FILE FILE` for different speakers"


class Trial(NamedTuple):
    """``same``: whether both recordings are of the same speaker (a target trial)."""

    same: bool
    first: str
    second: str

    def line(self) -> str:
        return f"{int(self.same)} {self.first} {self.second}"


def read_trials(path: str | Path) -> list[Trial]:
    """Raises UserError for a file that cannot be read, a line of another form, or a list without trials."""
    trials = []
    for number, line in enumerate(read_lines(path, "make it with `dinosr speaker trials`"), start=1):
        fields = line.split()
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise UserError(f"{path} line {number}: not a trial; {REMEDY}")
        trials.append(Trial(fields[0] == "1", fields[1], fields[2]))
    if not trials:
        raise UserError(f"{path}: empty list; {REMEDY}")
    return trials


def write_trials(path: str | Path, trials: Sequence[Trial]) -> None:
    with text_output(path) as file:
        file.writelines(f"{trial.line()}\n" for trial in trials)


# ---- making a list ---------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """``speakers``: number of them in the list; ``notes``: for the user."""

    trials: list[Trial]
    speakers: int
    notes: list[str]


def make_trials(
    manifest: str | Path, per_speaker: int = 100, halves: bool = False, seconds: float | None = None, seed: int = 0
) -> Drawn:
    """Random trials of the speakers of a manifest, which its folders name.

    Args:
        per_speaker: trials of the same speaker, and as many of different speakers, for each speaker; all if there are
            fewer. No pair occurs twice.
        halves: of the first half of one recording and the second half of another; of the same speaker only of the same
            recording, for corpora with one recording of each speaker. Both halves share what is constant in a
            recording, such as the microphone and the room.
        seconds: one random part of this length stands for each recording (half); shorter ones are left out.
        seed: of the parts and of the pairs.

    Raises:
        UserError: as ``read_recordings``; a file in no folder, or with a space in its name; fewer than two speakers;
            no pair of the same speaker.
    """
    recordings = read_recordings(manifest)
    require_names(recordings, manifest)
    sides, notes = make_sides(recordings, halves, seconds, seed)
    if len(sides) < 2:
        raise UserError(
            f"{manifest}: {len(sides)} speaker(s) with long enough recordings, and trials need two; give a manifest of "
            "more, whose folders name the speakers"
        )
    trials = list(draw_trials(list(sides.values()), per_speaker, halves, np.random.default_rng(seed)))
    if not any(trial.same for trial in trials):
        raise UserError(
            f"{manifest}: no speaker has two long enough recordings, so there is no trial of the same speaker; add "
            "--halves, for trials between the halves of recordings"
        )
    return Drawn(trials, len(sides), notes)


def require_names(recordings: Sequence[Recording], manifest: str | Path) -> None:
    """Raise UserError for names that cannot be written to a list, and for files without a speaker."""
    if spaces := [one.name for one in recordings if len(one.name.split()) != 1]:
        raise UserError(
            f"{manifest}: {len(spaces)} file(s) have a space in their path ({first_few(spaces)}), which separates the "
            "fields of a trial list; rename them"
        )
    if alone := [one.name for one in recordings if not speaker_of_name(one.name)]:
        raise UserError(
            f"{manifest}: {len(alone)} file(s) are in no folder ({first_few(alone)}); put the files of each speaker "
            "into a folder"
        )


Side = tuple[list[str], list[str]]
"""Names of a speaker's recordings, as the first and as the second of a pair: the same twice, or both halves."""


def make_sides(
    recordings: Sequence[Recording], halves: bool, seconds: float | None, seed: int
) -> tuple[dict[str, Side], list[str]]:
    """Speaker -> names, in the order of the names, and notes about what was left out."""
    sides: dict[str, Side] = {}
    shortest = 1 if seconds is None else math.ceil(seconds * SAMPLE_RATE)
    short = []
    for whole in sorted(recordings, key=lambda one: one.name):
        middle = whole.length // 2
        parts = [whole.part(0, middle), whole.part(middle, whole.length)] if halves else [whole]
        if min(part.samples for part in parts) < shortest:
            short.append(whole.name)
            continue
        if seconds is not None:
            parts = [random_part(part, shortest, seed) for part in parts]
        first, second = sides.setdefault(speaker_of_name(whole.name), ([], []))
        first.append(parts[0].name)
        second.append(parts[-1].name)
    what = f"{'halves of ' if halves else ''}{len(short)} recording(s) are shorter than {seconds or 0:g} s"
    return sides, [f"{what} ({first_few(short)}); left out"] if short else []


def random_part(recording: Recording, samples: int, seed: int) -> Recording:
    """A part of so many samples; it depends on the seed and the recording's name only."""
    rng = np.random.default_rng([seed, *recording.name.encode()])
    start = recording.start + int(rng.integers(recording.samples - samples + 1))
    return recording.part(start, start + samples)


def draw_trials(sides: Sequence[Side], per_speaker: int, halves: bool, rng: np.random.Generator) -> Iterator[Trial]:
    """For each speaker the trials within, then those with other speakers."""
    firsts, seconds = ([name for side in sides for name in side[place]] for place in (0, 1))
    owners = np.repeat(np.arange(len(sides)), [len(first) for first, _ in sides])
    used: set[tuple[int, int]] = set()  # pairs of different speakers, in ascending order
    before = [0] * len(sides)  # for each speaker, pairs that were drawn for the other one
    for speaker in range(len(sides)):
        mine, others = np.flatnonzero(owners == speaker), np.flatnonzero(owners != speaker)
        n = len(mine)
        for number in draw(rng, n if halves else n * (n - 1) // 2, per_speaker):
            a, b = (number, number) if halves else pair_of(number)
            yield Trial(True, firsts[mine[a]], seconds[mine[b]])
        numbers = draw(rng, n * len(others), per_speaker + before[speaker])
        pairs = [(int(mine[number // len(others)]), int(others[number % len(others)])) for number in numbers]
        if not halves:  # with halves, the pair in the other order has other parts
            pairs = [pair for pair in pairs if (min(pair), max(pair)) not in used]
        for pair in pairs[:per_speaker]:
            used.add((min(pair), max(pair)))
            before[owners[pair[1]]] += 0 if halves else 1
            yield Trial(False, firsts[pair[0]], seconds[pair[1]])


def draw(rng: np.random.Generator, count: int, wanted: int) -> list[int]:
    """At most ``wanted`` different numbers below ``count``, in random order."""
    return rng.choice(count, size=min(count, wanted), replace=False).tolist() if count else []


def pair_of(number: int) -> tuple[int, int]:
    """0, 1, 2, 3 ... -> (0, 1), (0, 2), (1, 2), (0, 3) ...: all pairs a < b."""
    b = (1 + math.isqrt(1 + 8 * number)) // 2
    return number - b * (b - 1) // 2, b


def names_of(trials: Sequence[Trial]) -> list[str]:
    """The names in a list, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(name for trial in trials for name in (trial.first, trial.second)))


def units_of(trials: Sequence[Trial]) -> tuple[str, list[str], list[str]]:
    """What ``verification.bootstrap`` resamples: (``speakers`` or ``recordings``, those of both sides of each trial).

    Speakers, if the folders in the names agree with the labels of all trials; otherwise recordings.
    """
    first, second = ([speaker_of_name(name) for name in side] for side in zip(*(trial[1:] for trial in trials)))
    if all(a and b and (a == b) == trial.same for a, b, trial in zip(first, second, trials)):
        return "speakers", first, second
    return "recordings", [file_of(trial.first) for trial in trials], [file_of(trial.second) for trial in trials]

"""The utterances of a manifest, read in batches of similar length while the model works."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from ..data.audio import SAMPLE_RATE, AudioError, read_wave
from ..data.manifest import duplicate_ids, raise_problems, read_manifest, utterance_id
from ..errors import UserError, first_few
from ..files import is_file

BATCH_SAMPLES = 1_000_000  # about a minute of sound: 1.5 GB for a base model, on the CPU
PREFETCHED = 2  # batches that are read from the disk while the model works

Item = TypeVar("Item")
Result = TypeVar("Result")


class Utterance(NamedTuple):
    """``name``: file name without its suffix, as in label and item files; ``samples`` at 16 kHz."""

    name: str
    path: Path
    samples: int


def read_utterances(manifest: str | Path, min_samples: int = 1, max_minutes: float = math.inf) -> list[Utterance]:
    """The rows of a manifest.

    Raises UserError as ``read_manifest``, for duplicate names, and for files shorter or longer than the limits.
    """
    split = read_manifest(Path(manifest))
    if clashes := duplicate_ids(row.path for row in split.utterances):
        raise_problems(clashes, split.root)
    require_frames({row.path: row.samples for row in split.utterances}, manifest, min_samples)
    long = [row.path for row in split.utterances if row.samples > max_minutes * 60 * SAMPLE_RATE]
    if long:
        raise UserError(
            f"{manifest}: {len(long)} file(s) are longer than {max_minutes:g} minutes ({first_few(long)}), and a model "
            "reads each as a whole; split them with `dinosr segment`, or raise --max-minutes"
        )
    return [Utterance(utterance_id(row.path), split.root / row.path, row.samples) for row in split.utterances]


def require_frames(samples: Mapping[str, int], manifest: str | Path | None, min_samples: int) -> None:
    """File or utterance -> samples. Raise UserError for any with fewer than ``min_samples``, those of a frame."""
    if short := [name for name, length in samples.items() if length < min_samples]:
        raise UserError(
            f"{manifest}: {len(short)} file(s) are shorter than one frame, {min_samples} samples ({first_few(short)}); "
            "remove them from the manifest"
        )


def require_files(utterances: Sequence[Utterance], manifest: str | Path) -> None:
    """Raise UserError for missing files before the work begins, not when their turn comes."""
    missing = [utterance.path for utterance in utterances if not is_file(utterance.path)]
    if missing:
        raise UserError(
            f"{manifest}: {len(missing)} of its {len(utterances)} files are missing ({first_few(missing)}); "
            "restore them, or make the manifest again with `dinosr manifest`"
        )


def load_checked_wave(utterance: Utterance) -> np.ndarray:
    """(samples,) float32.

    Raises UserError for a file that cannot be read, is not 16 kHz mono, has another length than the manifest states
    (before it is decoded), or contains NaN or infinity, whose units would look like any others.
    """
    try:
        return read_wave(utterance.path, utterance.samples)
    except AudioError as error:
        raise unusable(utterance, error) from error


def unusable(utterance: Utterance, error: AudioError) -> UserError:
    return UserError(f"{utterance.path}: {error}; `dinosr check` lists all such files")


# ---- batches ---------------------------------------------------------------------------------------------------------


class HasSamples(Protocol):
    @property
    def samples(self) -> int: ...


def plan_batches(
    utterances: Sequence[HasSamples] | dict[int, HasSamples], rows: Iterable[int], max_samples: int, padding: bool
) -> list[list[int]]:
    """Rows in batches, longest first, each of at most ``max_samples`` with its padding (or of one utterance).

    Longest first: memory is at its peak at once. Without ``padding`` only utterances of equal length share a batch.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(rows, key=lambda row: -utterances[row].samples):
        samples = utterances[row].samples
        full = bool(batches) and (len(batches[-1]) + 1) * longest > max_samples
        if not batches or full or not (padding or samples == longest):
            batches.append([])
            longest = samples
        batches[-1].append(row)
    return batches


def prefetch(work: Callable[[Item], Result], items: Iterable[Item], threads: int = 1) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) in order, while threads work on the next ``PREFETCHED`` items."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > PREFETCHED:
                    item, future = waiting.popleft()
                    yield item, future.result()
            while waiting:
                item, future = waiting.popleft()
                yield item, future.result()
        finally:  # after an error or Ctrl-C nothing new begins
            pool.shutdown(wait=False, cancel_futures=True)


# ---- progress --------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """A progress bar over hours of sound, with the speed in hours per hour and a summary at the end."""

    title: str
    total: float  # hours in this shard
    resumed: float = 0.0  # hours of them that an earlier run has done
    done: float = 0.0  # hours by this one
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self):
        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} h of sound [{elapsed}<{remaining}{postfix}]"
        self.bar = tqdm(desc=self.title, total=self.total, initial=self.resumed, bar_format=form, disable=None)

    @property
    def speed(self) -> float:
        """Hours of sound an hour."""
        return self.done * 3600 / max(time.perf_counter() - self.began, 1e-9)

    def update(self, samples: int) -> None:
        more = samples / SAMPLE_RATE / 3600
        self.done += more
        self.bar.set_postfix_str(f"{self.speed:.0f} h/h", refresh=False)
        self.bar.update(min(more, self.total - self.bar.n))  # rounding must not take it past the end

    def summary(self) -> str:
        self.bar.close()
        if not self.done:
            return f"all {self.resumed:.2f} h of sound were done before"
        seconds = time.perf_counter() - self.began
        before = f" ({self.resumed:.2f} h were done before)" if self.resumed else ""
        return f"{self.done:.2f} h of sound in {seconds:.1f} s: {self.speed:.0f} hours per hour{before}"


def hours(utterances: Sequence[Utterance], rows: Iterable[int]) -> float:
    return sum(utterances[row].samples for row in rows) / SAMPLE_RATE / 3600

"""Frames for k-means: of an utterance, optionally standardized; in chunks; or a random sample in bounded memory."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ..errors import UserError
from .clustering import CHUNK, SAMPLE, SAMPLE_AT_LEAST
from .matching import OldLabels

COPIES = 3  # of each frame of the sample in ``cluster``: the frames, and up to two copies of their principal components
KEY_BYTES = 32  # memory per frame in addition to its values: its random number, and sorting these
EPSILON = 1e-5  # added to variances, as in instance normalisation
KEPT_SHARE = 0.8  # of a full ``Reservoir`` when it is thinned


class UtteranceArrays(Protocol):
    """An array for each utterance: a dictionary, a feature folder, or features that are computed when they are read."""

    def __contains__(self, utt: str, /) -> bool: ...

    def __getitem__(self, utt: str, /) -> np.ndarray: ...


class Features(Protocol):
    """The frames of utterances. ``width``: D. ``utterances``: their names. ``self[utt]``: (n, D) floats."""

    width: int

    @property
    def utterances(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, utt: str) -> np.ndarray: ...


def frames_of(features: Features, utt: str) -> np.ndarray:
    """(n, D) float32.

    Raises UserError, with the name of the utterance, for NaN, infinity and a width other than ``features.width``.
    """
    frames = np.asarray(features[utt], dtype=np.float32)
    if frames.ndim != 2 or frames.shape[1] != features.width:
        raise UserError(
            f"{utt}: features of shape {frames.shape}, but the width of the others is {features.width}; "
            "create them again with `dinosr features`"
        )
    if not all_finite(frames):
        raise UserError(
            f"{utt}: its features contain NaN or infinity; "
            "create them again with `dinosr features`, or remove the utterance from the manifest"
        )
    return frames


def all_finite(frames: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity. The sum is quick to check, but it may overflow."""
    return bool(np.isfinite(frames.sum())) or bool(np.isfinite(frames).all())


def standardize(frames: np.ndarray) -> np.ndarray:
    """(n, D) -> (n, D) float32 with mean 0 and variance 1 in each column over the n frames of an utterance.

    DinoSR's targets are normalised in the same way. It removes what is constant in an utterance, which is much of the
    speaker and the channel (van Niekerk et al., Interspeech 2021, arXiv 2108.00917).
    """
    frames = np.asarray(frames, dtype=np.float32)
    return (frames - frames.mean(0)) / np.sqrt(frames.var(0) + EPSILON)


class StandardizedFeatures:
    """Other features with ``standardize`` applied to each utterance."""

    def __init__(self, features: Features):
        self.features, self.width, self.utterances = features, features.width, features.utterances

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, utt: str) -> np.ndarray:
        return standardize(frames_of(self.features, utt))


def stacked(features: Features, utterances: Sequence[str]) -> Iterator[np.ndarray]:
    """All frames concatenated, in parts of (CHUNK, D) float32, the last shorter.

    Each part overwrites the previous one.
    """
    part, filled = np.empty((CHUNK, features.width), np.float32), 0
    for utt in utterances:
        frames = frames_of(features, utt)
        while len(frames):
            taken = min(CHUNK - filled, len(frames))
            part[filled : filled + taken], frames = frames[:taken], frames[taken:]
            filled += taken
            if filled == CHUNK:
                yield part
                filled = 0
    if filled:
        yield part[:filled]


# ---- a random sample -------------------------------------------------------------------------------------------------


class Reservoir:
    """Frames drawn uniformly without replacement in one pass: those with the lowest random numbers are kept.

    The random numbers depend only on the seed and the utterance's name, so that neither shards nor ``capacity`` change
    which frames have the lowest.

    Attributes:
        seen: number of frames that were added.
        frames: (kept, D) float32. While ``len(frames) == seen``, it contains all frames in the order they were added.
    """

    def __init__(self, capacity: int, width: int, seed: int):
        self.store, self.keys = np.empty((capacity, width), np.float32), np.empty(capacity)
        self.seed, self.kept, self.seen, self.limit = seed, 0, 0, 1.0

    def add(self, utt: str, frames: np.ndarray) -> None:
        """Add the frames (n, D) float32 of an utterance."""
        keys = np.random.default_rng([self.seed, *utt.encode()]).random(len(frames))
        self.seen += len(frames)
        chosen = np.flatnonzero(keys < self.limit)
        while len(chosen):
            if self.kept == len(self.store):
                self.thin()
                chosen = chosen[keys[chosen] < self.limit]
            taken = chosen[: len(self.store) - self.kept]
            place = slice(self.kept, self.kept + len(taken))
            self.store[place] = frames if len(taken) == len(frames) else frames[taken]
            self.keys[place] = keys[taken]
            self.kept, chosen = place.stop, chosen[len(taken) :]

    def thin(self) -> None:
        """Keep the frames with the lowest random numbers; from now on frames with higher ones are rejected."""
        keep = int(KEPT_SHARE * len(self.store))
        stays = np.zeros(len(self.store), dtype=bool)
        stays[np.argpartition(self.keys, keep)[:keep]] = True
        holes, movers = np.flatnonzero(~stays[:keep]), keep + np.flatnonzero(stays[keep:])
        self.store[holes], self.keys[holes] = self.store[movers], self.keys[movers]
        self.kept, self.limit = keep, float(self.keys[:keep].max())

    @property
    def frames(self) -> np.ndarray:
        return self.store[: self.kept]

    def lowest(self, count: int) -> np.ndarray:
        """(count, D), or fewer if there are not so many: the frames with the lowest random numbers, lowest first."""
        return self.store[np.argsort(self.keys[: self.kept], kind="stable")[:count]]


def read_sample(
    features: Features,
    utterances: Sequence[str],
    k: int,
    seed: int,
    keep_all: bool,
    max_bytes: int,
    old: OldLabels | None = None,
) -> tuple[Reservoir, np.ndarray]:
    """Read all utterances: (reservoir, sample for ``cluster`` in random order).

    The reservoir contains all frames if ``keep_all`` and ``max_bytes`` allow it, otherwise a random part. ``old``
    receives all frames. Raises UserError for NaN, for fewer frames than clusters, and if the memory is too small for a
    frame per cluster.
    """
    from tqdm import tqdm

    rows = max_bytes // (4 * features.width + KEY_BYTES)
    sample = min(max(SAMPLE * k, SAMPLE_AT_LEAST), rows // (COPIES + 2))
    if sample < k:
        what = f"{max_bytes / 2**20:.0f} MiB of memory hold {sample} frames of width {features.width}"
        raise UserError(f"k-means: {what}, too few for {k} clusters; allow more memory")
    capacity = rows - COPIES * sample if keep_all else 4 * sample // 3 + 8  # ``thin`` keeps at least ``sample``
    reservoir = Reservoir(capacity, features.width, seed)
    for utt in tqdm(utterances, desc="reading frames", unit="utt", disable=None):
        frames = frames_of(features, utt)
        reservoir.add(utt, frames)
        if old:
            old.add(utt, frames)
    if reservoir.seen < k:
        raise UserError(
            f"k-means: {reservoir.seen} frames are too few for {k} clusters; give more audio or a smaller k"
        )
    return reservoir, reservoir.lowest(sample)

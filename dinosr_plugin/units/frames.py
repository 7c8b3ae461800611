"""Frames for k-means: of any features, utterance by utterance, normalised if wanted; end to end in chunks; and a random sample of them in bounded memory."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ..errors import UserError
from .clustering import CHUNK, SAMPLE, SAMPLE_AT_LEAST
from .matching import OldLabels

COPIES = (
    3  # of each frame of the sample that ``cluster`` sees: those frames, and twice at most their principal components
)
KEY_BYTES = 32  # a frame costs beside its values: its random number, and sorting these
EPSILON = 1e-5  # added to variances, as instance normalisation has it
KEPT = 0.8  # of a full ``Reservoir``, when it is thinned


class Features(Protocol):
    """``width``: D. ``utterances``: names. ``self[utt]``: (n, D) floats."""

    width: int

    @property
    def utterances(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, utt: str) -> np.ndarray: ...


def frames_of(features: Features, utt: str) -> np.ndarray:
    """(n, D) float32. Raises UserError for NaN or infinity and for another width than the features say, naming the utterance."""
    frames = np.asarray(features[utt], dtype=np.float32)
    if frames.ndim != 2 or frames.shape[1] != features.width:
        raise UserError(
            f"{utt}: features of shape {frames.shape} among those that are {features.width} wide; make them again with `dinosr features`"
        )
    if not np.isfinite(frames.sum()) and not np.isfinite(frames).all():  # the sum alone is quick, but may overflow
        raise UserError(
            f"{utt}: NaN or infinity in its features; make them again with `dinosr features`, or take the utterance out of the manifest"
        )
    return frames


def normalised(frames: np.ndarray) -> np.ndarray:
    """(n, D) -> (n, D) float32, each column to mean 0 and variance 1 over the n frames: as DinoSR's targets are, without what is the same all
    through an utterance: much of the speaker and the channel (van Niekerk et al., Interspeech 2021, arXiv 2108.00917)."""
    frames = np.asarray(frames, dtype=np.float32)
    return (frames - frames.mean(0)) / np.sqrt(frames.var(0) + EPSILON)


class Normalised:
    """Other features, each utterance ``normalised``."""

    def __init__(self, features: Features):
        self.features, self.width, self.utterances = features, features.width, features.utterances

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, utt: str) -> np.ndarray:
        return normalised(frames_of(self.features, utt))


def stacked(features: Features, utterances: Sequence[str]) -> Iterator[np.ndarray]:
    """All frames end to end in parts of (CHUNK, D) float32, the last one shorter; the next part overwrites the one before."""
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


# ---- a random sample --------------------------------------------------------------------------------------------------------


class Reservoir:
    """Frames drawn uniformly, without replacement, in one pass: each gets a random number, those with the lowest stay.

    The numbers depend on the seed and the utterance's name alone: neither shards nor ``capacity`` change which frames have the lowest.

    Attributes:
        frames: (kept, D) float32. Holds every frame that was seen as long as ``len(frames) == seen``, then in the order they came.
    """

    def __init__(self, capacity: int, width: int, seed: int):
        self.store, self.keys = np.empty((capacity, width), np.float32), np.empty(capacity)
        self.seed, self.kept, self.seen, self.limit = seed, 0, 0, 1.0

    def add(self, utt: str, frames: np.ndarray) -> None:
        """(n, D) float32."""
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
        """Keep the lowest; from now on nothing above them gets in."""
        keep = int(KEPT * len(self.store))
        stays = np.zeros(len(self.store), dtype=bool)
        stays[np.argpartition(self.keys, keep)[:keep]] = True
        holes, movers = np.flatnonzero(~stays[:keep]), keep + np.flatnonzero(stays[keep:])
        self.store[holes], self.keys[holes] = self.store[movers], self.keys[movers]
        self.kept, self.limit = keep, float(self.keys[:keep].max())

    @property
    def frames(self) -> np.ndarray:
        return self.store[: self.kept]

    def lowest(self, count: int) -> np.ndarray:
        """(count, D), fewer where there are no more: the frames with the lowest numbers, lowest first."""
        return self.store[np.argsort(self.keys[: self.kept], kind="stable")[:count]]


def read_sample(
    features: Features,
    utterances: Sequence[str],
    k: int,
    seed: int,
    all_wanted: bool,
    max_bytes: int,
    old: OldLabels | None = None,
) -> tuple[Reservoir, np.ndarray]:
    """All frames if they are wanted and memory allows; and those of them, in random order, that ``cluster`` shall see. ``old`` is told of all.

    Raises UserError for NaN, for fewer frames than clusters, and for memory that holds fewer.
    """
    from tqdm import tqdm

    rows = max_bytes // (4 * features.width + KEY_BYTES)
    sample = min(max(SAMPLE * k, SAMPLE_AT_LEAST), rows // (COPIES + 2))
    if sample < k:
        held = f"{max_bytes / 2**20:.0f} MiB of memory hold {sample} frames {features.width} wide"
        raise UserError(f"k-means: {held}, too few for {k} clusters; allow more")
    reservoir = Reservoir(
        rows - COPIES * sample if all_wanted else 4 * sample // 3 + 8, features.width, seed
    )  # ``thin`` leaves no less
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

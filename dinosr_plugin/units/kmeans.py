"""k-means for features: fit it in bounded memory, save it in a file, write the unit of every frame.

A k-means file is an ``.npz`` archive, which ``numpy.load`` opens without unpickling: ``centroids``, (k, D) float32;
``meta``, JSON as bytes.

Features are a ``frames.Features``: a ``FeatureFolder``, or any other object that returns the frames of an utterance,
for example straight from a model.
"""

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.arrays import ArrayArchive
from ..errors import UserError
from ..files import parse_json, require_file, to_record, write_files
from .clustering import CHUNK, INITS, Sums, assign, cluster, first_frames, inertia_after, move, step
from .frames import Features, Reservoir, StandardizedFeatures, frames_of, read_sample, stacked, standardize
from .label_files import manifest_names, write_label_file
from .matching import OldLabels, changed_share, matching, normalised_mutual_information
from .unit_files import MAX_UNITS, UnitInfo

logger = logging.getLogger(__name__)

# For frames in memory, copies included. In addition there are some tens of MB for a chunk, k x D values in float64, and
# pages of the mapped files of a feature folder, which the operating system reclaims when needed.
MAX_BYTES = 2 << 30
CONVERGED = 1e-4  # relative gain in inertia of an exact pass below which no further pass is made
FROM_LABELS = "labels"  # value of ``KMeansMetadata.init`` if k-means began with the means under old labels


# ---- fitting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KMeansMetadata:
    """How centroids were computed.

    k, width: their shape.
    rate: frames per second; None if unknown.
    seed, init, restarts, passes: as given to ``fit_kmeans``; init is ``labels`` if it began with old labels.
    inertia: mean squared distance of the ``measured`` frames to the means of their clusters. These are all frames after
        an exact pass, otherwise those of the sample.
    frames: number of frames of the corpus.
    normalize: whether each utterance was transformed by ``standardize``, and must be before units are assigned.
    features: the kind of features, as in the feature folder's ``source``.
    labels_changed, labels_nmi: with old labels, the share of all frames whose label changed, and the normalised mutual
        information of old and new labels.
    """

    k: int
    width: int
    rate: float | None
    seed: int
    init: str
    restarts: int
    passes: int
    inertia: float
    measured: int
    frames: int
    features: dict[str, Any] = field(default_factory=dict)
    normalize: bool = False
    labels_changed: float | None = None
    labels_nmi: float | None = None

    @property
    def distance(self) -> str:
        """``inertia`` and the frames it was measured on, as text."""
        if self.measured == self.frames:
            measured_on = f"all {self.frames} frames"
        else:
            measured_on = f"{self.measured} frames, a random sample of {self.frames}"
        return f"mean squared distance {self.inertia:.4g} over {measured_on}"


def fit_kmeans(
    features: Features,
    k: int,
    *,
    seed: int,
    init: str = INITS[0],
    restarts: int = 1,
    passes: int = 0,
    max_bytes: int = MAX_BYTES,
    normalize: bool = False,
    old_labels: Mapping[str, np.ndarray] | None = None,
    rate: float | None = None,
    source: Mapping[str, Any] = {},
) -> "KMeans":
    """k-means on a random sample of 256 frames per cluster (at least 50,000); optionally, exact passes over all frames.

    The defaults, one start and no exact pass, trade the last percent of inertia for time; ``restarts`` and ``passes``
    regain it.

    Args:
        features: read once, and again for every pass if not all frames fit into ``max_bytes``.
        seed: the same seed gives the same centroids, whatever the order of the utterances.
        init: one of ``INITS``.
        restarts: number of starts that are tried on a part of the sample; the best is kept.
        passes: maximum number of passes; the first reduces the inertia by about half a percent
            (tests/benchmarks/kmeans.py).
        max_bytes: memory for frames, copies included.
        normalize: apply ``standardize`` to each utterance first; ``KMeans.units`` then applies it too.
        old_labels: utterance -> (n,) numbers below k, one per frame (within ``matching.TOLERANCE``). k-means begins
            with the means under these labels instead of ``init``. Each cluster gets the number of the old label with
            which it shares most frames, in a one-to-one assignment (``matching``): the next round of DeepCluster.
        rate, source: only recorded in ``KMeansMetadata``; a ``FeatureFolder`` has them as ``rate`` and ``meta.source``.

    Raises:
        UserError: a value is out of range, there are no utterances, features contain NaN, there are fewer frames than
            clusters, the memory is too small for k, or the old labels do not fit.
    """
    require_values(k, init, restarts, passes, features)
    features = StandardizedFeatures(features) if normalize else features
    utterances, rng = sorted(features.utterances), np.random.default_rng(seed)
    old = OldLabels(old_labels, k, features.width) if old_labels is not None else None
    reservoir, sample = read_sample(features, utterances, k, seed, passes > 0 or old is not None, max_bytes, old)
    warn_of_equal_frames(sample, k)
    centroids, inertia = cluster(
        sample, k, seed, init, restarts, old.means(sample, np.random.default_rng(seed)) if old is not None else None
    )
    measured, spare = len(sample), sample[: first_frames(len(sample), k)].copy()
    del sample
    frames = AllFrames(features, utterances, reservoir)
    if passes:
        centroids, inertia = refine(frames, centroids, passes, spare, rng)
        measured = reservoir.seen
    label_changes = {}
    if old:
        counts = old.count_with(frames.chunks(), centroids)
        number_of = matching(counts)
        centroids = centroids[np.argsort(number_of)]
        label_changes = {
            "labels_changed": changed_share(counts, number_of),
            "labels_nmi": normalised_mutual_information(counts),
        }
    init, restarts = (FROM_LABELS, 1) if old else (init, restarts)
    meta = KMeansMetadata(
        k=k,
        width=features.width,
        rate=rate,
        seed=seed,
        init=init,
        restarts=restarts,
        passes=passes,
        inertia=inertia,
        measured=measured,
        frames=reservoir.seen,
        features=dict(source),
        normalize=normalize,
        **label_changes,
    )
    return KMeans(centroids, meta)


def warn_of_equal_frames(sample: np.ndarray, k: int) -> None:
    """Log a warning for (n, D) frames with fewer than k different values: some clusters will never be used."""
    different: set[bytes] = set()
    for frame in sample:
        different.add(frame.tobytes())
        if len(different) == k:  # soon, for speech
            return
    logger.warning(
        f"k-means: only {len(different)} of {len(sample)} frames differ, fewer than {k} clusters; check that the "
        "recordings are not silent and that the model has not collapsed, or fit fewer clusters"
    )


def require_values(k: int, init: str, restarts: int, passes: int, features: Features) -> None:
    for name, value, minimum in (("k", k, 1), ("restarts", restarts, 1), ("passes", passes, 0)):
        if value < minimum:
            raise UserError(f"k-means: {name} = {value}; give at least {minimum}")
    if init not in INITS:
        raise UserError(f"k-means: unknown init '{init}'; choose one of {', '.join(INITS)}")
    if not len(features):
        raise UserError("k-means: the features contain no utterances; give others")


@dataclass(frozen=True)
class AllFrames:
    """All frames of the utterances, in order: from the ``reservoir`` if it holds all of them, else read again."""

    features: Features
    utterances: Sequence[str]
    reservoir: Reservoir

    def chunks(self) -> Iterator[np.ndarray]:
        """Chunks (n, D) float32 with n at most ``CHUNK``."""
        whole = self.reservoir.frames
        if len(whole) < self.reservoir.seen:
            return stacked(self.features, self.utterances)
        return (whole[i : i + CHUNK] for i in range(0, len(whole), CHUNK))


def refine(
    frames: AllFrames, centroids: np.ndarray, passes: int, spare: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Lloyd's algorithm over all frames: (centroids, mean squared distance to the means)."""
    from tqdm import tqdm

    last = np.inf
    with tqdm(desc="k-means on all frames", total=passes, unit="pass", disable=None) as bar:
        for _ in range(passes):
            sums: Sums = step(frames.chunks(), centroids)
            inertia = inertia_after(centroids, sums) / int(sums.counts.sum())
            centroids = move(centroids, sums, spare, rng)
            bar.update()
            bar.set_postfix(inertia=f"{inertia:.5g}")
            if inertia > (1 - CONVERGED) * last:
                break
            last = inertia
    return centroids, inertia


# ---- the file and its use --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KMeans:
    """Fitted centroids, (k, D) float32, and how they were computed."""

    centroids: np.ndarray
    meta: KMeansMetadata

    def units(self, frames: np.ndarray) -> np.ndarray:
        """All frames of an utterance, (n, D) floats -> (n,) int64: number of the nearest centroid of each frame."""
        frames = standardize(frames) if self.meta.normalize else np.asarray(frames, dtype=np.float32)
        return assign(frames, self.centroids)

    def save(self, path: str | Path) -> None:
        """Raises UserError if the file cannot be written."""
        data, meta = io.BytesIO(), json.dumps(asdict(self.meta)).encode()
        np.savez(data, centroids=self.centroids, meta=np.frombuffer(meta, dtype=np.uint8))
        write_files(Path(path).parent, {Path(path).name: data.getvalue()})

    @classmethod
    def load(cls, path: str | Path) -> "KMeans":
        """Raises UserError if the file is missing, damaged, or not a k-means file."""
        require_file(path, "create it with `dinosr kmeans fit`")
        try:
            with ArrayArchive(path) as archive:
                meta = to_record(KMeansMetadata, parse_json(archive["meta"].tobytes()))
                centroids = archive["centroids"]
        except ValueError as error:
            raise UserError(
                f"{path}: not a k-means file, or damaged; create it again with `dinosr kmeans fit`"
            ) from error
        shape = (meta.k, meta.width)
        is_valid = (
            centroids.dtype == np.float32 and centroids.shape == shape and 0 < meta.k <= MAX_UNITS and meta.width > 0
        )
        if not is_valid or not np.isfinite(centroids).all():
            raise UserError(
                f"{path}: damaged: its centroids are not {(meta.k, meta.width)} finite float32 numbers; "
                "create it again with `dinosr kmeans fit`"
            )
        return cls(centroids, meta)

    def require_same(self, width: int, rate: float | None = None, source: Mapping[str, Any] = {}) -> None:
        """Raise UserError unless it was fitted on such features. Unknown values and the checkpoint are not compared."""
        actual = {"width": width, "rate": rate, **source}
        fitted = {"width": self.meta.width, "rate": self.meta.rate, **self.meta.features}
        for name in actual.keys() & fitted.keys() - {"checkpoint"}:
            if None not in (actual[name], fitted[name]) and actual[name] != fitted[name]:
                raise UserError(
                    f"features of {name} {actual[name]}, but the k-means was fitted on {name} {fitted[name]}; "
                    "use the same for both"
                )


def write_labels(
    kmeans: KMeans, features: Features, tsv: str | Path, out: str | Path, info: UnitInfo | None = None
) -> int:
    """Write the units of every row of a manifest as a label file (``label_files``), with its dictionary.

    ``info``, the rate and place in time of the units, is written next to the labels.

    Returns:
        The number of frames.

    Raises:
        UserError: utterances have no features, an utterance id is duplicated, an utterance has no frames, features have
            another width or contain NaN, or the folder cannot be written or contains labels with another number of
            clusters. Nothing is written in these cases.
    """
    tsv, out = Path(tsv), Path(out)
    kmeans.require_same(features.width)
    remedy = "create them with `dinosr features` from this manifest"
    names = manifest_names(tsv, features.utterances, "features", remedy)
    return write_label_file(out, tsv, names, lambda utt: kmeans.units(frames_of(features, utt)), kmeans.meta.k, info)

"""k-means for feature folders: fit it in bounded memory, keep it in a file, write the unit of every frame.

A k-means file is an ``.npz`` archive (``numpy.load`` opens it without unpickling anything): ``centroids``, (k, D) float32; ``meta``, JSON in bytes.

Features are a ``frames.Features``: a ``FeatureFolder``, or anything else that gives the frames of an utterance, straight from a model for example.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.manifest import duplicate_ids, read_lines, read_rows, require_writable, utterance_id, write_files
from ..errors import UserError
from .clustering import CHUNK, INITS, Sums, assign, cluster, first_frames, inertia_after, move, step
from .frames import Features, Normalised, Reservoir, frames_of, normalised, read_sample, stacked
from .matching import OldLabels, changed_share, matching, normalised_mutual_information
from .store import first_few

MAX_BYTES = (
    2 << 30
)  # for frames in memory, copies included; beside them some tens of MB for a chunk and k x D in float64; and pages
#                      of the files of a feature folder, which the system takes back when it needs them (``mmap``)
CONVERGED = 1e-4  # relative gain in inertia of an exact pass, below which the next is not made
FROM_LABELS = "labels"  # ``Meta.init`` of k-means that began with the means under old labels


# ---- fitting ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meta:
    """Where centroids come from.

    k, width: their shape.
    rate: frames a second, None where nobody said.
    seed, init, restarts, passes: as given to ``fit_kmeans``; init is ``labels`` where it began with old ones.
    inertia: mean squared distance of the ``measured`` frames to the means of their clusters: all after an exact pass, else those of the sample.
    frames: of the corpus.
    normalize: each utterance was ``normalised`` before, and is to be before it gets units.
    features: what they are of, as in the feature folder's ``source``.
    labels_changed, labels_nmi: with old labels, the share of all frames whose label is another one now, and the normalised mutual information of both.
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
        """``inertia`` and of what, for people."""
        of = (
            f"all {self.frames} frames"
            if self.measured == self.frames
            else f"{self.measured} frames, a random sample of {self.frames}"
        )
        return f"mean squared distance {self.inertia:.4g} over {of}"


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
    """k-means on a random sample of 256 frames a cluster (50,000 at least), then, if wanted, exact passes of Lloyd's over all frames.

    The defaults trade the last percent of inertia for time: one start, no pass over all frames. ``restarts`` and ``passes`` buy it back.

    Args:
        features: read once; again for every pass where not all frames fit into ``max_bytes``.
        seed: the same seed gives the same centroids, whatever the order of the utterances.
        init: one of ``INITS``.
        restarts: starts that are tried on a part of the sample; the best goes on.
        passes: at most so many; the first takes another half percent or so off the inertia (tests/benchmarks/kmeans.py).
        max_bytes: memory for frames, all copies included.
        normalize: each utterance first, as ``normalised``; ``KMeans.units`` then does it too.
        old_labels: utterance -> (n,) numbers below k, one a frame (``matching.TOLERANCE``). k-means begins with the means under them instead of ``init``, and
            each cluster gets the number of the old label with which it shares most frames of all, one to one (``matching``): DeepCluster's next round.
        rate, source: only noted in ``Meta``; a ``FeatureFolder`` has them as ``rate`` and ``meta.source``.

    Raises:
        UserError: a value out of range, no utterances, NaN in features, fewer frames than clusters, too little memory for k, old labels that do not fit.
    """
    require_values(k, init, restarts, passes, features)
    features = Normalised(features) if normalize else features
    utterances, rng = sorted(features.utterances), np.random.default_rng(seed)
    old = OldLabels(old_labels, k, features.width) if old_labels is not None else None
    reservoir, sample = read_sample(features, utterances, k, seed, passes > 0 or old is not None, max_bytes, old)
    centroids, inertia = cluster(
        sample, k, seed, init, restarts, old.means(sample, np.random.default_rng(seed)) if old is not None else None
    )
    measured, spare = len(sample), sample[: first_frames(len(sample), k)].copy()
    del sample
    frames = AllFrames(features, utterances, reservoir)
    if passes:
        centroids, inertia = refine(frames, centroids, passes, spare, rng)
        measured = reservoir.seen
    told = {}
    if old:
        counts = old.count_with(frames.chunks(), centroids)
        number_of = matching(counts)
        centroids = centroids[np.argsort(number_of)]
        told = {"labels_changed": changed_share(counts, number_of), "labels_nmi": normalised_mutual_information(counts)}
    init, restarts = (FROM_LABELS, 1) if old else (init, restarts)
    meta = Meta(
        k,
        features.width,
        rate,
        seed,
        init,
        restarts,
        passes,
        inertia,
        measured,
        reservoir.seen,
        dict(source),
        normalize,
        **told,
    )
    return KMeans(centroids, meta)


def require_values(k: int, init: str, restarts: int, passes: int, features: Features) -> None:
    for name, value, least in (("k", k, 1), ("restarts", restarts, 1), ("passes", passes, 0)):
        if value < least:
            raise UserError(f"k-means: {name} = {value}; give at least {least}")
    if init not in INITS:
        raise UserError(f"k-means: init '{init}' is not known; choose one of {', '.join(INITS)}")
    if not len(features):
        raise UserError("k-means: no utterances to fit on; give features that have some")


@dataclass(frozen=True)
class AllFrames:
    """Of the utterances in their order: those that ``reservoir`` holds where it has them all, else read anew each time."""

    features: Features
    utterances: Sequence[str]
    reservoir: Reservoir

    def chunks(self) -> Iterator[np.ndarray]:
        """(n, D) float32, n at most ``CHUNK``."""
        whole = self.reservoir.frames
        if len(whole) < self.reservoir.seen:
            return stacked(self.features, self.utterances)
        return (whole[i : i + CHUNK] for i in range(0, len(whole), CHUNK))


def refine(
    frames: AllFrames, centroids: np.ndarray, passes: int, spare: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Lloyd's over all frames. (centroids, mean squared distance to them)."""
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


# ---- the file, and what it is for -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KMeans:
    """centroids: (k, D) float32. meta: where they come from."""

    centroids: np.ndarray
    meta: Meta

    def units(self, frames: np.ndarray) -> np.ndarray:
        """All frames of an utterance, (n, D) floats -> (n,) int64, the nearest centroid of each."""
        return assign(
            normalised(frames) if self.meta.normalize else np.asarray(frames, dtype=np.float32), self.centroids
        )

    def save(self, path: str | Path) -> None:
        """Raises UserError where the file cannot be written."""
        data, meta = io.BytesIO(), json.dumps(asdict(self.meta)).encode()
        np.savez(data, centroids=self.centroids, meta=np.frombuffer(meta, dtype=np.uint8))
        write_files(Path(path).parent, {Path(path).name: data.getvalue()})

    @classmethod
    def load(cls, path: str | Path) -> "KMeans":
        """Raises UserError for a missing file, and for one that is damaged or holds something else."""
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file; `dinosr kmeans fit` makes it")
        try:
            with np.load(path, allow_pickle=False) as archive:
                centroids, meta = archive["centroids"], Meta(**json.loads(archive["meta"].tobytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(
                f"{path}: not a k-means file, or damaged; make it again with `dinosr kmeans fit`"
            ) from error
        if centroids.dtype != np.float32 or centroids.shape != (meta.k, meta.width) or not np.isfinite(centroids).all():
            raise UserError(
                f"{path}: damaged, its centroids are not {(meta.k, meta.width)} finite float32; make it again with `dinosr kmeans fit`"
            )
        return cls(centroids, meta)

    def require_same(self, width: int, rate: float | None = None, source: Mapping[str, Any] = {}) -> None:
        """Raise UserError unless it was fitted on such features; what one side does not know is not compared, nor where a checkpoint lies."""
        here = {"width": width, "rate": rate, **source}
        there = {"width": self.meta.width, "rate": self.meta.rate, **self.meta.features}
        for name in here.keys() & there.keys() - {"checkpoint"}:
            if None not in (here[name], there[name]) and here[name] != there[name]:
                raise UserError(
                    f"features of {name} {here[name]}, but the k-means was fitted on {name} {there[name]}; give the same to both"
                )


def write_labels(kmeans: KMeans, features: Features, tsv: str | Path, out: str | Path) -> int:
    """Units of every row of a manifest: a line of numbers for each, in its order, and ``dict.km.txt`` beside it. Returns the number of frames.

    The dictionary has all k units in numerical order, each with count 1: the same for every part of a corpus. One that is there and names these
    units stays as it is, for models may have been trained with its order.

    Raises:
        UserError: utterances without features (how many, the first few), an utterance id that stands there twice, an utterance without a frame,
            features of another width, NaN, a folder that cannot be written, or that holds labels of another number of clusters. Nothing is written then.
    """
    tsv, out = Path(tsv), Path(out)
    kmeans.require_same(features.width)
    names = manifest_names(tsv, features)
    dictionary = dictionary_beside(out, kmeans.meta.k)
    frames = 0

    def lines() -> Iterator[str]:
        nonlocal frames
        from tqdm import tqdm

        for utt in tqdm(names, desc=out.name, unit="utt", disable=None):
            units = kmeans.units(frames_of(features, utt))
            if not len(units):
                raise UserError(f"{utt}: no frame; take it out of {tsv}")
            frames += len(units)
            yield " ".join(map(str, units.tolist()))

    write_files(out.parent, {out.name: lines(), **dictionary})
    return frames


def dictionary_beside(out: Path, k: int) -> dict[str, list[str]]:
    """``dict.km.txt`` and its lines; nothing where it is there and names these k units. Raises UserError where it names others, or cannot be read."""
    path, units = out.parent / "dict.km.txt", [str(unit) for unit in range(k)]
    require_writable(out.parent)
    if not path.exists():
        return {path.name: [f"{unit} 1" for unit in units]}
    named = [line.split(" ")[0] for line in read_lines(path, "remove it")]
    if sorted(named) != sorted(units):
        raise UserError(
            f"{path}: names {len(named)} units, those of other labels there, but these are {k} clusters; give another folder with --out"
        )
    return {}


def manifest_names(tsv: Path, features: Features) -> list[str]:
    """Utterance ids of the rows, in order. Raises UserError for none, for an id that stands there twice, and for rows without features."""
    paths = [path for _, path, _ in read_rows(tsv)]
    names = [utterance_id(path) for path in paths]
    if not names:
        raise UserError(f"{tsv}: empty manifest, no row after its first line; make it with `dinosr manifest`")
    if clashes := duplicate_ids(paths):
        raise UserError(f"{tsv}: {clashes[0]}")
    known = set(features.utterances)
    if missing := [name for name in names if name not in known]:
        have_none = f"{len(missing)} of {len(names)} utterances have no features: {first_few(missing)}"
        raise UserError(f"{tsv}: {have_none}; make them with `dinosr features` from this manifest")
    return names

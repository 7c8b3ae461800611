"""What phones can be had without learning: k-means on MFCC and on log-Mel frames, at the trunk's frame rate.

The features' recipes: ``data/acoustic.py``.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data.acoustic import FEATURES, log_mel, mfcc  # noqa: F401  (the last two for who imports them from here)
from ..data.audio import load_wave
from ..data.manifest import read_manifest, utterance_id
from ..errors import UserError
from .phones import FRAME_SAMPLES, SAMPLE_RATE, PhoneAlignment, trunk_frames
from .quality import Quality, contingency

FIT_FRAMES = 100_000  # k-means sees a random subset: all 306k frames of 102 minutes move PNMI by less than 0.01
FIT_SAMPLES = 2 * 3600 * SAMPLE_RATE  # of a larger corpus, random utterances of about two hours are read
ITERATIONS, RESTARTS = 20, 3  # Lloyd iterations; runs of which the one with the lowest error is kept
WORKERS = 2


class Utterance(NamedTuple):
    utt: str  # file name without its suffix, as in the phone alignment
    path: Path
    samples: int


def manifest_utterances(tsv: str | Path) -> list[Utterance]:
    """The rows of a fairseq manifest: a root folder, then ``relative/path<TAB>samples``.

    Raises:
        UserError: no such file, no rows, or a row of another form.
    """
    split = read_manifest(Path(tsv))
    return [Utterance(utterance_id(u.path), split.root / u.path, u.samples) for u in split.utterances]


def corpus_features(utterances: Sequence[Utterance], kind: str) -> list[np.ndarray]:
    """Features of every utterance, in order, each (n, D) float32 with the trunk's n; two files at a time, with a bar.

    Raises:
        UserError: ``kind`` is not a key of ``FEATURES``; a file is missing, unreadable, not 16 kHz mono or under 25 ms.
    """
    from tqdm import tqdm

    if kind not in FEATURES:
        raise UserError(f"features '{kind}' are not known; choose one of {', '.join(FEATURES)}")
    with ThreadPoolExecutor(WORKERS) as pool:  # threads are enough: libsndfile and Kaldi work outside the interpreter's lock
        features = pool.map(lambda utterance: _features(utterance.path, kind), utterances)
        return list(tqdm(features, total=len(utterances), desc=f"{kind} features", unit="file", disable=None))


def _features(path: Path, kind: str) -> np.ndarray:
    wave = load_wave(path)
    if trunk_frames(len(wave)) == 0:
        raise UserError(f"{path}: {len(wave)} samples are less than one frame of {FRAME_SAMPLES}; take it out of the manifest")
    return FEATURES[kind](wave)


def fit_kmeans(features: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Euclidean k-means with faiss: best of 3 runs of 20 iterations on at most 100,000 frames drawn at random.

    Args:
        features: (N, D) float32.

    Returns:
        (k, D) float32 centroids, the same for the same ``seed``.

    Raises:
        UserError: fewer frames than clusters.
    """
    import faiss

    if len(features) < k:
        raise UserError(f"k-means: {len(features)} frames are too few for {k} clusters; give more audio or a smaller k")
    chosen = np.random.default_rng(seed).permutation(len(features))[:FIT_FRAMES]
    kmeans = faiss.Kmeans(
        features.shape[1],
        k,
        niter=ITERATIONS,
        nredo=RESTARTS,
        seed=seed,
        min_points_per_centroid=1,  # no warning printed for small inputs
        max_points_per_centroid=FIT_FRAMES,  # faiss would quietly keep 256 frames a cluster
    )
    kmeans.train(np.ascontiguousarray(features[chosen], dtype=np.float32))
    return kmeans.centroids


def assign(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Nearest centroid, squared Euclid: (N, D), (k, D) float32 -> (N,) int64."""
    import faiss

    _, nearest = faiss.knn(np.ascontiguousarray(features, dtype=np.float32), centroids, 1)  # (N, 1)
    return nearest[:, 0].astype(np.int64)


def code_counts(
    utterances: Sequence[Utterance], codes: Iterable[np.ndarray], phones: PhoneAlignment, n_codes: int
) -> np.ndarray:
    """(n_phones, n_codes) int64 over a corpus; ``codes`` yields (n,) integers at 50 Hz for each utterance in turn.

    Raises:
        UserError: an utterance has no alignment.
    """
    phones.require(utterance.utt for utterance in utterances)
    counts = np.zeros((len(phones.names), n_codes), dtype=np.int64)
    for utterance, code in zip(utterances, codes, strict=True):
        counts += contingency(phones.frame_phones(utterance.utt, len(code)), code, *counts.shape)
    return counts


def kmeans_counts(
    kind: str, train_tsv: str | Path, dev_tsv: str | Path, phones: PhoneAlignment, k: int, seed: int
) -> np.ndarray:
    """Fit k-means on ``train_tsv``, code ``dev_tsv``: (n_phones, k) int64 counts for ``Quality`` and the code-by-phone plot.

    Args:
        kind: ``"mfcc"`` or ``"fbank"``.
        phones: alignment of the utterances of ``dev_tsv``; the training half needs none.

    Raises:
        UserError: from a manifest, an audio file, the alignment, or too little audio for k.
    """
    dev = manifest_utterances(dev_tsv)
    phones.require(utterance.utt for utterance in dev)  # before the minutes of work
    train = _random_hours(manifest_utterances(train_tsv), seed)
    centroids = fit_kmeans(np.concatenate(corpus_features(train, kind)), k, seed)
    return code_counts(dev, (assign(frames, centroids) for frames in corpus_features(dev, kind)), phones, k)


def kmeans_baseline(
    kind: str, train_tsv: str | Path, dev_tsv: str | Path, phones: PhoneAlignment, k: int, seed: int
) -> Quality:
    """``Quality`` of k-means codes fitted on one manifest and measured on another; arguments as ``kmeans_counts``."""
    return Quality.from_counts(kmeans_counts(kind, train_tsv, dev_tsv, phones, k, seed))


def _random_hours(utterances: list[Utterance], seed: int) -> list[Utterance]:
    """All of a small corpus, else random utterances up to ``FIT_SAMPLES``; at least one."""
    order = np.random.default_rng(seed).permutation(len(utterances))
    total = np.cumsum([utterances[i].samples for i in order])
    return [utterances[i] for i in order[: max(1, int(np.searchsorted(total, FIT_SAMPLES, side="right")))]]

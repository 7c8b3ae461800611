"""What phones can be had without learning: k-means on MFCC and on log-Mel frames, at the trunk's frame rate.

Recipes (16 kHz, Kaldi's 25 ms Povey windows every 10 ms, no dither):

- ``mfcc``: 13 coefficients (C0, no energy) with deltas and delta-deltas = 39 dimensions as in HuBERT's first iteration
  (Hsu et al. 2021), mean-normalised per utterance, averaged in pairs of frames.
- ``fbank``: 80 log-Mel bins, mean/variance-normalised per utterance and bin, pairs of frames stacked = 160 dimensions.

A pair is the 10 ms frames 2i and 2i+1. Frame 2i covers samples [320 i, 320 i + 400), exactly the trunk's frame i.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

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


def mfcc(wave: np.ndarray) -> np.ndarray:
    """(T,) float32 in [-1, 1] at 16 kHz -> (n, 39) float32 at 50 Hz, n = 1 + (T - 400) // 320, T >= 400."""
    import kaldi_native_fbank as knf

    options = knf.MfccOptions()
    options.num_ceps = 13
    options.use_energy = False
    cepstra = _kaldi_frames(knf.OnlineMfcc, options, wave)  # (m, 13), m = 1 + (T - 400) // 160
    deltas = _deltas(cepstra)
    frames = np.concatenate([cepstra, deltas, _deltas(deltas)], axis=1)  # (m, 39)
    return _pairs(frames - frames.mean(axis=0)).mean(axis=1)  # (n, 2, 39) -> (n, 39)


def log_mel(wave: np.ndarray) -> np.ndarray:
    """(T,) float32 in [-1, 1] at 16 kHz -> (n, 160) float32 at 50 Hz, n = 1 + (T - 400) // 320, T >= 400."""
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.mel_opts.num_bins = 80
    frames = _kaldi_frames(knf.OnlineFbank, options, wave)  # (m, 80), m = 1 + (T - 400) // 160
    frames = (frames - frames.mean(axis=0)) / (frames.std(axis=0) + 1e-5)  # the floor: a bin of digital silence is constant
    pairs = _pairs(frames)
    return pairs.reshape(len(pairs), -1)  # (n, 2, 80) -> (n, 160)


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mfcc": mfcc, "fbank": log_mel}


def _kaldi_frames(extractor: type, options, wave: np.ndarray) -> np.ndarray:
    """(m, bins) float32 at 100 Hz; options common to both features are set here."""
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0.0  # noise would make the figures differ from run to run
    frames = extractor(options)
    frames.accept_waveform(SAMPLE_RATE, wave * 32768)  # Kaldi's scale, on which its energy floor rests
    frames.input_finished()
    return np.stack([frames.get_frame(i) for i in range(frames.num_frames_ready)])


def _deltas(frames: np.ndarray) -> np.ndarray:
    """HTK regression slope over two frames on each side, (m, D) -> (m, D), edge frames repeated."""
    padded = np.pad(frames, ((2, 2), (0, 0)), mode="edge")  # (m + 4, D), frame t at t + 2
    return (2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / np.float32(10)


def _pairs(frames: np.ndarray) -> np.ndarray:
    """100 Hz to 50 Hz: (m, D) -> (ceil(m / 2), 2, D); where the last pair lacks its second frame, the first stands in."""
    if len(frames) % 2:
        frames = np.concatenate([frames, frames[-1:]])
    return frames.reshape(len(frames) // 2, 2, -1)


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

"""Acoustic features, computed without learning: MFCC and log-Mel frames of a waveform, at the trunk's frame rate.

Recipes (16 kHz, Kaldi's 25 ms Povey windows every 10 ms, no dither):

- ``mfcc``: 13 coefficients (C0, no energy) with deltas and delta-deltas = 39 dimensions as in HuBERT's first iteration
  (Hsu et al. 2021), mean-normalised per utterance, averaged in pairs of frames.
- ``fbank``: 80 log-Mel bins, mean/variance-normalised per utterance and bin, stacked in pairs of frames = 160
  dimensions.
- ``mfcc_uncentred``, ``fbank_uncentred``: the same without the normalisation, with what is constant in a recording: its
  level, channel and much of the speaker. Probes compare models with these.

Where frames are: there are as many as in the trunk, and feature i is compared with the trunk's frame i. The trunk's
frame i covers samples [320 i, 320 i + 400), its centre is at 12.5 ms + i * 20 ms. Kaldi's frame k (``snip_edges``: the
first window starts at sample 0) covers samples [160 k, 160 k + 400). Feature i is made of Kaldi's frames 2i and 2i + 1:
it covers samples [320 i, 320 i + 560), whose middle is at 17.5 ms + i * 20 ms. Deltas are symmetric and do not move it.
If the last pair has no second frame, the first one is used twice.

Every measure nevertheless takes 12.5 ms + i * 20 ms as the centre of feature i (``units.features.acoustic_spec``, grid
``TRUNK``), so that frame i of a baseline has the same phone label as frame i of a model with the trunk's frames; the 5
ms between the label and the middle of the feature are accepted. ``modules.log_mel``, the trunk's front end of log-Mel
frames, follows the same rule.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from ..modules.frame_grid import MEL
from .audio import SAMPLE_RATE


def mfcc(wave: np.ndarray, centred: bool = True) -> np.ndarray:
    """(T,) float32 in [-1, 1] at 16 kHz -> (n, 39) float32 at 50 Hz, n = 1 + (T - 400) // 320, T >= 400.

    ``centred``: with the means over the utterance subtracted.
    """
    static = cepstra(wave)
    deltas = _deltas(static)
    frames = np.concatenate([static, deltas, _deltas(deltas)], axis=1)  # (m, 39), m = 1 + (T - 400) // 160
    return _pairs(frames - frames.mean(axis=0) if centred else frames).mean(axis=1)  # (n, 2, 39) -> (n, 39)


def cepstra(wave: np.ndarray) -> np.ndarray:
    """The MFCC of ``mfcc`` without deltas, their means not subtracted.

    (T,) float32 in [-1, 1] at 16 kHz -> (m, 13) float32 at 100 Hz, m = 1 + (T - 400) // 160, T >= 400.
    """
    import kaldi_native_fbank as knf

    options = knf.MfccOptions()
    options.num_ceps = 13
    options.use_energy = False
    return _kaldi_frames(knf.OnlineMfcc, options, wave)


def log_mel(wave: np.ndarray, normalized: bool = True) -> np.ndarray:
    """(T,) float32 in [-1, 1] at 16 kHz -> (n, 160) float32 at 50 Hz, n = 1 + (T - 400) // 320, T >= 400.

    ``normalized``: with mean 0 and variance 1 in each bin over the utterance.
    """
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.mel_opts.num_bins = 80
    frames = _kaldi_frames(knf.OnlineFbank, options, wave)  # (m, 80), m = 1 + (T - 400) // 160
    if normalized:
        deviation = frames.std(axis=0) + 1e-5  # the floor: a bin of digital silence is constant
        frames = (frames - frames.mean(axis=0)) / deviation
    pairs = _pairs(frames)
    return pairs.reshape(len(pairs), -1)  # (n, 2, 80) -> (n, 160)


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mfcc": mfcc,
    "fbank": log_mel,
    "mfcc_uncentred": partial(mfcc, centred=False),
    "fbank_uncentred": partial(log_mel, normalized=False),
}
CENTRED = ("mfcc", "fbank")  # those whose means over an utterance are 0
"""Kind -> its function, (T,) float32 in [-1, 1] at 16 kHz, T >= 400 -> (n, D) float32 at 50 Hz."""


ENERGY = MEL
"""Windows of ``log_energy``: 25 ms every 10 ms, the first one at sample 0."""
QUIETEST = 1e-10  # mean square, below that of the rounding of 16-bit samples: the logarithm of digital silence


def log_energy(wave: np.ndarray) -> np.ndarray:
    """Natural logarithm of the mean square in each window of ``ENERGY``: (T,) float32 -> (m,) float32."""
    squares = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])  # (T + 1,)
    starts = ENERGY.hop * np.arange(ENERGY.count(len(wave)))
    means = (squares[starts + ENERGY.field] - squares[starts]) / ENERGY.field
    return np.log(np.maximum(means, QUIETEST)).astype(np.float32)


def _kaldi_frames(extractor: type, options, wave: np.ndarray) -> np.ndarray:
    """(m, bins) float32 at 100 Hz; sets the options that both features have in common."""
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0.0  # noise would make the figures differ from run to run
    frames = extractor(options)
    frames.accept_waveform(SAMPLE_RATE, wave * 32768)  # Kaldi's scale, which its energy floor assumes
    frames.input_finished()
    return np.stack([frames.get_frame(i) for i in range(frames.num_frames_ready)])


def _deltas(frames: np.ndarray) -> np.ndarray:
    """HTK regression slope over two frames on each side, (m, D) -> (m, D), edge frames repeated."""
    padded = np.pad(frames, ((2, 2), (0, 0)), mode="edge")  # (m + 4, D), frame t at t + 2
    return (2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / np.float32(10)


def _pairs(frames: np.ndarray) -> np.ndarray:
    """100 Hz to 50 Hz: (m, D) -> (ceil(m / 2), 2, D); an odd last frame is paired with itself."""
    if len(frames) % 2:
        frames = np.concatenate([frames, frames[-1:]])
    return frames.reshape(len(frames) // 2, 2, -1)

"""Features without learning: MFCC and log-Mel frames of a waveform, at the trunk's frame rate.

Recipes (16 kHz, Kaldi's 25 ms Povey windows every 10 ms, no dither):

- ``mfcc``: 13 coefficients (C0, no energy) with deltas and delta-deltas = 39 dimensions as in HuBERT's first iteration
  (Hsu et al. 2021), mean-normalised per utterance, averaged in pairs of frames.
- ``fbank``: 80 log-Mel bins, mean/variance-normalised per utterance and bin, pairs of frames stacked = 160 dimensions.

A pair is the 10 ms frames 2i and 2i+1. Frame 2i covers samples [320 i, 320 i + 400), exactly the trunk's frame i.
"""

from collections.abc import Callable

import numpy as np

from .audio import SAMPLE_RATE

FRAME_SAMPLES, FRAME_HOP = 400, 320  # the trunk's frame i covers samples [320 i, 320 i + 400)


def trunk_frames(samples: int) -> int:
    """Frames that the trunk's convolutions make of ``samples`` at 16 kHz (0 where there are fewer than 400)."""
    return max(0, 1 + (samples - FRAME_SAMPLES) // FRAME_HOP)


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
    frames = (frames - frames.mean(axis=0)) / (
        frames.std(axis=0) + 1e-5
    )  # the floor: a bin of digital silence is constant
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

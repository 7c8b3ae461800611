"""Which windows of a recording contain speech: by Silero VAD, or by their energy.

A detector gives a score to each window, in blocks of any size that follow each other, and decides when it knows the
scores of the whole recording. Memory: 4 bytes a window, 0.5 MB an hour.
"""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import UserError
from ...modules.frame_grid import SAMPLE_RATE

WINDOW = 512  # samples at 16 kHz: what Silero VAD expects
WINDOW_SECONDS = WINDOW / SAMPLE_RATE  # 0.032
CONTEXT = 64  # samples before a window that Silero VAD also sees
STATE = (1, 1, 128)  # of its LSTM
SPEECH, STILL_SPEECH = 0.5, 0.35  # Silero's defaults: the probability at which speech begins, below which it ends
MODEL = Path("data", "silero_vad_16k_sequence.onnx")  # of the wheel's networks, the one that takes a block in one call
INSTALL = 'pip install "dinosr-plugin[segment]"'

QUIETEST, LOUDEST = 10, 95  # percentiles of the level: of the background, of speech
SHARE = 0.2  # place of the threshold between the two
RANGE = 35.0  # dB below the level of speech: what is quieter is not speech, however quiet the background is
CONTRAST = 6.0  # dB between the two, without which there is no speech
LOWEST = 1e-10  # power of digital silence: -100 dB


class Detector(Protocol):
    """``name``: one of ``METHODS``."""

    name: str

    def scores(self, windows: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """Consecutive windows (n, 512) float32 -> (n,) float32, and the state for the windows that follow.

        ``state``: None for the first windows of a recording.
        """

    def speech(self, scores: np.ndarray) -> np.ndarray:
        """Scores of all windows of a recording (n,) -> (n,) bool."""


class Silero:
    """Silero VAD (https://github.com/snakers4/silero-vad, MIT): the probability of speech, by a network.

    The network is a file in the package silero-vad, which is not imported: it would import torch.

    Raises:
        UserError: onnxruntime or silero-vad is not installed.
    """

    name = "silero"

    def __init__(self) -> None:
        path = model_file()
        try:
            import onnxruntime
        except ImportError:
            path = None
        if path is None:
            raise UserError(f"--method silero: onnxruntime or silero-vad is not installed; {INSTALL}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the network is too small for more
        options.log_severity_level = 3  # errors only
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def scores(self, windows: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        before, h, c = state or (
            np.zeros(CONTEXT, np.float32),
            np.zeros(STATE, np.float32),
            np.zeros(STATE, np.float32),
        )
        contexts = np.concatenate([before[None], windows[:-1, -CONTEXT:]])  # (n, 64)
        inputs = np.concatenate([contexts, windows], axis=1)  # (n, 576)
        probabilities, h, c = self.session.run(["speech_probs", "hn", "cn"], {"input": inputs, "h": h, "c": c})
        return probabilities.reshape(-1), (windows[-1, -CONTEXT:], h, c)

    def speech(self, scores: np.ndarray) -> np.ndarray:
        """Runs of windows above 0.35 of which one reaches 0.5."""
        possible = scores >= STILL_SPEECH
        number = np.cumsum(np.diff(possible, prepend=False))  # of the run that a window is in
        return possible & np.isin(number, number[scores >= SPEECH])


class Energy:
    """The level in dB: speech is louder than a threshold between the level of the background and that of speech."""

    name = "energy"

    def scores(self, windows: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        return levels(windows), None

    def speech(self, scores: np.ndarray) -> np.ndarray:
        background, loud = np.percentile(scores, [QUIETEST, LOUDEST]) if len(scores) else (0.0, 0.0)
        threshold = max(background + SHARE * (loud - background), loud - RANGE)
        return scores > threshold if loud - background >= CONTRAST else np.zeros(len(scores), dtype=bool)


METHODS = {"silero": Silero, "energy": Energy}


def choose_detector(method: str | None) -> Detector:
    """A detector by its name; None: Silero VAD if it is installed, otherwise the energy. Raises UserError as it."""
    if method is None:
        method = "silero" if model_file() and importlib.util.find_spec("onnxruntime") else "energy"
    return METHODS[method]()


def model_file() -> Path | None:
    """The network in the package silero-vad; None if it, or a version with that file, is not installed."""
    spec = importlib.util.find_spec("silero_vad")  # imports nothing
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / MODEL if folders else None
    return path if path and path.is_file() else None


def levels(windows: np.ndarray) -> np.ndarray:
    """Windows (n, T) -> power without a constant offset, in dB: (n,) float32, at least -100."""
    return 10 * np.log10(np.maximum(windows.var(axis=1, dtype=np.float64), LOWEST)).astype(np.float32)

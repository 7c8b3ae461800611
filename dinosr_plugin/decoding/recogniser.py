"""A fine-tuned CTC model with everything that turning sound into text needs."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.data import Dictionary
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc

from ..checkpoints.load import load_model, wants_normalized_waves
from ..checkpoints.opening import reader_of
from ..errors import UserError
from ..modules.frame_grid import FrameGrid


@dataclass(frozen=True)
class Recogniser:
    """
    blank: index of the blank in the dictionary.
    normalize: whether the model expects recordings of mean 0 and variance 1.
    grid: number of frames of a sound, and their place in time.
    """

    model: Wav2VecCtc
    dictionary: Dictionary
    blank: int
    normalize: bool
    grid: FrameGrid


def load_recogniser(path: str | Path) -> Recogniser:
    """A checkpoint of CTC fine-tuning. Raises UserError as ``load_model`` does, and for a model of another kind."""
    model, cfg, task = load_model(path)
    if not isinstance(model, Wav2VecCtc):
        raise UserError(f"{path}: contains {type(model).__name__}, not a recogniser; fine-tune it first and give that checkpoint")
    blank = task.target_dictionary.index(task.blank_symbol)
    return Recogniser(model, task.target_dictionary, blank, wants_normalized_waves(cfg), reader_of(model).grid)

"""A speech recogniser: a fine-tuned CTC model, with everything needed to turn audio into text."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.data import Dictionary
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc

from ..checkpoints.load import expects_normalized_waves, load_model
from ..checkpoints.opening import reader_of
from ..errors import UserError
from ..modules.frame_grid import FrameGrid


@dataclass(frozen=True)
class Recogniser:
    """A fine-tuned CTC model and the settings for running it.

    Attributes:
        model: in eval mode, on the CPU.
        dictionary: the target dictionary.
        blank: index of the CTC blank in ``dictionary``.
        normalize: whether each recording must be scaled to mean 0 and variance 1.
        grid: number of frames of a recording, and their place in time.
    """

    model: Wav2VecCtc
    dictionary: Dictionary
    blank: int
    normalize: bool
    grid: FrameGrid


def load_recogniser(path: str | Path) -> Recogniser:
    """Load a checkpoint of CTC fine-tuning.

    Raises:
        UserError: as ``load_model`` does; also if the checkpoint contains another kind of model.
    """
    model, cfg, task = load_model(path)
    if not isinstance(model, Wav2VecCtc):
        raise UserError(
            f"{path}: contains a {type(model).__name__}, which is not a speech recogniser; "
            "fine-tune it first (see README.md) and give that checkpoint"
        )
    blank = task.target_dictionary.index(task.blank_symbol)
    return Recogniser(model, task.target_dictionary, blank, expects_normalized_waves(cfg), reader_of(model).grid)

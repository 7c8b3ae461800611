"""A speech recogniser: a fine-tuned CTC model, with everything needed to turn audio into text."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.data import Dictionary
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc

from ..checkpoints.load import field_and_hop, load_with_task, trunk_of
from ..errors import UserError


@dataclass(frozen=True)
class Recogniser:
    """A fine-tuned CTC model and the settings for running it.

    Attributes:
        model: in eval mode, on the CPU.
        dictionary: the target dictionary.
        blank: index of the CTC blank in ``dictionary``.
        normalize: whether each recording must be scaled to mean 0 and variance 1.
        field: samples (at 16 kHz) in the receptive field of a frame.
        hop: samples from one frame to the next.
    """

    model: Wav2VecCtc
    dictionary: Dictionary
    blank: int
    normalize: bool
    field: int
    hop: int

    def frames(self, samples: int) -> int:
        """Number of frames that the model computes from so many samples; 0 if there are too few for one frame."""
        return max(0, (samples - self.field) // self.hop + 1)


def load_recogniser(path: str | Path) -> Recogniser:
    """Load a checkpoint of CTC fine-tuning.

    Raises:
        UserError: as ``load_with_task`` does; also if the checkpoint contains another kind of model.
    """
    model, cfg, task = load_with_task(path)
    if not isinstance(model, Wav2VecCtc):
        raise UserError(
            f"{path}: contains a {type(model).__name__}, which is not a speech recogniser; "
            "fine-tune it first (see README.md) and give that checkpoint"
        )
    blank = task.target_dictionary.index(task.blank_symbol)
    return Recogniser(model, task.target_dictionary, blank, bool(cfg.task.normalize), *field_and_hop(trunk_of(model)))

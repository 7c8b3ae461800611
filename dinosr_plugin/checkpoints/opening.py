"""From a checkpoint file to the reader of its kind of model."""

from pathlib import Path

import torch
from fairseq.models.hubert import HubertModel
from fairseq.models.wav2vec import Wav2Vec2Model
from torch import nn

from ..errors import UserError
from ..interop.fairseq_readers import HubertReader, Wav2Vec2Reader
from ..models.cpc import CPC
from ..models.dinosr import DinoSR
from ..models.spin import Spin
from ..models.trunk import Trunk
from .load import expects_normalized_waves, load_model
from .readers import WEIGHTS, CPCReader, DinoSRReader, FrameReader, SpinReader, TrunkReader, trunk_of
from .weights import require_finite

ADAPTERS: dict[type[nn.Module] | str, type[FrameReader]] = {
    DinoSR: DinoSRReader,
    Spin: SpinReader,
    Trunk: TrunkReader,
    CPC: CPCReader,
    Wav2Vec2Model: Wav2Vec2Reader,
    HubertModel: HubertReader,
    "Data2VecAudioModel": Wav2Vec2Reader,  # by name: fairseq registers it only when such a checkpoint is loaded
}
"""Kind of model -> its adapter. The first entry that matches is used, so that subclasses precede their bases."""


def open_reader(path: str | Path, weights: str = "student", device: str | torch.device = "cpu") -> FrameReader:
    """A checkpoint's reader.

    Args:
        weights: ``student``: the model itself; ``teacher``: DinoSR's moving average of it; ``random``: the same model
            before training, the same weights every time.

    Raises:
        UserError: as ``load_model``; a model without layers; no teacher where one is asked for; weights not finite.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights {weights}: choose one of {', '.join(WEIGHTS)}")
    loaded = load_model(path)
    model = trunk_of(loaded.model).to(device)
    require_finite(model, path)
    rebuild = lambda: loaded.task.build_model(loaded.cfg.model, from_checkpoint=True)
    of_checkpoint = "student" if weights == "random" else weights
    reader = adapter_for(model, path)(model, path, of_checkpoint, expects_normalized_waves(loaded.cfg), rebuild)
    return reader.untrained() if weights == "random" else reader


def reader_of(model: nn.Module) -> FrameReader:
    """The reader of a model in memory, in training for example; it expects waveforms as they are trained on."""
    return adapter_for(trunk_of(model), "the model")(trunk_of(model), "the model")


def adapter_for(model: nn.Module, path: str | Path) -> type[FrameReader]:
    """The adapter of a kind of model. Raises UserError for a kind that has none."""
    for kind, adapter in ADAPTERS.items():
        if type(model).__name__ == kind if isinstance(kind, str) else isinstance(model, kind):
            return adapter
    raise UserError(
        f"{path}: contains {type(model).__name__}, which cannot be read; give a model of this plug-in, "
        "fairseq's wav2vec 2.0, HuBERT or data2vec, or CPC_audio"
    )

"""From a checkpoint file to the reader of its kind of model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from fairseq.models.hubert import HubertModel
from fairseq.models.wav2vec import Wav2Vec2Model
from torch import nn

from ..errors import UserError
from ..interop.fairseq_readers import HubertReader, Wav2Vec2Reader
from ..models.cpc import CPC
from ..models.dinosr import DinoSR
from ..models.predictive import Predictive
from ..models.speaker_encoder import SpeakerModel
from ..models.spin import Spin
from ..models.trunk import Trunk
from .adapters import CPCReader, DinoSRReader, PredictiveReader, SpinReader, TrunkReader
from .embedding import EmbeddingReader, FrameEmbedder, ModelEmbedder, SpeakerEmbedder
from .load import Loaded, expects_normalized_waves, load_model
from .readers import WEIGHTS, FrameReader, Layer, trunk_of
from .weights import require_finite

Adapter = TypeVar("Adapter")

ADAPTERS: dict[type[nn.Module] | str, type[FrameReader]] = {
    DinoSR: DinoSRReader,
    Spin: SpinReader,
    Trunk: TrunkReader,
    CPC: CPCReader,
    Predictive: PredictiveReader,
    Wav2Vec2Model: Wav2Vec2Reader,
    HubertModel: HubertReader,
    "Data2VecAudioModel": Wav2Vec2Reader,  # by name: fairseq registers it only when such a checkpoint is loaded
}
"""Kind of model -> its adapter. The first entry that matches is used, so that subclasses precede their bases."""

EMBEDDERS: dict[type[nn.Module] | str, type[ModelEmbedder]] = {SpeakerModel: SpeakerEmbedder}
"""Kind of model with an embedding of whole recordings -> its adapter, ``ModelEmbedder`` or a subclass."""


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
    return make_reader(load_model(path), path, weights, device)


def open_embedder(path: str | Path, layer: Layer | None = None, device: str | torch.device = "cpu") -> EmbeddingReader:
    """The embeddings of a checkpoint: its own, or statistics over the frames of a model that has none.

    Args:
        layer: of a model of frames; None: its output.

    Raises:
        UserError: as ``open_reader``; a layer that does not exist, or one of a model with its own embeddings.
    """
    loaded = load_model(path)
    embedder = make_embedder(loaded, path, device)
    if embedder is None:
        reader = make_reader(loaded, path, device=device)
        return FrameEmbedder(reader, "last" if layer is None else layer)
    if layer is not None:
        raise UserError(f"--layer {layer}: {path} contains a model with its own embeddings; omit it")
    return embedder


def open_model(path: str | Path, device: str | torch.device = "cpu") -> FrameReader | EmbeddingReader:
    """The reader of a model of frames, or of a model with its own embeddings. Raises UserError as ``open_reader``."""
    loaded = load_model(path)
    return make_embedder(loaded, path, device) or make_reader(loaded, path, device=device)


def make_reader(
    loaded: Loaded, path: str | Path, weights: str = "student", device: str | torch.device = "cpu"
) -> FrameReader:
    model = trunk_of(loaded.model).to(device)
    require_finite(model, path)
    rebuild = lambda: loaded.task.build_model(loaded.cfg.model, from_checkpoint=True)
    of_checkpoint = "student" if weights == "random" else weights
    reader = adapter_for(model, path)(model, path, of_checkpoint, expects_normalized_waves(loaded.cfg), rebuild)
    return reader.untrained() if weights == "random" else reader


def make_embedder(loaded: Loaded, path: str | Path, device: str | torch.device) -> ModelEmbedder | None:
    """None for a model without embeddings of its own."""
    adapter = find_adapter(loaded.model, EMBEDDERS)
    if adapter is None:
        return None
    require_finite(loaded.model, path)
    return adapter(loaded.model.to(device), path, expects_normalized_waves(loaded.cfg))


def reader_of(model: nn.Module) -> FrameReader:
    """The reader of a model in memory, in training for example; it expects waveforms as they are trained on."""
    return adapter_for(trunk_of(model), "the model")(trunk_of(model), "the model")


def adapter_for(model: nn.Module, path: str | Path) -> type[FrameReader]:
    """The adapter of a kind of model. Raises UserError for a kind that has none."""
    adapter = find_adapter(model, ADAPTERS)
    if adapter is None:
        raise UserError(
            f"{path}: contains {type(model).__name__}, which cannot be read; give a model of this plug-in, "
            "fairseq's wav2vec 2.0, HuBERT or data2vec, CPC_audio or SpidR"
        )
    return adapter


def find_adapter(model: nn.Module, adapters: Mapping[type[nn.Module] | str, type[Adapter]]) -> type[Adapter] | None:
    """The first adapter whose kind the model is of; None if there is none."""
    for kind, adapter in adapters.items():
        if type(model).__name__ == kind if isinstance(kind, str) else isinstance(model, kind):
            return adapter
    return None

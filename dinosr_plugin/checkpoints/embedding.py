"""Embeddings: one vector for a whole recording, of a model that is trained to make them, or of any model's frames.

Everything that compares speakers reads models through an ``EmbeddingReader``. A new kind of model with a method
``embed`` is a line in ``opening.EMBEDDERS``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..modules.frame_grid import SAMPLE_RATE
from .readers import FrameReader, Layer, padded_waves, require_finite
from .weights import fingerprint


class EmbeddingReader(ABC):
    """Turns recordings into vectors, one each.

    Attributes:
        name: what progress bars call it.
        width: W, the number of dimensions.
        sample_rate: of the waveforms, Hz.
        min_samples: length of the shortest waveform that has an embedding.
        normalize: whether the model expects recordings of mean 0 and variance 1, which ``prepare`` makes.
        pads: whether waveforms of different lengths may share a batch of ``run``.
    """

    name: str
    width: int
    min_samples: int
    normalize: bool = False
    pads: bool = False
    sample_rate: ClassVar[int] = SAMPLE_RATE

    @property
    @abstractmethod
    def source(self) -> dict[str, Any]:
        """What identifies the embeddings: goes into ``store.FolderInfo.source``."""

    @abstractmethod
    def run(self, waves: list[Tensor]) -> Tensor:
        """B waveforms (T,), of one length unless ``pads`` -> (B, W)."""

    def prepare(self, wave: Tensor) -> Tensor:
        """(T,) float32 at 16 kHz as the model expects it: normalized as fairseq's dataset does, or unchanged."""
        return F.layer_norm(wave, wave.shape) if self.normalize else wave

    @torch.no_grad()
    def embed(self, waves: Sequence[Tensor]) -> Tensor:
        """B waveforms (T,), as ``prepare`` returns them, of at least ``min_samples`` -> (B, W) float32, on the CPU.

        An embedding does not depend on the others in the batch, apart from rounding. Raises UserError for NaN and
        infinity in a waveform.
        """
        waves = list(map(require_finite, waves))
        if self.pads or len({len(wave) for wave in waves}) == 1:
            return self.run(waves).float().cpu()
        return torch.cat([self.run([wave]).float().cpu() for wave in waves])


class FrameEmbedder(EmbeddingReader):
    """Statistics pooling over the frames of a layer: mean and standard deviation of every dimension, W = 2 D."""

    def __init__(self, reader: FrameReader, layer: Layer = "last"):
        """Raises UserError for a layer that does not exist."""
        names = ["last", *reader.outputs]
        if layer not in names and layer not in range(reader.n_layers):
            raise UserError(
                f"--layer {layer}: the model has layers 0 to {reader.n_layers - 1}; give one of these, or "
                f"{', '.join(names)}"
            )
        self.reader, self.layer = reader, layer
        self.name, self.width = f"{reader.name} layer {layer}", 2 * reader.width_of(layer)
        self.min_samples, self.normalize, self.pads = reader.grid.field, reader.normalize, reader.pads

    @property
    def source(self) -> dict[str, Any]:
        return {**self.reader.source(self.layer), "statistics": "mean, standard deviation"}

    def run(self, waves: list[Tensor]) -> Tensor:
        return torch.stack([statistics(frames.layers[0]) for frames in self.reader.read(waves, [self.layer])])


class ModelEmbedder(EmbeddingReader):
    """A model with ``embed``: speech (B, T) float32, padding (B, T) bool or None -> (B, W).

    The model is in eval mode, on its device. ``pads`` of a subclass is True for a model whose embeddings do not depend
    on padding; without it, only waveforms of equal length share a batch.
    """

    min_samples = 400

    def __init__(self, model: nn.Module, path: str | Path, normalize: bool = False):
        self.model, self.path, self.normalize, self.name = model, Path(path), normalize, Path(path).name
        self.width = self.embed([torch.zeros(self.min_samples)]).size(1)

    @cached_property
    def source(self) -> dict[str, Any]:
        return {"kind": "model", "checkpoint": self.name, "fingerprint": fingerprint([self.model])}

    def run(self, waves: list[Tensor]) -> Tensor:
        source, padding_mask = padded_waves(waves, next(self.model.parameters()).device)
        return self.model.embed(source, padding_mask)  # type: ignore[operator]


class SpeakerEmbedder(ModelEmbedder):
    """This plug-in's speaker models. Recordings are scaled to a peak of 1, as crops are in training."""

    min_samples = 1600  # ten frames: ECAPA-TDNN reflects up to four at each end

    def prepare(self, wave: Tensor) -> Tensor:
        peak = wave.abs().max()
        return super().prepare(wave / peak if peak > 0 else wave)


def statistics(frames: Tensor) -> Tensor:
    """(F, D) -> (2 D,): mean and standard deviation over frames; the deviation of a single frame is 0."""
    return torch.cat([frames.mean(0), frames.std(0, correction=0)])

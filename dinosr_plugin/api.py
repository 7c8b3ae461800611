"""The Python API: from a checkpoint to features, units and embeddings of waveforms.

import dinosr_plugin

model = dinosr_plugin.load("tiny")  # in the package; or a checkpoint: load("checkpoint_last.pt")
features = model.features(waveform)  # (F, D)
units = model.units(waveform)  # (K, F)

model = dinosr_plugin.load("speaker_model.pt")
embedding = model.embed(waveform)  # (W,)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints.chunks import is_long, read_in_chunks
from .checkpoints.embedding import EmbeddingReader
from .checkpoints.opening import open_model
from .checkpoints.readers import FrameReader, Frames, Layer, require_finite
from .errors import UserError
from .pretrained import find_checkpoint


def load(path: str | Path, device: str | torch.device = "cpu") -> "SpeechModel | SpeakerModel":
    """A checkpoint, ready for waveforms: a ``SpeakerModel`` if the model embeds whole recordings, else a
    ``SpeechModel``. ``path`` may also be the name of a model in the package, ``tiny`` or ``spin_tiny``.

    Raises UserError as ``open_model`` does.
    """
    reader = open_model(find_checkpoint(path), device)
    return SpeakerModel(reader) if isinstance(reader, EmbeddingReader) else SpeechModel(reader)


@dataclass(frozen=True)
class SpeechModel:
    """Waveforms in, features and units out.

    A waveform is 1-D, float, at 16 kHz, a NumPy array or a tensor; it is normalized as in training. Frame i is centred
    at ``reader.first_centre + i / reader.rate`` seconds. A waveform longer than 10 minutes is read in overlapping
    chunks, as by `dinosr features` and `dinosr units` (``checkpoints.chunks``).
    """

    reader: FrameReader

    def features(self, waveform: np.ndarray | Tensor, layer: Layer | None = None) -> Tensor:
        """(T,) -> (F, D) float32: the output of ``layer`` (from 0), or of the whole model.

        ``layer`` may also be the name of one of ``reader.outputs``, such as Spin's ``projection``.

        Raises UserError for a waveform that is too short or of another form, and for a layer that does not exist.
        """
        if layer is None:
            layer = "last"
        elif layer not in ("last", *range(self.reader.n_layers), *self.reader.outputs):
            names = "".join(f", or {name}" for name in self.reader.outputs)
            raise UserError(f"layer={layer}: the model has layers 0 to {self.reader.n_layers - 1}{names}")
        return self.read(waveform, layer=layer).layers[0]

    def units(self, waveform: np.ndarray | Tensor) -> Tensor:
        """(T,) -> (K, F) int64: the code of every frame in each of the K codebooks, lowest layer first.

        Of DinoSR the codes that its teacher assigns. Raises UserError as ``features``, and for a model without
        codebooks.
        """
        code_set = self.reader.require_codes()
        return self.read(waveform, code_set=code_set).codes[code_set]

    def read(self, waveform: np.ndarray | Tensor, layer: Layer | None = None, code_set: str | None = None) -> Frames:
        """A layer or a set of codes. Raises UserError as ``prepared``."""
        wave = self.wave(waveform)
        layers, code_sets = [] if layer is None else [layer], [] if code_set is None else [code_set]
        if is_long(len(wave)):
            return read_in_chunks(self.reader, len(wave), lambda start, end: wave[start:end], layers, code_sets)
        return self.reader.read([wave], layers, code_sets)[0]

    def embed(self, waveform: np.ndarray | Tensor) -> Tensor:
        """Raises UserError: this model has features of frames, but no embedding of a recording."""
        raise UserError(
            f"{self.reader.path}: contains {type(self.reader.model).__name__}, which has no embeddings; give a speaker "
            "model, or take the mean of its features over the frames"
        )

    def wave(self, waveform: np.ndarray | Tensor) -> Tensor:
        """(T,) float32 as the model expects it. Raises UserError as ``prepared``."""
        return prepared(waveform, self.reader, self.reader.grid.field)


@dataclass(frozen=True)
class SpeakerModel:
    """Waveforms in, embeddings of their speakers out. A waveform is as for ``SpeechModel``."""

    reader: EmbeddingReader

    def embed(self, waveform: np.ndarray | Tensor) -> Tensor:
        """(T,) -> (W,) float32, not normalised. Raises UserError as ``prepared``."""
        return self.reader.embed([prepared(waveform, self.reader, self.reader.min_samples)])[0]


def prepared(waveform: np.ndarray | Tensor, reader: FrameReader | EmbeddingReader, min_samples: int) -> Tensor:
    """(T,) float32 as the model expects it.

    Raises UserError for anything but 1-D floats, for NaN and infinity, and if too short.
    """
    wave = torch.as_tensor(waveform)
    if wave.dim() != 1 or not wave.is_floating_point():
        raise UserError(
            f"waveform: {wave.dim()}-D {wave.dtype}, expected 1-D float; "
            "average the channels, divide 16-bit integers by 32768"
        )
    if len(wave) < min_samples:
        raise UserError(f"waveform: {len(wave)} samples, fewer than the {min_samples} of a frame; give a longer one")
    # normalization overflows for amplitudes above 1e19
    return require_finite(reader.prepare(wave.to(torch.float32)))

"""Any model, read frame by frame: layers and units of waveforms, with their rate and their place in time.

Everything that measures, cuts units or exports reads models through a ``FrameReader``. A new kind of model is one
adapter: a subclass that says where its layers are and how it runs, and a line in ``opening.ADAPTERS``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.models.hubert import HubertCtc
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from torch import Tensor, nn

from ..errors import UserError
from ..modules.frame_grid import FrameGrid
from .weights import fingerprint

WEIGHTS = ("student", "teacher", "random")
Layer = int | str
"""Number of a layer, from 0, for its output; "last" for the model's output, which a pre-LN model normalizes again; or
one of ``FrameReader.outputs``."""


class CodeSet(NamedTuple):
    """Units that a model assigns itself, without k-means.

    Attributes:
        count: codebooks, K.
        size: units in each, V.
        layers: the layer, from 0, that each codebook belongs to.
        noun: what one of them is called in tables; ``title``: all of them, in pictures and headings.
        weights: ``student`` or ``teacher``, the weights that assign them.
    """

    count: int  # type: ignore[assignment]  # hides `tuple.count`, which has no use here
    size: int
    layers: tuple[int, ...]
    noun: str = "codebook"
    title: str = "the model's codebooks"
    weights: str = "student"


class Output(NamedTuple):
    """Features that a model computes from its last layer.

    ``width``: W; ``compared``: whether `dinosr quality` and `dinosr report` measure them beside the layers.
    """

    width: int
    compared: bool = True


class Frames(NamedTuple):
    """Of one utterance, on the CPU.

    ``layers``: (F, D) float32 of each layer, (F, W) of an output; ``codes``: set -> (K, F) int64.
    """

    layers: list[Tensor]
    codes: dict[str, Tensor]


class FrameReader(ABC):
    """Layers and codes of one model.

    Attributes:
        name: the file name of the checkpoint; ``weights``: one of ``WEIGHTS``; ``fingerprint``: SHA-256 of the weights.
        grid: number and place of the frames; ``rate``: frames per second; ``first_centre``: seconds, of frame 0.
        n_layers, width: number of layers; D.
        pads: whether utterances of different lengths may share a batch: padding changes nothing.
        normalize: whether the model expects recordings of mean 0 and variance 1.
        code_sets: name -> ``CodeSet``; the first one is the default; empty for a model without units of its own.
        outputs: name -> ``Output``; empty for a model that has only layers.
    """

    batch_first: ClassVar[bool] = False  # whether the layers' own outputs are (B, F, D) and not (F, B, D)

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        weights: str = "student",
        normalize: bool = False,
        rebuild: Callable[[], nn.Module] | None = None,
    ):
        """
        Args:
            model: the part that turns waveforms into features (``trunk_of``), in eval mode, on its device.
            path: of its checkpoint, for messages.
            rebuild: builds the same model with random weights; None: ``untrained`` is not needed.
        """
        self.model, self.path, self.weights = model, Path(path), weights
        self.normalize, self.rebuild = normalize, rebuild
        kind = type(model).__name__
        if weights == "teacher" and not self.has_teacher():
            remedy = "give a DinoSR pre-training checkpoint or read the student"
            raise UserError(f"{path}: contains {kind}, which has no teacher; {remedy}")
        layers = self.find_layers()
        if not isinstance(layers, nn.ModuleList):
            raise UserError(f"{path}: contains {kind}, which has no layers to read; give a speech model's checkpoint")
        self.name, self.layers, self.n_layers = self.path.name, layers, len(layers)
        self.grid = self.find_grid()
        self.rate, self.first_centre = self.grid.rate, self.grid.first_centre
        self.width, self.pads = self.find_width(), self.ignores_padding()
        self.code_sets: Mapping[str, CodeSet] = self.find_code_sets()
        self.outputs: Mapping[str, Output] = self.find_outputs()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([self.model])

    # ---- what an adapter says --------------------------------------------------------------------------------------

    @property
    def layer_kind(self) -> str:
        """What the report calls the layers, in the plural."""
        return "Transformer layers"

    def find_layers(self) -> nn.Module | None:
        """The layers, lowest first; None for a model that has none."""
        return getattr(getattr(self.model, "encoder", None), "layers", None)

    def has_teacher(self) -> bool:
        """Whether ``weights`` may be ``teacher``."""
        return False

    @abstractmethod
    def find_grid(self) -> FrameGrid:
        """Number and place of the frames."""

    def find_width(self) -> int:
        """D, the width of every layer."""
        encoder: Any = self.model.encoder  # its class depends on the kind of model
        return encoder.layer_norm.normalized_shape[0]

    def find_code_sets(self) -> Mapping[str, CodeSet]:
        """As the attribute ``code_sets``."""
        return {}

    def find_outputs(self) -> Mapping[str, Output]:
        """As the attribute ``outputs``."""
        return {}

    @abstractmethod
    def ignores_padding(self) -> bool:
        """Whether the features of an utterance are the same, within rounding, however far it is padded."""

    @abstractmethod
    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        """Unmasked speech (B, T), padding (B, T) bool or None -> output (B, F, D) after layer ``stop``, or the last."""

    def run_with(
        self, source: Tensor, padding_mask: Tensor | None, stop: int | None, names: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``run``, with what is asked for by name: codes (K, B, F) int64 of a set, an output (B, F, W)."""
        return self.run(source, padding_mask, stop), {}

    # ---- reading ---------------------------------------------------------------------------------------------------

    def frames(self, samples: int) -> int:
        """Number of frames of so many samples at 16 kHz."""
        return self.grid.count(samples)

    def read(self, waves: Sequence[Tensor], layers: Sequence[Layer], code_sets: Sequence[str] = ()) -> list[Frames]:
        """Waveforms (T,) at 16 kHz, as ``prepare`` returns them -> layers, outputs and codes of each, in one pass.

        Utterances of different lengths require ``pads``. Raises UserError for NaN and infinity.
        """
        features, codes = self.read_batch(waves, layers, code_sets)
        features = [x.cpu() for x in features]
        codes = {name: of_set.cpu() for name, of_set in codes.items()}
        lengths = [self.frames(len(wave)) for wave in waves]
        return [
            Frames([x[row, :n] for x in features], {name: of_set[:, row, :n] for name, of_set in codes.items()})
            for row, n in enumerate(lengths)
        ]

    @torch.no_grad()
    def read_batch(
        self, waves: Sequence[Tensor], layers: Sequence[Layer], code_sets: Sequence[str] = ()
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """As ``read``, on the model's device: (B, F, D) float32 of each layer, set -> codes (K, B, F) int64.

        F is the number of frames of the longest waveform; fairseq's models may compute more. What follows the end of
        a shorter one is undefined.
        """
        waves = list(map(require_finite, waves))
        numbers = [layer for layer in layers if isinstance(layer, int)]
        names = [name for name in layers if isinstance(name, str) and name in self.outputs] + list(code_sets)
        stop = max(numbers) if numbers and "last" not in layers and not names else None
        with self.recorded(numbers) as outputs:
            outputs["last"], named = self.run_with(*padded_waves(waves, self.device), stop, names)
        outputs |= {name: named[name] for name in names if name in self.outputs}
        return [outputs[layer].float() for layer in layers], {name: named[name] for name in code_sets}

    @contextmanager
    def recorded(self, numbers: Sequence[int]) -> Iterator[dict[Layer, Tensor]]:
        """A dictionary that the outputs (B, F, D) of these layers are put into."""
        outputs: dict[Layer, Tensor] = {}

        def hook(number: int) -> Callable[..., None]:
            def record(layer, inputs, output) -> None:
                x = output[0] if isinstance(output, tuple) else output
                outputs[number] = x if self.batch_first else x.transpose(0, 1)  # (B, F, D)

            return record

        handles = [self.layers[number].register_forward_hook(hook(number)) for number in numbers]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    def prepare(self, wave: Tensor) -> Tensor:
        """(T,) float32 at 16 kHz as the model expects it: normalized as fairseq's dataset does, or unchanged."""
        return F.layer_norm(wave, wave.shape) if self.normalize else wave

    def width_of(self, layer: Layer) -> int:
        """D of a layer, W of an output."""
        return self.outputs[layer].width if isinstance(layer, str) and layer in self.outputs else self.width

    def source(self, layer: Layer) -> dict[str, Any]:
        """``store.FolderInfo.source`` of a layer's features."""
        return {
            "kind": "model",
            "checkpoint": self.name,
            "fingerprint": self.fingerprint,
            "weights": self.weights,
            "layer": layer,
        }

    def code_source(self, code_set: str) -> dict[str, Any]:
        """``store.FolderInfo.source`` of the units of a set."""
        weights = self.code_sets[code_set].weights
        return {"kind": "codes", "checkpoint": self.name, "fingerprint": self.fingerprint, "weights": weights}

    def require_codes(self) -> str:
        """Name of the default set of codes. Raises UserError for a model without codebooks."""
        if not self.code_sets:
            raise UserError(
                f"{self.path}: contains {type(self.model).__name__}, which has no codebooks; give a pre-training "
                "checkpoint of DinoSR or Spin"
            )
        return next(iter(self.code_sets))

    def untrained(self) -> "FrameReader":
        """The same model with random weights, the same ones every time. The file is not read again."""
        if self.rebuild is None:
            raise ValueError("this reader cannot build its model again")
        torch.manual_seed(0)
        model = trunk_of(self.rebuild()).eval().to(self.device)
        return type(self)(model, self.path, "random", self.normalize, self.rebuild)


def require_finite(wave: Tensor) -> Tensor:
    """The waveform. Raises UserError if a sample is NaN or infinite: all units and features would be wrong."""
    if not bool(np.isfinite(wave.detach().cpu().numpy()).all()):  # torch.isfinite takes 20 times as long
        raise UserError("waveform: contains NaN or infinite samples; remove them, or scale it to about -1 to 1")
    return wave


def trunk_of(model: nn.Module) -> nn.Module:
    """The part that turns waveforms into features: the model itself, or the pre-trained one inside a CTC model."""
    return model.w2v_encoder.w2v_model if isinstance(model, (Wav2VecCtc, HubertCtc)) else model


def padded_waves(waves: Sequence[Tensor], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor | None]:
    """B waveforms (T,) -> source (B, longest T), zero-padded, and padding_mask (B, T) bool, None without padding."""
    source = nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    mask = torch.arange(source.size(1)) >= lengths.unsqueeze(1)
    return source.to(device), mask.to(device) if bool(mask.any()) else None

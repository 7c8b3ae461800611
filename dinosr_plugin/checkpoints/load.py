"""The one way to load a checkpoint for measuring, cutting units, transcribing or exporting."""

import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.models import MODEL_REGISTRY, BaseFairseqModel
from fairseq.models.hubert import HubertModel
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from omegaconf import DictConfig
from torch import Tensor, nn

from .. import register
from ..errors import UserError
from ..interop.cpc_audio import read_cpc_audio
from ..models.cpc import CPC
from ..models.dinosr import DinoSR
from ..models.encoder import Encoder, Trunk
from ..modules.conv_spec import parse_conv_layers


def load_model(path: str | Path):
    """Load a checkpoint of this plug-in, of fairseq's own speech models, or of CPC_audio, in eval mode, on the CPU: (model, its whole config).

    Needs nothing but the file: not the data folder, nor the pre-training checkpoint of a fine-tuned model.
    Raises UserError for a missing file, and for one that is no checkpoint, is cut short or is of another fairseq model.
    """
    model, cfg, _ = load_with_task(path)
    return model, cfg


def load_with_task(path: str | Path):
    """As ``load_model``, with the task: (model, config, task)."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; give a file that a training saved")
    try:
        if not is_torch_file(path):
            raise UserError(
                f"{path}: cannot be loaded as a fairseq checkpoint (it is no file of PyTorch); give one that a training saved"
            )
        state = read_cpc_audio(path) or checkpoint_utils.load_checkpoint_to_cpu(str(path))
        forget_data_folder(state)
        forget_hubert_labels(state)
        register_data2vec(state)
        register()  # the task of the checkpoint, too
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile, omegaconf and fairseq each have their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: cannot be loaded as a fairseq checkpoint ({reason[0]}); is the file whole?"
        ) from error
    return models[0].eval(), cfg, task


def is_torch_file(path: str | Path) -> bool:
    """Whether a file begins as torch's do: a zip archive, before torch 1.6 a pickle, which no text does. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80"


def forget_data_folder(state: dict[str, Any]) -> None:
    """A checkpoint with a dictionary counts by itself: what lies in its data folder by now, perhaps another dictionary, is not looked at."""
    if (state.get("task_state") or {}).get("target_dictionary") is not None and state.get("cfg") is not None:
        state["cfg"].task.data = os.devnull
        if "target_dictionary" in state["cfg"].task:
            state["cfg"].task.target_dictionary = None


def forget_hubert_labels(state: dict[str, Any]) -> None:
    """HuBERT wants the dictionaries of the clusters that it was trained on, for the clusters' embeddings: of no use once it is trained.

    Fine-tuned models have lost them, and so have the first ones; fairseq would look for files in the folder of whoever trained the model.
    """
    for cfg, prefix in ((state.get("cfg"), ""), (pretraining_of(state), "w2v_encoder.w2v_model.")):
        task_state = state.setdefault("task_state", {})
        if cfg is not None and cfg.model.get("_name") == "hubert" and "dictionaries" not in task_state:
            task_state["dictionaries"] = [None] * len(cfg.task.labels)  # with these HubertModel has no such embeddings
            state["model"].pop(f"{prefix}label_embs_concat", None)


def register_data2vec(state: dict[str, Any]) -> None:
    """data2vec lies among fairseq's examples, which importing fairseq does not register; also as what a fine-tuned model is built around."""
    names = {cfg.model.get("_name") for cfg in (state.get("cfg"), pretraining_of(state)) if cfg is not None}
    if "data2vec_audio" in names and "data2vec_audio" not in MODEL_REGISTRY:
        importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")


def pretraining_of(state: dict[str, Any]) -> DictConfig | None:
    """The config of the model that a fine-tuned one is built around; None for others."""
    return state["cfg"].model.get("w2v_args") if state.get("cfg") is not None else None


def load_dinosr(path: str | Path):
    """``load_model`` for what needs teacher and codebooks. Raises UserError for a model without them."""
    model, cfg = load_model(path)
    require_codebooks(model, path)
    return model, cfg


def has_codebooks(model: BaseFairseqModel) -> bool:
    return isinstance(model, DinoSR) and model.teacher is not None


def require_codebooks(model: BaseFairseqModel, path: str | Path) -> None:
    if not has_codebooks(model):
        raise UserError(
            f"{path}: holds {type(model).__name__}, which has no codebooks; give a DinoSR pre-training checkpoint"
        )


def trunk_of(model: BaseFairseqModel) -> BaseFairseqModel:
    """The part that turns waveforms into features: the model itself, or what a fine-tuned one is built around."""
    return model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model


def field_and_hop(trunk: BaseFairseqModel) -> tuple[int, int]:
    """Samples (at 16 kHz) that a frame stands for, and from one frame to the next."""
    if isinstance(trunk, CPC):
        return trunk.field, trunk.hop
    if layers := getattr(trunk, "conv_layers", None):
        pass
    elif hasattr(trunk, "cfg"):  # fairseq's own models
        layers = parse_conv_layers(trunk.cfg.conv_feature_layers)
    else:  # HuBERT keeps no config
        convolutions = [block[0] for block in trunk.feature_extractor.conv_layers]
        layers = [(conv.out_channels, *conv.kernel_size, *conv.stride) for conv in convolutions]
    field, hop = 1, 1
    for _, kernel, stride in layers:
        field += (kernel - 1) * hop
        hop *= stride
    return field, hop


def fingerprint(models: Sequence[nn.Module]) -> str:
    """SHA-256 of their weights: the same for the same weights, whatever file they come from."""
    digest = hashlib.sha256()
    for model in models:
        for name, tensor in tensors_in(nn.Module.state_dict(model)):  # data2vec's own warns of itself
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def require_finite(model: nn.Module, path: str | Path) -> None:
    """Raises UserError for NaN or infinity in the weights: the codes of such a model would be numbers like any others."""
    for name, tensor in tensors_in(nn.Module.state_dict(model)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{path}: NaN or infinity in its weights ({name}): its training went astray; give an earlier checkpoint"
            )


def tensors_in(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of a state dict, those of nested ones (a teacher's) too, by name."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from tensors_in(value, f"{prefix}{name}.")
        elif torch.is_tensor(value):
            yield prefix + name, value


# ---- features of layers -----------------------------------------------------------------------------------------------------

WEIGHTS = ("student", "teacher", "random")
Layer = Union[int, str]
"""Number of a Transformer layer, from 0, for what it gives; or "last" for what the model gives, after the final LayerNorm of a pre-LN model."""


class LayerReader:
    """What the Transformer layers of a checkpoint give, or CPC's recurrent layers: this plug-in's models, fairseq's wav2vec 2.0, HuBERT and data2vec, fine-tuned or not.

    Args:
        path: the checkpoint.
        weights: ``student``: the model's; ``teacher``: of the moving average that the student learns from; ``random``: untrained ones,
            the same every time.
        device: where it runs.

    Attributes:
        n_layers, width: Transformer layers; D.
        normalize: whether it wants each recording with mean 0 and variance 1.
        field, hop: as ``field_and_hop``.
        pads: whether utterances of different lengths may share a batch, for padding changes nothing (``ignores_padding``).
        codebook_size: units in each codebook of a DinoSR pre-training checkpoint; None for all others.

    Raises:
        UserError: as ``load_model``, and for a model without Transformer layers, or without a teacher where that was asked for.
    """

    def __init__(self, path: str | Path, weights: str = "student", device: str | torch.device = "cpu"):
        if weights not in WEIGHTS:
            raise UserError(f"weights {weights}: choose one of {', '.join(WEIGHTS)}")
        model, cfg, task = load_with_task(path)
        self.codebook_size = int(model.cfg.codebook_size) if has_codebooks(model) else None
        if weights == "random":
            torch.manual_seed(0)
            model = task.build_model(cfg.model, from_checkpoint=True).eval()
        require_finite(model, path)
        self.trunk = trunk_of(model).to(device)
        encoder = self.trunk.context if isinstance(self.trunk, CPC) else getattr(self.trunk, "encoder", None)
        if not isinstance(getattr(encoder, "layers", None), nn.ModuleList):
            raise UserError(
                f"{path}: holds {type(self.trunk).__name__}, which has no Transformer layers to read; give a speech model's checkpoint"
            )
        if weights == "teacher" and getattr(self.trunk, "teacher", None) is None:
            raise UserError(
                f"{path}: holds {type(model).__name__}, which has no teacher; give a DinoSR pre-training checkpoint, or take the student"
            )
        self.encoder = self.trunk.teacher.model if weights == "teacher" else encoder
        self.name, self.weights, self.device = Path(path).name, weights, device
        self.fingerprint = fingerprint([self.trunk])
        self.n_layers = len(self.encoder.layers)
        self.width = (
            self.trunk.cfg.context_dim if isinstance(self.trunk, CPC) else self.encoder.layer_norm.normalized_shape[0]
        )
        self.normalize = bool(cfg.task.get("normalize", False))
        self.field, self.hop = field_and_hop(self.trunk)
        self.pads = ignores_padding(self.trunk)

    def frames(self, samples: int) -> int:
        """How many frames it makes of so many samples; 0 where there are too few for one."""
        return max(0, (samples - self.field) // self.hop + 1)

    @torch.no_grad()
    def read(self, waves: Sequence[Tensor], layers: Sequence[Layer]) -> list[list[Tensor]]:
        """Waveforms (T,), normalised -> for each the features (F, D) float32 of every layer, on the CPU.

        Utterances of different lengths want ``pads``.
        """
        numbers = [layer for layer in layers if layer != "last"]
        stop = None if "last" in layers else max(numbers)
        given: dict[Layer, Tensor] = {}
        batch_first = isinstance(self.encoder, Encoder)  # fairseq's layers and recurrent ones give (F, B, D)
        note = lambda i: (
            lambda layer, inputs, output: given.update({i: output[0] if batch_first else output[0].transpose(0, 1)})
        )
        hooks = [self.encoder.layers[i].register_forward_hook(note(i)) for i in numbers]
        try:
            given["last"] = self.run(*padded_waves(waves, self.device), stop)
        finally:
            for hook in hooks:
                hook.remove()
        lengths = [self.frames(len(wave)) for wave in waves]
        on_cpu = [
            given[layer].float().cpu() for layer in layers
        ]  # (B, F, D) each; a layer may have frames more, padding of fairseq's own
        return [[x[row, :length] for x in on_cpu] for row, length in enumerate(lengths)]

    def run(self, source: Tensor, padding_mask: Tensor | None, stop: int | None) -> Tensor:
        """What comes out after layer ``stop``, or at the end: (B, F, D)."""
        if self.weights != "teacher":
            return output_of(self.trunk, source, padding_mask, stop)
        padding = self.trunk.frame_padding(source, padding_mask)
        return self.encoder(self.trunk.encoder_inputs(source, padding), padding if bool(padding.any()) else None, stop)[
            0
        ]


def output_of(trunk: BaseFairseqModel, source: Tensor, padding_mask: Tensor | None, layer: int | None) -> Tensor:
    """(B, T) -> (B, F, D): the unmasked student's output after ``layer``, or at the end."""
    if isinstance(trunk, HubertModel):  # counts layers from 1
        return trunk.extract_features(
            source, padding_mask, mask=False, output_layer=None if layer is None else layer + 1
        )[0]
    return trunk.extract_features(source, padding_mask, mask=False, layer=layer)["x"]


def padded_waves(waves: Sequence[Tensor], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor | None]:
    """B waveforms (T,) -> source (B, longest T), padded with zeros, and padding_mask (B, T) bool, or None where all are of one length."""
    source = nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    mask = torch.arange(source.size(1)) >= lengths.unsqueeze(1)
    return source.to(device), mask.to(device) if bool(mask.any()) else None


def ignores_padding(trunk: BaseFairseqModel) -> bool:
    """Whether an utterance's features are the same (within rounding) whatever it is padded to.

    Not where the first convolution is normalised over time, padding included (``extractor_mode=default``: the base models of wav2vec 2.0,
    HuBERT and data2vec). Of fairseq's own models HuBERT takes a frame that is half padding for speech, data2vec's stacked positional
    convolutions carry padding inwards, and Conformers normalise over it; wav2vec 2.0 (large) does none of that.
    """
    if isinstance(trunk, CPC):
        return trunk.cfg.encoder_norm != "instance"
    if isinstance(trunk, Trunk):
        return trunk.cfg.front_end == "fbank" or trunk.cfg.extractor_mode == "layer_norm"
    if type(trunk) is not Wav2Vec2Model:
        return False
    plain = trunk.cfg.layer_type == "transformer" and trunk.cfg.pos_conv_depth == 1
    return plain and trunk.cfg.extractor_mode == "layer_norm" and trunk.cfg.crop_seq_to_multiple == 1


# ---- recognisers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recogniser:
    """A fine-tuned CTC model with all that turning sound into text needs.

    normalize: whether it wants each recording with mean 0 and variance 1.
    field, hop: as ``field_and_hop``.
    """

    model: Wav2VecCtc
    dictionary: Dictionary
    blank: int  # its index in the dictionary
    normalize: bool
    field: int
    hop: int

    def frames(self, samples: int) -> int:
        """How many frames the model makes of so many samples; 0 where there are too few for one."""
        return max(0, (samples - self.field) // self.hop + 1)


def load_recogniser(path: str | Path) -> Recogniser:
    """A checkpoint of CTC fine-tuning. Raises UserError as ``load_model`` does, and for a model that recognises nothing."""
    model, cfg, task = load_with_task(path)
    if not isinstance(model, Wav2VecCtc):
        raise UserError(
            f"{path}: holds {type(model).__name__}, which is no recogniser; fine-tune it first (README.md) and give that checkpoint"
        )
    blank = task.target_dictionary.index(task.blank_symbol)
    return Recogniser(model, task.target_dictionary, blank, bool(cfg.task.normalize), *field_and_hop(trunk_of(model)))


# ---- from Python ------------------------------------------------------------------------------------------------------------


def load(path: str | Path) -> "SpeechModel":
    """A pre-training or fine-tuning checkpoint, ready for waveforms. Raises UserError as ``load_model`` does.

    model = dinosr_plugin.load("checkpoint_last.pt")
    features = model.features(waveform)  # (F, D)
    units = model.units(waveform)  # (K, F)
    """
    model, cfg = load_model(path)
    return SpeechModel(str(path), model, bool(cfg.task.normalize))


@dataclass(frozen=True)
class SpeechModel:
    """Waveforms in, features and units out; a waveform is 1-D, float, 16 kHz, a numpy array or a tensor, and is normalised as in training."""

    path: str
    model: BaseFairseqModel  # in eval mode, on the CPU
    normalize: bool

    @torch.no_grad()
    def features(self, waveform: np.ndarray | Tensor, layer: int | None = None) -> Tensor:
        """(T,) -> (F, D) float32, 50 frames a second: what the student's Transformer gives after ``layer`` (from 0), or after all."""
        return output_of(trunk_of(self.model), self.source(waveform), None, layer)[0]

    @torch.no_grad()
    def units(self, waveform: np.ndarray | Tensor) -> Tensor:
        """(T,) -> (K, F) int64: the teacher's code of every frame in each of the K codebooks, lowest layer first.

        Raises UserError for a model without codebooks.
        """
        require_codebooks(self.model, self.path)
        return self.model.codes(self.source(waveform))[:, 0]

    def source(self, waveform: np.ndarray | Tensor) -> Tensor:
        """(T,) -> (1, T) float32 on the model's device, normalised if the model wants it. Raises UserError for what is no such waveform."""
        wave = torch.as_tensor(waveform)
        if wave.dim() != 1 or not wave.is_floating_point():
            raise UserError(
                f"waveform: {wave.dim()}-D {wave.dtype} where 1-D float is wanted; take the mean of channels, divide 16-bit integers by 32768"
            )
        if len(wave) < (field := field_and_hop(trunk_of(self.model))[0]):
            raise UserError(
                f"waveform: {len(wave)} samples, but the model needs {field} for a frame; give a longer one"
            )
        wave = wave.to(next(self.model.parameters()).device, torch.float32)
        return (F.layer_norm(wave, wave.shape) if self.normalize else wave).unsqueeze(0)

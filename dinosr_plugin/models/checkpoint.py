"""The one way to load a checkpoint for measuring, cutting units, transcribing or exporting."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils, tasks
from fairseq.data import Dictionary
from fairseq.models import BaseFairseqModel
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from omegaconf import DictConfig
from torch import Tensor

from ..errors import UserError
from ..modules.conv_spec import parse_conv_layers
from .dinosr import DinoSR


def load_model(path: Union[str, Path]):
    """Load any fairseq checkpoint of this plug-in, in eval mode, on the CPU: (model, its whole config).

    Needs nothing but the file: not the data folder, nor the pre-training checkpoint of a fine-tuned model.
    Raises UserError for a missing file, and for one that is no checkpoint, is cut short or is of another fairseq model.
    """
    model, cfg, _ = load_with_task(path)
    return model, cfg


def load_with_task(path: Union[str, Path]):
    """As ``load_model``, with the task: (model, config, task)."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
        forget_data_folder(state)
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile, omegaconf and fairseq each have their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path}: cannot be loaded as a fairseq checkpoint ({reason[0]}); is the file whole?") from error
    return models[0].eval(), cfg, task


def forget_data_folder(state: Dict[str, Any]) -> None:
    """A checkpoint with a dictionary counts by itself: what lies in its data folder by now, perhaps another dictionary, is not looked at."""
    if (state.get("task_state") or {}).get("target_dictionary") is not None and state.get("cfg") is not None:
        state["cfg"].task.data = os.devnull
        if "target_dictionary" in state["cfg"].task:
            state["cfg"].task.target_dictionary = None


def load_dinosr(path: Union[str, Path]):
    """``load_model`` for what needs teacher and codebooks. Raises UserError for a model without them."""
    model, cfg = load_model(path)
    require_codebooks(model, path)
    return model, cfg


def require_codebooks(model: BaseFairseqModel, path: Union[str, Path]) -> None:
    if not isinstance(model, DinoSR) or model.teacher is None:
        raise UserError(f"{path}: holds {type(model).__name__}, which has no codebooks; give a DinoSR pre-training checkpoint")


def untrained_model(cfg: DictConfig, seed: int = 0) -> BaseFairseqModel:
    """A model of the same config with random weights, in eval mode: what learning is measured against."""
    torch.manual_seed(seed)
    return tasks.setup_task(cfg.task, from_checkpoint=True).build_model(cfg.model, from_checkpoint=True).eval()


def trunk_of(model: BaseFairseqModel) -> BaseFairseqModel:
    """The part that turns waveforms into features: the model itself, or what a fine-tuned one is built around."""
    return model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model


def field_and_hop(trunk: BaseFairseqModel) -> Tuple[int, int]:
    """Samples (at 16 kHz) that a frame sees, and from one frame to the next."""
    layers = getattr(trunk, "conv_layers", None) or parse_conv_layers(trunk.cfg.conv_feature_layers)  # fairseq's own models have the latter
    field, hop = 1, 1
    for _, kernel, stride in layers:
        field += (kernel - 1) * hop
        hop *= stride
    return field, hop


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


def load_recogniser(path: Union[str, Path]) -> Recogniser:
    """A checkpoint of CTC fine-tuning. Raises UserError as ``load_model`` does, and for a model that recognises nothing."""
    model, cfg, task = load_with_task(path)
    if not isinstance(model, Wav2VecCtc):
        raise UserError(f"{path}: holds {type(model).__name__}, which is no recogniser; fine-tune it first (README.md) and give that checkpoint")
    blank = task.target_dictionary.index(task.blank_symbol)
    return Recogniser(model, task.target_dictionary, blank, bool(cfg.task.normalize), *field_and_hop(trunk_of(model)))


# ---- from Python ------------------------------------------------------------------------------------------------------------


def load(path: Union[str, Path]) -> "SpeechModel":
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
    def features(self, waveform: Union[np.ndarray, Tensor], layer: Optional[int] = None) -> Tensor:
        """(T,) -> (F, D) float32, 50 frames a second: what the student's Transformer gives after ``layer`` (from 0), or after all."""
        return trunk_of(self.model).extract_features(self.source(waveform), None, mask=False, layer=layer)["x"][0]

    @torch.no_grad()
    def units(self, waveform: Union[np.ndarray, Tensor]) -> Tensor:
        """(T,) -> (K, F) int64: the teacher's code of every frame in each of the K codebooks, lowest layer first.

        Raises UserError for a model without codebooks.
        """
        require_codebooks(self.model, self.path)
        return self.model.codes(self.source(waveform))[:, 0]

    def source(self, waveform: Union[np.ndarray, Tensor]) -> Tensor:
        """(T,) -> (1, T) float32 on the model's device, normalised if the model wants it. Raises UserError for what is no such waveform."""
        wave = torch.as_tensor(waveform)
        if wave.dim() != 1 or not wave.is_floating_point():
            raise UserError(f"waveform: {wave.dim()}-D {wave.dtype} where 1-D float is wanted; take the mean of channels, divide 16-bit integers by 32768")
        if len(wave) < (field := field_and_hop(trunk_of(self.model))[0]):
            raise UserError(f"waveform: {len(wave)} samples, but the model needs {field} for a frame; give a longer one")
        wave = wave.to(next(self.model.parameters()).device, torch.float32)
        return (F.layer_norm(wave, wave.shape) if self.normalize else wave).unsqueeze(0)

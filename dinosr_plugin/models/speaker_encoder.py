"""Encoders of utterances: waveform -> embedding of the speaker. ECAPA-TDNN, or pooling over the layers of a trunk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, List

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from ..errors import UserError
from ..modules.ecapa import EcapaTdnn
from ..modules.ema import EmaTeacher, annealed_decay
from ..modules.pooling import AttentiveStatistics
from ..modules.speaker_mel import SpeakerMel
from ..modules.synced_batch_norm import SyncedBatchNorm1d, set_counted
from ..ranges import COUNT_OR_0, SHARE, WIDTH, Range
from .encoder import TrunkConfig
from .objective import Objective
from .trunk import Trunk, trunk_sizes

ECAPA, TRUNK = "ecapa", "trunk"
PER_FILTER, ALL_FILTERS = "filter", "all"
ECAPA_FIELDS = ("channels", "kernels", "dilations", "res2net_scale", "se_width")
ENCODER_FIELDS = ("encoder", "embedding_dim", "attention_width", "mel_norm", *ECAPA_FIELDS)
"""Settings that determine what an encoder computes; with a trunk also its sizes."""


@dataclass
class SpeakerEncoderConfig(TrunkConfig):
    """The settings of the trunk, such as ``encoder_layers``, count with ``encoder=trunk`` only."""

    encoder: ChoiceEnum([ECAPA, TRUNK]) = field(
        default=ECAPA,
        metadata={
            "help": "ecapa: ECAPA-TDNN on log-Mel frames; trunk: attentive statistics of a weighted sum of the "
            "Transformer layers of the frame model in start_from, whose sizes it has (SSRL's extension to WavLM)"
        },
    )
    embedding_dim: int = field(default=512, metadata={"range": WIDTH, "help": "dimensions of an embedding"})
    attention_width: int = field(
        default=128, metadata={"range": WIDTH, "help": "width of the attention that pools frames"}
    )
    mel_norm: ChoiceEnum([PER_FILTER, ALL_FILTERS]) = field(
        default=PER_FILTER,
        metadata={
            "help": "encoder=ecapa: log-Mel frames have mean 0 and variance 1 over the utterance in each filter "
            "(filter, as in SSRL), which removes the channel and the average spectrum of the voice; or over all "
            "filters together (all), for few or short recordings that share one channel"
        },
    )
    channels: List[int] = field(
        default_factory=lambda: [1024, 1024, 1024, 1024, 3072],
        metadata={
            "range": WIDTH,
            "help": "encoder=ecapa: channels of the first convolution, of each block, and of the last convolution",
        },
    )
    kernels: List[int] = field(
        default_factory=lambda: [5, 3, 3, 3, 1],
        metadata={"range": Range(1, 99), "help": "encoder=ecapa: kernels of the same layers, odd numbers of frames"},
    )
    dilations: List[int] = field(
        default_factory=lambda: [1, 2, 3, 4, 1],
        metadata={"range": Range(1, 99), "help": "encoder=ecapa: dilations of the same layers"},
    )
    res2net_scale: int = field(
        default=8, metadata={"range": WIDTH, "help": "encoder=ecapa: groups of channels in a block"}
    )
    se_width: int = field(
        default=128, metadata={"range": WIDTH, "help": "encoder=ecapa: width of squeeze-and-excitation"}
    )
    train_trunk: bool = field(
        default=False,
        metadata={
            "help": "encoder=trunk: also train the frame model; false: it keeps its weights and runs without dropout"
        },
    )
    ema_decay: float = field(default=0.999, metadata={"range": SHARE, "help": "decay of the teacher at the start"})
    ema_end_decay: float = field(
        default=0.9999, metadata={"range": SHARE, "help": "decay of the teacher from ema_anneal_end_step on"}
    )
    ema_anneal_end_step: int = field(
        default=0,
        metadata={
            "range": COUNT_OR_0,
            "help": "update at which the decay of the teacher, which changes linearly, ends: the length of the "
            "training, in the paper",
        },
    )


# ---- the encoders ----------------------------------------------------------------------------------------------------


class EcapaEncoder(nn.Module):
    """ECAPA-TDNN on log-Mel frames (Desplanques et al. 2020): waveforms (B, T) of equal length -> (B, E)."""

    def __init__(self, cfg: SpeakerEncoderConfig):
        super().__init__()
        self.mel = SpeakerMel(per_filter=str(cfg.mel_norm) == PER_FILTER)
        sizes = {name: getattr(cfg, name) for name in ECAPA_FIELDS}
        try:
            self.network = EcapaTdnn(embedding_dim=cfg.embedding_dim, attention_width=cfg.attention_width, **sizes)
        except ValueError as error:
            raise UserError(f"model.{error}") from None

    def forward(self, source: Tensor) -> Tensor:
        return self.network(self.mel(source).to(self.network.embedding.weight.dtype))


class TrunkEncoder(nn.Module):
    """Pooling over a frame model: waveforms (B, T) of equal length -> (B, E).

    Frames are the sum of the Transformer layers' outputs, weighted by a learned softmax. Their attentive statistics go
    through batch norm and a linear layer. A trunk that is not trained computes without dropout and without gradient.
    """

    def __init__(self, cfg: SpeakerEncoderConfig):
        super().__init__()
        self.trunk = Trunk(cfg)
        self.trains_trunk = cfg.train_trunk
        self.trunk.requires_grad_(cfg.train_trunk)
        self.layer_weights = nn.Parameter(torch.zeros(cfg.encoder_layers))
        width = cfg.encoder_embed_dim
        self.pooling = AttentiveStatistics(width, cfg.attention_width)
        self.norm = SyncedBatchNorm1d(2 * width)
        self.embedding = nn.Linear(2 * width, cfg.embedding_dim)

    def train(self, mode: bool = True):
        super().train(mode)
        self.trunk.train(mode and self.trains_trunk)
        return self

    def forward(self, source: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_trunk):
            results = self.trunk.extract_features(source)["layer_results"]
        layers = torch.stack([output for output, *_ in results])  # (L, F, B, D)
        weights = self.layer_weights.softmax(0).to(layers.dtype)
        frames = torch.tensordot(weights, layers, 1).permute(1, 2, 0)  # (F, B, D) -> (B, D, F)
        return self.embedding(self.norm(self.pooling(frames).to(self.norm.weight.dtype)))


def build_encoder(cfg: SpeakerEncoderConfig) -> EcapaEncoder | TrunkEncoder:
    return EcapaEncoder(cfg) if cfg.encoder == ECAPA else TrunkEncoder(cfg)


class SpeakerNetwork(nn.Module):
    """An encoder and what is trained on top of it."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, source: Tensor) -> Tensor:
        return self.head(self.encoder(source))


# ---- the models ------------------------------------------------------------------------------------------------------


class SpeakerModel(Objective):
    """A student, an encoder with a head, and a teacher, its moving average, whose embeddings are used.

    A subclass adds the head and the loss. In training, crops of a batch have the same length.

    Args:
        build_head: makes the head of student and teacher.

    Attributes:
        num_updates: made so far.
        batch_skipped: whether the batch is a dummy, see ``skip_batch``.
    """

    def __init__(self, cfg: SpeakerEncoderConfig, build_head: Callable[[], nn.Module]):
        super().__init__()
        self.cfg = cfg
        self.student, network = (SpeakerNetwork(build_encoder(cfg), build_head()) for _ in range(2))
        self.teacher = EmaTeacher(network, self.student, buffers="average")
        self.num_updates = 0
        self.batch_skipped = False

    @torch.no_grad()
    def embed(self, source: Tensor, padding_mask: None = None) -> Tensor:
        """Waveforms (B, T) at 16 kHz, of equal length -> the teacher's embeddings (B, E) float32, of any norm."""
        return self.teacher.model.encoder(source).float()  # type: ignore[operator]

    # ---- the training protocol -----------------------------------------------------------------------------------

    @classmethod
    def configure(cls, cfg: Any, label_sizes: list[int], source: BaseFairseqModel | None = None) -> None:
        """The encoder is that of a speaker model ``source``, or pools over the layers of a frame model."""
        if isinstance(source, SpeakerModel):
            for name in ENCODER_FIELDS:
                setattr(cfg, name, getattr(source.cfg, name))
        if cfg.encoder == ECAPA:
            return
        trunk = trunk_in(source)
        if trunk is None:
            raise UserError(
                f"model.start_from={cfg.start_from}: model.encoder={TRUNK} needs a checkpoint with a Transformer of "
                "frames; give one of dinosr, dinosr_hubert, spin, wav2vec 2.0, HuBERT or data2vec"
            )
        for name, value in trunk_sizes(trunk).items():
            setattr(cfg, name, str(value) if name == "conv_feature_layers" else value)

    def check(self, task_cfg: Any) -> None:
        """Raise UserError if a view may have another length than the others of a batch."""
        from_crops = task_cfg.views is not None and all(
            view.strip().startswith("crop") for view in task_cfg.views.split("/")
        )
        if not from_crops:
            raise UserError(
                f"task.views={task_cfg.views}: speaker models learn from crops of one length; begin every view with "
                "crop and its seconds, as in crop2+augment/crop6+peak"
            )

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Take over the encoder of a speaker model, that of its teacher, or the trunk of a frame model."""
        if isinstance(source, SpeakerModel):
            self.student.encoder.load_state_dict(source.teacher.model.encoder.state_dict())  # type: ignore[union-attr]
        elif isinstance(source, Trunk) and isinstance(self.student.encoder, TrunkEncoder):
            self.student.encoder.trunk.start_from(source, file)
        else:
            raise UserError(
                f"model.start_from={file}: contains {type(source).__name__}, not a speaker model; give a checkpoint of "
                "dino_speaker or ssrl_speaker, or set model.encoder=trunk for a model of frames"
            )
        self.teacher.restore_(self.student.state_dict())

    def structure(self) -> dict[str, Any]:
        fields = {name: getattr(self.cfg, name) for name in ENCODER_FIELDS}
        fields = {name: list(value) if name in ECAPA_FIELDS[:3] else value for name, value in fields.items()}
        trunk = trunk_in(self)
        return fields | ({} if trunk is None else trunk_sizes(trunk) | {"train_trunk": self.cfg.train_trunk})

    def skip_batch(self, skipped: bool) -> None:
        self.batch_skipped = skipped
        set_counted(self.student, not skipped)

    def set_num_updates(self, num_updates: int):
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def ema_decay(self) -> float:
        """Decay of the teacher at the end of the next update."""
        update = self.num_updates + 1
        return annealed_decay(self.cfg.ema_decay, self.cfg.ema_end_decay, update, self.cfg.ema_anneal_end_step)

    def end_update(self, n_updates: int) -> None:
        self.teacher.step_(self.student, self.ema_decay())
        self.set_num_updates(n_updates)

    # ---- checkpoints: the teacher is saved as `_ema`, as that of DinoSR ------------------------------------------

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "_ema"] = self.teacher.average()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        self.teacher.load_(state_dict, prefix + "_ema", missing, errors)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)


def trunk_in(model: BaseFairseqModel | None) -> Trunk | None:
    """The trunk of a frame model, or the one that a speaker model pools over."""
    encoder = model.student.encoder if isinstance(model, SpeakerModel) else None
    if isinstance(encoder, TrunkEncoder):
        return encoder.trunk
    return model if isinstance(model, Trunk) else None

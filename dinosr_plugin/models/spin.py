"""Spin: speaker-invariant clustering (Chang, Liu and Glass, Interspeech 2023, arXiv 2305.11072).

Fine-tuning of a pre-trained model on audio alone. Every utterance comes as two views, as it is and with another voice
(``task.views=clean/perturb``). The top layers, a projection and a codebook learn to give a frame of both views the same
code: the prediction for one view is compared with the code of the other view, and Sinkhorn's algorithm makes the codes
of a batch equally frequent, so that they cannot all become the same.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import MISSING
from torch import Tensor, nn

from ..errors import UserError
from ..modules.codebook import distributed
from ..modules.codebook_figures import codebook_sums
from ..modules.sinkhorn import MAX_SCALE, sinkhorn
from ..ranges import SHARE, WIDTH, Range, check_ranges
from .encoder import TrunkConfig
from .objective import DataNeeds, Output
from .trunk import Heads, Trunk, require_trunk, trunk_sizes

logger = logging.getLogger(__name__)

LAYER_NUMBER = Range(-1_000, 999)


@dataclass
class SpinConfig(TrunkConfig):
    """The sizes of the trunk need not be given: they are those of the checkpoint ``start_from``."""

    start_from: Optional[str] = field(
        default=MISSING,
        metadata={
            "help": "checkpoint to fine-tune: of this plug-in, or of fairseq's wav2vec 2.0, HuBERT or data2vec; null: "
            "random weights, of which Spin learns nothing useful"
        },
    )
    read_layer: Optional[int] = field(
        default=None,
        metadata={
            "range": Range(0, 999),
            "help": "Transformer layer, from 0, whose output is clustered; the layers above it are left out; null: the "
            "last one, as in the paper",
        },
    )
    trained_layers: List[int] = field(
        default_factory=lambda: [-2, -1],
        metadata={
            "range": LAYER_NUMBER,
            "help": "Transformer layers that are trained, from 0; negative numbers count back from the layer that is "
            "read, which is -1. The paper trains the top two, because the codes collapse if all are trained",
        },
    )
    train_front_end: bool = field(
        default=False,
        metadata={"help": "also train what is below the Transformer layers: front end and positional convolutions"},
    )
    redrawn_layers: List[int] = field(
        default_factory=list,
        metadata={
            "range": LAYER_NUMBER,
            "help": "Transformer layers that start with random weights instead of those of start_from; numbers as in "
            "trained_layers",
        },
    )
    projection_dim: int = field(
        default=256,
        metadata={"range": WIDTH, "help": "dimensions of the vectors in which frames and codes are compared"},
    )
    codebook_size: int = field(default=256, metadata={"range": Range(2, 65_536), "help": "K: codes in the codebook"})
    epsilon: float = field(
        default=0.02,
        metadata={"range": Range(1 / MAX_SCALE, 1_000), "help": "temperature of the targets, in Sinkhorn's algorithm"},
    )
    iterations: int = field(
        default=3, metadata={"range": Range(1, 1_000), "help": "number of iterations of Sinkhorn's algorithm"}
    )
    temperature: float = field(
        default=0.1, metadata={"range": Range(0.001, 1_000), "help": "temperature of the predictions"}
    )
    hard_target: bool = field(
        default=False, metadata={"help": "the target of a frame is its most likely code, not a distribution"}
    )
    prob_ratio: float = field(
        default=1.0,
        metadata={
            "range": SHARE,
            "help": "the targets of a view are computed from prob_ratio times its own scores plus (1 - prob_ratio) "
            "times those of the other view; 1: from its own, as in the paper",
        },
    )


def check_config(cfg: SpinConfig):
    """Raise UserError for numbers out of range and for settings that cannot work together, naming the field."""
    check_ranges(cfg, SpinConfig, "model")
    for name in ("trained_layers", "redrawn_layers"):
        for number in getattr(cfg, name):
            if not -cfg.encoder_layers <= number < cfg.encoder_layers:
                raise UserError(
                    f"model.{name}={list(getattr(cfg, name))}: the model has {cfg.encoder_layers} layers; give numbers "
                    f"from 0 to {cfg.encoder_layers - 1}, or from -{cfg.encoder_layers} to -1"
                )


@register_model("spin", dataclass=SpinConfig)
class Spin(Trunk):
    """The trunk, of which only some layers are trained, a projection of its output, and a codebook."""

    needs = DataNeeds(views=2)
    reports_codebooks = True
    pretraining_heads: tuple[Heads, ...] = (
        Heads(
            names=("projection", "codebook"),
            fields=("projection_dim", "codebook_size"),
            untrained="projection and codebook start untrained",
        ),
    )
    collapse_remedy = (
        "lower the learning rate, or train fewer layers (model.trained_layers; the paper's codes collapse if all are "
        "trained)"
    )
    guessing_remedy = "start from a trained model (model.start_from), or change the learning rate"

    def __init__(self, cfg: SpinConfig):
        super().__init__(cfg)
        check_config(cfg)
        self.projection = nn.Linear(cfg.encoder_embed_dim, cfg.projection_dim)
        self.codebook = nn.Linear(cfg.projection_dim, cfg.codebook_size, bias=False)
        with torch.no_grad():
            self.codebook.weight.copy_(F.normalize(self.codebook.weight, dim=-1))
        self.batch_skipped = False
        self.warned = False  # of a batch with fewer frames than codes
        self.requires_grad_(False)
        for module in self.trained_modules():
            module.requires_grad_(True)

    def trained_modules(self) -> list[nn.Module]:
        """What is trained; the rest keeps its weights and, below the lowest of these layers, computes no gradients."""
        modules: list[nn.Module] = [self.projection, self.codebook]
        modules += [self.encoder.layers[number] for number in self.cfg.trained_layers]
        if self.cfg.train_front_end:
            modules += [self.feature_extractor, self.layer_norm, self.post_extract_proj, self.encoder.pos_conv]
        # before the layers of a post-LN model, after those of a pre-LN model
        if self.cfg.train_front_end or self.cfg.layer_norm_first:
            modules.append(self.encoder.layer_norm)
        return modules

    # ---- the training protocol -----------------------------------------------------------------------------------

    @classmethod
    def configure(cls, cfg: SpinConfig, label_sizes: list[int], source: BaseFairseqModel | None = None) -> None:
        """The sizes of the trunk are those of ``source``, as far as ``read_layer`` reads it."""
        if source is not None:
            for name, value in trunk_sizes(require_trunk(source, str(cfg.start_from), cls.__name__)).items():
                setattr(cfg, name, str(value) if name == "conv_feature_layers" else value)
        if cfg.read_layer is not None:
            if cfg.read_layer >= cfg.encoder_layers:
                raise UserError(
                    f"model.read_layer={cfg.read_layer}: the model has {cfg.encoder_layers} layers; give a number from "
                    f"0 to {cfg.encoder_layers - 1}"
                )
            cfg.encoder_layers = cfg.read_layer + 1

    def check(self, task_cfg: Any) -> None:
        """Raise UserError for LayerDrop, and if utterances may be shorter than a frame."""
        if self.cfg.encoder_layerdrop > 0:
            raise UserError(
                f"model.encoder_layerdrop={self.cfg.encoder_layerdrop}: Spin trains without LayerDrop; set "
                "model.encoder_layerdrop=0"
            )
        for name, samples in (
            ("min_sample_size", task_cfg.min_sample_size or 0),
            ("max_sample_size", task_cfg.max_sample_size),
        ):
            if samples is not None and self.grid.count(samples) < 1:
                raise UserError(
                    f"task.{name}={samples} allows utterances shorter than a frame, which has {self.grid.field} "
                    f"samples; raise it to {self.grid.field} or more"
                )

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Take over what ``Trunk`` does, except for ``redrawn_layers`` and the layers above the one that is read."""
        trunk = require_trunk(source, file, type(self).__name__)
        trunk.encoder.layers = trunk.encoder.layers[: self.n_layers]
        redrawn = [self.encoder.layers[number] for number in self.cfg.redrawn_layers]
        random_weights = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in redrawn]
        super().start_from(source, file)
        for layer, weights in zip(redrawn, random_weights):
            layer.load_state_dict(weights)

    def structure(self) -> dict[str, Any]:
        # the optimiser has state for the layers that are trained; -1 and 11 may be the same
        trained = sorted({number % self.n_layers for number in self.cfg.trained_layers})
        return super().structure() | {"train_front_end": self.cfg.train_front_end, "trained_layers": trained}

    def skip_batch(self, skipped: bool) -> None:
        self.batch_skipped = skipped

    def unit_rows(self) -> Iterable[Tensor]:
        return [self.codebook.weight]

    # ---- the loss ------------------------------------------------------------------------------------------------

    def forward(
        self,
        source: Any,
        padding_mask: Any = None,
        mask: bool = False,
        features_only: bool = False,
        layer: int | None = None,
        utterances: Tensor | None = None,
    ) -> Output | dict:
        """The swapped prediction of two views; with ``features_only``, ``extract_features`` of one waveform (B, T).

        Args:
            source: two float waveforms (B, T) at 16 kHz, the views of the same utterances.
            padding_mask: two (B, T) bool, or None.
            mask, layer: as in ``extract_features``.
            utterances: (B,) int64, not used.

        Returns:
            ``losses``: "spin", the cross-entropy summed over frames and averaged over the two views.
            ``sample_size``: frames of one view. ``codebook_sums`` over the frames of both views, with the most likely
            code of the target as the code that is predicted; only ``codes`` in them counts the code with the highest
            score, which is the unit of a frame.
        """
        if features_only:
            return self.extract_features(source, padding_mask, mask=mask, layer=layer)
        frames = self.valid_frames(source, padding_mask)
        return self.swapped_prediction(self.encode_views(source, padding_mask, frames))

    def encode_views(self, source: list[Tensor], padding_mask: list[Tensor] | None, frames: Tensor) -> Tensor:
        """Two views (B, T) -> the output for ``frames`` of each (2, N, D), in one pass of the encoder.

        ``frames``: (N,), from ``valid_frames``, so that a GPU is not waited for after the encoder.
        """
        padding = None if padding_mask is None else torch.cat(padding_mask)  # (2B, T)
        x = self.extract_features(torch.cat(source), padding)["x"]  # (2B, F, D)
        views = x.unflatten(0, (2, -1)).flatten(1, 2)  # (2B, F, D) -> (2, B * F, D)
        return views.index_select(1, frames.to(x.device, non_blocking=True))

    def valid_frames(self, source: list[Tensor], padding_mask: list[Tensor] | None) -> Tensor:
        """The frames of two views (B, T) that are not padding: places in a flattened (B, F), (N,) int64 on the CPU.

        Both views have the same ones; a dummy batch has none. Raises UserError for views of different lengths.
        """
        require_equal_lengths(source[0].size(1), source[1].size(1), "samples")
        padding = None if padding_mask is None else torch.cat(padding_mask)  # (2B, T)
        sizes = self.frame_sizes(torch.cat(source), padding).view(2, -1)  # (2, B)
        for first, second in sizes.t().tolist():
            require_equal_lengths(first, second, "frames")
        valid = torch.arange(self.n_frames(source[0])) < sizes[0].unsqueeze(1)  # (B, F)
        return valid.flatten().nonzero().squeeze(1)[: 0 if self.training and self.batch_skipped else None]

    def swapped_prediction(self, x: Tensor) -> Output:
        """Frames of two views (2, N, D) -> the loss of Spin and its figures."""
        scores = self.scores(x)  # (2, N, K)
        self.warn_of_few_frames(scores.size(1))
        return self.losses(scores, self.targets(scores.detach()))

    def project_frames(self, x: Tensor) -> Tensor:
        """Frames (..., D) -> (..., P) float32 of norm 1."""
        return F.normalize(self.projection(x).float(), dim=-1)

    def scores(self, x: Tensor) -> Tensor:
        """Frames (..., D) -> cosines with every code (..., K) float32, also under autocast."""
        z = self.project_frames(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(z, self.codebook.weight.float())

    def targets(self, scores: Tensor) -> Tensor:
        """Scores (2, N, K) -> soft assignments (2, N, K) float32, without gradient.

        In training the frames of all ranks are balanced together; in validation those of each batch, so that the
        figures do not depend on the number of ranks.
        """
        mixed = self.cfg.prob_ratio * scores + (1 - self.cfg.prob_ratio) * scores.flip(0)
        over_ranks = sum_over_ranks if self.training and distributed() else None
        assignments = sinkhorn(mixed, self.cfg.epsilon, self.cfg.iterations, over_ranks)
        if self.cfg.hard_target:
            return F.one_hot(assignments.argmax(-1), assignments.size(-1)).float()
        return assignments

    def losses(self, scores: Tensor, targets: Tensor) -> Output:
        """Scores and targets of both views (2, N, K) -> each view's prediction against the other view's targets."""
        log_probs = F.log_softmax(scores / self.cfg.temperature, dim=-1)
        swapped = targets.flip(0)
        nll = -(swapped * log_probs).sum() / 2
        flat_log_probs = log_probs.detach().flatten(0, 1).unsqueeze(0)  # (1, 2N, K)
        sums = codebook_sums(flat_log_probs, swapped.argmax(-1).view(1, -1))
        units = scores.detach().argmax(-1).flatten()  # (2N,)
        sums["codes"] = torch.bincount(units, minlength=scores.size(-1)).double().unsqueeze(0)  # (1, K)
        return Output({"spin": nll}, scores.size(1), codebook_sums=sums)

    def warn_of_few_frames(self, n_frames: int) -> None:
        """Log once if codes cannot be used equally, because there are more of them than frames."""
        ranks = dist.get_world_size() if self.training and distributed() else 1
        if self.warned or self.batch_skipped or n_frames * ranks >= self.cfg.codebook_size:
            return
        self.warned = True
        logger.warning(
            f"model.codebook_size={self.cfg.codebook_size}: a batch has only {n_frames * ranks} frames in a view, so "
            "that not all codes can be used; raise dataset.max_tokens, or lower model.codebook_size"
        )


def require_equal_lengths(first: int, second: int, unit: str) -> None:
    """Raise UserError if two views of an utterance, or of a batch, differ in length."""
    if first != second:
        raise UserError(f"task.views: two views have {first} and {second} {unit}; give transforms that keep the length")


def sum_over_ranks(totals: Tensor) -> Tensor:
    dist.all_reduce(totals)
    return totals

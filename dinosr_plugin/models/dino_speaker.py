"""DINO for speakers, the first stage of SSRL (Caron et al. 2021, arXiv 2104.14294; Cai et al., arXiv 2401.01473).

Crops of a recording are views of one speaker. A student that sees all crops, long and short ones, predicts what its
moving average, the teacher, makes of the long ones. No label is needed, but two recordings of a speaker are never
compared, so the embeddings are a start: ``ssrl_speaker`` continues with clusters of them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, List, cast

import torch
from fairseq.models import register_model
from torch import Tensor

from ..errors import UserError
from ..modules.dino_head import DinoHead
from ..modules.dino_loss import DinoLoss
from ..modules.synced_batch_norm import batch_statistics
from ..ranges import COUNT_OR_0, SHARE, WIDTH, Range, check_ranges
from .objective import DataNeeds, Output
from .speaker_encoder import SpeakerEncoderConfig, SpeakerModel

GLOBAL_CROPS = 2


@dataclass
class DinoSpeakerConfig(SpeakerEncoderConfig):
    head_hidden: List[int] = field(
        default_factory=lambda: [2048, 2048, 8192],
        metadata={"range": WIDTH, "help": "widths of the hidden layers of the projection head"},
    )
    head_bottleneck: int = field(
        default=256, metadata={"range": WIDTH, "help": "width of the projection head before its last layer"}
    )
    head_outputs: int = field(
        default=65_536, metadata={"range": Range(2, 1_000_000), "help": "outputs of the projection head"}
    )
    student_temperature: float = field(
        default=0.1, metadata={"range": Range(0.001, 1_000), "help": "temperature of the predictions"}
    )
    teacher_temperature: float = field(
        default=0.04, metadata={"range": Range(0.001, 1_000), "help": "temperature of the targets"}
    )
    centre_decay: float = field(
        default=0.9, metadata={"range": SHARE, "help": "decay of the mean of the teacher's outputs, per update"}
    )
    freeze_last_layer_updates: int = field(
        default=0,
        metadata={
            "range": COUNT_OR_0,
            "help": "the last layer of the projection head is not trained in the first so many updates: those of one "
            "epoch, in the paper",
        },
    )


@register_model("dino_speaker", dataclass=DinoSpeakerConfig)
class DinoSpeaker(SpeakerModel):
    """An encoder with DINO's projection head."""

    needs = DataNeeds(views=GLOBAL_CROPS, more_views=True)
    reports_targets = True
    collapse_remedy = (
        "lower optimization.lr, lengthen lr_scheduler.warmup_updates, raise dataset.batch_size, or change "
        "model.teacher_temperature: a lower one against uniform targets, a higher one against a single target"
    )
    guessing_remedy = (
        "change optimization.lr, lengthen lr_scheduler.warmup_updates, lower model.teacher_temperature, or raise "
        "dataset.batch_size"
    )

    def __init__(self, cfg: DinoSpeakerConfig):
        check_ranges(cfg, DinoSpeakerConfig, "model")
        super().__init__(
            cfg, lambda: DinoHead(cfg.embedding_dim, cfg.head_hidden, cfg.head_bottleneck, cfg.head_outputs)
        )
        self.criterion = DinoLoss(cfg.head_outputs, cfg.student_temperature, cfg.teacher_temperature, cfg.centre_decay)

    # ---- the training protocol -----------------------------------------------------------------------------------

    def check(self, task_cfg: Any) -> None:
        """Raise UserError also for local crops of different lengths, which cannot be encoded together."""
        super().check(task_cfg)
        lengths = {view.split("+")[0].strip() for view in task_cfg.views.split("/")[GLOBAL_CROPS:]}
        if len(lengths) > 1:
            raise UserError(
                f"task.views={task_cfg.views}: the views after the first {GLOBAL_CROPS} must be crops of one length; "
                "change their seconds"
            )

    def structure(self) -> dict[str, Any]:
        fields = {name: getattr(self.cfg, name) for name in ("head_bottleneck", "head_outputs")}
        return super().structure() | fields | {"head_hidden": list(self.cfg.head_hidden)}

    def begin_update(self) -> None:
        self.criterion.forget_()

    def frozen(self) -> Iterable[Tensor]:
        """The last layer of the student's head, in the first updates."""
        head = cast(DinoHead, self.student.head)
        return [head.last_layer.weight] if self.num_updates < self.cfg.freeze_last_layer_updates else []

    def end_update(self, n_updates: int) -> None:
        self.criterion.step_()
        super().end_update(n_updates)

    # ---- the loss ------------------------------------------------------------------------------------------------

    def forward(self, source: list[Tensor], padding_mask: Any = None, utterances: Tensor | None = None) -> Output:
        """DINO's loss between crops.

        The teacher's batch norms use the statistics of its batch, as in the code of Caron et al. Its running averages,
        which it makes embeddings with, follow the student's only after many updates; until then its outputs would all
        be alike, and the student would learn that.

        Args:
            source: float waveforms at 16 kHz, two global crops (B, T) and any number of local ones (B, T').
            padding_mask, utterances: not used.

        Returns:
            ``losses``: "dino", the cross-entropy averaged over pairs of crops and summed over utterances.
            ``sample_size``: utterances. ``scalars``: "target_entropy" and "divergence" in nats, means over utterances;
            ``log_outputs``, the loss of a student that has learned nothing.
        """
        crops, local = torch.cat(source[:GLOBAL_CROPS]), source[GLOBAL_CROPS:]
        of_global = self.student(crops).unflatten(0, (GLOBAL_CROPS, -1))  # (2B, V) -> (2, B, V)
        # another pass of the student, because batch norm has other statistics for shorter crops
        of_local = (
            self.student(torch.cat(local)).unflatten(0, (len(local), -1)) if local else of_global[:0]
        )  # (L, B, V)
        with torch.no_grad(), batch_statistics(self.teacher.model):
            targets = self.teacher.model(crops).unflatten(0, (GLOBAL_CROPS, -1))
        figures = self.criterion(of_global, of_local, targets, counted=not self.batch_skipped)
        return Output(
            {"dino": figures.loss.sum()},
            len(figures.loss),
            "utterances",
            {
                "target_entropy": figures.entropy.mean(),
                "divergence": figures.divergence.mean(),
                "log_outputs": math.log(self.cfg.head_outputs),
                "ema_decay": self.ema_decay(),
            },
        )

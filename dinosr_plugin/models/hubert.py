"""HuBERT-style masked prediction of offline cluster labels (Hsu et al., IEEE/ACM TASLP 2021, arXiv 2106.07447).

Every frame of the training speech has a label, the number of a cluster that k-means found beforehand: first in MFCC,
then in the features of a model trained this way. The model sees masked speech and predicts the labels of the masked
frames (section II.B); the probability of a label is a softmax over the cosines between the projected frame and the
embedding of every label (equation 3).

Names and shapes of the parameters are those of fairseq's ``hubert``, so that its checkpoints load.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import List

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from ..errors import UserError
from ..modules.codebook_figures import codebook_sums
from ..modules.frame_labels import labels_of_frames
from ..ranges import LABELS, WEIGHT, WIDTH, Range, check_ranges
from .encoder import TrunkConfig
from .objective import DataNeeds, Output, fill_num_classes
from .trunk import FrameMasks, Heads, Trunk

logger = logging.getLogger(__name__)


@dataclass
class HubertConfig(TrunkConfig):
    num_classes: List[int] = field(
        default_factory=list,
        metadata={
            "range": LABELS,
            "help": "number of labels in each label set; empty: as many as dict.LABELS.txt of task.labels lists",
        },
    )
    start_codebooks: ChoiceEnum(["warm", "new"]) = field(
        default="warm",
        metadata={
            "help": "with start_from: warm: projections and label embeddings are those of the checkpoint, if it has "
            "them in the same size; new: they start untrained, because the labels come from another k-means, whose "
            "numbers mean other clusters"
        },
    )
    final_dim: int = field(
        default=256, metadata={"range": WIDTH, "help": "dimensions in which frames and labels are compared"}
    )
    untie_final_proj: bool = field(
        default=True, metadata={"help": "a projection for each label set (true), or one for all"}
    )
    logit_temp: float = field(
        default=0.1,
        metadata={"range": Range(0, 1_000, exclude_low=True), "help": "temperature that cosines are divided by"},
    )
    pred_masked_weight: float = field(
        default=1.0, metadata={"range": WEIGHT, "help": "weight of the loss of masked frames"}
    )
    pred_nomask_weight: float = field(
        default=0.0,
        metadata={
            "range": WEIGHT,
            "help": "weight of the loss of unmasked frames; 0: they are logged but not learned from (the paper)",
        },
    )
    skip_masked: bool = field(default=False, metadata={"help": "ignore masked frames; requires pred_masked_weight=0"})
    skip_nomask: bool = field(
        default=False,
        metadata={"help": "ignore unmasked frames, in the log too; requires pred_nomask_weight=0"},
    )


def check_config(cfg: HubertConfig):
    """Raise UserError for numbers out of range and for settings that cannot work together, naming the field."""
    check_ranges(cfg, HubertConfig, "model")
    if not cfg.num_classes:
        raise UserError(
            "model.num_classes=[]: give a number for every label set, or leave it empty and set task.labels"
        )
    if cfg.mask_prob == 0:
        raise UserError(f"model.mask_prob={cfg.mask_prob} masks nothing to predict; raise it (0.8 in the paper)")
    for frames in ("masked", "nomask"):
        weight, skipped = getattr(cfg, f"pred_{frames}_weight"), getattr(cfg, f"skip_{frames}")
        if skipped and weight > 0:
            raise UserError(f"model.pred_{frames}_weight={weight} must be 0 with model.skip_{frames}=true; change one")
    if cfg.pred_masked_weight == cfg.pred_nomask_weight == 0:
        raise UserError(
            "model.pred_masked_weight and model.pred_nomask_weight are both 0: nothing is learned; raise one"
        )


@register_model("dinosr_hubert", dataclass=HubertConfig)
class Hubert(Trunk):
    """The trunk, a projection of its output, and an embedding for every label."""

    needs = DataNeeds(labels=True)
    reports_codebooks = True  # a label set counts as one
    pretraining_heads = (
        Heads(
            names=("final_proj", "label_embs_concat"),
            fields=("num_classes", "final_dim", "untie_final_proj"),
            untrained="projections and label embeddings start untrained",
        ),
    )

    def __init__(self, cfg: HubertConfig):
        super().__init__(cfg)
        check_config(cfg)
        self.num_classes = list(cfg.num_classes)
        self.new_heads = cfg.start_codebooks == "new"
        n_projections = len(self.num_classes) if cfg.untie_final_proj else 1
        self.final_proj = nn.Linear(cfg.encoder_embed_dim, n_projections * cfg.final_dim)
        self.label_embs_concat = nn.Parameter(torch.empty(sum(self.num_classes), cfg.final_dim).uniform_())

    @classmethod
    def configure(cls, cfg: HubertConfig, label_sizes: list[int], source: BaseFairseqModel | None = None) -> None:
        fill_num_classes(cfg, label_sizes)

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        labels: Tensor | None = None,
        label_starts: Tensor | None = None,
        label_rate: int = 50,
        mask: bool = True,
        mask_indices: Tensor | None = None,
        features_only: bool = False,
        layer: int | None = None,
        utterances: Tensor | None = None,
    ) -> Output | dict:
        """One masked prediction; with ``features_only``, ``extract_features``.

        Args:
            source: (B, T) float waveform at 16 kHz.
            padding_mask: (B, T) bool or None.
            labels, label_starts, label_rate: labels of the whole utterances, (S, B, L) int64 padded with -1; the first
                sample (B,) of each crop; labels per second; as in ``modules.frame_labels``.
            mask: with ``features_only``, mask frames; a prediction always masks.
            mask_indices: (B, F) bool, the frames to mask; None draws them.
            layer: as in ``extract_features``.
            utterances: (B,) int64, numbers of the utterances, as in ``draw_mask``.

        Returns:
            ``losses``: "hubert" and, if ``pred_nomask_weight`` is above 0, "unmasked": weighted cross-entropies summed
            over frames and label sets; with front_end=conv also "features_pen", the mean square of the front end's
            features times ``sample_size``. ``sample_size``: frames learned from. ``codebook_sums`` of the masked frames
            (of the others with ``skip_masked``), where a codebook is a label set.
        """
        if features_only:
            return self.extract_features(source, padding_mask, mask=mask, layer=layer)
        assert labels is not None and label_starts is not None  # they may be omitted only with features_only
        masks = self.frame_masks(source, padding_mask, mask_indices, utterances)
        frames = self.extract_frames(source, masks.padding)  # (B, F, C)
        x, _ = self.encode_masked(self.project(frames), masks)
        targets = labels_of_frames(labels, label_starts, label_rate, self.grid.hop, frames.size(1))  # (S, B, F)
        output = self.losses(x, targets, masks)
        if self.cfg.front_end == "conv":
            square = select_frames(frames, masks.valid).float().pow(2).mean()
            output = replace(output, losses={**output.losses, "features_pen": square * output.sample_size})
        return output

    def losses(self, x: Tensor, targets: Tensor, masks: FrameMasks) -> Output:
        """Output of the trunk x (B, F, D) and labels (S, B, F) -> losses and figures of masked and unmasked frames."""
        losses: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        scalars: dict[str, Tensor | float] = {}
        sample_size = 0
        for name, chosen, weight, skipped in (
            ("hubert", masks.masked, self.cfg.pred_masked_weight, self.cfg.skip_masked),
            ("unmasked", masks.valid & ~masks.masked, self.cfg.pred_nomask_weight, self.cfg.skip_nomask),
        ):
            if skipped:
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
                log_probs = F.log_softmax(self.logits(select_frames(x, chosen)), dim=-1)  # (S, N, V)
            codes = select_frames(targets.movedim(0, 2), chosen).t()  # (S, N)
            if weight > 0:
                losses[name] = -weight * log_probs.gather(-1, codes.unsqueeze(-1)).sum()
                sample_size += codes.size(1)
            if sums:
                scalars["unmasked_accuracy"] = (log_probs.argmax(-1) == codes).float().mean().nan_to_num()
            else:
                sums = codebook_sums(log_probs.detach(), codes)
        unit = "masked_frames" if list(losses) == ["hubert"] else "frames"
        return Output(losses, sample_size, unit, scalars, sums)

    def logits(self, x: Tensor) -> Tensor:
        """Frames (N, D) -> (S, N, V) float32, V of the largest label set; -inf for labels that a smaller set lacks."""
        n_sets = len(self.num_classes)
        projected = self.final_proj(x).float().unflatten(-1, (-1, self.cfg.final_dim)).transpose(0, 1)  # (S or 1, N, E)
        frames = F.normalize(projected, dim=-1).expand(n_sets, -1, -1)
        embeddings = F.normalize(self.label_embs_concat.float(), dim=-1).split(self.num_classes)  # S of (V_s, E)
        cosines = [projected @ labels.t() for projected, labels in zip(frames, embeddings)]  # S of (N, V_s)
        V = max(self.num_classes)
        return torch.stack(
            [F.pad(cosine / self.cfg.logit_temp, (0, V - cosine.size(-1)), value=float("-inf")) for cosine in cosines]
        )

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Also log if the source has no heads to take over."""
        super().start_from(source, file)
        if not self.new_heads and (not isinstance(source, Hubert) or source.final_proj is None):
            logger.info(f"{file}: has no prediction heads for labels; they start untrained")


def select_frames(x: Tensor, chosen: Tensor) -> Tensor:
    """x (B, F, ...), chosen (B, F) bool on the CPU, N of them true -> (N, ...)."""
    return x.flatten(0, 1).index_select(0, chosen.flatten().nonzero().squeeze(1).to(x.device, non_blocking=True))

"""CPC with deep clustering (Krishna and Ganapathy, ICASSP 2022).

Training of a CPC model continues, while a linear classifier of c_t learns the clusters that k-means found in the c_t
of the earlier model: L = L_cpc + alpha * L_clus.
"""

from dataclasses import dataclass, field, replace
from typing import Any, List, Optional

import torch.nn.functional as F
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import MISSING
from torch import Tensor, nn

from ..errors import UserError
from ..modules.frame_grid import SAMPLE_RATE
from ..modules.frame_labels import labels_of_frames
from ..ranges import LABELS, WEIGHT, check_ranges
from .cpc import CPC, CPCConfig
from .objective import DataNeeds, Output, fill_num_classes, require_same_fields


@dataclass
class CPCDeepClusterConfig(CPCConfig):
    num_classes: List[int] = field(
        default_factory=list,
        metadata={
            "range": LABELS,
            "help": "number of clusters, one number in brackets (50 in the paper); empty: as many as dict.LABELS.txt "
            "of task.labels lists",
        },
    )
    alpha: float = field(
        default=12.0,
        metadata={
            "range": WEIGHT,
            "help": "weight of the clusters' cross-entropy; 12 with cpc_reduction=sum equals 1 with mean",
        },
    )
    start_from: Optional[str] = field(
        default=MISSING,
        metadata={
            "help": "checkpoint of model=cpc or of CPC_audio to start from; or of cpc_deepcluster or CPC_DeepCluster, "
            "whose classifier is taken over too: match the labels to the old ones; null: random weights"
        },
    )


@register_model("cpc_deepcluster", dataclass=CPCDeepClusterConfig)
class CPCDeepCluster(CPC):
    """CPC with a classifier of the anchors' c_t."""

    needs = DataNeeds(windows=True, labels=True)

    def __init__(self, cfg: CPCDeepClusterConfig):
        super().__init__(cfg)
        check_ranges(cfg, CPCDeepClusterConfig, "model")
        if len(cfg.num_classes) != 1:
            raise UserError(
                f"model.num_classes={list(cfg.num_classes)}: one label set is required; set task.labels to one"
            )
        self.classifier = nn.Linear(cfg.context_dim, cfg.num_classes[0])

    @classmethod
    def configure(
        cls, cfg: CPCDeepClusterConfig, label_sizes: list[int], source: BaseFairseqModel | None = None
    ) -> None:
        fill_num_classes(cfg, label_sizes)

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """As CPC; of a model with a classifier, which must have as many clusters, that is taken over too."""
        if isinstance(source, CPCDeepCluster):
            theirs, ours = ({"num_classes": list(model.cfg.num_classes)} for model in (source, self))
            require_same_fields(file, theirs, ours)
        super().start_from(source, file)

    def structure(self) -> dict[str, Any]:
        return super().structure() | {"num_classes": self.cfg.num_classes}

    @property
    def pretraining_modules(self) -> tuple[str, ...]:
        return (*super().pretraining_modules, "classifier")

    def learn(  # type: ignore[override]  # `CPC.forward` passes on the labels
        self, z: Tensor, c: Tensor, utterances: Tensor, labels: Tensor, label_starts: Tensor, label_rate: int
    ) -> Output:
        """As CPC, with the loss "clusters": alpha times the cross-entropy summed over anchors.

        The scalars ``cluster_loss``, its mean without alpha, and ``cluster_accuracy`` are added.

        Args:
            labels, label_starts, label_rate: as in ``modules.frame_labels``. The label of an anchor is the one during
                which the anchor begins: label floor((start + 160 t) / 160) at 100 labels per second.
        """
        output = super().learn(z, c, utterances)
        # the label that begins nearest to a time half a label earlier is the one during which the frame begins
        half = SAMPLE_RATE // (2 * label_rate)
        targets = labels_of_frames(labels, label_starts - half, label_rate, self.grid.hop, c.size(1))[0]  # (B, W)
        logits = self.classifier(c).float()  # (B, W, V)
        nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum")
        accuracy = (logits.argmax(-1) == targets).float().mean()
        scalars = {"cluster_loss": nll.detach() / output.sample_size, "cluster_accuracy": accuracy}
        losses = {**output.losses, "clusters": self.cfg.alpha * nll}
        return replace(output, losses=losses, scalars={**output.scalars, **scalars})

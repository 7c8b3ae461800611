"""CPC and deep clustering (Krishna & Ganapathy, ICASSP 2022): CPC goes on, and a linear classifier of c_t learns the clusters that k-means
found in the c_t of before: L = L_cpc + alpha * L_clus."""

import logging
from dataclasses import dataclass, field
from typing import List, Optional

import torch.nn.functional as F
from fairseq.models import register_model
from omegaconf import MISSING
from torch import Tensor, nn

from ..errors import UserError
from ..modules.frame_labels import SAMPLE_RATE, labels_of_frames
from .cpc import CPC, CPCConfig

logger = logging.getLogger(__name__)

SIZES = ("encoder_channels", "encoder_norm", "context", "context_layers", "context_dim")
"""What a checkpoint to start from must have in common."""
PREDICTOR_SIZES = {
    "linear": ("predictor", "steps"),
    "transformer": ("predictor", "steps", "predictor_positions"),
    "none": (),
}
"""... by the kind of its predictors."""


@dataclass
class CPCDeepClusterConfig(CPCConfig):
    num_classes: List[int] = field(
        default_factory=list,
        metadata={
            "help": "number of clusters, one number in brackets (50 in the paper); empty: as many as dict.LABELS.txt of task.labels has"
        },
    )
    alpha: float = field(
        default=12.0,
        metadata={"help": "weight of the clusters' cross-entropy; 12 with cpc_reduction=sum is 1 with mean"},
    )
    cpc_path: Optional[str] = field(
        default=MISSING,
        metadata={
            "help": "checkpoint of model=cpc to start from, or of CPC_audio; or of cpc_deepcluster (or CPC_DeepCluster), whose classifier is taken over too: "
            "match the labels to the old ones"
        },
    )


@register_model("cpc_deepcluster", dataclass=CPCDeepClusterConfig)
class CPCDeepCluster(CPC):
    """CPC with a classifier of the anchors' c_t."""

    def __init__(self, cfg: CPCDeepClusterConfig):
        super().__init__(cfg)
        if len(cfg.num_classes) != 1 or cfg.num_classes[0] < 2:
            raise UserError(
                f"model.num_classes={list(cfg.num_classes)}: one label set of at least 2 clusters is wanted; name one in task.labels"
            )
        if cfg.alpha < 0:
            raise UserError(
                f"model.alpha={cfg.alpha} must not be negative: the classifier would unlearn the clusters; 12 in the paper"
            )
        self.classifier = nn.Linear(cfg.context_dim, cfg.num_classes[0])

    def learn(
        self, z: Tensor, c: Tensor, utterances: Tensor, labels: Tensor, label_starts: Tensor, label_rate: int
    ) -> dict:
        """As of CPC, with ``losses`` "clusters": alpha times the cross-entropy summed over anchors; ``cluster_loss``, its mean without alpha,
        and ``cluster_accuracy``.

        labels, label_starts, label_rate: as in ``modules.frame_labels``; an anchor's label is the one in whose time it begins: label
        floor((start + 160 t) / 160) at 100 labels a second.
        """
        output = super().learn(z, c, utterances)
        half = SAMPLE_RATE // (
            2 * label_rate
        )  # the nearest beginning, half a label earlier, is that of the label which the frame begins in
        targets = labels_of_frames(labels, label_starts - half, label_rate, self.hop, c.size(1))[0]  # (B, W)
        logits = self.classifier(c).float()  # (B, W, V)
        nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum")
        output["losses"]["clusters"] = self.cfg.alpha * nll
        right = (logits.argmax(-1) == targets).float().mean()
        return {**output, "cluster_loss": nll.detach() / output["sample_size"], "cluster_accuracy": right}

    def start_from_checkpoint(self) -> None:
        """Take over the weights of ``cpc_path``, unless it is null. Raises UserError for another model, and for one of another size."""
        from ..checkpoints.load import load_model

        if self.cfg.cpc_path is None:
            return
        given, _ = load_model(self.cfg.cpc_path)
        if not isinstance(given, CPC):
            raise UserError(
                f"{self.cfg.cpc_path}: holds {type(given).__name__}, which is no CPC; give model.cpc_path a checkpoint of model=cpc"
            )
        for name in (
            SIZES + PREDICTOR_SIZES[str(given.cfg.predictor)] + ("num_classes",) * isinstance(given, CPCDeepCluster)
        ):
            theirs, own = getattr(given.cfg, name), getattr(self.cfg, name)
            if theirs != own:
                raise UserError(
                    f"{self.cfg.cpc_path}: was trained with model.{name}={theirs}, not {own}; set model.{name}={theirs}"
                )
        if given.predictors is None:
            logger.warning(
                f"{self.cfg.cpc_path}: no predictors that model=cpc has: encoder and context network go on from there, new predictors start untrained"
            )
        self.load_state_dict({**self.state_dict(), **given.state_dict()})

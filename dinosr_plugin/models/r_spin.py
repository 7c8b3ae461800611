"""R-Spin: Spin that trains all layers and resists noise (Chang and Glass, NAACL 2024, arXiv 2311.09117).

Both views also get noise (``task.views=noise/perturb+noise``). If Spin trains all layers, the output stops depending on
the input. R-Spin prevents this with a second loss: a linear classifier predicts a fixed label of every frame of both
views, and the total is L_Spin + lambda L_Aux. In the paper the labels are acoustic pieces: frequent sequences of the
units of a Spin model (``dinosr units --pieces``).
"""

from dataclasses import dataclass, field, replace
from typing import Any, List

import torch.nn.functional as F
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from ..errors import UserError
from ..modules.frame_labels import labels_of_frames
from ..ranges import LABELS, WEIGHT, Range, check_ranges
from .objective import DataNeeds, Output, fill_num_classes
from .spin import LAYER_NUMBER, Spin, SpinConfig
from .trunk import Heads


@dataclass
class RSpinConfig(SpinConfig):
    """Spin's settings, with other defaults for what is trained, and those of the auxiliary loss."""

    trained_layers: List[int] = field(
        default_factory=list,
        metadata={
            "range": LAYER_NUMBER,
            "help": "Transformer layers that are trained, from 0; negative numbers count from the last one that is "
            "read; empty: all (the paper)",
        },
    )
    train_front_end: bool = field(
        default=True,
        metadata={
            "help": "train front end, projection and positional convolutions too. The paper trains all layers and does "
            "not say whether these are among them; true is the choice of this plug-in"
        },
    )
    codebook_size: int = field(
        default=32, metadata={"range": Range(2, 65_536), "help": "K: codes in the codebook; 32 in the paper"}
    )
    aux_weight: float = field(
        default=5.0, metadata={"range": WEIGHT, "help": "lambda: weight of the loss of the labels; 5 in the paper"}
    )
    num_classes: List[int] = field(
        default_factory=list,
        metadata={
            "range": LABELS,
            "help": "number of labels, a list of one; empty: as many as dict.LABELS.txt of task.labels lists",
        },
    )


def check_config(cfg: RSpinConfig) -> None:
    """Raise UserError for numbers out of range, for other than one label set, and if no layer is trained."""
    check_ranges(cfg, RSpinConfig, "model")
    if len(cfg.num_classes) != 1:
        raise UserError(
            f"model.num_classes={list(cfg.num_classes)}: R-Spin predicts one label set; leave it empty and give one in "
            "task.labels"
        )
    if not cfg.trained_layers:
        raise UserError("model.trained_layers=[]: no layer is trained; give the numbers of those that are")


@register_model("r_spin", dataclass=RSpinConfig)
class RSpin(Spin):
    """Spin, and a linear classifier of the frames that are clustered."""

    needs = DataNeeds(views=2, labels=True)
    pretraining_heads = (
        *Spin.pretraining_heads,
        Heads(names=("classifier",), fields=("num_classes",), untrained="the classifier starts untrained"),
    )
    collapse_remedy = "lower the learning rate, or raise the weight of the labels (model.aux_weight)"

    def __init__(self, cfg: RSpinConfig):
        check_config(cfg)
        super().__init__(cfg)
        self.classifier = nn.Linear(cfg.encoder_embed_dim, cfg.num_classes[0])

    # ---- the training protocol -----------------------------------------------------------------------------------

    @classmethod
    def configure(cls, cfg: RSpinConfig, label_sizes: list[int], source: BaseFairseqModel | None = None) -> None:
        """Also the number of classes, and the layers to train if none are named."""
        super().configure(cfg, label_sizes, source)
        fill_num_classes(cfg, label_sizes)
        if not cfg.trained_layers:
            cfg.trained_layers = list(range(cfg.encoder_layers))

    def check(self, task_cfg: Any) -> None:
        """Raise UserError also for labels that are refreshed: R-Spin's are fixed."""
        super().check(task_cfg)
        if task_cfg.relabel_every:
            raise UserError(
                f"task.relabel_every={task_cfg.relabel_every}: R-Spin learns from fixed labels; set "
                "task.relabel_every=0"
            )

    # ---- the loss ------------------------------------------------------------------------------------------------

    def forward(
        self,
        source: Any,
        padding_mask: Any = None,
        mask: bool = False,
        features_only: bool = False,
        layer: int | None = None,
        utterances: Tensor | None = None,
        labels: Tensor | None = None,
        label_starts: Tensor | None = None,
        label_rate: int = 50,
    ) -> Output | dict:
        """The losses of two views; with ``features_only``, ``extract_features`` of one waveform (B, T).

        Args:
            source, padding_mask, mask, layer, utterances: as of ``Spin``.
            labels, label_starts, label_rate: labels of the whole utterances, (1, B, L) int64 padded with -1; the first
                sample (B,) of each crop; labels per second; as in ``modules.frame_labels``.

        Returns:
            As ``Spin``, and in ``losses`` "aux": the cross-entropy of the labels, summed over frames, averaged over the
            two views and multiplied by ``aux_weight``. ``scalars``: "aux_accuracy", the share of frames of both views
            whose label is predicted.
        """
        if features_only:
            return self.extract_features(source, padding_mask, mask=mask, layer=layer)
        assert labels is not None and label_starts is not None  # they may be omitted only with features_only
        frames = self.valid_frames(source, padding_mask)
        on_grid = labels_of_frames(labels, label_starts, label_rate, self.grid.hop, self.n_frames(source[0]))[0]
        targets = on_grid.flatten().index_select(0, frames.to(on_grid.device, non_blocking=True))  # (N,)
        x = self.encode_views(source, padding_mask, frames)  # (2, N, D)
        output = self.swapped_prediction(x)
        aux, accuracy = self.label_prediction(x, targets)
        return replace(
            output, losses=output.losses | {"aux": self.cfg.aux_weight * aux}, scalars={"aux_accuracy": accuracy}
        )

    def label_prediction(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of two views (2, N, D) and labels (N,) -> cross-entropy summed over N, mean of the views; accuracy."""
        logits = self.classifier(x).float()  # (2, N, C)
        both = targets.expand(2, -1)  # (2, N)
        loss = F.cross_entropy(logits.flatten(0, 1), both.flatten(), reduction="sum") / 2
        return loss, (logits.detach().argmax(-1) == both).float().mean().nan_to_num()

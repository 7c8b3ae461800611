"""SSRL: self-supervised reflective learning of speaker embeddings (Cai, Cai, Li and Li, arXiv 2401.01473).

The student classifies short augmented crops with the current pseudo-label of their recording. The teacher, its moving
average, hears a longer clean crop and assigns the recording to a cluster by its own classifier. What becomes of these
assignments, the labels of the next epoch, is the task's affair (``tasks.speakers``).
"""

from dataclasses import dataclass, field
from typing import Any, Optional, cast

import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor

from ..modules.margin import AamSoftmax
from ..ranges import Range, check_ranges
from .objective import Assignment, DataNeeds, Output
from .speaker_encoder import SpeakerEncoderConfig, SpeakerModel


@dataclass
class SsrlSpeakerConfig(SpeakerEncoderConfig):
    scale: float = field(default=32.0, metadata={"range": Range(0.1, 1_000), "help": "factor on the cosines"})
    margin: float = field(
        default=0.2, metadata={"range": Range(0, 1.5), "help": "margin of the labelled cluster, in radians"}
    )
    n_clusters: Optional[int] = field(
        default=None,
        metadata={
            "range": Range(2, 10_000_000),
            "help": "clusters of the pseudo-labels; null: those of task.labels, in which case it is filled in",
        },
    )
    centroids: Optional[str] = field(
        default=None,
        metadata={
            "help": "the clusters that the labels in task.labels come from, a file of `dinosr kmeans fit`, whose "
            "directions the classifier starts with; null: random ones"
        },
    )


@register_model("ssrl_speaker", dataclass=SsrlSpeakerConfig)
class SsrlSpeaker(SpeakerModel):
    """An encoder with a classifier of clusters. ``assignment`` is set with ``teacher_active``."""

    needs = DataNeeds(views=2, utterance_labels=True)
    collapse_remedy = (
        "lower optimization.lr, raise task.fixed_epochs, or start with a better model (model.start_from) and the "
        "clusters of its embeddings (task.labels)"
    )

    def __init__(self, cfg: SsrlSpeakerConfig):
        check_ranges(cfg, SsrlSpeakerConfig, "model")
        super().__init__(cfg, lambda: AamSoftmax(cfg.embedding_dim, cfg.n_clusters or 2, cfg.scale, cfg.margin))

    @property
    def classifier(self) -> AamSoftmax:
        """The student's."""
        return cast(AamSoftmax, self.student.head)

    def cluster_directions(self) -> Tensor:
        """The teacher's classifier: (K, E) float32, a direction of norm 1 for each cluster."""
        return F.normalize(self.teacher.model.head.weight.detach().float())  # type: ignore[union-attr, operator]

    # ---- the training protocol -----------------------------------------------------------------------------------

    @classmethod
    def configure(cls, cfg: Any, label_sizes: list[int], source: BaseFairseqModel | None = None) -> None:
        """Also the number of clusters."""
        super().configure(cfg, label_sizes, source)
        (cfg.n_clusters,) = label_sizes

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """As ``SpeakerModel``; the classifier starts with the centroids, whose norms have no influence."""
        super().start_from(source, file)
        if isinstance(source, SsrlSpeaker) and source.classifier.weight.shape == self.classifier.weight.shape:
            self.classifier.load_state_dict(source.teacher.model.head.state_dict())  # type: ignore[union-attr]
            self.teacher.restore_(self.student.state_dict())

    def use_centroids(self, centroids: Tensor) -> None:
        """Start the classifiers of student and teacher with clusters (K, E)."""
        self.classifier.weight.data.copy_(F.normalize(centroids.to(self.classifier.weight)))
        self.teacher.restore_(self.student.state_dict())

    def structure(self) -> dict[str, Any]:
        return super().structure() | {"n_clusters": self.cfg.n_clusters}

    # ---- the loss ------------------------------------------------------------------------------------------------

    def forward(
        self,
        source: list[Tensor],
        utterances: Tensor,
        padding_mask: Any = None,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        removed: Tensor | None = None,
        teacher_active: bool = False,
    ) -> Output:
        """The weighted cross-entropy of the student with the pseudo-labels.

        Args:
            source: two float waveforms at 16 kHz: crops for the student (B, T) and for the teacher (B, T').
            utterances: (B,) int64 on the CPU, numbers of the utterances.
            padding_mask: not used.
            labels: (B,) int64; None, for utterances without: those that the teacher assigns.
            weights: (B,) float on the CPU, how likely each label is to be right; None: 1.
            removed: (K,) bool, clusters that nothing is assigned to; None: no cluster.
            teacher_active: also compute ``assignment``.

        Returns:
            ``losses``: "aam", the sum over utterances of weight times cross-entropy. ``sample_size``: the sum of the
            weights. ``scalars``: "accuracy", share of the utterances that the student, without margin, assigns to
            their label.
        """
        self.assignment = None
        if teacher_active or labels is None:
            logits = self.teacher_logits(source[1], labels, removed)
            self.assignment = Assignment(utterances, logits) if teacher_active else None
            labels = logits.argmax(1) if labels is None else labels
        weights = torch.ones(len(labels)) if weights is None else weights
        embeddings = self.student.encoder(source[0])
        nll = F.cross_entropy(self.classifier(embeddings, labels, removed), labels, reduction="none")  # (B,)
        loss = (weights.to(nll.device, non_blocking=True) * nll).sum()
        with torch.no_grad():
            right = self.classifier(embeddings.detach(), None, removed).argmax(1) == labels
        scalars = {"accuracy": right.float().mean(), "ema_decay": self.ema_decay()}
        return Output({"aam": loss}, float(weights.sum()), "utterances", scalars)

    @torch.no_grad()
    def teacher_logits(self, source: Tensor, labels: Tensor | None, removed: Tensor | None) -> Tensor:
        """Waveforms (B, T) -> (B, K) float32, with the margin at the current labels (B,), which must win by it."""
        network = self.teacher.model
        return network.head(network.encoder(source), labels, removed)  # type: ignore[operator]

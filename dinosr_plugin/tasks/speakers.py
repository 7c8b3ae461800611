"""Training of speaker embeddings: DINO, and SSRL with pseudo-labels of utterances that its teacher refreshes.

Pseudo-labels belong to this task and not to the dataset, whose workers may be epochs ahead: a batch brings the numbers
of its utterances, and the task looks their labels up, on the GPU without waiting for it. They are part of every
checkpoint, that of the end of an epoch with the labels that the epoch led to, so that a run resumes exactly.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from fairseq.data import FairseqDataset
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig

from ..checkpoints.classifier import PSEUDO_LABELS
from ..criterions.dinosr import logged_means
from ..data.dataset import SpeechDataset
from ..data.labels import count_classes
from ..data.utterance_labels import read_utterance_labels
from ..data.views import ViewDataset
from ..errors import UserError, setting
from ..files import write_files
from ..models.objective import Objective
from ..models.ssrl_speaker import SsrlSpeaker
from ..ranges import COUNT, COUNT_OR_0, Range
from ..runs.resuming import own_checkpoint
from ..units.kmeans import KMeans
from .base import ObjectiveTask
from .checks import check_view_number, check_views, require_defaults
from .config import BadFilesConfig, CollapseConfig, LengthConfig, PatienceConfig, ViewConfig
from .pseudo_labels import TIE_RULES, PseudoLabels, gather_observations
from .relabelling import device_of, n_ranks, rank
from .views import view_dataset
from .watch import TARGET_FIGURES, TargetWatch

logger = logging.getLogger(__name__)

MORE_CLUSTERS = "give labels of two or more, as `dinosr kmeans apply` writes them"


@dataclass
class PseudoLabelConfig:
    """Pseudo-labels of utterances; for objectives that need them (``DataNeeds.utterance_labels``)."""

    labels: Optional[str] = field(
        default=None,
        metadata={
            "help": "extension of the file with the first labels, next to the manifest of the training split, such as "
            "clusters: one number for each row, as `dinosr kmeans apply` writes it"
        },
    )
    fixed_epochs: int = field(
        default=5, metadata={"range": COUNT_OR_0, "help": "epochs with the first labels, before they are updated"}
    )
    label_queue: int = field(
        default=5,
        metadata={
            "range": Range(1, 1_000),
            "help": "labels of the last so many epochs vote for the label of an utterance; 1: no queue",
        },
    )
    tie_rule: ChoiceEnum(list(TIE_RULES)) = field(
        default="newest",
        metadata={
            "help": "which of several equally frequent labels in a queue wins: newest (our choice); oldest, as in the "
            "released code with Python 3.8 or later"
        },
    )
    label_update_every: int = field(
        default=1, metadata={"range": COUNT, "help": "update labels after every so many epochs"}
    )
    clean_weights: bool = field(
        default=True,
        metadata={
            "help": "weight utterances with the probability that their label is right, from a mixture of two Gaussians "
            "on the teacher's losses; false: all count the same"
        },
    )


@dataclass
class DinoSRSpeakerConfig(
    LengthConfig, BadFilesConfig, ViewConfig, PseudoLabelConfig, CollapseConfig, AudioPretrainingConfig
):
    """The settings for objectives that learn from crops of utterances; the others are fairseq's."""


@register_task("dinosr_speaker", dataclass=DinoSRSpeakerConfig)
class DinoSRSpeakerTask(ObjectiveTask):
    """``ObjectiveTask`` with crops of utterances as views, and pseudo-labels of utterances.

    Attributes:
        pseudo: the labels of the training split; None: the objective needs none, or the split is not loaded yet.
    """

    cfg: DinoSRSpeakerConfig
    name = "dinosr_speaker"

    def __init__(self, cfg: DinoSRSpeakerConfig):
        super().__init__(cfg)
        check_views(cfg)
        self.watch = TargetWatch(cfg.on_collapse, cfg.collapse_patience)
        self.pseudo: PseudoLabels | None = None
        self.epoch = 0
        self.weights: torch.Tensor | None = None  # of the utterances in this epoch, (N,) float32 on the CPU
        # of the micro-batches of this update: utterances, clusters that the teacher assigns to them, and its losses
        self.observed: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    # -- data ----------------------------------------------------------------------------------------------------------

    def load_dataset(self, split: str, task_cfg: Any = None, **kwargs) -> None:
        super().load_dataset(split, task_cfg, **kwargs)
        if split == self.trained_on and self.cfg.labels:
            self.pseudo = self.first_labels(self.datasets[split].dataset)
            if PSEUDO_LABELS in self.state.state_dict:
                self.pseudo.load_state_dict(self.state.state_dict[PSEUDO_LABELS])

    def make_dataset(self, options: dict[str, Any], training: bool) -> FairseqDataset:
        """Views of utterances. Raises UserError for a training split with a single one."""
        utterances = SpeechDataset(**options | {"normalize": False})
        if training and len(utterances) < 2:
            raise UserError(
                f"{utterances.manifest_path}: one utterance, but speaker models compare several; train on two or more"
            )
        return view_dataset(self.cfg, utterances, options["normalize"], training)

    def first_labels(self, utterances: SpeechDataset) -> PseudoLabels:
        """Raise UserError for labels that are damaged, or of one cluster only. Not all clusters need be used."""
        file = Path(utterances.manifest_path).with_suffix(f".{self.cfg.labels}")
        n_clusters = count_classes(Path(self.cfg.data), str(self.cfg.labels))
        labels, _ = read_utterance_labels(file, len(utterances), n_clusters, utterances.skipped_indices)
        if (labels == labels[0]).all():
            raise UserError(f"{file}: all utterances are in one cluster; {MORE_CLUSTERS}")
        return PseudoLabels(
            labels,
            n_clusters,
            self.cfg.fixed_epochs,
            self.cfg.label_queue,
            self.cfg.label_update_every,
            str(self.cfg.tie_rule),
            self.cfg.seed,
            self.cfg.clean_weights,
        )

    def get_batch_iterator(
        self, dataset: FairseqDataset, max_tokens: int | None = None, max_sentences: int | None = None, **kwargs
    ):
        """Batches of random utterances. In training, a last batch that is not full is left out, because of batch norm.

        Raises UserError for batches of one utterance on one rank.
        """
        if isinstance(dataset, ViewDataset) and dataset.crop_samples:
            by_samples = max_tokens and max_tokens // dataset.crop_samples  # utterances
            size = min(filter(None, [max_sentences, by_samples]), default=None)
            dataset.batch_size = size if dataset is self.datasets.get(self.trained_on) else None
            if dataset.batch_size == 1 and n_ranks() == 1:
                field, value = ("max_tokens", max_tokens) if by_samples == 1 else ("batch_size", max_sentences)
                raise UserError(
                    f"{setting(f'dataset.{field}', value)}: allows batches of one utterance, but batch norm needs two "
                    "or more; raise it"
                )
        return super().get_batch_iterator(dataset, max_tokens=max_tokens, max_sentences=max_sentences, **kwargs)

    # -- the model -----------------------------------------------------------------------------------------------------

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        model = super().build_model(model_cfg, from_checkpoint)
        if not from_checkpoint:
            self.watch.remedy, self.watch.guessing_remedy = model.collapse_remedy, model.guessing_remedy
            if model_cfg.get("centroids") and own_checkpoint() is None:
                self.use_centroids(model, model_cfg.centroids)
        return model

    def use_centroids(self, model: SsrlSpeaker, file: str) -> None:
        """Raise UserError if there is another number of clusters, or if they have another width."""
        centroids = torch.from_numpy(KMeans.load(file).centroids)
        expected = (model.cfg.n_clusters, model.cfg.embedding_dim)
        if tuple(centroids.shape) != expected:
            raise UserError(
                f"model.centroids={file}: has {centroids.shape[0]} clusters of width {centroids.shape[1]}, but the "
                f"labels have {expected[0]} clusters and embeddings the width {expected[1]}; give the file that the "
                "labels were made with"
            )
        model.use_centroids(centroids)

    def check_needs(self, objective: type[Objective], model: str) -> None:
        needs = objective.needs
        if needs.windows or needs.labels or needs.views < 2:
            raise UserError(f"model={model}: task={self.name} cannot train it; use task=dinosr_pretraining")
        check_view_number(self.cfg, needs, model, "crop2+augment/crop6+peak")
        if needs.utterance_labels and not self.cfg.labels:
            raise UserError(
                f"task.labels: not given, but model={model} learns from clusters of utterances; add "
                "task.labels=clusters, the extension of the file with the first ones"
            )
        if needs.utterance_labels and (self.cfg.multi_corpus_keys is not None or self.cfg.subsample < 1):
            raise UserError(
                f"task.labels={self.cfg.labels}: cannot be combined with task.multi_corpus_keys or task.subsample; "
                "train on one whole manifest"
            )
        if not needs.utterance_labels:
            require_defaults(self.cfg, PseudoLabelConfig, f"model={model} learns without labels; remove it")
        if not objective.reports_targets:
            require_defaults(self.cfg, PatienceConfig, f"model={model} is watched once an epoch; remove it")

    def label_sizes(self) -> list[int]:
        if not self.cfg.labels:
            return []
        n_clusters = count_classes(Path(self.cfg.data), str(self.cfg.labels))
        if n_clusters < 2:
            raise UserError(f"{Path(self.cfg.data) / f'dict.{self.cfg.labels}.txt'}: one cluster only; {MORE_CLUSTERS}")
        return [n_clusters]

    # -- an epoch ------------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int, model: torch.nn.Module):
        super().begin_epoch(epoch, model)
        self.epoch = epoch
        if self.pseudo is None:
            return
        if self.pseudo.epoch >= epoch:
            self.pseudo.epoch = epoch - 1  # checkpoint.reset_dataloader=true: epochs are counted from 1 again
        self.weights = self.pseudo.weights.cpu()
        self.pseudo.to(device_of(model))

    def end_epoch(self, epoch: int):
        """Update the labels, before they are saved in a checkpoint; log their figures and write a file of them."""
        super().end_epoch(epoch)
        if self.pseudo is None:
            return
        figures = self.pseudo.finish_epoch(epoch)
        if self.pseudo.updates_labels(epoch):
            self.watch.check_clusters(figures, epoch)
        logger.info(f"labels after epoch {epoch}: {figures}")
        for name, value in figures.items():
            metrics.log_scalar(name, value, round=4)
        if rank() == 0:
            lines = {f"epoch{epoch}.{self.cfg.labels}": map(str, self.pseudo.labels.tolist())}
            write_files(Path(self.cfg.save_dir, "labels"), lines, "checkpoint.save_dir")

    def state_dict(self) -> dict[str, Any]:
        """fairseq's, with the pseudo-labels of this moment."""
        return super().state_dict() | ({} if self.pseudo is None else {PSEUDO_LABELS: self.pseudo.state_dict()})

    # -- an update -----------------------------------------------------------------------------------------------------

    def begin_update(self, model: Objective):
        self.observed.clear()
        super().begin_update(model)

    def train_step(self, sample, model, criterion, optimizer, update_num: int, ignore_grad: bool = False):
        """fairseq's, with the labels of the utterances; notes what the teacher assigns to them."""
        result = super().train_step(self.with_labels(sample), model, criterion, optimizer, update_num, ignore_grad)
        if model.assignment is not None and not ignore_grad:
            self.observed.append(self.observation(*model.assignment))
        return result

    def with_labels(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The batch with the labels of its utterances among the inputs of the model.

        Their weights stay on the CPU, because fairseq needs their sum there.
        """
        if self.pseudo is None:
            return sample
        assert self.weights is not None  # begin_epoch was called
        rows = torch.as_tensor(sample["numbers"])
        inputs = {
            "labels": self.pseudo.labels[rows.to(self.pseudo.labels.device, non_blocking=True)],
            "weights": self.weights[rows],
            "removed": self.pseudo.removed,
            "teacher_active": self.pseudo.teacher_active(self.epoch),
        }
        return {**sample, "net_input": {**sample["net_input"], **inputs}}

    def observation(
        self, utterances: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B,) int64 and the teacher's logits (B, K) -> utterances, clusters and losses, (B,) each, on its device."""
        assert self.pseudo is not None
        rows, assigned = utterances.to(logits.device, non_blocking=True), logits.argmax(1)
        losses = F.cross_entropy(logits, self.pseudo.voted(rows, assigned, self.epoch), reduction="none")
        return rows, assigned, losses

    def optimizer_step(self, optimizer, model, update_num):
        super().optimizer_step(optimizer, model, update_num)
        if self.pseudo is not None and self.pseudo.teacher_active(self.epoch):
            labels = self.pseudo.labels
            none = (labels[:0], labels[:0], labels[:0].float())  # of a rank with dummy batches only
            self.pseudo.observe(*gather_observations(*map(torch.cat, zip(none, *self.observed))))

    def reduce_metrics(self, logging_outputs: list[dict], criterion):
        """Log an update or a batch of a validation, and watch for a collapse."""
        super().reduce_metrics(logging_outputs, criterion)
        figures = logged_means(logging_outputs, TARGET_FIGURES)
        if figures and criterion.training:
            self.watch.update(figures, self.update, self.files)

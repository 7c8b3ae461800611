"""Pre-training on unlabelled speech, or on labels of frames: the task of all objectives that learn from frames."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.data import FairseqDataset
from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig

from ..criterions.dinosr import logged_codebook_sums
from ..data.dataset import SpeechDataset
from ..data.labels import count_classes, label_kinds
from ..data.views import without_views
from ..data.windows import WindowDataset
from ..errors import UserError
from ..models.objective import Objective
from .base import ObjectiveTask
from .checks import check_needs, check_relabelling, check_views, check_windows
from .config import (
    BadFilesConfig,
    CollapseConfig,
    LabelConfig,
    LengthConfig,
    RelabellingConfig,
    ViewConfig,
    WindowConfig,
)
from .relabelling import Relabelling
from .views import view_dataset
from .watch import CollapseWatch

logger = logging.getLogger(__name__)


@dataclass
class DinoSRPretrainingConfig(
    LengthConfig,
    BadFilesConfig,
    WindowConfig,
    ViewConfig,
    LabelConfig,
    RelabellingConfig,
    CollapseConfig,
    AudioPretrainingConfig,
):
    """The settings for all objectives that need no more than windows and labels; the others are fairseq's."""


@register_task("dinosr_pretraining", dataclass=DinoSRPretrainingConfig)
class DinoSRPretrainingTask(ObjectiveTask):
    """``ObjectiveTask`` with windows, views, labels of frames that may be refreshed, and a watch over codebooks."""

    cfg: DinoSRPretrainingConfig
    name = "dinosr_pretraining"

    def __init__(self, cfg: DinoSRPretrainingConfig):
        super().__init__(cfg)
        check_windows(cfg)
        check_views(cfg)
        self.watch = CollapseWatch(cfg.on_collapse, cfg.collapse_patience)
        self.relabelling = Relabelling(cfg)

    # -- data ----------------------------------------------------------------------------------------------------------

    def make_dataset(self, options: dict[str, Any], training: bool) -> FairseqDataset:
        """Utterances, or windows or views of them, with labels."""
        normalize = options["normalize"]
        options |= {"labels": label_kinds(self.cfg.labels), "label_rate": self.cfg.label_rate}
        options["normalize"] = normalize and self.cfg.views is None  # transforms expect the waveform as it was recorded
        utterances = SpeechDataset(**options)
        if self.cfg.views is not None:
            return view_dataset(self.cfg, utterances, normalize, training)
        if self.cfg.window_samples is None:
            return utterances
        return WindowDataset(utterances, self.cfg.window_samples, self.cfg.negatives == "same_speaker", moving=training)

    def data_settings(self) -> list[str]:
        return super().data_settings() + ["label_rate"] * bool(self.cfg.labels)

    def shortest(self) -> tuple[str, int | None]:
        windows = self.cfg.window_samples is not None and self.cfg.window_samples >= (self.cfg.min_sample_size or 0)
        return ("window_samples", self.cfg.window_samples) if windows else super().shortest()

    def get_batch_iterator(self, dataset: FairseqDataset, max_tokens: int | None = None, epoch: int = 1, **kwargs):
        if self.cfg.labels:
            # Labels are refreshed or restored at the beginning of an epoch. Without a buffer, the loader's workers
            # would read the first batches before that.
            kwargs["data_buffer_size"] = max(1, kwargs.get("data_buffer_size", 0))
        return super().get_batch_iterator(dataset, max_tokens=max_tokens, epoch=epoch, **kwargs)

    # -- the model -----------------------------------------------------------------------------------------------------

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        model = super().build_model(model_cfg, from_checkpoint)
        if not from_checkpoint:
            check_relabelling(self.cfg, model.n_layers)
            self.watch.remedy, self.watch.guessing_remedy = model.collapse_remedy, model.guessing_remedy
        return model

    def objective_class(self, model: str) -> type[Objective]:
        objective = super().objective_class(model)
        if objective.needs.speakers or objective.needs.utterance_labels or objective.needs.more_views:
            raise UserError(
                f"model={model}: learns from speakers or whole utterances, which task=dinosr_pretraining does not "
                "supply; use task=dinosr_speaker"
            )
        return objective

    def check_needs(self, objective: type[Objective], model: str) -> None:
        check_needs(self.cfg, objective, model)

    def label_sizes(self) -> list[int]:
        return [count_classes(Path(self.cfg.data), kind) for kind in label_kinds(self.cfg.labels)]

    # -- an update -----------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int, model: torch.nn.Module):
        super().begin_epoch(epoch, model)
        if self.cfg.labels:
            assert self.trained_on is not None  # fairseq has loaded it
            splits = {split: without_views(dataset) for split, dataset in self.datasets.items()}
            self.relabelling.begin_epoch(epoch, model, splits, self.trained_on, self.state.state_dict)

    def reduce_metrics(self, logging_outputs: list[dict], criterion):
        """Log an update or a batch of a validation, and watch for a collapse."""
        super().reduce_metrics(logging_outputs, criterion)
        sums = logged_codebook_sums(logging_outputs)
        if sums and criterion.training:
            self.watch.update(sums, self.update, self.files)

"""Pre-training on unlabelled speech: fairseq's audio task with checks that speak before an hour is lost."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
import torch.distributed as dist
from fairseq.data import FairseqDataset
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from fairseq.tasks.audio_pretraining import AudioPretrainingTask
from omegaconf import OmegaConf

from .. import compat
from ..criterions.dinosr import codebook_sums
from ..data.dataset import SpeechDataset, longest_utterance
from ..data.labels import count_classes, label_kinds
from ..data.windows import WindowDataset
from ..errors import UserError
from ..runs.updates import WholeUpdates
from .relabelling import Relabelling, RelabellingConfig, check_relabelling
from .watch import CollapseWatch, warn_of_bad_loss


@dataclass
class DinoSRPretrainingConfig(RelabellingConfig):
    max_sample_size: Optional[int] = field(
        default=320_000,
        metadata={
            "help": "crop longer utterances to so many samples (16000 a second), at random; "
            "null: never, and a batch may get as long as the longest file"
        },
    )
    min_sample_size: Optional[int] = field(
        default=3_200,
        metadata={
            "help": "leave out utterances of fewer samples than this (the paper: 32000, 2 s); masking needs two frames, 720 samples"
        },
    )
    skip_bad_audio: bool = field(
        default=False,
        metadata={
            "help": "leave out files that cannot be read, are not mono at sample_rate, have another length than the manifest says or hold NaN, "
            "and log their number and the first names; false: stop at the first one, and name it"
        },
    )
    max_bad_files: Optional[int] = field(
        default=100,
        metadata={
            "help": "skip_bad_audio=true: stop, and name them all, when more different files of a manifest than this were left out since the start, "
            "counted by each rank for itself over all its loader workers; null: never. A few torn files among a million do no harm, "
            "a hundred mean a failing disk or a wrong manifest"
        },
    )
    window_samples: Optional[int] = field(
        default=None,
        metadata={
            "help": "cut utterances into windows of so many samples (CPC: 20480), each inside one utterance, at another place in every epoch; "
            "shorter utterances are left out; null: whole utterances, or crops of them"
        },
    )
    negatives: ChoiceEnum(["same_speaker", "mixed"]) = field(
        default="same_speaker",
        metadata={
            "help": "with window_samples: same_speaker: a batch holds windows of one speaker, as the folders tell them; mixed: of anybody. "
            "CPC's false frames are of the same batch, that of one rank and micro-batch"
        },
    )
    labels: Optional[str] = field(
        default=None,
        metadata={
            "help": "for models that predict frame labels: extension of the label files beside the manifests, such as km; several with commas: km,km2"
        },
    )
    label_rate: int = field(default=50, metadata={"help": "labels a second; 50: one for each frame of the trunk"})
    on_collapse: ChoiceEnum(["warn", "stop"]) = field(
        default="warn",
        metadata={
            "help": "what to do where nothing is learned any more (see collapse_patience): log it, or stop with a checkpoint, on all ranks"
        },
    )
    collapse_patience: int = field(
        default=1000,
        metadata={
            "help": "so many updates in a row must a codebook's frames have (nearly) one code, or the student predict the same for "
            "every frame, to be called a collapse"
        },
    )


@register_task("dinosr_pretraining", dataclass=DinoSRPretrainingConfig)
class DinoSRPretrainingTask(WholeUpdates, AudioPretrainingTask):
    """fairseq's ``audio_pretraining`` on manifests that were validated.

    Raises:
        UserError: wherever the user can mend something; the message is one line that names the file or field.
    """

    cfg: DinoSRPretrainingConfig
    restores_state = True  # when a training resumes: runs.state.restore_task_state

    def __init__(self, cfg: DinoSRPretrainingConfig):
        super().__init__(cfg)
        check_windows(cfg)
        self.watch = CollapseWatch(cfg.on_collapse, cfg.collapse_patience)
        self.relabelling = Relabelling(cfg)
        self.trained_on = None  # the split
        self.micro_batches = []  # of this update: loss, logging output, files

    def load_dataset(self, split: str, task_cfg: DinoSRPretrainingConfig | None = None, **kwargs) -> None:
        """Load ``<data>/<split>.tsv``, after a check of its text.

        What is not trained on is padded, not cropped to the shortest of its batch: a validation does not depend on the size of batches.
        """
        from ..data.check import validate_manifest

        require_data(self.cfg)
        field, shortest = self.shortest()
        for name in split_names(split, self.cfg.multi_corpus_keys):
            validate_manifest(Path(self.cfg.data) / f"{name}.tsv", None, shortest, field)
        options = {
            "seed": self.cfg.seed,
            "skip_bad_audio": self.cfg.skip_bad_audio,
            "max_bad_files": self.cfg.max_bad_files,
        }
        options |= {
            "labels": label_kinds(self.cfg.labels),
            "label_rate": self.cfg.label_rate,
            "min_sample_size": shortest,
        }
        if "data_selector" in kwargs:  # fairseq's trainer gives it for the split that it trains on
            self.trained_on = split
        training = split == self.trained_on
        options["pad"] = self.cfg.enable_padding or not training

        def make(**given):
            utterances = SpeechDataset(**{**given, **options})
            if self.cfg.window_samples is None:
                return utterances
            return WindowDataset(
                utterances, self.cfg.window_samples, self.cfg.negatives == "same_speaker", moving=training
            )

        with compat.audio_dataset(make):
            super().load_dataset(split, task_cfg, **kwargs)

    def shortest(self) -> tuple[str, int | None]:
        """The field that says how short an utterance may be, and its samples; None: any number."""
        windows = self.cfg.window_samples is not None and self.cfg.window_samples >= (self.cfg.min_sample_size or 0)
        name = "window_samples" if windows else "min_sample_size"
        return name, getattr(self.cfg, name)

    def get_batch_iterator(self, dataset: FairseqDataset, max_tokens: int | None = None, epoch: int = 1, **kwargs):
        """fairseq's batches of all utterances. ``max_tokens`` counts samples of audio, after cropping."""
        # With fairseq's default of 8 the last batch is dropped unless its size is a multiple of 8: some would never be heard.
        kwargs["required_batch_size_multiple"] = 1
        if self.cfg.labels:  # new or restored at the epoch's beginning: without a buffer the loader's workers read the first batches before that
            kwargs["data_buffer_size"] = max(1, kwargs.get("data_buffer_size", 0))
        longest = longest_utterance(dataset, self.max_positions()[0])
        if max_tokens is not None and longest > max_tokens:
            raise UserError(
                f"dataset.max_tokens={max_tokens} is less than the longest utterance, {longest} samples after cropping; "
                "raise it or lower task.max_sample_size"
            )
        for corpus in getattr(
            dataset, "datasets", {}
        ).values():  # of several mixed corpora; fairseq tells only the mixture
            corpus.set_epoch(epoch)
        return super().get_batch_iterator(dataset, max_tokens=max_tokens, epoch=epoch, **kwargs)

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        """The model, after a check that the shortest utterance has the two frames that masking needs."""
        if not from_checkpoint:
            require_data(self.cfg)
            if OmegaConf.is_missing(model_cfg, "cpc_path"):
                raise UserError(
                    "model.cpc_path: not given; add model.cpc_path=FILE, a checkpoint of model=cpc, or null to start without"
                )
            if "num_classes" in model_cfg:
                self.count_classes(model_cfg)
        model = super().build_model(model_cfg, from_checkpoint)
        if not from_checkpoint and hasattr(model, "frame_counts"):
            check_shortest(model, self.shortest(), ("max_sample_size", self.cfg.max_sample_size))
            check_relabelling(self.cfg, getattr(model.cfg, "encoder_layers", 0))
        if not from_checkpoint and hasattr(model, "count_anchors"):
            model.count_anchors(self.cfg.window_samples)  # says now what is wrong with it
        if not from_checkpoint and hasattr(model, "start_from_checkpoint"):
            model.start_from_checkpoint()
        return model

    def count_classes(self, model_cfg: Any) -> None:
        """Put the sizes of the label sets into the model's config, and so into its checkpoints. Raises UserError where there are none."""
        kinds = label_kinds(self.cfg.labels)
        if not kinds:
            raise UserError(
                f"task.labels: not given, but model={model_cfg._name} predicts labels; add task.labels=km, the extension of the label files"
            )
        sizes = [count_classes(Path(self.cfg.data), kind) for kind in kinds]
        given = list(model_cfg.num_classes) or sizes
        if len(given) != len(sizes) or any(a < b for a, b in zip(given, sizes)):
            raise UserError(f"model.num_classes={given}: task.labels={self.cfg.labels} has {sizes}; leave it empty")
        model_cfg.num_classes = given

    # -- an update -----------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int, model: torch.nn.Module):
        super().begin_epoch(epoch, model)
        if self.cfg.labels:
            self.relabelling.begin_epoch(epoch, model, self.datasets, self.trained_on, self.state.state_dict)

    def begin_valid_epoch(self, epoch: int, model: torch.nn.Module):
        super().begin_valid_epoch(epoch, model)
        share_running_averages(model)

    def begin_update(self, model: torch.nn.Module):
        self.micro_batches.clear()
        if hasattr(model, "begin_update"):
            model.begin_update()

    def train_step(self, sample, model, criterion, optimizer, update_num: int, ignore_grad: bool = False):
        """fairseq's forward and backward pass on a micro-batch; codebooks learn nothing from a dummy batch."""
        self.update, self.files = update_num + 1, sample.get("files", [])
        if hasattr(model, "ignore_batch"):
            model.ignore_batch(ignore_grad)
        loss, sample_size, log = super().train_step(
            number_utterances(sample), model, criterion, optimizer, update_num, ignore_grad
        )
        self.micro_batches.append((loss.detach(), log, self.files))
        return loss, sample_size, log

    def end_update(self):
        """Name the files behind a loss that is NaN or infinite: not before, as a GPU would have to be waited for in the midst of the update."""
        for loss, log, files in self.micro_batches:
            if not torch.isfinite(loss):
                warn_of_bad_loss(loss.item(), codebook_sums([log]), self.update, files)
        self.micro_batches.clear()

    def valid_step(self, sample, model, criterion):
        """fairseq's, with masks that depend on the utterances only."""
        return super().valid_step(number_utterances(sample), model, criterion)

    def reduce_metrics(self, logging_outputs: list[dict], criterion):
        """Log an update, or a batch of a validation, and look for a collapse."""
        super().reduce_metrics(logging_outputs, criterion)
        sums = codebook_sums(logging_outputs)
        if sums and criterion.training:
            self.watch.update(sums, self.update, self.files)

    def optimizer_step(self, optimizer, model, update_num):
        """End of an update: the model hears of it at once, not before the next one, so that checkpoints hold its end."""
        super().optimizer_step(optimizer, model, update_num)
        model.set_num_updates(update_num + 1)


def number_utterances(sample: dict[str, Any]) -> dict[str, Any]:
    """The batch, with the utterances' numbers among the model's inputs: its masks, drawn on the CPU, depend on them.

    They come from a list, which fairseq leaves on the CPU: whoever reads ``id``, a tensor, waits for the GPU. fairseq's own datasets have no list.
    """
    return {
        **sample,
        "net_input": {**sample["net_input"], "utterances": torch.as_tensor(sample.get("numbers", sample["id"]))},
    }


def share_running_averages(model: torch.nn.Module) -> None:
    """Those of batch norm are each rank's own; all ranks take rank 0's, and so validate the model that is saved."""
    if dist.is_initialized():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                for buffer in module.buffers():
                    dist.broadcast(buffer, 0)


def require_data(cfg: Any) -> None:
    """Raise UserError where ``task.data`` was not given."""
    if OmegaConf.is_missing(cfg, "data") or not cfg.data:
        raise UserError("task.data: not given; add task.data=DIR, the folder that `dinosr manifest` wrote")


def split_names(split: str, multi_corpus_keys: str | None) -> list[str]:
    """File names behind a split: itself, or those of ``key:file,key:file`` when several corpora are mixed."""
    if multi_corpus_keys is None:
        return [split]
    return [part.split(":")[-1].strip() for part in split.split(",")]


NOT_WITH_WINDOWS = [
    ("normalize", False, "a window is read by itself, without its utterance"),
    ("multi_corpus_keys", None, "batches are of one manifest's speakers"),
    ("subsample", 1, "batches are of one manifest's speakers"),
    ("relabel_every", 0, "DeepCluster's rounds are runs of their own"),
]
"""Field, what it must be, why."""


def check_windows(cfg: DinoSRPretrainingConfig) -> None:
    """Raise UserError for settings that windows cannot have."""
    if cfg.window_samples is None:
        return
    if cfg.window_samples < 1:
        raise UserError(f"task.window_samples={cfg.window_samples}: at least 1; 20480 in the papers")
    for name, wanted, because in NOT_WITH_WINDOWS:
        if (value := getattr(cfg, name)) != wanted:
            raise UserError(
                f"task.{name}={value} does not go with task.window_samples: {because}; set task.{name}={json.dumps(wanted)}"
            )


def check_shortest(model: torch.nn.Module, shortest: tuple[str, int | None], longest: tuple[str, int | None]) -> None:
    """Raise UserError where the fields, name and samples, allow utterances of fewer than two frames: one to mask, one to see."""
    for name, samples in ((shortest[0], shortest[1] or 0), longest):
        if samples is not None and model.frame_counts(torch.tensor(samples)) < 2:
            raise UserError(
                f"task.{name}={samples} allows utterances of fewer than 2 frames, too few to mask one; "
                "raise it (720 are enough for the usual front ends)"
            )

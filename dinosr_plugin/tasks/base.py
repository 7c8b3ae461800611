"""What the pre-training tasks share: fairseq's audio task that trains an ``Objective``.

Settings and data are checked before training starts. A task adds the groups of settings that it supports (``config``)
and says what a batch is made of (``make_dataset``).
"""

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from fairseq.data import FairseqDataset
from fairseq.models import MODEL_REGISTRY
from fairseq.tasks.audio_pretraining import AudioPretrainingTask
from omegaconf import OmegaConf, open_dict

from .. import compat
from ..checkpoints.load import expects_normalized_waves, load_model
from ..checkpoints.readers import trunk_of
from ..criterions.dinosr import logged_codebook_sums
from ..data.dataset import SpeechDataset, longest_utterance
from ..data.fingerprint import fingerprint
from ..errors import UserError, setting
from ..interop.fairseq_models import to_trunk
from ..models.objective import Objective
from ..pretrained import find_checkpoint
from ..runs.master_weights import drop_gradients, normalize_rows
from ..runs.resuming import own_checkpoint
from ..runs.updates import WholeUpdates
from .watch import warn_of_bad_loss

logger = logging.getLogger(__name__)


class ObjectiveTask(WholeUpdates, AudioPretrainingTask):
    """Trains an ``Objective`` on validated manifests.

    Attributes:
        name: the registered name of the task, for messages.
        trained_on: name of the training split; None: not loaded yet.
        data_digests: of the training split, for checkpoints.

    Raises:
        UserError: whenever the user can fix the problem; the message is one line that names the file or field.
    """

    name: ClassVar[str]
    restores_state = True  # when a training resumes: runs.state.restore_task_state

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        self.trained_on: str | None = None
        self.data_digests: dict[str, Any] = {}
        self.micro_batches: list = []  # (loss, logging output, files) of each micro-batch of this update

    # -- data ----------------------------------------------------------------------------------------------------------

    def load_dataset(self, split: str, task_cfg: Any = None, **kwargs) -> None:
        """Load ``<data>/<split>.tsv`` after a check of its text.

        Splits other than the training split are padded instead of cropped to the shortest utterance of a batch, so
        that a validation does not depend on the batch size.
        """
        from ..data.validation import validate_manifest

        require_data(self.cfg)
        field, shortest = self.shortest()
        for name in split_names(split, self.cfg.multi_corpus_keys):
            validate_manifest(Path(self.cfg.data) / f"{name}.tsv", None, shortest, field)
        if "data_selector" in kwargs:  # fairseq's trainer passes it for the training split
            self.trained_on = split
        training = split == self.trained_on
        options = {
            "seed": self.cfg.seed,
            "skip_bad_audio": self.cfg.skip_bad_audio,
            "max_bad_files": self.cfg.max_bad_files,
            "fixed_batches": not self.cfg.rebuild_batches,
            "min_sample_size": shortest,
            "pad": self.cfg.enable_padding or not training,
        }
        with compat.audio_dataset(lambda **arguments: self.make_dataset(arguments | options, training)):
            super().load_dataset(split, task_cfg, **kwargs)
        if training:
            self.data_digests = fingerprint(self.datasets[split])  # before labels are refreshed

    def make_dataset(self, options: dict[str, Any], training: bool) -> FairseqDataset:
        """The dataset of one manifest. ``options``: arguments of ``SpeechDataset``."""
        return SpeechDataset(**options)

    def made_with(self) -> dict[str, Any]:
        """What the run depends on, for its checkpoints (``runs.origin``); digests once the training split is loaded."""
        return {"settings": {f"task.{name}": self.cfg[name] for name in self.data_settings()}, **self.data_digests}

    def data_settings(self) -> list[str]:
        """The fields on which the meaning of the data depends."""
        return ["sample_rate", "normalize"]

    def shortest(self) -> tuple[str, int | None]:
        """The field that limits how short an utterance may be, and its samples; None: there is no limit."""
        return "min_sample_size", self.cfg.min_sample_size

    def get_batch_iterator(self, dataset: FairseqDataset, max_tokens: int | None = None, epoch: int = 1, **kwargs):
        """fairseq's batches of all utterances. ``max_tokens`` counts samples of audio, after cropping."""
        # With fairseq's default of 8, the last batch would be dropped unless its size is a multiple of 8.
        kwargs["required_batch_size_multiple"] = 1
        longest = longest_utterance(dataset, self.max_positions()[0])
        require_longest_fits(self, dataset, max_tokens, f"{longest} samples after cropping", longest)
        # fairseq sets the epoch of a mixture of corpora, not of its parts
        for corpus in getattr(dataset, "datasets", {}).values():
            corpus.set_epoch(epoch)
        return super().get_batch_iterator(dataset, max_tokens=max_tokens, epoch=epoch, **kwargs)

    # -- the model -----------------------------------------------------------------------------------------------------

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        """The model, with the weights of ``model.start_from`` if it is set, after a check of all settings.

        A run that resumes from its own checkpoint, which has all weights, does not read ``model.start_from``. A model
        that fairseq builds ``from_checkpoint`` needs neither data nor that file, and nothing is checked.
        """
        if from_checkpoint:
            model = super().build_model(model_cfg, from_checkpoint)  # removes fields that the model does not know
            if model.feature_width is not None:
                with open_dict(model_cfg):  # in fine-tuning fairseq's Wav2VecEncoder reads the width there
                    model_cfg.encoder_embed_dim = model.feature_width
            return model
        require_data(self.cfg)
        objective = self.objective_class(model_cfg._name)
        if OmegaConf.is_missing(model_cfg, "start_from"):
            raise UserError(
                "model.start_from: not given; add model.start_from=FILE, a checkpoint to start from, or null to start "
                "with random weights"
            )
        self.check_needs(objective, model_cfg._name)
        file = model_cfg.get("start_from")
        if file is not None:
            file = str(find_checkpoint(file))
        own = None if file is None else own_checkpoint()
        loaded = None if file is None else load_model(own or file)
        source = None if loaded is None else to_trunk(trunk_of(loaded.model), file)
        objective.configure(model_cfg, self.label_sizes(), source)
        model = super().build_model(model_cfg)
        model.check(self.cfg)
        if loaded is not None and own is None:
            model.start_from(source, file)
            self.require_same_waves(loaded.cfg, file)
            logger.info(f"the model starts with the weights of {file}")
        return model

    def objective_class(self, model: str) -> type[Objective]:
        """The objective that is registered with this name. Raises UserError for other models."""
        objective = MODEL_REGISTRY.get(model)
        if objective is None or not issubclass(objective, Objective):
            names = sorted(name for name, known in MODEL_REGISTRY.items() if issubclass(known, Objective))
            raise UserError(f"model={model}: task={self.name} cannot train it; choose one of {', '.join(names)}")
        return objective

    def check_needs(self, objective: type[Objective], model: str) -> None:
        """Raise UserError for data that the objective needs but does not get, and for settings that it cannot use."""

    def label_sizes(self) -> list[int]:
        """Number of labels in each label set; empty without labels."""
        return []

    def require_same_waves(self, cfg: Any, file: str) -> None:
        """Raise UserError if ``file``, a checkpoint with this config, has seen waveforms of another scale or rate."""
        normalize = expects_normalized_waves(cfg)
        if normalize != bool(self.cfg.normalize):
            field = f"task.normalize={str(normalize).lower()}"
            raise UserError(f"model.start_from={file}: was trained with {field}; set {field}")
        rate = cfg.task.get("sample_rate", self.cfg.sample_rate)
        if rate != self.cfg.sample_rate:
            raise UserError(
                f"model.start_from={file}: was trained at task.sample_rate={rate}, not {self.cfg.sample_rate}; give a "
                "checkpoint of the same rate"
            )

    # -- an update -----------------------------------------------------------------------------------------------------

    def begin_valid_epoch(self, epoch: int, model: torch.nn.Module):
        super().begin_valid_epoch(epoch, model)
        share_running_averages(model)

    def begin_update(self, model: Objective):
        self.micro_batches.clear()
        model.begin_update()

    def train_step(self, sample, model, criterion, optimizer, update_num: int, ignore_grad: bool = False):
        """fairseq's forward and backward pass on a micro-batch; ``ignore_grad``: it is a dummy and does not count."""
        self.files = sample.get("files", [])
        model.skip_batch(ignore_grad)
        loss, sample_size, log = super().train_step(
            number_utterances(sample), model, criterion, optimizer, update_num, ignore_grad
        )
        self.micro_batches.append((loss.detach(), log, self.files))
        return loss, sample_size, log

    def end_update(self):
        """Name the files of a batch whose loss is NaN or infinite.

        This happens only after the update, because reading the loss means waiting for the GPU.
        """
        for loss, log, files in self.micro_batches:
            if not torch.isfinite(loss):
                warn_of_bad_loss(loss.item(), logged_codebook_sums([log]), self.update, files)
        self.micro_batches.clear()

    def valid_step(self, sample, model, criterion):
        """fairseq's, with masks that depend only on the utterances."""
        return super().valid_step(number_utterances(sample), model, criterion)

    def optimizer_step(self, optimizer, model, update_num):
        """The optimiser's step, and the end of the update for the model, before a checkpoint may be saved."""
        drop_gradients(model.frozen(), optimizer)
        super().optimizer_step(optimizer, model, update_num)
        normalize_rows(model.unit_rows(), optimizer)
        model.end_update(update_num + 1)


def number_utterances(sample: dict[str, Any]) -> dict[str, Any]:
    """The batch, with the numbers of the utterances among the inputs of the model, whose masks depend on them.

    The numbers come from a list, which fairseq leaves on the CPU, where masks are drawn; reading the tensor ``id``
    would mean waiting for the GPU. fairseq's own datasets do not supply the list.
    """
    numbers = torch.as_tensor(sample.get("numbers", sample["id"]))
    return {**sample, "net_input": {**sample["net_input"], "utterances": numbers}}


def share_running_averages(model: torch.nn.Module) -> None:
    """Give all ranks the running averages of batch norm of rank 0, which are saved, so that all validate one model."""
    if dist.is_initialized():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                for buffer in module.buffers():
                    dist.broadcast(buffer, 0)


def require_data(cfg: Any) -> None:
    """Raise UserError if ``task.data`` is not given."""
    if OmegaConf.is_missing(cfg, "data") or not cfg.data:
        raise UserError("task.data: not given; add task.data=DIR, the folder that `dinosr manifest` wrote")


def require_longest_fits(task: Any, dataset: FairseqDataset, max_tokens: int | None, what: str, longest: int) -> None:
    """Raise UserError if the longest utterance does not fit in a batch; the message names the field to change.

    Args:
        task: has ``datasets`` and ``trained_on``, the name of the training split, or None if nothing is trained.
        dataset: the one that batches are made of.
        max_tokens: samples in a batch; None: there is no limit.
        what: how the message describes the longest utterance.
        longest: its samples.
    """
    if max_tokens is None or longest <= max_tokens:
        return
    field, default = setting("dataset.max_tokens", max_tokens), ""
    if task.trained_on is not None and dataset is not task.datasets.get(task.trained_on):
        field = setting("dataset.max_tokens_valid", max_tokens)
        default = f" ({setting('dataset.max_tokens')}, unless it is set)"
    limit = setting("task.max_sample_size")
    raise UserError(f"{field}{default} is less than the longest utterance, {what}; raise it or lower {limit}")


def split_names(split: str, multi_corpus_keys: str | None) -> list[str]:
    """File names of a split: its own, or those in ``key:file,key:file`` when several corpora are mixed."""
    if multi_corpus_keys is None:
        return [split]
    return [part.split(":")[-1].strip() for part in split.split(",")]

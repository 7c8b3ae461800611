"""The training protocol: everything that a task asks of a model.

An objective is one file of this package: the dataclass of its settings, and a subclass of ``Objective`` that is
registered with fairseq. The default of every method below does nothing (``start_from`` refuses), so that a subclass
implements only what it needs, and no task has to ask which methods a model has. ``dinosr_pretraining`` calls them in
this order:

    configure            before the model is built, for settings that follow from the data or from ``start_from``
    check                after it is built: can it be trained with the task's settings?
    start_from           with the model in the checkpoint ``model.start_from``, unless that is null
    structure            when a run resumes: is the checkpoint of such a model?
    begin_update         before the first micro-batch of an update
      skip_batch, forward, backward pass         for each micro-batch
    frozen                                         before the optimiser's step
    unit_rows, end_update                          after it

An update that is skipped (fp16 overflow, out of memory) has no ``end_update``; the next ``begin_update`` drops what it
collected. fairseq calls ``set_num_updates`` with the number of updates made so far before every micro-batch, and after
it has loaded a checkpoint.

In fine-tuning fairseq's ``Wav2VecEncoder`` builds the model, calls ``remove_pretraining_modules``, loads the
checkpoint of pre-training, puts a linear layer above frames of ``feature_width``, and calls ``extract_features`` for
each batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel
from torch import Tensor

from ..errors import UserError
from ..modules.output import Output

__all__ = [
    "Assignment",
    "DataNeeds",
    "Objective",
    "ObjectiveConfig",
    "Output",
    "fill_num_classes",
    "require_same_fields",
]


@dataclass(frozen=True)
class DataNeeds:
    """The data that an objective learns from, besides the waveforms.

    Attributes:
        windows: windows of one length (``task.window_samples``) instead of whole utterances or crops of them.
        labels: labels of frames (``task.labels``).
        views: number of views of every utterance, copies with different transforms (``data.views``).
        more_views: there may be more of them.
        utterance_labels: pseudo-labels of utterances, which the task keeps and refreshes (``tasks.pseudo_labels``).
        speakers: the speaker of every utterance.
    """

    windows: bool = False
    labels: bool = False
    views: int = 1
    more_views: bool = False
    utterance_labels: bool = False
    speakers: bool = False


class Assignment(NamedTuple):
    """What a teacher makes of a batch: ``logits`` (B, K) float32 for K clusters, of ``utterances`` (B,) int64."""

    utterances: Tensor
    logits: Tensor


@dataclass
class ObjectiveConfig(FairseqDataclass):
    """Settings that all objectives have."""

    start_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint whose weights the model starts with: of this plug-in, and for models with a "
            "Transformer also of fairseq's wav2vec 2.0, HuBERT and data2vec; null: random weights. A run that resumes "
            "from its own checkpoint does not read this one again"
        },
    )


class Objective(BaseFairseqModel):
    """Base class of all models that this plug-in trains.

    ``forward`` takes the batch's ``net_input`` as keyword arguments: ``source`` (B, T) float waveforms at 16 kHz;
    ``padding_mask`` (B, T) bool, absent where nothing is padded; ``utterances`` (B,) int64 on the CPU, the numbers of
    the utterances (of the windows), on which masks and negatives depend; and with ``needs.labels`` ``labels``,
    ``label_starts`` and ``label_rate`` as in ``modules.frame_labels``. With ``needs.views`` above 1, ``source`` and
    ``padding_mask`` are lists with one tensor for each view. It returns an ``Output``.

    Attributes:
        needs: the data that it learns from.
        assignment: with ``needs.utterance_labels``, what the teacher makes of the last batch; None: it was not asked.
        reports_codebooks: ``Output.codebook_sums`` is not empty, so that ``task.on_collapse`` can watch it.
        reports_targets: ``Output.scalars`` has ``target_entropy`` and ``divergence``, those of distributions over V
            outputs that the student predicts, and ``log_outputs``, ln V, so that ``task.on_collapse`` can watch them.
        collapse_remedy: what to do when a codebook, the targets or the pseudo-labels collapse, for the message.
        guessing_remedy: what to do when the loss stays at ln V, that of guessing among V codes, for the message; None:
            this is not watched, because the codes are not equally frequent.
        finetuning_fields: the fields of ``wav2vec_ctc`` for masks, dropout and the gradient of the front end that have
            an effect in this model; fairseq sets the fields of the same names in its config.
    """

    needs = DataNeeds()
    assignment: Assignment | None = None
    reports_codebooks = False
    reports_targets = False
    collapse_remedy = "lower the learning rate"
    guessing_remedy: str | None = None
    finetuning_fields: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Layers that ``task.relabel_layer`` can select; 0: its labels cannot be refreshed."""
        return 0

    @classmethod
    def build_model(cls, cfg: ObjectiveConfig, task=None):
        """Build a new model (called by fairseq)."""
        return cls(cfg)

    @classmethod
    def configure(cls, cfg: ObjectiveConfig, label_sizes: list[int], source: BaseFairseqModel | None = None) -> None:
        """Fill in the settings that follow from the data or from another model. They are saved in checkpoints.

        Args:
            cfg: the settings of the model, to be changed in place.
            label_sizes: number of labels in each label set of ``task.labels``; empty without ``needs.labels``.
            source: the model in ``cfg.start_from``, as for ``start_from``; when the run resumes from a checkpoint of
                its own, the model in that one; None without ``cfg.start_from``.

        Raises:
            UserError: the settings contradict the data or the other model.
        """

    def check(self, task_cfg: Any) -> None:
        """Raise UserError for settings of the task that this model cannot be trained with."""

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Take over the weights of another model, as far as the two have the same parts.

        Args:
            source: a loaded model; of fairseq's models, the trunk as ``models.trunk.Trunk``.
            file: its checkpoint, for messages.

        Raises:
            UserError: it is a different kind of model, or has different sizes; the message names the field.
        """
        raise UserError(
            f"model.start_from={file}: {type(self).__name__} cannot start from a checkpoint; set model.start_from=null"
        )

    def structure(self) -> dict[str, Any]:
        """The settings that determine the meaning of the parameters: name of the field -> value.

        They are saved in checkpoints, and a run does not resume if they differ. Settings that change the shape of a
        parameter need not be among them, but those that do not must be, such as the number of attention heads.
        """
        return {}

    def begin_update(self) -> None:
        """Drop what an update that never ended has collected."""

    def skip_batch(self, skipped: bool) -> None:
        """Say before a micro-batch of training whether it counts.

        ``skipped``: it is a dummy, which fairseq gives to a rank that has no batch left in an epoch. Its gradient is
        discarded, and nothing else may be learned from it; collectives must take place nevertheless.
        """

    def frozen(self) -> Iterable[Tensor]:
        """Parameters that this update leaves as they are, although they have gradients."""
        return ()

    def unit_rows(self) -> Iterable[Tensor]:
        """Matrices whose rows are scaled to norm 1 after every step of the optimiser, in any precision."""
        return ()

    def end_update(self, n_updates: int) -> None:
        """Move what moves once in an update, such as a teacher. ``n_updates``: updates made, including this one."""

    # ---- fine-tuning ---------------------------------------------------------------------------------------------

    @property
    def feature_width(self) -> int | None:
        """D of ``extract_features``; None: the model has no features of frames, and cannot be fine-tuned.

        A model that has them defines this property, and ``extract_features(source, padding_mask, mask)`` for waveforms
        (B, T), their padding (B, T) bool or None, and whether to mask. It returns a dictionary: ``x`` (B, F, D),
        ``padding_mask`` (B, F) bool or None, and ``layer_results``, for each layer (output (F, B, D), ...).
        """
        return None

    @property
    def pretraining_modules(self) -> tuple[str, ...]:
        """Names of the attributes, modules or parameters, that only pre-training needs."""
        return ()

    def remove_pretraining_modules(self) -> None:
        """Set ``pretraining_modules`` to None; all that is left can be trained."""
        for name in self.pretraining_modules:
            setattr(self, name, None)
        self.requires_grad_(True)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        # in fine-tuning: the pre-training checkpoint contains what was removed
        removed = [name for name in self.pretraining_modules if getattr(self, name) is None]
        for key in [key for key in state_dict if f"{key}.".startswith(tuple(f"{prefix}{name}." for name in removed))]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *rest)


def fill_num_classes(cfg: ObjectiveConfig, label_sizes: list[int]) -> None:
    """Set ``cfg.num_classes`` to the sizes of the label sets. Raises UserError if it is set to fewer labels."""
    num_classes = list(cfg.num_classes) or label_sizes
    if len(num_classes) != len(label_sizes) or any(n < size for n, size in zip(num_classes, label_sizes)):
        raise UserError(
            f"model.num_classes={num_classes}: the label sets of task.labels have {label_sizes} labels; leave it empty"
        )
    cfg.num_classes = num_classes


def require_same_fields(file: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise UserError for the first setting of ``theirs`` that ``ours`` does not have with the same value.

    Args:
        file: the checkpoint that the settings ``theirs`` belong to.
        theirs, ours: name of a field of the model's config -> value.
    """
    for name, value in theirs.items():
        if ours.get(name) != value:
            raise UserError(
                f"model.start_from={file}: was trained with model.{name}={value}, not {ours.get(name)}; "
                f"set model.{name}={value}"
            )

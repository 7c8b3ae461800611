"""CTC fine-tuning of a pre-trained model, and decoding with ``fairseq-generate``.

It uses fairseq's ``FileAudioDataset``, ``wav2vec_ctc`` model and ``ctc`` criterion, and adds what they lack: checks
with one-line messages, batch sizes that suit audio, and a generator for models without an autoregressive decoder.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Optional

from fairseq import checkpoint_utils
from fairseq.data import Dictionary, FairseqDataset
from fairseq.models import MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.audio_finetuning import AudioFinetuningTask
from omegaconf import OmegaConf, open_dict

from .. import compat
from ..checkpoints.building import DoesNotFit, building
from ..checkpoints.file import read_fairseq_checkpoint
from ..checkpoints.readers import trunk_of
from ..data.chains import find_crops, parse_views
from ..data.dataset import SpeechDataset, longest_utterance
from ..data.fingerprint import fingerprint
from ..data.manifest import letters, words_of
from ..data.text_normalization import kept_normalization
from ..decoding.words import symbol_kind
from ..errors import UserError, setting
from ..files import is_file, kind_of
from ..interop.fairseq_checkpoints import is_fine_tuned, kind_of_model, require_speech_model
from ..interop.fairseq_models import adopt_fairseqs_hubert
from ..models.objective import Objective
from ..modules.frame_grid import TRUNK, FrameGrid
from ..pretrained import find_checkpoint
from ..ranges import COUNT, COUNT_OR_0
from ..runs.origin import first_difference
from ..runs.updates import WholeUpdates
from .base import require_data, require_longest_fits, share_running_averages, split_names
from .checks import check_views
from .config import ViewConfig
from .empty_texts import EmptyTexts
from .generation import SYMBOL_KINDS, Decoding, DecodingConfig
from .views import view_dataset

logger = logging.getLogger(__name__)

FAIRSEQ_MAX_TOKENS = 12_000
"""fairseq-generate's default if neither --max-tokens nor --batch-size is given: suits text, but is 0.75 s of audio."""

AUDIO_MAX_TOKENS = 1_600_000
"""Used instead: 100 s of audio at 16 kHz in a batch."""

SWITCHED_OFF = {
    **dict.fromkeys(("mask_prob", "mask_channel_prob", "layerdrop", "dropout", "dropout_input"), 0.0),
    **dict.fromkeys(("attention_dropout", "activation_dropout"), 0.0),
    "feature_grad_mult": 1.0,
}
"""Fields of ``wav2vec_ctc`` that change how the pre-trained model is trained -> the value with no effect."""


@dataclass
class DinoSRFinetuningConfig(ViewConfig, DecodingConfig):
    labels: Optional[str] = field(
        default="ltr",
        metadata={
            "help": "extension of the label files: DATA/SPLIT.LABELS contains the transcripts, DATA/dict.LABELS.txt "
            "the symbols"
        },
    )
    normalize: bool = field(
        default=False,
        metadata={
            "help": "scale each utterance to zero mean and unit variance; must be the same as in pre-training. "
            "Decoding uses the value in the checkpoint, whatever is set here"
        },
    )
    max_sample_size: Optional[int] = field(
        default=None,
        metadata={
            "range": COUNT,
            "help": "leave out utterances of more samples than this (they are not cropped, because the transcript "
            "would not match)",
        },
    )
    min_sample_size: Optional[int] = field(
        default=None, metadata={"range": COUNT_OR_0, "help": "leave out utterances of fewer samples than this"}
    )


@register_task("dinosr_finetuning", dataclass=DinoSRFinetuningConfig)
class DinoSRFinetuningTask(WholeUpdates, EmptyTexts, Decoding, AudioFinetuningTask):
    """Letters (or other symbols) from speech with CTC.

    The blank is the dictionary's ``<s>``, index 0, as in fairseq's criterion.

    Raises:
        UserError: whenever the user can fix the problem; the message names the file or field.
    """

    cfg: DinoSRFinetuningConfig

    def __init__(self, cfg: DinoSRFinetuningConfig):
        super().__init__(cfg)
        if cfg.autoregressive:
            raise UserError(f"{setting('task.autoregressive')}: dinosr_finetuning trains CTC models only; remove it")
        if not cfg.labels:
            raise UserError(f"{setting('task.labels')}: give the extension of the label files, for example ltr")
        check_views(cfg)
        if cfg.views is not None and len(parse_views(cfg.views)) > 1:
            raise UserError(
                f"{setting('task.views', cfg.views)}: fine-tuning learns from one view; give one, such as perturb"
            )
        if cfg.views is not None and find_crops(cfg.views):
            raise UserError(
                f"{setting('task.views', cfg.views)}: the transcript would not match a crop; give a view without one"
            )
        self.grid = TRUNK  # of the model's frames, once it is built
        self.trained_on = None  # name of the training split
        self.data_digests: dict[str, Any] = {}  # of the training split

    # -- dictionary --------------------------------------------------------------------------------------------------

    def load_target_dictionary(self) -> Dictionary:
        """Read ``dict.{labels}.txt`` from the data folder (or from ``task.target_dictionary``)."""
        require_data(self.cfg)
        path = self.dictionary_path
        if not is_file(path):
            raise UserError(
                f"{path}: no such file; task.data (the DATA argument) must contain the dictionary of the "
                f"{self.cfg.labels} labels"
            )
        try:
            return Dictionary.load(str(path))
        except UserError:
            raise
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: not a dictionary with lines 'symbol count': {error}") from error

    @property
    def dictionary_path(self) -> Path:
        return Path(self.cfg.target_dictionary or self.cfg.data) / f"dict.{self.cfg.labels}.txt"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's dictionary, after a check that the one in the data folder, if any, is the same."""
        saved = state_dict.get("target_dictionary")
        if saved is not None and is_file(self.dictionary_path):
            check_same_dictionary(self.load_target_dictionary(), saved, self.dictionary_path)
        super().load_state_dict(state_dict)

    # -- data --------------------------------------------------------------------------------------------------------

    def load_dataset(self, split: str, task_cfg: DinoSRFinetuningConfig | None = None, **kwargs) -> None:
        """Load a split after checking its files.

        Args:
            split: ``SPLIT.tsv`` and ``SPLIT.{labels}`` are read from the data folder.
            task_cfg: in decoding, the configuration saved in the checkpoint, from which ``normalize``, ``sample_rate``
                and ``labels`` are taken.
        """
        from ..data.validation import validate_manifest

        training = "data_selector" in kwargs  # fairseq's trainer passes it for the training split
        generating = task_cfg is not None
        if training:
            self.trained_on = split
        task_cfg = with_all_fields(task_cfg or self.cfg)
        if not task_cfg.labels:
            raise UserError("--path: the checkpoint was trained without labels; give one made by fine-tuning")
        if task_cfg.labels != self.cfg.labels:
            raise UserError(
                f"--labels {self.cfg.labels}: the checkpoint was fine-tuned on {task_cfg.labels}; "
                f"give --labels {task_cfg.labels}"
            )
        # The check compares labels with the dictionary next to them, which target_dictionary replaces.
        labels = None if self.cfg.target_dictionary else task_cfg.labels
        for name in split_names(split, task_cfg.multi_corpus_keys):
            manifest = Path(self.cfg.data) / f"{name}.tsv"
            if generating:
                require_references(manifest, task_cfg.labels)
            validate_manifest(manifest, labels, self.cfg.min_sample_size)

        def make(normalize: bool, **arguments):
            if not generating:  # which counts the words of such utterances as errors
                arguments["min_sample_size"] = max(arguments["min_sample_size"] or 0, self.grid.field)
            if not training or self.cfg.views is None:
                return SpeechDataset(normalize=normalize, **arguments)
            utterances = SpeechDataset(normalize=False, **arguments)  # transforms expect the waveform as recorded
            return view_dataset(self.cfg, utterances, normalize, training)

        with compat.audio_dataset(make), compat.label_files_as_text(label_normalization(self.cfg)):
            super().load_dataset(split, task_cfg, **kwargs)
        if not len(self.datasets[split]):
            raise UserError(
                f"{split}: every utterance is shorter than one frame of the model, {self.grid.field} samples; give "
                "longer ones"
            )
        if task_cfg.multi_corpus_keys is None and not generating:
            dataset = self.datasets[split]
            labels = [dataset.get_label(i).split() for i in range(len(dataset))]
            warn_of_crowded_targets(split, labels, dataset.sizes, self.grid)
        if training:
            self.data_digests = fingerprint(self.datasets[split])

    def made_with(self) -> dict[str, Any]:
        """What the run depends on, for its checkpoints (``runs.origin``); digests once the training split is loaded."""
        return {
            "settings": {f"task.{name}": self.cfg[name] for name in ("sample_rate", "normalize")},
            "dictionary": {"file": str(self.dictionary_path), "symbols": list(self.target_dictionary.symbols)},
            **self.data_digests,
        }

    def max_positions(self) -> tuple:
        """Longest utterance (samples) and longest transcript that are kept."""
        unlimited = super().max_positions()
        return (self.cfg.max_sample_size or unlimited[0], unlimited[1])

    def get_batch_iterator(
        self, dataset: FairseqDataset, max_tokens: int | None = None, max_sentences: int | None = None, **kwargs
    ):
        """fairseq's batches, with a size that suits audio, and with all utterances.

        Args: as ``FairseqTask.get_batch_iterator``; ``max_tokens`` counts samples of audio.
        """
        # With fairseq's default of 8 the last batch is dropped unless its size is a multiple of 8.
        kwargs["required_batch_size_multiple"] = 1
        longest = longest_utterance(dataset, self.max_positions()[0])
        if not longest:
            limit = setting("task.max_sample_size", self.cfg.max_sample_size)
            raise UserError(f"{limit}: every utterance is longer; raise it")
        max_tokens = audio_batch_size(longest, max_tokens, max_sentences)
        require_longest_fits(self, dataset, max_tokens, f"{longest} samples", longest)
        self.batches = super().get_batch_iterator(dataset, max_tokens=max_tokens, max_sentences=max_sentences, **kwargs)
        return self.batches

    # -- model -------------------------------------------------------------------------------------------------------

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        """``wav2vec_ctc`` around the pre-trained checkpoint ``model.w2v_path``."""
        if OmegaConf.is_missing(model_cfg, "w2v_path"):
            raise UserError("model.w2v_path: not given; add model.w2v_path=FILE, a pre-trained checkpoint")
        path = model_cfg.get("w2v_path")
        if from_checkpoint:
            cfg = {"model": model_cfg, "task": {"_name": "audio_finetuning"}}
            require_speech_model(OmegaConf.create(cfg, flags={"allow_objects": True}), "--path")
        try:
            if not path or model_cfg.get("w2v_args") is not None:  # the saved configuration is sufficient
                model = super().build_model(model_cfg, from_checkpoint)
            else:
                path = model_cfg.w2v_path = str(find_checkpoint(path))
                require_pretrained(path)
                with building([path], f"model.w2v_path={path}"), compat.loaded_checkpoints(self.adopt):
                    model = super().build_model(model_cfg, from_checkpoint)
                warn_of_unused_fields(model_cfg, trunk_of(model))
        except (AssertionError, DoesNotFit) as error:
            if "normalization" not in str(error):
                raise
            ours = bool(self.cfg.normalize)
            raise UserError(f"task.normalize={ours}: pre-training of {path} used {not ours}; use the same") from error
        self.grid = getattr(trunk_of(model), "grid", TRUNK)  # fairseq's own models have none
        return model

    def adopt(self, state: dict[str, Any]) -> dict[str, Any]:
        """The pre-trained checkpoint that fairseq has loaded, converted. Raises UserError for another sample rate."""
        pretrained = state["cfg"].task if state.get("cfg") is not None else {}
        rate = pretrained.get("sample_rate") or self.cfg.sample_rate
        if rate != self.cfg.sample_rate:
            raise UserError(
                f"task.sample_rate={self.cfg.sample_rate}: pre-training of model.w2v_path used {rate}; give a "
                "pre-trained checkpoint of the same rate"
            )
        return adopt_fairseqs_hubert(state)

    def begin_valid_epoch(self, epoch: int, model: BaseFairseqModel) -> None:
        super().begin_valid_epoch(epoch, model)
        share_running_averages(model)

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False):
        """fairseq's, after a check that the ``wer`` of validations is a word error rate."""
        if str(cfg._name) == "ctc":
            check_post_process(cfg.post_process, self.target_dictionary.symbols)
        return super().build_criterion(cfg, from_checkpoint)


def label_normalization(cfg: DinoSRFinetuningConfig) -> Callable[[str], str]:
    """How the letters of ``task.data`` are normalised: as those of ``task.target_dictionary``, if they were.

    Without ``task.target_dictionary``, labels and dictionary are in the same folder, and every symbol of the labels is
    in the dictionary (``validate_labels``).
    """
    rule = kept_normalization(Path(cfg.target_dictionary)) if cfg.target_dictionary and cfg.labels == "ltr" else None
    if rule is None:
        return str
    logger.info(f"labels are normalised as those of {setting('task.target_dictionary', cfg.target_dictionary)}")
    return lambda line: letters(rule.apply(words_of(line)))


def with_all_fields(task_cfg: Any) -> Any:
    """A checkpoint's config of the task, with the defaults of the fields that it lacks: those of later versions."""
    if OmegaConf.is_config(task_cfg):
        with open_dict(task_cfg):
            for known in fields(DinoSRFinetuningConfig):
                if known.name not in task_cfg and known.default is not MISSING:
                    task_cfg[known.name] = known.default
    return task_cfg


def require_references(manifest: Path, labels: str) -> None:
    """Raise UserError if a manifest has no transcripts to compare with."""
    path = manifest.with_suffix(f".{labels}")
    if is_file(manifest) and kind_of(path) == "nothing":
        raise UserError(
            f"{path}: no such file, and fairseq-generate compares with transcripts; for recordings without them use "
            "`dinosr transcribe CHECKPOINT FILE...`"
        )


def check_post_process(post_process: str, symbols: Sequence[str]) -> None:
    """Raise UserError if fairseq's ``ctc`` criterion would not find the words in the dictionary's ``symbols``."""
    kind, name = symbol_kind(symbols), setting("criterion.post_process", post_process)
    if kind != "none" and post_process != kind:
        raise UserError(
            f"{name}: the dictionary has {SYMBOL_KINDS[kind]}, so that the wer of validations would not be a word "
            f"error rate; set {setting('criterion.post_process', kind)}"
        )
    if kind == "none" and post_process != "none":
        logger.warning(
            f"{name}: the dictionary has {SYMBOL_KINDS[kind]}, so that the wer of validations is the share of wrong "
            f"utterances; set {setting('criterion.post_process', 'none')}, and "
            f"{setting('checkpoint.best_checkpoint_metric', 'uer')}, the error rate of the symbols"
        )


def check_same_dictionary(ours: Dictionary, saved: Dictionary, path: Path) -> None:
    """Raise ``UserError`` unless two dictionaries give every symbol the same index."""
    if ours == saved:
        return
    raise UserError(
        f"{path} ({len(ours)} symbols) is not the dictionary in the checkpoint ({len(saved)} symbols): "
        f"{first_difference(ours.symbols, saved.symbols)}; use the data folder (or {setting('task.labels')}) of the "
        "fine-tuning"
    )


def require_pretrained(path: str) -> None:
    """Raise ``UserError`` unless this is the checkpoint of a pre-trained model."""
    name = f"model.w2v_path={path}"
    read_fairseq_checkpoint(path, name, "give a pre-trained checkpoint")
    cfg = checkpoint_utils.load_checkpoint_to_cpu(path)["cfg"]
    if is_fine_tuned(cfg):
        raise UserError(
            f"{name}: is a fine-tuned model, a recogniser; give the pre-trained checkpoint, and to start from this "
            f"recogniser also checkpoint.finetune_from_model={path}"
        )
    require_speech_model(cfg, name)
    model = MODEL_REGISTRY[str(kind_of_model(cfg))]
    if issubclass(model, Objective) and model.feature_width is Objective.feature_width:
        raise UserError(
            f"{name}: contains {model.__name__}, which has no features of frames to recognise; give a checkpoint of a "
            "model that has, such as dinosr, dinosr_hubert, spin, cpc, apc or mpc"
        )


def warn_of_unused_fields(cfg: Any, pretrained: BaseFairseqModel) -> None:
    """Warn of settings of ``wav2vec_ctc`` that have no effect in the pre-trained model, in one line."""
    if not isinstance(pretrained, Objective):
        return
    unused = [name for name in SWITCHED_OFF if name not in pretrained.finetuning_fields]
    wanted = [
        f"model.{name}={cfg[name]}"
        for name in unused
        if cfg[name] != SWITCHED_OFF[name] and (cfg.apply_mask or not name.startswith("mask"))
    ]
    if wanted:
        logger.warning(
            f"model.w2v_path={cfg.w2v_path}: {type(pretrained).__name__} does not use {', '.join(wanted)}: nothing of "
            "it is masked, and its front end is not frozen"
        )


def warn_of_crowded_targets(
    split: str, labels: Sequence[Sequence[str]], sizes: Sequence[int], grid: FrameGrid = TRUNK
) -> None:
    """Warn of transcripts that have no CTC alignment, because there are too few frames.

    Args:
        split: for the message.
        labels: a list of symbols for each utterance.
        sizes: samples of each utterance.
        grid: number of frames.
    """
    crowded = [i for i, (label, size) in enumerate(zip(labels, sizes)) if frames_needed(label) > grid.count(size)]
    if crowded:
        logger.warning(
            f"{split}: {len(crowded)} utterances have more labels than frames, the first is number {crowded[0]}; "
            "their loss is infinite, so train with criterion.zero_infinity=true"
        )


def frames_needed(label: Sequence[str]) -> int:
    """Frames that CTC needs for a label: one per symbol, and one for a blank between equal neighbours."""
    return len(label) + sum(a == b for a, b in zip(label, label[1:]))


def audio_batch_size(longest: int, max_tokens: int | None, max_sentences: int | None) -> int | None:
    """The ``max_tokens`` to use: fairseq's default for text is replaced, the user's choice is kept.

    ``longest``: samples of the longest utterance.
    """
    if max_tokens == FAIRSEQ_MAX_TOKENS and max_sentences is None:
        max_tokens = max(AUDIO_MAX_TOKENS, longest)
        names = f"{setting('dataset.max_tokens')} or {setting('dataset.batch_size')}"
        logger.info(f"batches of up to {max_tokens} samples of audio (change it with {names})")
    return max_tokens

"""Settings of the pre-training tasks: a mixin for each group that belongs together, and the check of each group.

A task's config inherits the mixins that it supports, before one of fairseq's configs. ``check_needs`` refuses the
settings of a group that the chosen objective cannot use.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, List, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from ..data.audio import SAMPLE_RATE
from ..data.chains import AUGMENT, CLEAN, NOISE, change_voices, contain, find_crops, parse_views
from ..errors import UserError, setting
from ..models.objective import DataNeeds, Objective
from ..ranges import COUNT, COUNT_OR_0, SHARE, Range


@dataclass
class LengthConfig(FairseqDataclass):
    """How long utterances may be."""

    max_sample_size: Optional[int] = field(
        default=320_000,
        metadata={
            "range": COUNT,
            "help": "crop longer utterances at random to this many samples (16000 per second); null: never, so that a "
            "batch may be as long as the longest file",
        },
    )
    min_sample_size: Optional[int] = field(
        default=3_200,
        metadata={
            "range": COUNT_OR_0,
            "help": "leave out utterances of fewer samples than this (the paper: 32000, 2 s); masking needs two "
            "frames, 720 samples",
        },
    )


@dataclass
class BadFilesConfig(FairseqDataclass):
    """What happens to files that cannot be used."""

    skip_bad_audio: bool = field(
        default=False,
        metadata={
            "help": "leave out files that cannot be read, are not mono at sample_rate, differ in length from the "
            "manifest or contain NaN, and log their number and the first names; false: stop at the first one and name "
            "it. A recording to be added that cannot be used is replaced by the next one of its manifest"
        },
    )
    max_bad_files: Optional[int] = field(
        default=100,
        metadata={
            "range": COUNT_OR_0,
            "help": "with skip_bad_audio=true: stop and name them all when more files of a manifest than this have "
            "been left out since the start, counted by each rank separately over all its loader workers; null: never. "
            "A few damaged files among a million do no harm, a hundred indicate a failing disk or a wrong manifest",
        },
    )


@dataclass
class WindowConfig(FairseqDataclass):
    """Windows of one length instead of utterances; for objectives that need them (``DataNeeds.windows``)."""

    window_samples: Optional[int] = field(
        default=None,
        metadata={
            "range": COUNT,
            "help": "cut utterances into windows of this many samples (CPC: 20480), at other positions in every "
            "epoch; a window never crosses the end of an utterance, and shorter utterances are left out; null: whole "
            "utterances or crops of them",
        },
    )
    negatives: ChoiceEnum(["same_speaker", "mixed"]) = field(
        default="same_speaker",
        metadata={
            "help": "with window_samples: same_speaker: all windows of a batch are from one speaker, which the "
            "folders of the manifest name; mixed: from any speakers. CPC's negative frames are drawn from the same "
            "batch of one rank and one micro-batch"
        },
    )


@dataclass
class SaveDirConfig(FairseqDataclass):
    """Where a task keeps what it computes from the data."""

    save_dir: str = field(
        default=II("checkpoint.save_dir"),
        metadata={
            "help": "folder in which refreshed labels are saved, in labels/, and the speakers' ranges of F0, in "
            "f0_ranges.tsv"
        },
    )


DECIBELS = Range(-100, 100)
SHARE_OF = {"noise": 1, "music": 1, "babble": 1, "rooms": 0}  # manifest of recordings -> its place in augment_shares


@dataclass
class AugmentConfig(FairseqDataclass):
    """What ``augment`` in ``task.views`` does."""

    augment_shares: List[float] = field(
        default_factory=lambda: [1 / 3, 2 / 3, 0.0],
        metadata={
            "range": SHARE,
            "help": "with augment in views: shares of the views with reverberation, with something added, and with "
            "neither; SSRL: 1/3, 2/3, 0, its pre-training with DINO: 0.4, 0.4, 0.2",
        },
    )
    augment_snr: List[float] = field(
        default_factory=lambda: [0.0, 20.0],
        metadata={
            "range": DECIBELS,
            "help": "with augment in views: lowest and highest signal-to-noise ratio in dB of what is added",
        },
    )
    noise: Optional[str] = field(
        default=None,
        metadata={
            "help": "with noise or augment in views: a manifest (.tsv) of the recordings that are added, such as "
            "MUSAN; a random part of a random recording, repeated if it is shorter. null: with augment, generated "
            "noise with a power proportional to 1/f^a, a between 0 and 2"
        },
    )
    music: Optional[str] = field(
        default=None,
        metadata={"help": "with augment in views: a manifest of music; null: noise is added in its place"},
    )
    babble: Optional[str] = field(
        default=None,
        metadata={
            "help": "with augment in views: a manifest of speech, from which one or 3 to 8 voices are added; null: the "
            "other utterances of the split"
        },
    )
    rooms: Optional[str] = field(
        default=None,
        metadata={
            "help": "with augment in views: a manifest of room responses, such as RIRS_NOISES; null: simulated, noise "
            "that decays exponentially after a direct path"
        },
    )


@dataclass
class ViewConfig(AugmentConfig, SaveDirConfig):
    """Transforms of the waveforms, and how many views of each utterance a batch has."""

    views: Optional[str] = field(
        default=None,
        metadata={
            "help": "transforms of each view, separated by /: clean (none), perturb (another voice: voice, then "
            "equalizer), voice (formants and pitch), equalizer, noise (recordings of task.noise), crop2 (2 s, or "
            "another number, from a random place; shorter utterances are repeated), augment (reverberation, or noise, "
            "music and voices), peak (scaled to a peak of 1), or several of these joined by +, a crop first. Spin "
            "compares two: clean/perturb, with noise in R-Spin: noise/perturb+noise; SSRL: crop2+augment/crop6+peak; "
            "other models learn from one: perturb; null: from the waveforms as they are. Utterances are cropped to "
            "max_sample_size first"
        },
    )
    perturb_by: ChoiceEnum(["praat", "resample"]) = field(
        default="praat",
        metadata={
            "help": "how views get another voice. praat: formants, F0 and its range separately, by Praat's Change "
            "gender; needs praat-parselmouth (GPL-3). resample: formants and F0 together by one ratio, by resampling "
            "and a phase vocoder; needs no other package and is an approximation"
        },
    )
    f0_ranges: Optional[str] = field(
        default=None,
        metadata={
            "help": "a table with a line speaker<TAB>floor<TAB>ceiling for each speaker, the range of F0 in Hz; "
            "speakers are the folders of the manifest. Praat looks for F0 in it; on validation splits it decides which "
            "voices are low. null: with praat, measured from up to 30 s of each speaker; with resample, not known"
        },
    )
    noise_snr: List[float] = field(
        default_factory=lambda: [-10.0, 10.0],
        metadata={
            "range": DECIBELS,
            "help": "with noise in views: lowest and highest signal-to-noise ratio in dB, over the utterance or crop",
        },
    )


@dataclass
class LabelConfig(FairseqDataclass):
    """Labels of frames; for objectives that need them (``DataNeeds.labels``)."""

    labels: Optional[str] = field(
        default=None,
        metadata={
            "help": "for models that predict labels of frames: extension of the label files next to the manifests, "
            "such as km; several with commas: km,km2"
        },
    )
    label_rate: int = field(
        default=50,
        metadata={"range": Range(1, 16_000), "help": "labels per second; 50: one for each frame of the trunk"},
    )


@dataclass
class RelabellingConfig(SaveDirConfig):
    """Labels that are refreshed during training, for objectives with labels of frames."""

    relabel_every: int = field(
        default=0,
        metadata={
            "range": COUNT_OR_0,
            "help": "refresh the first label set from the model itself at the start of an epoch, this many epochs "
            "after the last time; the new clusters are matched to the old ones; 0: never",
        },
    )
    relabel_layer: Optional[int] = field(
        default=None,
        metadata={
            "range": Range(0, 999),
            "help": "layer, from 0, whose output is clustered; the paper: 5, the middle one of 12",
        },
    )
    relabel_normalize: bool = field(
        default=False,
        metadata={
            "help": "scale the features of each utterance to mean 0 and variance 1 first, as `dinosr kmeans fit "
            "--normalize`"
        },
    )


@dataclass
class CollapseConfig(FairseqDataclass):
    """What happens when codebooks collapse; for objectives that report them (``Objective.reports_codebooks``)."""

    on_collapse: ChoiceEnum(["warn", "stop"]) = field(
        default="warn",
        metadata={
            "help": "what to do if nothing is learned any more (see collapse_patience): log a warning, or stop with a "
            "checkpoint, on all ranks"
        },
    )
    collapse_patience: int = field(
        default=1000,
        metadata={
            "range": COUNT,
            "help": "number of updates in a row, after which a codebook counts as collapsed, in which (nearly) all its "
            "frames have one code, or the prediction is the same for every frame; or, with Spin, in which its loss is "
            "ln K, that of guessing",
        },
    )


# ---- checks -------------------------------------------------------------------------------------------------------


def check_needs(cfg: Any, objective: type[Objective], model: str) -> None:
    """Raise UserError for data that the objective needs but does not get, and for settings that it cannot use.

    Args:
        cfg: a config with the mixins above.
        objective: the class of the model that is going to be trained.
        model: its registered name, for messages.
    """
    needs = objective.needs
    if needs.windows and cfg.window_samples is None:
        raise UserError(
            f"task.window_samples: not given, but model={model} learns from windows of one length; "
            "set it, to 20480 as in the papers"
        )
    check_view_number(cfg, needs, model, "clean/perturb" if needs.views == 2 else "perturb")
    if (needs.labels or needs.views > 1) and find_crops(cfg.views or CLEAN):
        what = "labels of frames" if needs.labels else "the frames of views"
        raise UserError(
            f"task.views={cfg.views}: a crop has other frames than its utterance, but model={model} compares {what}; "
            "remove the crop, and set task.max_sample_size instead"
        )
    if needs.labels and not cfg.labels:
        raise UserError(
            f"task.labels: not given, but model={model} predicts labels; add task.labels=km, the extension of the "
            "label files"
        )
    for is_used, group, reason in (
        (needs.windows, WindowConfig, "learns from whole utterances"),
        (needs.labels, LabelConfig, "learns without labels"),
        (needs.labels, RelabellingConfig, "learns without labels"),
        (objective.reports_codebooks, CollapseConfig, "has no codebooks"),
    ):
        if not is_used:
            require_defaults(cfg, group, f"model={model} {reason}; remove it")


def check_view_number(cfg: Any, needs: DataNeeds, model: str, example: str) -> None:
    """Raise UserError if ``task.views`` has another number of views than the objective needs."""
    n_views = 1 if cfg.views is None else len(parse_views(cfg.views))
    if n_views == needs.views or (needs.more_views and n_views > needs.views):
        return
    what = "not given" if cfg.views is None else f"{n_views} view{'s' * (n_views > 1)}"
    number = f"{needs.views} or more" if needs.more_views else f"{needs.views}"
    raise UserError(
        f"task.views{'' if cfg.views is None else f'={cfg.views}'}: {what}, but model={model} learns from "
        f"{number} of each utterance; set task.views={example}"
    )


def require_defaults(cfg: Any, group: type[FairseqDataclass], reason: str) -> None:
    """Raise UserError for the first setting of a mixin that differs from its default."""
    for one in fields(group):
        inherited = one.name not in group.__annotations__
        interpolated = isinstance(one.default, str) and one.default.startswith("${")
        if not inherited and not interpolated and cfg[one.name] != one.default:
            raise UserError(f"task.{one.name}={cfg[one.name]}: {reason}")


def check_windows(cfg: Any) -> None:
    """Raise UserError for settings that cannot be combined with windows."""
    if cfg.window_samples is None:
        return
    if cfg.views is not None:
        refuse_with_windows("views", cfg.views, "windows are read as they are", "null")
    if cfg.normalize:
        refuse_with_windows("normalize", cfg.normalize, "a window is read without the rest of its utterance", "false")
    for name, default in (("multi_corpus_keys", None), ("subsample", 1)):
        if cfg[name] != default:
            value = "null" if default is None else default
            refuse_with_windows(name, cfg[name], "a batch has the speakers of one manifest", value)
    if cfg.relabel_every:
        refuse_with_windows("relabel_every", cfg.relabel_every, "each round of DeepCluster is a separate run", 0)


def check_views(cfg: Any) -> None:
    """Raise UserError for views that cannot be made, and for a table of F0 that no view uses."""
    changes_voices = cfg.views is not None and change_voices(cfg.views)
    if cfg.f0_ranges is not None and not changes_voices:
        raise UserError(
            f"{setting('task.f0_ranges', cfg.f0_ranges)}: no view has another voice; set "
            f"{setting('task.views', 'perturb')}, or remove it"
        )
    if cfg.views is not None and cfg.sample_rate != SAMPLE_RATE:
        raise UserError(
            f"{setting('task.sample_rate', cfg.sample_rate)}: views are made of audio at {SAMPLE_RATE} Hz; convert "
            f"the files, or set {setting('task.views', 'null')}"
        )
    check_crops(cfg)
    check_shares(cfg)
    check_recordings(cfg)
    for name in ("noise_snr", "augment_snr"):
        if len(cfg[name]) != 2 or cfg[name][0] > cfg[name][1]:
            raise UserError(f"{setting(f'task.{name}', list(cfg[name]))}: give two ratios in dB, the lower one first")


def check_crops(cfg: Any) -> None:
    """Raise UserError for a crop of a view that is longer than the crops of utterances."""
    for name, samples in find_crops(cfg.views or CLEAN).items():
        if cfg.max_sample_size is not None and cfg.max_sample_size < samples:
            raise UserError(
                f"{setting('task.max_sample_size', cfg.max_sample_size)}: utterances are cropped to it before {name}, "
                f"which has {samples} samples; raise it, or set {setting('task.max_sample_size', 'null')}"
            )


def check_shares(cfg: Any) -> None:
    """Raise UserError unless ``task.augment_shares`` are three shares of one whole."""
    shares = list(cfg.augment_shares)
    if len(shares) != 3 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UserError(
            f"{setting('task.augment_shares', shares)}: give three shares whose sum is 1, of reverberation, additive "
            "noise and neither"
        )


def check_recordings(cfg: Any) -> None:
    """Raise UserError for noise without recordings, and for recordings that no view uses."""
    views = cfg.views or CLEAN
    if contain(views, NOISE) and not cfg.noise:
        raise UserError(
            f"{setting('task.views', cfg.views)}: adds noise, but {setting('task.noise')} is not given; set it to a "
            "manifest of recordings of noise"
        )
    for name, share in SHARE_OF.items():
        transforms = (NOISE, AUGMENT) if name == "noise" else (AUGMENT,)
        if cfg[name] and not contain(views, *transforms):
            raise UserError(
                f"{setting(f'task.{name}', cfg[name])}: {setting('task.views', cfg.views)} does not use it; add "
                f"{' or '.join(transforms)} to a view, or remove it"
            )
        if cfg[name] and cfg.augment_shares[share] == 0 and not (name == "noise" and contain(views, NOISE)):
            raise UserError(
                f"{setting(f'task.{name}', cfg[name])}: {setting('task.augment_shares', list(cfg.augment_shares))} "
                f"does not use it; raise share number {share + 1}, or remove it"
            )


def refuse_with_windows(name: str, value: Any, reason: str, remedy: Any) -> None:
    raise UserError(
        f"task.{name}={value} cannot be combined with task.window_samples, because {reason}; set task.{name}={remedy}"
    )


def check_relabelling(cfg: Any, n_layers: int) -> None:
    """Raise UserError if labels cannot be refreshed. ``n_layers``: those of the model that can be clustered."""
    if cfg.relabel_every == 0:
        return
    if not cfg.labels:
        raise UserError(
            f"task.relabel_every={cfg.relabel_every}: there are no labels to start with; add task.labels=km, or set "
            "task.relabel_every=0"
        )
    if cfg.relabel_layer is None or not 0 <= cfg.relabel_layer < n_layers:
        raise UserError(
            f"task.relabel_layer={cfg.relabel_layer}: give the layer to cluster, 0 to {n_layers - 1}; the paper uses "
            "the middle one"
        )
    if cfg.multi_corpus_keys is not None or cfg.subsample < 1:
        raise UserError(
            f"task.relabel_every={cfg.relabel_every}: cannot be combined with task.multi_corpus_keys or "
            "task.subsample; train on one whole manifest"
        )

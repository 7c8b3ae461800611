"""Settings of the pre-training tasks: a mixin for each group that belongs together.

A task's config inherits the mixins that it supports, before one of fairseq's configs. ``checks.check_needs`` refuses
the settings of a group that the chosen objective cannot use.
"""

from dataclasses import dataclass, field
from typing import List, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

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
class PatienceConfig(FairseqDataclass):
    """When an objective counts as collapsed that is watched after every update."""

    collapse_patience: int = field(
        default=1000,
        metadata={
            "range": COUNT,
            "help": "number of updates in a row, after which a codebook counts as collapsed, in which (nearly) all its "
            "frames have one code, or the prediction is the same for every frame; or, with Spin, in which its loss is "
            "ln K, that of guessing; with DINO, after which nothing is learned, in which the loss is that of guessing, "
            "or the targets are uniform or the same for all utterances",
        },
    )


@dataclass
class CollapseConfig(PatienceConfig):
    """What happens when an objective collapses.

    For those that report codebooks or targets (``Objective.reports_codebooks``, ``reports_targets``), or have
    pseudo-labels of utterances.
    """

    on_collapse: ChoiceEnum(["warn", "stop"]) = field(
        default="warn",
        metadata={
            "help": "what to do if nothing is learned any more (see collapse_patience), or, with SSRL, if more than "
            "half of the utterances get the same label: log a warning, or stop with a checkpoint, on all ranks"
        },
    )

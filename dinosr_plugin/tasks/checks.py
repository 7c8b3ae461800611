"""Checks of the settings of the pre-training tasks: combinations that cannot work, and settings that are not used."""

import math
from dataclasses import fields
from typing import Any

from fairseq.dataclass import FairseqDataclass

from ..data.audio import SAMPLE_RATE
from ..data.chains import AUGMENT, CLEAN, NOISE, change_voices, contain, find_crops, parse_views
from ..errors import UserError, setting
from ..models.objective import DataNeeds, Objective
from .config import CollapseConfig, LabelConfig, PatienceConfig, RelabellingConfig, WindowConfig

SHARE_OF = {"noise": 1, "music": 1, "babble": 1, "rooms": 0}  # manifest of recordings -> its place in augment_shares


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
        (objective.reports_codebooks, PatienceConfig, "has no codebooks"),
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

"""What a run was made with: saved in its checkpoints, and compared when it resumes.

The meaning of the numbers in a checkpoint is defined elsewhere: by the dictionary, by the clustering behind the labels,
by the settings of the model. If one of these is replaced, training continues without an error, but learns something
else. So every checkpoint has a record, ``extra_state["made_with"]``, and a run that loads it stops with one line if the
record differs from what the run is given:

=============  ===============================================================================  ===================
part           what is compared                                                                 may differ with
=============  ===============================================================================  ===================
``settings``   ``task.sample_rate``, ``task.normalize``, ``task.label_rate``                    nothing
``dictionary`` of fine-tuning: the symbols and their order                                      nothing
``model``      ``Objective.structure``; for all models, names and shapes of the parameters      nothing
``labels``     the label files of frames; of other training data, those of utterances in both   finetune_from_model
``data``       the training manifest: names, lengths and order; transcripts of fine-tuning      reset_dataloader,
                                                                                                finetune_from_model
=============  ===============================================================================  ===================

Files are compared by content, so that they may move. Everything else may be changed when a run resumes, because the
parameters keep their meaning: optimiser, schedule, batches, crops, windows, views and their noise, masks, dropout,
weights of losses, ranks.

``checkpoint.restore_file`` and ``checkpoint.continue_once`` are compared as a run's own checkpoints are. Checkpoints
that have no record (of version 0.2 and of other tasks) are compared by the names and shapes of their parameters only.
"""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from ..compat.wrapping import wrap_once
from ..errors import UserError, first_few

LAST = "checkpoint_last.pt"
ANOTHER_RUN = "or start another run: another checkpoint.save_dir, with model.start_from to begin with these weights"
NOT_COMPARED = ("start_from", "w2v_path", "w2v_args", "data", "_name")


@dataclass(frozen=True)
class Source:
    """The checkpoint that a run loads.

    Attributes:
        path: the file.
        field: the field of ``checkpoint`` that names it; None for the run's own checkpoints.
    """

    path: str
    field: str | None

    @property
    def is_new_run(self) -> bool:
        return self.field == "finetune_from_model"

    def __str__(self) -> str:
        return f"checkpoint.{self.field}={self.path}" if self.field else self.path

    @property
    def remedy(self) -> str:
        if self.field is None:
            return "give another checkpoint.save_dir, or the settings that it was made with"
        return "give a checkpoint of the same model, or use model.start_from (in fine-tuning model.w2v_path) instead"


def source_of(cfg: Any, chosen: str | None) -> Source | None:
    """The checkpoint that fairseq loads; None: there is none.

    Args:
        cfg: the user's settings of checkpoints.
        chosen: the one of the run's own checkpoints that is loaded instead of ``restore_file``, if any.
    """
    last = os.path.join(cfg.save_dir, LAST)
    if chosen is not None:
        source = Source(chosen, None)
    elif cfg.restore_file != LAST and not is_same_path(cfg.restore_file, last):
        source = Source(cfg.restore_file, "restore_file")
    elif os.path.exists(last):
        source = Source(last, None)
    elif cfg.continue_once is not None:
        source = Source(cfg.continue_once, "continue_once")
    elif cfg.finetune_from_model is not None:
        source = Source(cfg.finetune_from_model, "finetune_from_model")
    else:
        return None
    return source if os.path.isfile(source.path) else None


def is_same_path(one: str, other: str) -> bool:
    """Whether two names are of one file: relative or absolute, through links or not."""
    return os.path.realpath(one) == os.path.realpath(other)


# -- the record ------------------------------------------------------------------------------------------------------


def record_of(trainer: Any) -> dict[str, Any]:
    """What a run was made with, as plain data; empty for a task of fairseq or of another plug-in."""
    task = getattr(trainer, "task", None)
    return {**task.made_with(), "model": structure_of(trainer.get_model())} if hasattr(task, "made_with") else {}


def structure_of(model: Any) -> dict[str, str]:
    """``Objective.structure`` of the model, or of the one inside it; name of the field -> value as text."""
    inner = next((module for module in model.modules() if hasattr(module, "structure")), None)
    return {f"model.{name}": str(value) for name, value in inner.structure().items()} if inner is not None else {}


# -- comparing before the checkpoint is loaded -----------------------------------------------------------------------


def require_same_model(source: Source, state: dict[str, Any], trainer: Any) -> None:
    """Raise UserError if the checkpoint belongs to another model, or its parameters mean something else here.

    ``state``: what the checkpoint contains.
    """
    saved = (state.get("extra_state") or {}).get("made_with") or {}
    now = record_of(trainer)
    if is_another_kind(state, trainer):
        raise UserError(f"{source}: contains {differing_fields(state, trainer)}; {source.remedy}")
    for part in ("settings", "model"):
        theirs, ours = saved.get(part) or {}, now.get(part) or {}
        differing = [name for name in theirs if name in ours and theirs[name] != ours[name]]
        if differing:
            raise UserError(f"{source}: was made with {describe_differences(differing, theirs, ours)}; {source.remedy}")
    require_same_dictionary(source, saved.get("dictionary"), now.get("dictionary"))


def require_same_dictionary(source: Source, saved: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    """Raise UserError if the symbols or their order differ, naming the first difference."""
    if not saved or not now or saved["symbols"] == now["symbols"]:
        return
    theirs, ours = saved["symbols"], now["symbols"]
    raise UserError(
        f"{now['file']} ({len(ours)} symbols): not the dictionary that {source} was made with ({len(theirs)} symbols): "
        f"{first_difference(ours, theirs)}; put the dictionary back, or start another run in another "
        "checkpoint.save_dir"
    )


def first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Where two different dictionaries differ, for a message; ``theirs``: the symbols in the checkpoint."""
    indices = range(max(len(ours), len(theirs)))
    index = next((i for i in indices if ours[i : i + 1] != theirs[i : i + 1]), len(indices))
    here, there = (repr(symbols[index]) if index < len(symbols) else "nothing" for symbols in (ours, theirs))
    return f"index {index} is {here} in the file, {there} in the checkpoint"


def is_another_kind(state: dict[str, Any], trainer: Any) -> bool:
    """Whether the checkpoint is of another task or model with other parameters."""
    theirs, ours = names_of(state.get("cfg")), names_of(trainer.cfg)
    return bool(theirs) and theirs != ours and state["model"].keys() != trainer.get_model().state_dict().keys()


def names_of(cfg: Any) -> dict[str, str]:
    """``{"task": name, "model": name}``; empty for the configs of fairseq before 2021."""
    parts = {part: plain((cfg or {}).get(part)) for part in ("task", "model")}
    return {part: value["_name"] for part, value in parts.items() if "_name" in value}


def plain(settings: Any) -> dict[str, Any]:
    """A part of a config as a dictionary; the models of fairseq that have no dataclass have a ``Namespace``."""
    if OmegaConf.is_config(settings):
        return OmegaConf.to_container(settings, resolve=True, enum_to_str=True)
    return vars(settings) if isinstance(settings, Namespace) else settings or {}


def differing_fields(state: dict[str, Any], trainer: Any) -> str:
    """The settings in which two models differ, for a message."""
    theirs, ours = names_of(state.get("cfg")), names_of(trainer.cfg)
    differing = [part for part in ours if part in theirs and theirs[part] != ours[part]]
    if differing:
        return describe_differences(differing, theirs, ours)
    theirs = ((state.get("extra_state") or {}).get("made_with") or {}).get("model")
    ours = structure_of(trainer.get_model())
    if not theirs or theirs == ours:
        theirs, ours = plain_fields((state.get("cfg") or {}).get("model")), plain_fields(trainer.cfg.get("model"))
    differing = [name for name in theirs if name in ours and theirs[name] != ours[name]]
    return describe_differences(differing, theirs, ours) if differing else "parameters of other shapes"


def plain_fields(settings: Any) -> dict[str, str]:
    """The settings of a model: name of the field -> value as text."""
    return {f"model.{name}": str(value) for name, value in plain(settings).items() if name not in NOT_COMPARED}


def describe_differences(names: list[str], theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """``model.encoder_layers=2, here 3``, for up to four fields."""
    return first_few([f"{name}={theirs[name]}, here {ours[name]}" for name in names], 4)


# -- comparing once the data are loaded ------------------------------------------------------------------------------


def require_same_data(source: Source, saved: dict[str, Any], now: dict[str, Any], reset_dataloader: bool) -> None:
    """Raise UserError for other training data or labels than those in the record of the checkpoint."""
    if source.is_new_run:
        return
    if not reset_dataloader:
        for wrong in differing_data(saved.get("data") or [], now.get("data") or []):
            raise UserError(
                f"{wrong} {source} was made with; put the data back, or set checkpoint.reset_dataloader=true to train "
                "on these, from the beginning of an epoch"
            )
    for theirs, ours in zip(saved.get("labels") or [], now.get("labels") or []):
        common = theirs["sample"].keys() & ours["sample"].keys()
        changed = sum(theirs["sample"][name] != ours["sample"][name] for name in common)
        if changed or (theirs["digest"] != ours["digest"] and not reset_dataloader):
            where = f" (other labels for {changed} of {len(common)} utterances compared)" if changed else ""
            raise UserError(
                f"{ours['file']}: not the labels that {source} was made with{where}; put them back, {ANOTHER_RUN}"
            )


def differing_data(saved: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[str]:
    """``FILE: what differs, unlike the data that``, for each difference."""
    if len(saved) != len(now) and saved and now:
        yield f"{now[0]['file']}: one of {len(now)} training manifests, not the {len(saved)} that"
    for theirs, ours in zip(saved, now):
        if theirs["utterances"] != ours["utterances"]:
            yield f"{ours['file']}: {ours['utterances']} utterances, not the {theirs['utterances']} that"
        elif theirs["digest"] != ours["digest"]:
            yield f"{ours['file']}: other names, lengths or order of utterances than those that"
        elif theirs.get("transcripts") != ours.get("transcripts"):
            yield f"{ours['file']}: its utterances have other transcripts than those that"


# -- in fairseq's training loop --------------------------------------------------------------------------------------


def save_record():
    """Save the record in every checkpoint."""
    from fairseq.trainer import Trainer

    def make(previous):
        def save_checkpoint(self, filename, extra_state):
            record = record_of(self)
            return previous(self, filename, {**extra_state, "made_with": record} if record else extra_state)

        return save_checkpoint

    wrap_once(Trainer, "save_checkpoint", make)

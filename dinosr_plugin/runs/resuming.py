"""Which checkpoint a run resumes from, also when files are damaged or missing."""

import copy
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ..checkpoints.contents import Damaged, require_fairseq
from ..checkpoints.file import check_bytes, read_state
from ..compat.wrapping import wrap_once
from ..errors import UserError
from . import ending, origin, save_dir
from .origin import LAST

logger = logging.getLogger(__name__)

T = TypeVar("T")

OTHERS = re.compile(r"checkpoint(\d+|_\d+_\d+|_best|\.best_.+_[\d.]+)\.pt")
"""Names of the other checkpoints that fairseq writes."""


# -- reading a checkpoint --------------------------------------------------------------------------------------------


def read(path: str, checksums: bool = True) -> dict:
    """The state in a checkpoint of a training; its tensors stay on the disk. Raises as ``read_state``."""
    state = read_state(path, checksums)
    if not isinstance(state.get("model"), dict) or not {"optimizer_history", "extra_state"} <= state.keys():
        raise Damaged("not a checkpoint of a training run")
    require_fairseq(state, os.path.getsize(path))
    return state


def updates(state: dict) -> int:
    return state["optimizer_history"][-1].get("num_updates", 0)


# -- choosing a checkpoint -------------------------------------------------------------------------------------------


def checkpoint_changes(cfg) -> dict:
    """The fields of ``cfg.checkpoint`` (``cfg``: the whole config) to change before fairseq loads a checkpoint.

    Called by one process only.

    - Without ``restore_file`` the run resumes from checkpoint_last.pt if that is intact, else from the intact
      checkpoint with most updates. A damaged checkpoint_last.pt is renamed to checkpoint_last.pt.broken.
    - With ``restore_file`` that file is loaded at the first start. When the command is run again, the run resumes from
      its own checkpoints: those that were saved with the same ``restore_file``.

    Raises UserError if there are checkpoints of this run but none is intact: a run whose files might still be recovered
    is not overwritten by a new one.
    """
    restore_file, last = restore_file_of(cfg), os.path.join(cfg.checkpoint.save_dir, LAST)
    damage = {}
    newest = newest_intact(cfg, restore_file, damage)
    if newest is None:
        check_start(cfg, restore_file, last, damage)
        return {}
    path, n_updates = newest
    choice = f"resuming from {path} ({n_updates} updates), the newest intact checkpoint"
    if last in damage:
        os.replace(last, f"{last}.broken")
        logger.warning(f"{last}: {damage[last]}; renamed to {LAST}.broken, {choice}")
    elif path != last:
        logger.warning(f"{last}: no such file; {choice}; to train from scratch use another checkpoint.save_dir")
    if restore_file is None:
        return {} if path == last else {"restore_file": path, "finetune_from_model": None}
    logger.warning(
        f"checkpoint.restore_file={restore_file}: this run started from it and now resumes from {path}; "
        "to start from it again use another checkpoint.save_dir"
    )
    resets = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")
    return {"restore_file": path, **dict.fromkeys(resets, False)}


def restore_file_of(cfg) -> str | None:
    """``checkpoint.restore_file``, or None if it is checkpoint_last.pt of the run, which is fairseq's default."""
    file, last = cfg.checkpoint.restore_file, os.path.join(cfg.checkpoint.save_dir, LAST)
    return None if file == LAST or origin.is_same_path(file, last) else file


def newest_intact(cfg, restore_file: str | None, damage: dict[str, str]) -> tuple[str, int] | None:
    """(path, updates) of the checkpoint that the run resumes from, or None.

    ``damage`` (path -> what is wrong) receives the damaged checkpoints that were found.
    """
    last = os.path.join(cfg.checkpoint.save_dir, LAST)
    if os.path.exists(last):
        try:
            state = read(last)
            return (last, updates(state)) if restore_file is None or is_of_this_run(state, cfg, restore_file) else None
        except Damaged as error:
            damage[last] = str(error)
    for n_updates, path in sorted(other_checkpoints(cfg, restore_file, damage), reverse=True):
        try:
            check_bytes(path)
            return path, n_updates
        except Damaged as error:
            damage[path] = str(error)
    return None


def other_checkpoints(cfg, restore_file: str | None, damage: dict[str, str]) -> Iterator[tuple[int, str]]:
    """(updates, path) of the readable checkpoints of this run, without checkpoint_last.pt.

    Updates, not dates: these would not survive a copy of the folder.
    """
    folder = cfg.checkpoint.save_dir
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if OTHERS.fullmatch(name):
            path = os.path.join(folder, name)
            try:
                state = read(path, checksums=False)
                if is_of_this_run(state, cfg, restore_file):
                    yield updates(state), path
            except Damaged as error:
                damage[path] = str(error)


def is_of_this_run(state: dict, cfg, restore_file: str | None) -> bool:
    """Whether a checkpoint has the same task and model and was started from ``restore_file``, if any.

    So a fine-tuning does not resume from a pre-training whose folder it was given by mistake.
    """
    saved = state.get("cfg") or {}
    same = origin.names_of(saved) == origin.names_of(cfg)
    if restore_file is None or not same:
        return same
    started_from = saved["checkpoint"]["restore_file"]
    return started_from != LAST and origin.is_same_path(restore_file, started_from)


def check_start(cfg, restore_file: str | None, last: str, damage: dict[str, str]) -> None:
    """Check a run that has no intact checkpoint of its own and starts now.

    Raises UserError if it has damaged ones, or if the checkpoint it starts from is not intact.
    """
    if damage and restore_file is None:
        path, what = next(iter(damage.items()))
        raise UserError(
            f"{path}: {what}, and this run has no intact checkpoint in that folder; "
            "copy one there, or use another checkpoint.save_dir"
        )
    settings = {
        "restore_file": restore_file,
        "continue_once": cfg.checkpoint.continue_once,
        "finetune_from_model": cfg.checkpoint.finetune_from_model,
    }
    for name, path in settings.items():
        if path and "://" not in path:
            try:
                read(path)
            except Damaged as error:
                remedy = error.remedy or "give the absolute path of an intact checkpoint"
                raise UserError(f"checkpoint.{name}={path}: {error}; {remedy}") from error
    if restore_file and os.path.exists(last):
        logger.warning(
            f"checkpoint.restore_file={restore_file} is loaded, and {last} will be overwritten; "
            "to resume from the latter remove restore_file"
        )


# -- before the model is built ---------------------------------------------------------------------------------------

_training = None  # the whole config of the training that runs in this process


def own_checkpoint() -> str | None:
    """The checkpoint of its own that the training resumes from, or None. Files are only read.

    It is the one that ``checkpoint_changes`` chooses later, unless files change in between.
    """
    if _training is None or "://" in _training.checkpoint.save_dir:
        return None
    newest = newest_intact(_training, restore_file_of(_training), {})
    return None if newest is None else newest[0]


def remember_config():
    """Keep the whole config of a training until it ends: a task gets only its own part."""
    from fairseq_cli import train

    def make(previous):
        def add_defaults(cfg):
            global _training
            previous(cfg)
            _training = cfg
            ending.at_end.callback(forget_config)

        return add_defaults

    wrap_once(train, "add_defaults", make)


def forget_config():
    global _training
    _training = None


# -- in fairseq's training loop --------------------------------------------------------------------------------------


def resume_from_intact_checkpoint():
    """Resume from the checkpoint that ``checkpoint_changes`` chooses, if it is one of the same model and data.

    fairseq ends with a traceback if ``checkpoint_last.pt`` is damaged or of another model, trains from scratch if it is
    missing, and resumes silently with other data or labels.

    Rank 0 alone searches, compares and renames files, and sends the result to the others before any rank loads: all
    ranks load the same file, or all stop.
    """
    from fairseq import checkpoint_utils
    from fairseq.trainer import Trainer

    def choose(previous):
        def load(cfg, trainer, **passthrough_args):
            if trainer.checkpoint_suffix or trainer.tpu or "://" in cfg.save_dir:
                return previous(cfg, trainer, **passthrough_args)
            decision = Decision.of(from_rank_0(trainer, lambda: asdict(decide(trainer))))
            cfg = copy.deepcopy(cfg)  # later checkpoints are to contain the user's settings
            for name, value in decision.changes.items():
                cfg[name] = value
            trainer.resumes_from = decision
            with explain_failures(decision):
                return previous(cfg, trainer, **passthrough_args)

        return load

    def compare(previous):
        def get_train_iterator(self, *args, **kwargs):
            batches = previous(self, *args, **kwargs)
            decision = vars(self).pop("resumes_from", None)
            if decision is not None and decision.made_with:
                from_rank_0(self, lambda: decision.require_same_data(self))
            return batches

        return get_train_iterator

    wrap_once(checkpoint_utils, "load_checkpoint", choose)
    wrap_once(Trainer, "get_train_iterator", compare)


@dataclass(frozen=True)
class Decision:
    """Which checkpoint to load, and what it was made with.

    Attributes:
        changes: the fields of ``cfg.checkpoint`` to change: ``checkpoint_changes``.
        source: the checkpoint; None: training starts from scratch.
        differing: the settings in which its model differs from this run's, for a message.
        made_with: its record, if it has one: ``runs.origin``.
    """

    changes: dict[str, Any]
    source: origin.Source | None = None
    differing: str = ""
    made_with: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Decision":
        """The inverse of ``dataclasses.asdict``: ranks exchange plain data."""
        return cls(**{**plain, "source": plain["source"] and origin.Source(**plain["source"])})

    def require_same_data(self, trainer) -> None:
        cfg = {**trainer.cfg.checkpoint, **self.changes}
        origin.require_same_data(self.source, self.made_with, origin.record_of(trainer), cfg["reset_dataloader"])


def decide(trainer) -> Decision:
    """Called by rank 0. Raises UserError if the run cannot start, or not with this checkpoint."""
    cfg = trainer.cfg
    save_dir.claim(cfg.checkpoint.save_dir)
    changes = checkpoint_changes(cfg)
    source = origin.source_of(cfg.checkpoint, changes.get("restore_file"))
    if source is None:
        return Decision(changes)
    state = read(source.path)
    origin.require_same_model(source, state, trainer)
    record = state["extra_state"].get("made_with") or {}
    return Decision(changes, source, origin.differing_fields(state, trainer), record)


@contextmanager
def explain_failures(decision: Decision) -> Iterator[None]:
    """Within this context turn what fairseq raises for a checkpoint that does not fit into a UserError.

    The messages of fairseq name options that ``fairseq-hydra-train`` does not have.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        source, text = decision.source, str(error)
        if source is None:
            raise
        if "ensure that the architectures match" in text:
            what = f"contains another model ({decision.differing})"
            raise UserError(f"{source}: {what}; {source.remedy}") from error
        if "dataloader mismatch" in text:
            raise UserError(
                f"{source}: was saved later in an epoch than this run has batches; put data, batch size and number of "
                "GPUs back, or set checkpoint.reset_dataloader=true to continue from the beginning of an epoch"
            ) from error
        if found := re.match(r"(Criterion|Optimizer) does not match.*\)\. (\w+) vs (\w+)", text):
            raise UserError(
                f"{source}: was made with the {found[1].lower()} {found[2]}, here {found[3]}; use that one, or set "
                "checkpoint.reset_optimizer=true"
            ) from error
        raise


def from_rank_0(trainer, function: Callable[[], T]) -> T:
    """The plain data that ``function`` returns on rank 0, or its UserError, on every rank; only rank 0 calls it."""
    from fairseq.distributed import utils as distributed_utils

    result: dict[str, Any] = {}
    if trainer.data_parallel_rank == 0:
        try:
            result["value"] = function()
        except UserError as error:
            result["error"] = str(error)
    if trainer.data_parallel_world_size > 1:
        result = distributed_utils.broadcast_object(result, 0, trainer.data_parallel_process_group, trainer.device)
    if "error" in result:
        raise UserError(result["error"])
    return result["value"]

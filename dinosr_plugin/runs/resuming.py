"""What keeps a run through damaged files and full disks: which checkpoint it goes on from, and what happens where none can be written.

``compat`` puts this into fairseq's saving and loading. Files of shards (``checkpoint_suffix``) and remote stores stay fairseq's own affair.
"""

import logging
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from ..errors import UserError
from . import stopping

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
NAMES = re.compile(r"checkpoint(\d+|_\d+_\d+|_best|\.best_.+_[\d.]+)\.pt")  # what fairseq writes beside it


# -- reading ---------------------------------------------------------------------------------------------------------


class Damaged(Exception):
    """What is wrong with a checkpoint, in plain words."""


def read(path: str) -> dict:
    """The state in a checkpoint, its tensors still on the disk. Raises Damaged, and UserError where the file cannot be opened."""
    if not os.path.isfile(path):
        raise Damaged("no such file")
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}); mend that, or give another checkpoint"
        ) from error
    if not start:
        raise Damaged("zero bytes long")
    complete = zipfile.is_zipfile(path)  # a zip file's table of contents stands at its end
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=complete)
    except (
        Exception
    ) as error:  # torch, pickle and zipfile each have their own, KeyError among them, and say it in a page of advice
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        what = (
            f"holds a Python object of {refused.group(1)}, which is not loaded from files" if refused else "unreadable"
        )
        raise Damaged("cut short" if start == b"PK" and not complete else what) from error
    if not isinstance(state, dict) or not {"model", "optimizer_history", "extra_state"} <= state.keys():
        raise Damaged("no checkpoint of a training run")
    return state


def check_bytes(path: str) -> None:
    """Raises Damaged where checksums do not match. torch.load compares none: it loads the zeros that a power cut leaves in a file."""
    if not zipfile.is_zipfile(path):  # the format of torch before 1.6 has no checksums
        return
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # zipfile raises many kinds for what is no table of contents
        raise Damaged("unreadable") from error
    if wrong:
        raise Damaged("damaged, its checksums do not match")


def updates(state: dict) -> int:
    return state["optimizer_history"][-1].get("num_updates", 0)


# -- resuming --------------------------------------------------------------------------------------------------------


def to_resume(cfg) -> dict:
    """What to change in ``cfg.checkpoint`` (of the whole config ``cfg``) before fairseq loads a checkpoint. For one process alone.

    - ``restore_file`` not given: the run goes on from checkpoint_last.pt if that is whole, else from the whole checkpoint with most
      updates; a damaged checkpoint_last.pt is set aside as *.broken.
    - ``restore_file`` given: it is loaded at the first start; started again, the run goes on from its own progress: from checkpoints
      that were saved under the same ``restore_file``.

    Raises UserError where files are there but none is whole: nothing is trained from the start over a run that may be mended.
    """
    given, last = cfg.checkpoint.restore_file, os.path.join(cfg.checkpoint.save_dir, LAST)
    if given == LAST or os.path.abspath(given) == os.path.abspath(last):
        given = None
    damage = {}
    found = newest(cfg, given, damage)
    if found is None:
        check_start(cfg, given, last, damage)
        return {}
    path, n_updates = found
    if last in damage:
        os.replace(last, f"{last}.broken")
        logger.warning(
            f"{last}: {damage[last]}; kept as {LAST}.broken, going on from {path} ({n_updates} updates), the newest whole checkpoint"
        )
    elif path != last:
        logger.warning(
            f"{last}: no such file; going on from {path} ({n_updates} updates), the newest whole checkpoint; "
            "to train from the start give another checkpoint.save_dir"
        )
    if given is None:
        return {} if path == last else {"restore_file": path, "finetune_from_model": None}
    logger.warning(
        f"checkpoint.restore_file={given} began this run, which goes on from {path}; to begin anew give another checkpoint.save_dir"
    )
    return {
        "restore_file": path,
        "reset_optimizer": False,
        "reset_lr_scheduler": False,
        "reset_meters": False,
        "reset_dataloader": False,
    }


def newest(cfg, given: str | None, damage: dict[str, str]) -> tuple[str, int] | None:
    """(path, updates) of the checkpoint that the run goes on from; None: there is none. What is wrong with others is put into ``damage``."""
    last = os.path.join(cfg.checkpoint.save_dir, LAST)
    if os.path.exists(last):
        try:
            state = read(last)
            check_bytes(last)
            return (last, updates(state)) if given is None or is_of_this_run(state, cfg, given) else None
        except Damaged as error:
            damage[last] = str(error)
    for n_updates, path in sorted(others(cfg, given, damage), reverse=True):
        try:
            check_bytes(path)
            return path, n_updates
        except Damaged as error:
            damage[path] = str(error)
    return None


def others(cfg, given: str | None, damage: dict[str, str]) -> Iterator[tuple[int, str]]:
    """(updates, path) of the readable checkpoints of this run but checkpoint_last.pt. Their dates would not survive a copy of the folder."""
    folder = cfg.checkpoint.save_dir
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if NAMES.fullmatch(name):
            path = os.path.join(folder, name)
            try:
                state = read(path)
                if is_of_this_run(state, cfg, given):
                    yield updates(state), path
            except Damaged as error:
                damage[path] = str(error)


def is_of_this_run(state: dict, cfg, given: str | None) -> bool:
    """Same task and model, so not a pre-training whose folder a fine-tuning got by mistake; and begun from the file that was given, if any."""
    saved = state.get("cfg") or {}
    same = all(part in saved and saved[part]["_name"] == cfg[part]["_name"] for part in ("task", "model"))
    return same and (given is None or given == saved["checkpoint"]["restore_file"])


def check_start(cfg, given: str | None, last: str, damage: dict[str, str]) -> None:
    """Before a run starts without a checkpoint of its own: it must not lie there damaged, and what it starts from must be whole."""
    if damage and given is None:
        path, what = next(iter(damage.items()))
        raise UserError(
            f"{path}: {what}, and no other checkpoint of this run there is whole; put one there, or give another checkpoint.save_dir"
        )
    settings = {
        "restore_file": given,
        "continue_once": cfg.checkpoint.continue_once,
        "finetune_from_model": cfg.checkpoint.finetune_from_model,
    }
    for name, path in settings.items():
        if path and "://" not in path:
            try:
                read(path)
                check_bytes(path)
            except Damaged as error:
                raise UserError(
                    f"checkpoint.{name}={path}: {error}; give the absolute path of a whole checkpoint"
                ) from error
    if given and os.path.exists(last):
        logger.warning(
            f"checkpoint.restore_file={given} is loaded, and {last} will be overwritten; to go on from that leave restore_file out"
        )


# -- saving ----------------------------------------------------------------------------------------------------------


class NotSaved(OSError):
    """A checkpoint could not be written; ``filename`` names it."""


@contextmanager
def writing(path: str, unfinished: str) -> Iterator[None]:
    """An error of the system while this lasts removes the unfinished file, which would fill the disk further, and names ``path``."""
    try:
        yield
    except Exception as error:
        cause = error
        while cause and not isinstance(cause, OSError):  # torch.save puts its own error on top
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        with suppress(OSError):
            os.remove(unfinished)
        raise NotSaved(cause.errno, cause.strerror, path) from error


def go_on_without(error: NotSaved, trainer, epoch_itr) -> None:
    """Training need not stop: the next save may find room. Only after the last one nothing would come."""
    said = f"{error.filename}: cannot be written ({error.strerror}); make room there"
    if is_last_save(trainer, epoch_itr):
        raise UserError(f"{said}, then start the same command again: it resumes from the newest checkpoint") from error
    logger.warning(f"{said}: training goes on, no older checkpoint is removed, and the next save tries again")


def is_last_save(trainer, epoch_itr) -> bool:
    limits = trainer.cfg.optimization
    return (
        0 < limits.max_update <= trainer.get_num_updates()
        or 0 < limits.max_epoch < epoch_itr.next_epoch_idx
        or 0 < limits.stop_time_hours < trainer.cumulative_training_time() / 3600
        or stopping.agreed() is not None
    )

"""Writing checkpoints: completely or not at all, and what happens when one cannot be written."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from ..compat.wrapping import wrap_once
from ..errors import UserError
from . import stopping
from .resuming import LAST

logger = logging.getLogger(__name__)


class NotSaved(OSError):
    """A checkpoint could not be written; ``filename`` is its path."""


@contextmanager
def report_write_errors(path: str, unfinished: str) -> Iterator[None]:
    """Within this context turn an error of the operating system into NotSaved for ``path``.

    The file ``unfinished`` is removed, because it would fill the disk further.
    """
    try:
        yield
    except Exception as error:
        cause = error
        while cause and not isinstance(cause, OSError):  # torch.save raises an error of its own from it
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        with suppress(OSError):
            os.remove(unfinished)
        raise NotSaved(cause.errno, cause.strerror, path) from error


def copy_checkpoints_atomically():
    """Copy a checkpoint under a temporary name and rename it.

    fairseq writes a checkpoint under a temporary name, but copies it to ``checkpoint_last.pt`` directly: if it is
    killed meanwhile, half a file remains there.
    """
    from fairseq.file_io import PathManager

    def make(previous):
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            if "://" in dst_path:  # a remote store has no half-written files
                return previous(src_path, dst_path, overwrite=overwrite)
            unfinished = f"{dst_path}.tmp"
            with report_write_errors(dst_path, unfinished):
                shutil.copyfile(src_path, unfinished)  # iopath, if installed, would hide the error of a full disk
                os.replace(unfinished, dst_path)
            return True

        return copy

    wrap_once(PathManager, "copy", make)


def write_checkpoints_once():
    """Write a checkpoint in one attempt, flushed to the disk, and remove the unfinished file if that fails.

    fairseq tries three times to write into one open file, each time after what the previous attempt left there: the
    third may leave a damaged checkpoint. One attempt is enough, since training continues and saves again. Without
    ``fsync`` a power cut after the renaming would leave zeros.
    """
    from fairseq import checkpoint_utils

    def write_once(previous):
        def write(obj, file):
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())

        return write

    def report_errors(previous):
        def save(obj, filename: str, async_write: bool = False):
            with report_write_errors(filename, f"{filename}.tmp"):
                previous(obj, filename, async_write=async_write)

        return save

    wrap_once(checkpoint_utils, "_torch_persistent_save", write_once)
    wrap_once(checkpoint_utils, "torch_persistent_save", report_errors)


def survive_failed_saves():
    """Continue training when a checkpoint cannot be written, where fairseq ends with a traceback.

    The error leaves fairseq's function before older checkpoints are removed.
    """
    from fairseq import checkpoint_utils

    def make(previous):
        def save(cfg, trainer, epoch_itr, val_loss):
            best = vars(checkpoint_utils.save_checkpoint)  # fairseq keeps the best loss in its function's attributes
            before = dict(best)
            try:
                return previous(cfg, trainer, epoch_itr, val_loss)
            except NotSaved as error:
                if not error.filename.endswith(LAST):
                    # no checkpoint_best.pt has this loss: compare the next one with the best loss that was saved
                    best.pop("best", None)
                    best.update(before)
                continue_after_failed_save(error, trainer, epoch_itr)

        return save

    wrap_once(checkpoint_utils, "save_checkpoint", make)


def continue_after_failed_save(error: NotSaved, trainer, epoch_itr) -> None:
    """Log a warning: the next save may succeed. Raises UserError if this was the last save of the run."""
    message = f"{error.filename}: cannot be written ({error.strerror}); free some disk space"
    if is_last_save(trainer, epoch_itr):
        raise UserError(f"{message}, then run the same command again to resume from the newest checkpoint") from error
    logger.warning(f"{message}: training continues, older checkpoints are kept, and the next save tries again")


def is_last_save(trainer, epoch_itr) -> bool:
    limits = trainer.cfg.optimization
    return (
        0 < limits.max_update <= trainer.get_num_updates()
        or 0 < limits.max_epoch < epoch_itr.next_epoch_idx
        or 0 < limits.stop_time_hours < trainer.cumulative_training_time() / 3600
        or stopping.agreed() is not None
    )

"""The lock on ``checkpoint.save_dir``: two runs never write into one folder."""

import atexit
import os
import re
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from .. import files
from ..compat.wrapping import wrap_once
from . import ending
from .run_log import open_log

UNFINISHED = re.compile(r"checkpoint.*\.pt\.tmp")
"""Temporary names of checkpoints. They contain no process number, because one run at a time writes into the folder."""

_claimed = ExitStack()  # closed when the training ends, or the process
atexit.register(_claimed.close)


def claim(folder: str) -> None:
    """Lock the folder until this run ends, remove what killed runs left unfinished in it, and start its log.

    Called by rank 0. Raises UserError if another run holds the lock.
    """
    if "://" in folder:
        return
    what = f"checkpoint.save_dir={folder}"
    files.make_folder(folder, "checkpoint.save_dir")
    _claimed.enter_context(files.claim(folder, what))
    ending.at_end.callback(_claimed.close)
    for entry in files.scan(Path(folder)):
        if UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with suppress(OSError):
                os.unlink(entry.path)
    open_log(Path(folder))


def claim_at_once():
    """Claim the folder before the model is built.

    With several ranks, rank 0 claims it in ``resuming.decide``, which passes an error on to all of them.
    """
    from fairseq import checkpoint_utils

    def make(previous):
        def verify(save_dir: str) -> None:
            if not torch.distributed.is_initialized():
                claim(save_dir)
            previous(save_dir)

        return verify

    wrap_once(checkpoint_utils, "verify_checkpoint_directory", make)

"""Every workaround for a fairseq, torch, NumPy or Python version: one function each, with its reason.

``apply()`` runs them all; importing ``dinosr_plugin`` calls it. Nobody else works around anything.
"""

import functools
import logging
import os
import sys
from contextlib import contextmanager
from typing import Callable, Iterator

import numpy as np
import torch

from .errors import UserError


def import_fairseq_quietly():
    """Importing fairseq sets the root logger to DEBUG and gives it a handler; every library would start to chatter."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    import fairseq.tasks  # noqa: F401

    root.setLevel(level)
    root.handlers[:] = handlers


def numpy_aliases():
    """fairseq 0.12 uses ``np.int`` and ``np.float``, which NumPy 1.24 removed."""
    for name, builtin in (("int", int), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)


def allow_fairseq_checkpoints():
    """torch >= 2.6 unpickles nothing but tensors by default; a fairseq fine-tuning checkpoint also holds its ``Dictionary``.

    Exactly that class is allowed; ``weights_only`` stays on.
    """
    from fairseq.data.dictionary import Dictionary

    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([Dictionary])


def wrap_once(owner, name: str, make: Callable[[Callable], Callable]):
    """Replace ``owner.name`` by ``make`` of it; a second call changes nothing."""
    previous = getattr(owner, name)
    if not getattr(previous, "is_dinosr_wrapper", False):
        wrapper = functools.wraps(previous)(make(previous))
        wrapper.is_dinosr_wrapper = True
        setattr(owner, name, wrapper)


def one_line_errors():
    """The argparse programs of fairseq print a traceback for every exception; a ``UserError`` needs only its message."""

    def make(previous):
        def hook(kind, error, traceback):
            if issubclass(kind, UserError):
                print(f"error: {error}", file=sys.stderr)
            else:
                previous(kind, error, traceback)

        return hook

    wrap_once(sys, "excepthook", make)


def one_line_errors_of_workers():
    """torch puts the worker's whole traceback into the message of an error in a loader's worker process; a ``UserError`` keeps its own."""

    def make(previous):
        def reraise(self):
            if issubclass(self.exc_type, UserError):
                raise self.exc_type(self.exc_msg.rpartition(f"{self.exc_type.__name__}: ")[2].strip())
            previous(self)

        return reraise

    wrap_once(torch._utils.ExceptionWrapper, "reraise", make)


def one_line_for_save_dir():
    """fairseq ends in a traceback where ``checkpoint.save_dir`` cannot be written, before any of our code runs."""
    from fairseq import checkpoint_utils

    def make(previous):
        def verify(save_dir: str) -> None:
            try:
                previous(save_dir)
            except OSError as error:
                raise UserError(f"checkpoint.save_dir={save_dir}: cannot be written ({error.strerror}); give another folder") from error

        return verify

    wrap_once(checkpoint_utils, "verify_checkpoint_directory", make)


def log_file_opened_once():
    """fairseq opens ``common.log_file`` again in every epoch and validation, and then writes each line once more for each time."""
    from fairseq.logging import progress_bar

    def make(previous):
        def bar(*args, log_file=None, **kwargs):
            handlers = [handler for handler in progress_bar.logger.handlers if isinstance(handler, logging.FileHandler)]
            if log_file and os.path.abspath(log_file) in [handler.baseFilename for handler in handlers]:
                log_file = None
            return previous(*args, log_file=log_file, **kwargs)

        return bar

    wrap_once(progress_bar, "progress_bar", make)


def whole_copies_of_checkpoints():
    """fairseq writes a checkpoint under a temporary name, but then copies it to ``checkpoint_last.pt``: a kill meanwhile leaves half a file there."""
    from fairseq.file_io import PathManager

    def make(previous):
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            if "://" in dst_path:  # a remote store has no half-written files
                return previous(src_path, dst_path, overwrite=overwrite)
            unfinished = f"{dst_path}.tmp"
            copied = previous(src_path, unfinished, overwrite=True)
            os.replace(unfinished, dst_path)
            return copied

        return copy

    wrap_once(PathManager, "copy", make)


@contextmanager
def audio_dataset(make: Callable) -> Iterator[None]:
    """fairseq's audio tasks name their dataset class; while this lasts they call ``make`` instead. The other way is a copy of 100 lines."""
    from fairseq.tasks import audio_pretraining

    previous = audio_pretraining.FileAudioDataset
    audio_pretraining.FileAudioDataset = make
    try:
        yield
    finally:
        audio_pretraining.FileAudioDataset = previous


def apply():
    """Run every workaround once; safe to call again."""
    numpy_aliases()
    import_fairseq_quietly()
    allow_fairseq_checkpoints()
    one_line_errors()
    one_line_errors_of_workers()
    one_line_for_save_dir()
    log_file_opened_once()
    whole_copies_of_checkpoints()

"""What a person reads: one line for an error that they can mend, each line of the log once, no warning that they can do nothing about."""

import logging
import os
import sys
import warnings

import torch

from ..errors import UserError
from .wrapping import wrap_once


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


def one_line_errors_in_hydra():
    """Hydra prints its own ``CompactHydraException`` without a traceback; here it prints a ``UserError`` that way too.

    ``UserError`` does not derive from Hydra's class because importing Hydra would delay every command.
    """
    from hydra import errors
    from hydra._internal import utils

    utils.CompactHydraException = (errors.CompactHydraException, UserError)  # used with isinstance only


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
                raise UserError(
                    f"checkpoint.save_dir={save_dir}: cannot be written ({error.strerror}); give another folder"
                ) from error

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


def no_warning_about_weight_norm():
    """torch calls ``weight_norm`` deprecated whenever fairseq builds a positional convolution with it; nobody who trains can mend that."""
    warnings.filterwarnings("ignore", message=r"`torch\.nn\.utils\.weight_norm` is deprecated", category=FutureWarning)

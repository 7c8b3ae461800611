"""What users read: one line for an error they can fix, each line of the log once, no warning they cannot act on."""

import logging
import os
import sys
import warnings
from contextlib import suppress

import torch

from ..errors import PrintableStream, UserError, escaped, printable, setting
from ..files import system_error, unwritable
from .wrapping import wrap_once


def one_line_errors():
    """fairseq's argparse programs print a traceback for every exception.

    Of a ``UserError`` and of an error about a file print the message only, and nothing after Ctrl-C.
    """

    def make(previous):
        def hook(kind, error, traceback):
            if issubclass(kind, UserError):
                print(f"error: {error}", file=sys.stderr)
            elif is_about_a_file(error):
                print(f"error: {system_error(error)}", file=sys.stderr)
            elif not issubclass(kind, KeyboardInterrupt):  # after which Python ends itself with SIGINT: status 130
                previous(kind, error, traceback)

        return hook

    wrap_once(sys, "excepthook", make)


def is_about_a_file(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.filename is not None


def one_line_errors_in_hydra():
    """Hydra prints its own ``CompactHydraException`` without a traceback; here it prints a ``UserError`` that way too,
    and an error about a file, which becomes a ``UserError``.

    ``UserError`` does not derive from Hydra's class because importing Hydra would delay every command.
    """
    from hydra import errors
    from hydra._internal import utils

    utils.CompactHydraException = (errors.CompactHydraException, UserError)  # used with isinstance only

    def make(previous):
        def run_and_report(job):
            def run():
                try:
                    return job()
                except OSError as error:
                    if is_about_a_file(error):
                        raise system_error(error) from error
                    raise

            return previous(run)

        return run_and_report

    wrap_once(utils, "run_and_report", make)


def printable_log_records():
    """Names from outside (files, speakers, checkpoints) in log records cannot control the terminal.

    Control characters are escaped, except for line feeds and tabs; in records of this package these too.
    """

    logging.setLogRecordFactory(PrintableRecord)


def printable_generation():
    """``fairseq-generate`` prints the symbols of a checkpoint's dictionary as they are; here as ``PrintableStream``."""
    from fairseq_cli import generate

    def make(previous):
        return lambda cfg, output_file: previous(cfg, PrintableStream(output_file))

    wrap_once(generate, "_main", make)


class PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        message = super().getMessage()
        return printable(message) if self.name.startswith("dinosr_plugin.") else escaped(message)


def one_line_log_errors():
    """A log that cannot be written, as on a full disk, is one line instead of a traceback for each of its records.

    The run continues, and what is logged while the log cannot be written is missing in it.
    """

    def make(previous):
        def handle_error(self, record):
            error = sys.exc_info()[1]
            if not isinstance(error, OSError):
                previous(self, record)
            elif not getattr(self, "failed_before", False):
                self.failed_before = True
                name = getattr(self, "baseFilename", "log")
                with suppress(OSError, AttributeError):  # the terminal is gone
                    print(f"warning: {unwritable(name, error)}; lines are missing until then", file=sys.stderr)

        return handle_error

    wrap_once(logging.Handler, "handleError", make)


def one_line_worker_errors():
    """torch adds the traceback of a data loader's worker process to the message of its error.

    A ``UserError`` keeps its message.
    """

    def make(previous):
        def reraise(self):
            if issubclass(self.exc_type, UserError):
                raise self.exc_type(self.exc_msg.rpartition(f"{self.exc_type.__name__}: ")[2].strip())
            previous(self)

        return reraise

    wrap_once(torch._utils.ExceptionWrapper, "reraise", make)


def one_line_killed_workers():
    """torch raises a RuntimeError, and fairseq prints a traceback, when the system has killed a worker process."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    def make(previous):
        def try_get_data(self, *args, **kwargs):
            try:
                return previous(self, *args, **kwargs)
            except RuntimeError as error:
                if "exited unexpectedly" not in str(error):
                    raise
                raise UserError(
                    f"{setting('dataset.num_workers')}: a worker process was killed, perhaps because memory ran out; "
                    f"lower it, or {setting('dataset.max_tokens')}, then run the same command again; a training "
                    "resumes from its newest checkpoint"
                ) from error

        return try_get_data

    wrap_once(_MultiProcessingDataLoaderIter, "_try_get_data", make)


def one_line_save_dir_error():
    """fairseq raises an OSError if ``checkpoint.save_dir`` is not writable, before the plug-in's own code runs."""
    from fairseq import checkpoint_utils

    def make(previous):
        def verify(save_dir: str) -> None:
            try:
                previous(save_dir)
            except OSError as error:
                raise unwritable(f"checkpoint.save_dir={save_dir}", error) from error

        return verify

    wrap_once(checkpoint_utils, "verify_checkpoint_directory", make)


def open_log_file_once():
    """fairseq opens ``common.log_file`` again in every epoch and validation, and then repeats each line as often."""
    from fairseq.logging import progress_bar

    def make(previous):
        def bar(*args, log_file=None, **kwargs):
            handlers = [handler for handler in progress_bar.logger.handlers if isinstance(handler, logging.FileHandler)]
            if log_file and os.path.abspath(log_file) in [handler.baseFilename for handler in handlers]:
                log_file = None
            return previous(*args, log_file=log_file, **kwargs)

        return bar

    wrap_once(progress_bar, "progress_bar", make)


def silence_weight_norm_warning():
    """torch warns that ``weight_norm`` is deprecated whenever fairseq builds a positional convolution with it.

    Users cannot act on that warning.
    """
    warnings.filterwarnings("ignore", message=r"`torch\.nn\.utils\.weight_norm` is deprecated", category=FutureWarning)

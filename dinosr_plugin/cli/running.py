"""What all sub-commands share: a lock on their output, signals that end them, one-line errors, printable names."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import PrintableStream, UserError
from ..files import claim_folder, claim_name, claim_new, new_folders, system_error

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
OUT_OF_MEMORY = "out of memory; close other programs, or give fewer or shorter recordings"


def run(options: argparse.Namespace) -> int:
    """Run the sub-command that was parsed; returns the exit status, or raises SystemExit with it after a signal."""
    with end_on_signals(), printable_streams():
        try:
            with claim_out(options):
                status = options.run(options)
            sys.stdout.flush()
            return status
        except UserError as error:
            return fail(str(error))
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # `dinosr check ... | head` has closed the pipe
            discard_stdout()
            return 1
        except OSError as error:
            return fail(str(system_error(error)))
        except MemoryError:
            return fail(OUT_OF_MEMORY)
        except RuntimeError as error:
            if "allocate memory" in str(error) or "out of memory" in str(error):  # torch, on the CPU and on a GPU
                return fail(OUT_OF_MEMORY)
            raise


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        return 1
    discard_stdout()
    return 1


def discard_stdout() -> None:
    """Discard what is still to be written, so that Python does not report the error again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def claim_out(options: argparse.Namespace) -> Iterator[None]:
    """Claim ``--out`` or ``OUT``, as ``parsing.add_out`` says. Raises UserError if another command is writing it."""
    out, kind = getattr(options, "out", None), getattr(options, "out_kind", None)
    with contextlib.ExitStack() as stack:
        if out is not None and kind == "file":
            stack.enter_context(claim_new(out, getattr(options, "out_name", "--out")))
        elif out is not None and kind == "folder":
            stack.enter_context(claim_folder(out))
        elif out is not None and kind == "new folder":
            what = f"{getattr(options, 'out_name', '--out')} {out}"
            stack.enter_context(new_folders(out.absolute().parent, what))
            stack.enter_context(claim_name(out, what))
        yield


# ---- signals ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def end_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process with status 128 + their number after it has cleaned up; a second one ends it
    at once.

    A signal that is ignored, as by ``nohup``, stays so.
    """
    handled = []
    if threading.current_thread() is threading.main_thread():
        handled = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore_signals()


def end(number: int, _: Any) -> None:
    restore_signals()
    raise SystemExit(128 + number)


def restore_signals() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is end:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=restore_signals)  # the signals end worker processes at once


# ---- streams ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def printable_streams() -> Iterator[None]:
    stdout, stderr = (PrintableStream(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):  # type: ignore[type-var]
        yield

"""How a run of several processes stops early and together.

A signal or a collapse requests the stop, the ranks agree on it, a checkpoint is written, and all processes exit.
``stop_after_saving`` checks after every update whether a stop was agreed on.

==============================  =======================================================================================
moment of the signal            what happens
==============================  =======================================================================================
while data are loaded           the process ends at once: there is nothing to save
update                          it is finished, then a checkpoint is written
validation                      it is finished, because it decides on checkpoint_best.pt and on early stopping; then a
                                checkpoint is written
refreshing labels               it is interrupted; a checkpoint of the beginning of the epoch is written
a second one, later than        SIGINT and SIGTERM end the process at once, without a checkpoint
``SAME_EVENT``
==============================  =======================================================================================
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch.distributed as dist

from ..compat.wrapping import wrap_once
from ..errors import UserError
from . import ending

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, a terminal that is closed, and the signals that batch systems send before they end a job (SLURM:
``--signal=USR1@120``)."""

REPEATED = (signal.SIGINT, signal.SIGTERM)
"""The signals that end the process at once when they are repeated. SIGHUP and SLURM's advance warning do not: whoever
sends them does not ask to give up the checkpoint."""

SAME_EVENT = 1.0
"""Seconds within which signals count as one: Ctrl-C reaches every process of the terminal, and torchrun, SLURM and
scripts pass on what the processes they started have received too."""

_received: signal.Signals | None = None  # the first signal to this process
_agreed: BaseException | None = None  # the exception that all ranks exit with
_training: int | None = None  # process id of the training, also in its forks
_second: threading.Timer | None = None  # calls end_at_next_signal


class Interrupted(BaseException):
    """All ranks have agreed on a stop before the first update of an epoch."""


# -- agreeing on a stop ----------------------------------------------------------------------------------------------


def end_at_once() -> None:
    """From now on Ctrl-C ends this process silently, as the other signals do. Called before a model is built.

    Except in an interactive interpreter and a notebook, which Ctrl-C must not end.
    """
    global _training
    forget()
    _training = os.getpid()
    ending.at_end.callback(forget)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and not hasattr(sys, "ps1"):
        set_handlers([signal.SIGINT], signal.SIG_DFL)


def listen() -> None:
    """From now on ``SIGNALS`` request a stop."""
    global _training
    _training = os.getpid()
    set_handlers(SIGNALS, on_signal)


def forget() -> None:
    """Reset the state of this module: a training of this process has ended, or another one begins."""
    global _received, _agreed, _training, _second
    if _second is not None:
        _second.cancel()
    _received = _agreed = _training = _second = None


def set_handlers(numbers: Sequence[signal.Signals], handler: Any) -> None:
    """Set the handler of signals until the training ends, except for those that are ignored, as under ``nohup``."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in numbers:
        before = signal.getsignal(number)
        if before not in (handler, signal.SIG_IGN):
            signal.signal(number, handler)
            ending.at_end.callback(signal.signal, number, before or signal.SIG_DFL)


def on_signal(number: int, _: Any) -> None:
    """The handler of a training process. Its forks, which inherit it, obey a SIGTERM and ignore the others."""
    global _received, _second
    if os.getpid() != _training:
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    if _received is not None:
        return
    _received = signal.Signals(number)
    _second = threading.Timer(SAME_EVENT, end_at_next_signal)
    _second.daemon = True
    _second.start()
    if not dist.is_initialized() or dist.get_rank() == 0:  # not through logging, whose stream may be in use
        text = "stopping with a checkpoint after this update or validation; once more ends the run at once, without one"
        with suppress(OSError):  # the terminal is gone
            os.write(2, f"{_received.name}: {text}\n".encode())


def end_at_next_signal() -> None:
    """From now on ``REPEATED`` signals end this process, whatever it waits for.

    Not with ``signal.signal``: Python calls handlers in the main thread only, which may wait for another rank for ever.
    """
    for number in REPEATED:
        if signal.getsignal(number) == on_signal:
            ctypes.CDLL(None).signal(int(number), None)  # None: the default


def received() -> int:
    """Number of the signal that this process received, or 0.

    Ranks receive a signal at different moments, so they agree on the sum of these numbers.
    """
    return _received or 0


def agree_on_signal(any_received: bool, moment: str = "update") -> None:
    """All ranks call this after the same update, or batch of a validation.

    Args:
        any_received: at least one of them received a signal.
        moment: what is finished before the stop, for the log.
    """
    global _agreed
    if any_received and _agreed is None:
        name = _received.name if _received else "a signal to another rank"
        logger.warning(f"{name}: stopping after this {moment} with a checkpoint; run the same command again to resume")
        _agreed = SystemExit(128 + (_received or signal.SIGTERM))


def interrupt(any_received: bool) -> None:
    """All ranks call this at the same moment before the first update of an epoch.

    Raises Interrupted if at least one of them received a signal.
    """
    if any_received:
        agree_on_signal(True, "moment")
        raise Interrupted


def agree_on_error(message: str) -> None:
    """All ranks call this after the same update, because of values that are the same on all of them."""
    global _agreed
    _agreed = _agreed or UserError(message)


def agreed() -> BaseException | None:
    """The exception to raise once a checkpoint is written, or None if training continues."""
    return _agreed


# -- in fairseq's training loop --------------------------------------------------------------------------------------


def leave_finished_runs():
    """A run that has made all its updates, or was stopped early, ends at once when it is started again.

    fairseq makes one more update each time.
    """
    from fairseq_cli import train

    def make(previous):
        def train_epoch(cfg, trainer, *args):
            if reason := why_finished(cfg, trainer, getattr(train.should_stop_early, "num_runs", 0)):
                logger.info(reason)
                return [None], True
            return previous(cfg, trainer, *args)

        return train_epoch

    wrap_once(train, "train", make)


def why_finished(cfg, trainer, validations_without_improvement: int) -> str | None:
    """The line for the log if the run has no updates left; else None."""
    if 0 < cfg.optimization.max_update <= trainer.get_num_updates():
        limit = f"optimization.max_update={cfg.optimization.max_update}"
        return f"{trainer.get_num_updates()} updates are already done: {limit}"
    if 0 < cfg.checkpoint.patience <= validations_without_improvement:
        limit = f"checkpoint.patience={cfg.checkpoint.patience}"
        return f"{validations_without_improvement} validations in a row brought no improvement: {limit}"
    return None


def stop_after_saving():
    """Once a stop is agreed on, end the run after the next checkpoint, which is written at once.

    fairseq handles no signals: that of a batch system kills it, and the updates since the last checkpoint are lost.
    """
    from fairseq import checkpoint_utils
    from fairseq_cli import train

    def check(previous):
        def should_stop(cfg, valid_loss):
            no_improvement = previous(cfg, valid_loss)  # always called, because it counts validations
            return no_improvement or agreed() is not None

        return should_stop

    def leave(previous):
        def save(*args):
            result = previous(*args)
            if agreed() is not None:
                raise agreed()
            return result

        return save

    def save_interrupted(previous):
        def train_epoch(cfg, trainer, task, epoch_itr):
            try:
                return previous(cfg, trainer, task, epoch_itr)
            except Interrupted:
                checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
                raise agreed() from None

        return train_epoch

    def wait(previous):
        def save_checkpoint(*args):
            try:
                return previous(*args)
            finally:
                if agreed() is not None:
                    wait_for_all()

        return save_checkpoint

    wrap_once(train, "should_stop_early", check)
    wrap_once(train, "validate_and_save", leave)
    wrap_once(train, "train", save_interrupted)
    wrap_once(checkpoint_utils, "save_checkpoint", wait)


def wait_for_all() -> None:
    """Wait until rank 0 has saved: whoever started the ranks ends the others once one has ended."""
    if dist.is_initialized():
        with suppress(RuntimeError):  # a rank was killed
            dist.barrier()


# -- other processes -------------------------------------------------------------------------------------------------


def keep_workers():
    """A loader's workers end when the training process tells them to, or is gone, and not because of a signal.

    Ctrl-C and batch systems send signals to every process of a training. Without its workers it could not finish the
    update.
    """
    from torch.utils.data._utils import signal_handling

    def make(previous):
        def set_worker_signal_handlers():
            previous()
            if _training is not None and os.getpid() != _training:
                ignore_signals_of_others()

        return set_worker_signal_handlers

    wrap_once(signal_handling, "_set_worker_signal_handlers", make)


def ignore_signals_of_others() -> None:
    """In a forked process: ignore all signals that stop a training, except for a SIGTERM that the parent sends.

    The process also ends within a second after its parent.
    """
    parent = os.getppid()
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # only sigtimedwait tells who sent it

    def wait() -> None:
        while os.getppid() == parent:
            received = signal.sigtimedwait([signal.SIGTERM], 1)
            if received is not None and received.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def wait_for_spawned_ranks():
    """The process in which fairseq starts the ranks of one machine passes signals on to them and ends after them.

    torch ends it with a traceback, at Ctrl-C at once, and when a rank has ended with an error.
    """
    import torch.multiprocessing
    from fairseq.distributed import utils as distributed_utils
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    def make(previous):
        def spawn(fn, *args, **kwargs):
            if fn is not distributed_utils.distributed_main:
                return previous(fn, *args, **kwargs)
            passed_on: list[int] = []

            def pass_on(number, _):
                passed_on.append(number)
                for rank in multiprocessing.active_children():
                    with suppress(ProcessLookupError):
                        os.kill(rank.pid, number)

            set_handlers(SIGNALS, pass_on)
            try:
                result = previous(fn, *args, **kwargs)
            except (ProcessExitedException, ProcessRaisedException) as error:
                _, found, message = str(error).rpartition(f"{UserError.__name__}: ")
                if passed_on:
                    raise SystemExit(128 + passed_on[0]) from None
                if found:
                    raise UserError(message.strip()) from None
                raise
            if passed_on:
                raise SystemExit(128 + passed_on[0])
            return result

        return spawn

    wrap_once(torch.multiprocessing, "spawn", make)

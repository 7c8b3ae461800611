"""How a run of several processes stops early and together.

A signal or a collapse requests the stop, the ranks agree on it, a checkpoint is written, and all processes exit.
``stop_after_saving`` checks after every update whether a stop was agreed on.
"""

import logging
import os
import signal

from ..compat.wrapping import wrap_once
from ..errors import UserError

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that batch systems send before they end a job (SLURM: ``--signal=USR1@120``)."""

_received: signal.Signals | None = None  # the first signal to this process
_agreed: BaseException | None = None  # the exception that all ranks exit with


# -- agreeing on a stop ----------------------------------------------------------------------------------------------


def listen() -> None:
    """From now on the signals request a stop instead of killing this process; they still kill its loader workers."""
    main_process = os.getpid()

    def note(number, _):
        global _received
        if os.getpid() != main_process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif _received is None:
            _received = signal.Signals(number)

    for number in SIGNALS:
        signal.signal(number, note)


def received() -> int:
    """Number of the signal that this process received, or 0.

    Ranks receive a signal at different moments, so they agree on the sum of these numbers.
    """
    return _received or 0


def agree_on_signal(any_received: bool) -> None:
    """All ranks call this after the same update; ``any_received``: at least one of them received a signal."""
    global _agreed
    if any_received and _agreed is None:
        name = _received.name if _received else "a signal to another rank"
        logger.warning(f"{name}: stopping after this update with a checkpoint; run the same command again to resume")
        _agreed = SystemExit(128 + (_received or signal.SIGTERM))


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

    wrap_once(train, "should_stop_early", check)
    wrap_once(train, "validate_and_save", leave)

"""How a run of many processes ends early and together: a signal or a collapse asks for it, the ranks agree, a checkpoint is written, all leave.

``compat.training.stop_after_saving`` asks here after every update.
"""

import logging
import os
import signal

from ..errors import UserError

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What batch systems send before they end a job (SLURM: ``--signal=USR1@120``)."""

_received: signal.Signals | None = None  # by this process
_agreed: BaseException | None = None  # what all ranks leave with


def listen() -> None:
    """From now on the signals ask for a stop instead of killing this process; its children, loader workers, die of them as ever."""
    own = os.getpid()

    def note(number, _):
        global _received
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif _received is None:
            _received = signal.Signals(number)

    for number in SIGNALS:
        signal.signal(number, note)


def received() -> int:
    """Number of the signal that this process got; 0: none. Ranks get it at different moments, so they agree on the sum of these."""
    return _received or 0


def agree_on_signal(any_received: bool) -> None:
    """All ranks call this at the same update; ``any_received``: one of them got a signal."""
    global _agreed
    if any_received and _agreed is None:
        name = _received.name if _received else "a signal to another rank"
        logger.warning(f"{name}: stopping after this update with a checkpoint; the same command goes on from there")
        _agreed = SystemExit(128 + (_received or signal.SIGTERM))


def agree_on_error(message: str) -> None:
    """All ranks call this at the same update, because of figures that are the same everywhere."""
    global _agreed
    _agreed = _agreed or UserError(message)


def agreed() -> BaseException | None:
    """What to leave with once a checkpoint is written; None: go on."""
    return _agreed

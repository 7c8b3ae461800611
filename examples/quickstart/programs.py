"""Runs the programs of the quickstart, which end with it: no training is left behind."""

import ctypes
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path


class Stopped(BaseException):
    """A signal ends the run."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Programs:
    """Runs programs one at a time, in a folder. Signals to this process are passed on, and the program's end is waited
    for."""

    def __init__(self, folder: str | Path):
        self.folder = folder
        self.running: subprocess.Popen | None = None
        self.received: int | None = None

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
                signal.signal(number, self.pass_on)

    def pass_on(self, number: int, _) -> None:
        self.received = number
        if self.running is None:
            raise Stopped(number)
        self.running.send_signal(number)

    def run(self, command: list, take_line: Callable[[str], object]) -> int:
        """Run a program to its end and return its status; ``take_line`` receives its output.

        The program has a group of its own, so that Ctrl-C reaches it only once, through this process. Raises Stopped
        after a signal.
        """
        self.running = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self.folder,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            for line in self.running.stdout:
                take_line(line)
            status = self.running.wait()
        finally:
            self.running.terminate()  # has an effect only after an error
            self.running = None
        if self.received is not None:
            raise Stopped(self.received)
        return status


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # of Linux


def end_with_parent() -> None:
    """In a new program: it receives SIGTERM if this process is killed, and a training then saves."""
    LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))

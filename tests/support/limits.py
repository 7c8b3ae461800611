"""Work in a forked process with limits of memory, which may die without harm to the tests."""

import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # otherwise every child that reads a checkpoint imports it, which takes two seconds
from threadpoolctl import threadpool_limits

GB = 1 << 30
PR_SET_PDEATHSIG = 1  # of Linux


class TooSlow(BaseException):
    """Something took longer than it may."""


WAITING = 10
"""How many times longer than its processor time something may take, on a busy machine."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TooSlow in this context after so many seconds of processor time, or ``WAITING`` times as many on the clock.

    The latter finds what waits for ever, such as reading from a pipe.
    """

    def too_slow(*_):
        raise TooSlow(f"more than {seconds} s of processor time, or {WAITING * seconds} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, WAITING * seconds)}
    previous = {number: signal.signal(number, too_slow) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, previous[number])


def in_a_child(work: Callable[[], Any], memory: int = GB) -> Any:
    """What ``work`` returns in a forked process, without its output.

    ``memory``: bytes that it may have beyond those of the test process.

    Raises AssertionError, with the end of the traceback, if it raised an exception or died.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=limited, args=(work, memory, sender))
    child.start()
    sender.close()
    try:
        result, failure = receiver.recv()
    except EOFError:
        result, failure = None, "the process died"
    child.join()
    assert failure is None and child.exitcode == 0, f"{failure}; exit status {child.exitcode}"
    return result


def limited(work: Callable[[], Any], memory: int, sender: Connection) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))  # it ends with the test process
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)  # the threads of the parent do not survive a fork
    threadpool_limits(1)
    logging.disable(logging.CRITICAL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    try:
        sender.send((work(), None))
    except BaseException:
        sender.send((None, traceback.format_exc(limit=-3)[-3000:]))

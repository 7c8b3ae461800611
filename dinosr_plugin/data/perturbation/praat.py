"""Praat in a process of its own: another voice for a waveform, and F0.

Praat's "Change gender" moves formants and F0 by resampling and PSOLA (Boersma and Weenink). It raises errors for
silence, noise and very short sounds, and can loop for ever on some input (Praat issue 1926; parselmouth 0.4.7 contains
Praat 6.1.38, which is older than the correction). So each process that uses Praat starts one of its own
(``praat_worker``) when it needs it first, after data loaders have forked. It ends with the process that started it.

How long Praat may take is measured in processor time, so that a busy machine changes no result.
"""

import atexit
import importlib.util
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from ...errors import UserError, printable
from ..audio import SAMPLE_RATE
from .praat_worker import FAILED, FIX, MEASURE, MISSING, REPLY, REQUEST, SHIFT, TRACK

# -P: nothing is imported from the current folder
COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "dinosr_plugin.data.perturbation.praat_worker")
PACKAGE_ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
INSTALL = (
    'pip install "dinosr-plugin[perturb]" (praat-parselmouth, GPL-3), or do without: task.perturb_by=resample, '
    "dinosr perturb --by resample, dinosr probe without --task f0"
)
CPU_SECONDS, CPU_SHARE = 3.0, 0.5
"""Processor time that an answer may take: so many seconds, and so many for each second of sound. Praat takes about 0.01
seconds for each second of sound."""
WALL_SECONDS, WALL_FACTOR = 60.0, 20.0
"""The limit on elapsed time, which only a badly overloaded machine reaches: 60 s and 20 times the processor time."""
ATTEMPTS = 2  # if Praat's process is killed by something else


class PraatFailed(Exception):
    """Praat could not process a sound; the message says why, in one line."""


class Ended(Exception):
    """Praat's process has ended before it answered."""


# ---- what Praat does -------------------------------------------------------------------------------------------------


def shift_voice(
    wave: np.ndarray, f0: tuple[float, float], formant: float, pitch: float, spread: float, seed: int = 0
) -> np.ndarray:
    """Another voice, (T,) float32 at 16 kHz -> (T,) float32, to within a few samples.

    Args:
        f0: floor and ceiling, in Hz, between which F0 is looked for.
        formant: ratio of the formants.
        pitch: ratio of the median F0.
        spread: factor of the distance of F0 from its median.
        seed: of Praat's random numbers, with which it repeats pieces of voiceless sound.

    Raises:
        PraatFailed: no voiced frame, an error of Praat, or too much time.
        UserError: parselmouth is not installed.
    """
    return ask(SHIFT, wave, *f0, formant, pitch, spread, seed)


def fix_voice(
    wave: np.ndarray, f0: tuple[float, float], formant: float, median: float, spread: float, seed: int = 0
) -> np.ndarray:
    """``shift_voice`` with ``median`` Hz as the new median F0; 0: that of the waveform. Errors as ``shift_voice``."""
    return ask(FIX, wave, *f0, formant, median, spread, seed)


def measure_f0(wave: np.ndarray, f0: tuple[float, float]) -> np.ndarray:
    """F0 of the voiced frames in Hz, (n,) float32, by autocorrelation. Arguments and errors as ``shift_voice``."""
    return ask(MEASURE, wave, *f0)


def track_f0(wave: np.ndarray, f0: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """F0 over time: the times of Praat's frames in seconds and F0 in Hz, 0 without voice, each (n,).

    Frames are 0.8 / floor seconds apart. Arguments and errors as ``shift_voice``.
    """
    first, step, *hertz = ask(TRACK, wave, *f0).astype(np.float64)
    return first + step * np.arange(len(hertz)), np.array(hertz)


def require_parselmouth() -> None:
    """Raise UserError unless parselmouth is installed."""
    if importlib.util.find_spec("parselmouth") is None:
        raise UserError(f"package parselmouth is missing, with which F0 is measured and voices are changed; {INSTALL}")


# ---- the process -----------------------------------------------------------------------------------------------------


class PraatProcess:
    """A running ``praat_worker``. Not thread-safe."""

    def __init__(self):
        path = os.pathsep.join([PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C in a terminal does not reach it: it ends with this process
        )
        self.requests, self.replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)

    def ask(self, request: bytes, deadline: float) -> tuple[int, bytes]:
        """Status and values of the reply. Raises Ended, and TimeoutError after ``deadline`` (``time.monotonic``)."""
        view = memoryview(request)
        while view:
            self.wait(self.requests, select.POLLOUT, deadline)
            try:
                view = view[os.write(self.requests, view) :]
            except BrokenPipeError:
                raise Ended from None
        status, count = REPLY.unpack(self.read(REPLY.size, deadline))
        return status, self.read(count if status else 4 * count, deadline)

    def read(self, size: int, deadline: float) -> bytes:
        parts = []
        while size:
            self.wait(self.replies, select.POLLIN, deadline)
            part = os.read(self.replies, size)
            if not part:
                raise Ended
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def wait(self, file: int, event: int, deadline: float) -> None:
        poll = select.poll()  # not select.select, which cannot wait for file numbers above 1023
        poll.register(file, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError

    def stop(self) -> int:
        """End the process at once; returns its status: minus the number of the signal that has ended it."""
        self.close_pipes()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(0.5)  # it has ended, or ends because its input is closed
        self.process.kill()
        return self.process.wait()

    def close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


_process: PraatProcess | None = None
_lock = threading.Lock()  # a loader without workers reads ahead in a thread, while another validates


def ask(kind: int, wave: np.ndarray, *numbers: float) -> np.ndarray:
    """The values of Praat's reply, (n,) float32. ``numbers``: F0 floor and ceiling, then those of ``praat_worker``."""
    limit = CPU_SECONDS + CPU_SHARE * len(wave) / SAMPLE_RATE
    numbers += (0.0,) * (6 - len(numbers))
    request = REQUEST.pack(kind, len(wave), SAMPLE_RATE, *numbers, limit)
    request += np.ascontiguousarray(wave, dtype=np.float32).tobytes()
    with _lock:
        status, values = exchange(request, limit)
    if status == MISSING:
        raise UserError(f"package parselmouth cannot be imported ({printable(values.decode())}); {INSTALL}")
    if status == FAILED:
        raise PraatFailed(printable(values.decode()))
    return np.frombuffer(values, dtype=np.float32)


def exchange(request: bytes, limit: float) -> tuple[int, bytes]:
    """Status and values of the reply. A process that something else has killed is replaced once.

    Raises PraatFailed if it takes more than ``limit`` seconds of processor time, or is killed again.
    """
    global _process
    for _ in range(ATTEMPTS):
        if _process is None:
            _process = PraatProcess()
        answered = False
        try:
            reply = _process.ask(request, time.monotonic() + WALL_SECONDS + WALL_FACTOR * limit)
            answered = True
            return reply
        except TimeoutError:
            raise PraatFailed("Praat did not answer in time") from None
        except Ended:
            pass
        finally:
            if not answered:
                ended, _process = _process, None
                status = ended.stop()
        if status == -signal.SIGPROF:
            raise PraatFailed(f"Praat took more than {limit:.1f} s of processor time")
    raise PraatFailed(f"Praat has ended with status {status}")


def close() -> None:
    """End this process's Praat, if it runs. The next request starts another one."""
    global _process
    with _lock:
        if _process is not None:
            _process.stop()
            _process = None


def forget() -> None:
    """In a fork: the parent's Praat is not that of this process."""
    global _process, _lock
    _lock = threading.Lock()
    if _process is not None:
        _process.close_pipes()
        _process.process.returncode = 0  # not a child of this process: nothing to wait for
        _process = None


os.register_at_fork(after_in_child=forget)
atexit.register(close)

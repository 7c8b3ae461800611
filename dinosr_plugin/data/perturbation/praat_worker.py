"""The process in which Praat runs: ``python -m dinosr_plugin.data.perturbation.praat_worker``, started by ``praat.py``.

It reads requests from its standard input and answers on its standard output until the input is closed or its parent
has died. Nothing but NumPy and Praat is imported. A request that takes too much processor time ends the process: Praat
can loop for ever, in C++ code that nothing else interrupts.

    request: REQUEST (kind, samples, rate in Hz, F0 floor and ceiling in Hz; the three numbers of a change and a seed,
             or zeros; processor seconds that the answer may take), then the samples, float32
    reply:   REPLY (status, number of values), then the values: float32, or bytes of a UTF-8 message unless status is OK
"""

import os
import select
import signal
import struct
import sys
from typing import Any

import numpy as np

REQUEST = struct.Struct("<BQ8d")
REPLY = struct.Struct("<BQ")
SHIFT, FIX, MEASURE, TRACK = 1, 2, 3, 4
"""Kinds. SHIFT: formant ratio, ratio of the median F0, factor of the F0 range -> the waveform with another voice. FIX:
the same, with the new median F0 in Hz; 0: the old one. MEASURE -> F0 of the voiced frames in Hz. TRACK -> the time of
the first frame and the distance of frames, in seconds, then F0 of every frame in Hz, 0 without voice."""
OK, FAILED, MISSING = 0, 1, 2
"""Statuses. FAILED: Praat cannot do that with this sound. MISSING: parselmouth cannot be imported."""
PATIENCE = 1.0  # seconds between two looks at whether the parent is alive


class NoVoice(Exception):
    """Praat has found no voiced frame."""


def main() -> None:
    parent = os.getppid()
    requests, replies = 0, os.dup(1)
    os.dup2(2, 1)  # whatever else is printed does not become part of a reply
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the parent may ignore it
    while wait_for_request(requests, parent):
        header = read(requests, REQUEST.size)
        if len(header) < REQUEST.size:  # the pipe is closed
            return
        kind, samples, rate, *numbers, seconds = REQUEST.unpack(header)
        data = read(requests, 4 * samples)
        if len(data) < 4 * samples:
            return
        wave = np.frombuffer(data, dtype=np.float32)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process
        status, values = answer(kind, wave, rate, *numbers)
        signal.setitimer(signal.ITIMER_PROF, 0)
        write(replies, REPLY.pack(status, len(values)) + bytes(values if status else values.data))


def wait_for_request(requests: int, parent: int) -> bool:
    """Whether there is something to read; False if the parent has died. Its forks may still hold the pipe open."""
    while not select.select([requests], [], [], PATIENCE)[0]:
        if os.getppid() != parent:
            return False
    return True


def read(file: int, size: int) -> bytes:
    """Exactly this many bytes, or fewer at the end of the file."""
    parts = []
    while size and (part := os.read(file, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def answer(kind: int, wave: np.ndarray, rate: float, *numbers: float) -> tuple[int, Any]:
    """Status, and the values (n,) float32 or the bytes of a message."""
    try:
        import parselmouth
    except ImportError as error:
        return MISSING, str(error).encode()
    try:
        return OK, np.ascontiguousarray(work(kind, wave, rate, *numbers), dtype=np.float32)
    except (parselmouth.PraatError, NoVoice) as error:
        return FAILED, (str(error).strip().splitlines() or ["an error without a message"])[0].encode()


def work(
    kind: int,
    wave: np.ndarray,
    rate: float,
    floor: float,
    ceiling: float,
    formant: float = 0.0,
    median: float = 0.0,
    spread: float = 0.0,
    seed: float = 0.0,
) -> np.ndarray:
    """The values of a reply. Raises PraatError and NoVoice."""
    import parselmouth

    sound = parselmouth.Sound(wave.astype(np.float64), rate)
    # 0.8 / floor: the time step with which Praat's own "Change gender" looks for F0
    pitch = sound.to_pitch_ac(time_step=0.8 / floor, pitch_floor=floor, pitch_ceiling=ceiling)
    frequencies = pitch.selected_array["frequency"]
    voiced = frequencies[frequencies > 0]
    if kind == MEASURE:
        return voiced
    if kind == TRACK:
        return np.concatenate([[pitch.x1, pitch.dx], frequencies])
    if not len(voiced):
        raise NoVoice("no voiced frame")
    new_median = median * float(np.median(voiced)) if kind == SHIFT else median
    # Praat's PSOLA places pieces of voiceless sound at random
    parselmouth.praat.run(f"random_initializeWithSeedUnsafelyButPredictably ({int(seed)})")
    changed = parselmouth.praat.call([sound, pitch], "Change gender", formant, new_median, spread, 1.0)
    return changed.values[0]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)

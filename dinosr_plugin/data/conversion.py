"""Sound of any format as 16 kHz mono, in pieces of bounded memory, and copies in that format."""

import errno
import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from ..files import unwritable, write_bytes
from ..modules.frame_grid import SAMPLE_RATE
from .audio import NOT_FINITE, TRUNCATED, AudioError, Header, OtherAudio, blocks, header_of, open_sound

SECONDS = 60  # of a recording that are converted to 16 kHz at a time
CANCELLED = 0.01  # channels cancel if the RMS of their mean is less than this share of that of the loudest channel
FULL_SCALE = 32767 / 32768  # of 16-bit samples, the largest positive one


class MonoFile:
    """The mean of a file's channels, or one of them, read in pieces that may overlap: ``with MonoFile(path) as file``.

    The file is decoded from its start to its end, so that every piece contains the samples of the whole file, whatever
    the codec (within rounding, for MP3); only the last piece is kept. A piece that begins before the one read last
    starts again.

    Attributes:
        header: the file's.
        peak: largest absolute value so far; NaN if a sample is.
        channel: the channel that is read, from 0; None for the mean of all.
    """

    def __init__(self, path: Path, channel: int | None = None):
        self.path, self.channel, self.stack, self.peak = path, channel, ExitStack(), 0.0
        self.measured, self.energies, self.mean_energy = 0, np.zeros(1), 0.0  # of the first ``measured`` samples

    def __enter__(self) -> "MonoFile":
        self.file = self.stack.enter_context(open_sound(self.path))
        self.header = header_of(self.file)
        self.start, self.kept = 0, np.zeros(0, dtype=np.float32)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self.stack.__exit__(*error)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop`` at the file's rate, (stop - start,). Raises AudioError if it ends earlier."""
        if start < self.start:
            self.stack.close()
            self.__enter__()
        first, parts = self.start, [self.kept]  # the pieces that have been decoded, from sample `first` on
        end = first + len(self.kept)
        for block in blocks(self.file, stop - end):
            mono = self.mono(block, end)
            self.peak = float(np.maximum(self.peak, np.abs(mono).max()))  # NaN if one of them is
            parts.append(mono)
            end += len(mono)
            while parts and first + len(parts[0]) <= start:
                first += len(parts.pop(0))
        if end < stop:
            raise AudioError(TRUNCATED)
        self.start, self.kept = start, np.concatenate([self.kept[:0], *parts])[start - first :]
        return self.kept[: stop - start]

    def mono(self, block: np.ndarray, start: int) -> np.ndarray:
        """Samples from ``start`` on, (n,) or (n, channels) -> (n,). The first time, their energies are added up."""
        if block.ndim == 1:
            return block
        mean = block.mean(axis=1)
        if start >= self.measured:
            self.measured = start + len(block)
            self.energies = self.energies + np.square(block, dtype=np.float64).sum(axis=0)  # (channels,)
            self.mean_energy += float(np.square(mean, dtype=np.float64).sum())
        return mean if self.channel is None else block[:, self.channel]

    def loudest_if_cancelled(self) -> int | None:
        """The loudest channel if the channels cancel each other in what has been read, such as x and -x; else None."""
        loudest = int(self.energies.argmax())
        return loudest if self.mean_energy < CANCELLED**2 * self.energies[loudest] else None


def samples_at_16k(header: Header) -> int:
    """Length of a file once it is resampled to 16 kHz, rounded up."""
    return -(-header.samples * SAMPLE_RATE // header.rate)


def read_16k(file: MonoFile, start: int, stop: int) -> np.ndarray:
    """Samples ``start`` to ``stop`` of the audio at 16 kHz, mono: (stop - start,) float32.

    Uses polyphase resampling and the mean of the channels.

    A sample has the same value in whichever range it is read: each range is extended to whole seconds plus one second
    at both ends, and the resampling filter spans only a few milliseconds. Raises AudioError if the file ends too early.
    """
    rate, samples = file.header.rate, file.header.samples
    if rate == SAMPLE_RATE:
        return file.read(start, stop)
    from scipy.signal import resample_poly  # the import takes half a second

    first, last = max(0, start // SAMPLE_RATE - 1), -(-stop // SAMPLE_RATE) + 1  # seconds
    sound = file.read(first * rate, min(samples, last * rate))
    shared = math.gcd(rate, SAMPLE_RATE)
    wave = resample_poly(sound, SAMPLE_RATE // shared, rate // shared)
    return wave[start - first * SAMPLE_RATE : stop - first * SAMPLE_RATE]


def mean_and_variance(file: MonoFile) -> tuple[float, float]:
    """Of the audio at 16 kHz, as a whole, computed in float64 with the memory of a minute; (0, 0) without samples.

    Raises AudioError if the file cannot be read or contains NaN or infinity.
    """
    samples, step = samples_at_16k(file.header), SECONDS * SAMPLE_RATE
    total, squares = 0.0, 0.0
    for start in range(0, samples, step):
        block = read_16k(file, start, min(samples, start + step)).astype(np.float64)
        total += block.sum()
        squares += np.square(block).sum()
    if not math.isfinite(squares):
        raise OtherAudio(NOT_FINITE)
    mean = total / max(1, samples)
    return mean, max(0.0, squares / max(1, samples) - mean**2)


@dataclass(frozen=True)
class Copy:
    """What ``convert`` has written, and from what.

    ``peak``: of the source at 16 kHz mono; 1 is full scale, and the copy is scaled down if it is more. ``channel``: the
    only channel that is used, because the mean of all is close to silence; None for the mean.
    """

    samples: int  # at 16 kHz
    source: Header
    peak: float
    channel: int | None = None


def convert(source: Path, target: Path) -> Copy:
    """Writes ``source`` as 16 kHz mono 16-bit FLAC, in bounded memory.

    The channels are averaged, and the mean is resampled with a polyphase filter. If the channels cancel each other, the
    loudest one is used in place of the mean. Nothing is clipped: if the result exceeds full scale, as of files of
    floats, and where resampling overshoots, the whole file is scaled so that its peak is full scale. The samples of a
    file that is 16 kHz mono 16-bit already are unchanged.

    Raises AudioError for an unreadable source, UserError for an unwritable target.
    """
    copy, cancelled = copy_channel(source, target, None)
    return copy if cancelled is None else copy_channel(source, target, cancelled)[0]


def copy_channel(source: Path, target: Path, channel: int | None) -> tuple[Copy, int | None]:
    """``convert`` of this channel, or of the mean; also returns ``MonoFile.loudest_if_cancelled``."""
    with MonoFile(source, channel) as file:
        peak = write_copy(file, target, 1.0)
        if peak > 1:
            write_copy(file, target, FULL_SCALE / peak)
        return Copy(samples_at_16k(file.header), file.header, peak, channel), file.loudest_if_cancelled()


def write_copy(file: MonoFile, target: Path, scale: float) -> float:
    """Write the file at 16 kHz, times ``scale``; returns its peak before scaling. Errors as ``convert``."""
    samples, step, peak = samples_at_16k(file.header), SECONDS * SAMPLE_RATE, 0.0
    with writing(target), sf.SoundFile(os.fsencode(target), "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as copy:
        for start in range(0, samples, step):
            wave = read_16k(file, start, min(samples, start + step))
            if not math.isfinite(file.peak):
                raise OtherAudio(NOT_FINITE)
            peak = max(peak, float(np.abs(wave).max()))
            copy.write(to_pcm(wave * np.float32(scale)))
    return peak


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raises UserError if a copy cannot be written. An OSError would be taken for one about the source."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except sf.SoundFileError as error:
            write_bytes(target, bytes(1 << 20))  # the system tells why, libsndfile does not
            raise OSError(errno.EIO, str(error)) from error
    except OSError as error:
        raise unwritable(str(target), error) from error


def write_sound(path: Path, pcm: np.ndarray) -> None:
    """Write (T,) int16 at 16 kHz as FLAC or WAV, into the unfinished folder of an output. Raises OSError."""
    # libsndfile does not tell why a file cannot be written, the system does
    write_bytes(path, encode_sound(pcm, path.suffix[1:]))


def encode_sound(pcm: np.ndarray, kind: str) -> memoryview:
    """The bytes of a file with (T,) int16 at 16 kHz; ``kind``: flac or wav."""
    data = io.BytesIO()
    sf.write(data, pcm, SAMPLE_RATE, subtype="PCM_16", format=kind)
    return data.getbuffer()


def read_whole_at_16k(path: Path, max_minutes: float) -> np.ndarray:
    """A file as 16 kHz mono, (T,) float32 from -1 to 1: scaled if its peak is higher, with one channel if they cancel.

    Raises AudioError for a file that cannot be read or is longer than ``max_minutes``.
    """
    with MonoFile(path) as file:
        samples = samples_at_16k(file.header)
        if samples > max_minutes * 60 * SAMPLE_RATE:
            raise OtherAudio(f"longer than {max_minutes:g} minutes; split it with `dinosr segment`")
        if samples == 0:
            raise AudioError("contains no samples; remove it or fetch it again")
        wave = read_16k(file, 0, samples)
        if (channel := file.loudest_if_cancelled()) is not None:
            with MonoFile(path, channel) as only:
                wave = read_16k(only, 0, samples)
        if not math.isfinite(file.peak):
            raise OtherAudio(NOT_FINITE)
        return wave / np.float32(max(1.0, np.abs(wave).max()))


def to_pcm(wave: np.ndarray) -> np.ndarray:
    """(T,) from -1 to 1 -> (T,) int16."""
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)

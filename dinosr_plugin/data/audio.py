"""Audio files on disk: their headers, and all or part of their samples.

A problem with one file is an ``AudioError``; the tools collect these and report them together.
"""

import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import soundfile as sf

from ..modules.frame_grid import SAMPLE_RATE

BLOCK = 1 << 20  # samples of all channels decoded at a time (65 s of 16 kHz mono), which bounds the memory
# What a header may claim. Slower recordings hold no speech; 768 kHz is the highest rate of audio converters. The filter
# that resamples has up to 20 taps for each Hz of the higher rate, so the rate also bounds its size (120 MB).
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_SAMPLES = 1 << 40  # two years at 16 kHz
# Prefixes of libsndfile's names of codecs that decode to the same samples from the middle of a file as from its start.
STATELESS = ("PCM", "FLOAT", "DOUBLE")
WAITS = (1.0, 2.0)  # seconds before a file is read again: a network disk, or another process is writing the file
UNKNOWN_LENGTH = 0x7F000000  # programs that write to a pipe state a length of 2 or 4 GiB, or a little less
MAX_CHUNKS = 1000  # of a WAV or AIFF file, before its samples
TRUNCATED = "truncated: shorter than its header says; fetch it again"
NOT_FINITE = "contains NaN or infinite samples; remove it or create it again"
MONO_COPIES = "make 16 kHz mono copies with `dinosr manifest folder ROOT --convert NEW_DIR --out DIR`"
REMAKE_MANIFEST = "make the manifest again with `dinosr manifest`"

Result = TypeVar("Result")


class AudioError(ValueError):
    """Why one audio file cannot be used, and the remedy; the caller adds the file's name."""


class OtherAudio(AudioError):
    """An intact file of another format, or with samples that are not numbers: reading it again would not help."""


@dataclass(frozen=True)
class Header:
    """Length and format of an audio file, as its header states them.

    ``unfinished``: the header of a WAV file states no length because the recorder was switched off; the length is that
    of the samples that the file contains.
    """

    samples: int  # per channel
    rate: int  # Hz
    channels: int
    unfinished: bool = False


@dataclass(frozen=True)
class Sound:
    """What decoding a file shows."""

    header: Header
    finite: bool  # no NaN and no infinite sample
    silent: bool  # every sample is exactly zero


@contextmanager
def open_sound(path: Path) -> Iterator[sf.SoundFile]:
    """A sound file, open for reading; every reader of this package opens it here.

    Every error of the system and of libsndfile within the context becomes an ``AudioError``, which is also raised for
    anything but a regular file, and for rates and lengths outside the bounds above. No sample has been decoded by then.
    """
    require_sound(path)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(sf.SoundFile(os.fsencode(path)))  # bytes: a name need not be UTF-8
            if file.frames == 0 and (places := unfinished_lengths(path)):
                file = stack.enter_context(sf.SoundFile(stack.enter_context(UnfinishedWav(path, places))))
            if not MIN_RATE <= file.samplerate <= MAX_RATE:
                what = f"{file.samplerate} Hz, a rate not between {MIN_RATE} and {MAX_RATE} Hz"
                raise OtherAudio(f"its header states {what}; remove it or fetch it again")
            if file.frames > MAX_SAMPLES:
                raise AudioError(f"its header states {file.frames} samples; remove it or fetch it again")
            if file.subtype.startswith("MPEG"):
                file.seek(0)  # as soundfile.read: without it, the first samples of MP3 files differ in rounding
            yield file
    except (sf.SoundFileError, OSError) as error:
        raise unreadable(error) from error


def require_sound(path: Path) -> None:
    """Raises AudioError for anything but a regular file that is not empty."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"no such file; restore it or {REMAKE_MANIFEST}") from None
    except OSError as error:
        raise unreadable(error) from error
    except ValueError as error:  # a null character
        raise AudioError(f"its name cannot be used ({error}); {REMAKE_MANIFEST}") from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe might wait for ever
        raise AudioError("not a file, but a folder, a pipe or a device; remove it")
    if status.st_size == 0:
        raise AudioError("zero bytes long; remove it or fetch it again")


class UnfinishedWav(io.FileIO):
    """A WAV file in which the 4-byte fields at these places read 0xFFFFFFFF: as long as the file contains samples."""

    def __init__(self, path: Path, places: tuple[int, ...]):
        super().__init__(path)
        self.places = places

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer)
        for place in self.places:
            for at in range(max(place, start), min(place + 4, start + count)):
                buffer[at - start : at - start + 1] = b"\xff"
        return count


class SoundChunk(NamedTuple):
    """Where a WAV or AIFF file contains its samples: the length of the file and of the samples as the header states
    them, where the latter is stated, and the number of bytes that follow. All in bytes."""

    file_length: int
    length: int
    place: int
    available: int


def sound_chunk(path: Path) -> SoundChunk | None:
    """None for other formats, and where the samples are not found."""
    with open(path, "rb") as file:
        kind, size = file.read(4), os.fstat(file.fileno()).st_size
        if kind not in (b"RIFF", b"RIFX", b"FORM"):
            return None
        order: Any = "little" if kind == b"RIFF" else "big"
        file_length = int.from_bytes(file.read(4), order)
        file.seek(12)
        for _ in range(MAX_CHUNKS):
            name, length = file.read(4), int.from_bytes(file.read(4), order)
            if name in (b"data", b"SSND"):
                return SoundChunk(file_length, length, file.tell() - 4, size - file.tell())
            if not name:
                return None
            file.seek(length + length % 2, os.SEEK_CUR)
    return None


def is_truncated(path: Path) -> bool:
    """Whether a WAV or AIFF file contains fewer samples than its header states, which libsndfile does not report.

    The length of the samples decides, not that of the file: some programs state the latter wrongly, or leave it 0, and
    no sample is missing. One byte may be missing: some programs count the padding of an odd length without writing it.
    A stream, whose length was not known when its header was written, cannot be told from a file that was cut.
    """
    chunk = sound_chunk(path)
    return chunk is not None and chunk.available + 1 < chunk.length < UNKNOWN_LENGTH


def unfinished_lengths(path: Path) -> tuple[int, ...]:
    """Places of the two lengths in a WAV header that a recorder never filled in; () for other files.

    Recorders and Python's ``wave`` write the header of an empty file first, and its lengths at the end. If they are
    switched off before, samples follow that are outside of the file as its header describes it. An empty file whose
    header was completed has its other chunks inside.
    """
    chunk = sound_chunk(path)
    if chunk is None or chunk.length or not chunk.available or chunk.file_length + 8 > chunk.place + 4:
        return ()
    return (4, chunk.place)


def header_of(file: sf.SoundFile) -> Header:
    """The header of a file from ``open_sound``."""
    return Header(file.frames, file.samplerate, file.channels, isinstance(file.name, UnfinishedWav))


def read_header(path: Path) -> Header:
    """Length, rate and channels, in a fraction of a millisecond; also reads the last sample, to detect truncated files.

    A file whose codec cannot be read from the middle (GSM 6.10) is decoded for that; so is MP3, at 2000 times real
    time, because libmpg123 prints errors about intact files after a seek. Raises AudioError for a file that is missing,
    empty, truncated, or not audio.
    """
    with open_sound(path) as file:
        header = header_of(file)
        if is_truncated(path):
            raise AudioError(TRUNCATED)
        if header.samples == 0:
            raise AudioError("contains no samples (zero length or truncated); remove it or fetch it again")
        failure: Exception | None = None
        try:
            if not file.subtype.startswith("MPEG"):
                file.seek(header.samples - 1)
                if len(file.read(1)) == 1:
                    return header
        except sf.SoundFileError as error:
            failure = error
    if decoded_samples(path) != header.samples:
        raise unreadable(failure) if failure else AudioError(TRUNCATED)
    return header


def decoded_samples(path: Path) -> int:
    """Number of samples that can be decoded from the start; 0 if decoding fails."""
    try:
        with open_sound(path) as file:
            return sum(len(block) for block in blocks(file))
    except AudioError:
        return 0


def unreadable(error: Exception) -> AudioError:
    """The AudioError for an error of libsndfile or of the system."""
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or "decoding fails"
    return AudioError(f"unreadable or truncated ({reason.strip().rstrip('.')}); remove it or fetch it again")


def blocks(file: sf.SoundFile, length: int | None = None) -> Iterator[np.ndarray]:
    """The next ``length`` samples, or all: blocks (n,), or (n, channels), float32. Ends early where the file does.

    Raises AudioError if decoding fails.
    """
    at_a_time = max(1, BLOCK // file.channels)
    while length is None or length > 0:
        try:
            block = file.read(at_a_time if length is None else min(at_a_time, length), dtype="float32")
        except (sf.SoundFileError, OSError) as error:
            raise unreadable(error) from error
        if not len(block):
            return
        yield block
        length = None if length is None else length - len(block)


def require_match(file: sf.SoundFile, samples: int, rate: int) -> None:
    """Raises AudioError unless the header states one channel, this rate and this number of samples."""
    header = header_of(file)
    if wrong := wrong_format(header, rate):
        raise OtherAudio(f"{wrong}; {MONO_COPIES}")
    if header.samples == 0:
        raise AudioError("contains no samples; remove it or fetch it again")
    if header.samples != samples:
        raise AudioError(f"{header.samples} samples, but {samples} in the manifest; {REMAKE_MANIFEST}")


def read_sound(path: Path, max_samples: int = MAX_SAMPLES) -> Sound:
    """Decodes the whole file, or its first ``max_samples`` samples: a longer one than in the manifest cannot be used.

    Raises AudioError as ``read_header`` does, and for damage anywhere in the file.
    """
    header = read_header(path)
    finite, silent, count = True, True, 0
    with open_sound(path) as file:
        for block in blocks(file, max_samples):
            finite = finite and bool(np.isfinite(block).all())
            silent = silent and np.count_nonzero(block) == 0
            count += len(block)
    if count != min(header.samples, max_samples):
        raise AudioError(TRUNCATED)
    return Sound(header, finite, silent)


def read_wave(path: Path, samples: int, rate: int = SAMPLE_RATE) -> np.ndarray:
    """All samples of a mono file, (samples,) float32 in [-1, 1]. Raises AudioError as ``read_part`` does."""
    return read_part(path, samples, 0, samples, rate)


def read_part(path: Path, samples: int, start: int, length: int, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Samples ``start`` to ``start + length`` of a mono file, (length,) float32, without decoding the rest.

    If the codec depends on earlier samples, these are decoded too (see ``parts_are_exact``).

    Raises AudioError, before anything is decoded, if the file is not mono at ``rate`` Hz or does not have ``samples``
    samples, and if this part of it is damaged. Damage elsewhere in the file is not detected.
    """
    with open_sound(path) as file:
        require_match(file, samples, rate)
        if start and is_stateless(file):
            file.seek(start)
        else:
            for _ in blocks(file, start):
                pass
        parts = list(blocks(file, length))
    wave = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *parts])
    if len(wave) != length:
        raise AudioError(TRUNCATED)
    if not np.isfinite(wave).all():
        raise OtherAudio(NOT_FINITE)
    return wave


def with_retries(read: Callable[[], Result]) -> Result:
    """``read()``, tried up to three times. Raises AudioError as the last attempt; ``OtherAudio`` is raised at once."""
    for wait in WAITS:
        try:
            return read()
        except OtherAudio:
            raise
        except AudioError:
            time.sleep(wait)
    return read()


def is_stateless(file: sf.SoundFile) -> bool:
    """Whether the codec decodes a sample without those before it."""
    return bool(file.subtype.startswith(STATELESS))


def parts_are_exact(path: Path) -> bool:
    """Whether ``read_part`` reads only the part, and exactly the samples that reading the whole file returns.

    It does not if the codec depends on earlier samples: from the middle of a file, Opus and MP3 give approximately the
    same samples, and GSM files cannot be read. False for a file that cannot be opened.
    """
    try:
        with open_sound(path) as file:
            return is_stateless(file)
    except AudioError:
        return False


def wrong_format(header: Header, rate: int = SAMPLE_RATE) -> str | None:
    """Describes the format of a file that is not mono at ``rate`` Hz; None for one that is."""
    if (header.rate, header.channels) == (rate, 1):
        return None
    return f"{header.rate} Hz, {header.channels} channel(s) instead of {rate} Hz, 1 channel"

"""Audio files on disk: finding them, reading their headers, all or part of their samples, and making 16 kHz mono
copies.

A problem with one file is an ``AudioError``; the tools collect these and report them together.
"""

import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
import soundfile as sf
from tqdm import tqdm

from ..errors import UserError
from ..files import write_bytes
from ..modules.frame_grid import SAMPLE_RATE

SUFFIXES = (".wav", ".flac", ".ogg")
BLOCK = 1 << 20  # samples decoded at a time (65 s), which bounds the memory for recordings of hours
BATCH = 32  # files per task of a thread: one future for each of a million files would take more memory than the results
# Prefixes of libsndfile's names of codecs that decode to the same samples from the middle of a file as from its start.
STATELESS = ("PCM", "FLOAT", "DOUBLE")
NOT_FINITE = "contains NaN or infinite samples; remove it or create it again"
MONO_COPIES = "make 16 kHz mono copies with `dinosr manifest folder ROOT --convert NEW_DIR --out DIR`"
REMAKE_MANIFEST = "make the manifest again with `dinosr manifest`"

Item = TypeVar("Item")
Result = TypeVar("Result")


class AudioError(ValueError):
    """Why one audio file cannot be used, and the remedy; the caller adds the file's name."""


@dataclass(frozen=True)
class Header:
    """Length and format of an audio file, as its header states them."""

    samples: int  # per channel
    rate: int  # Hz
    channels: int


@dataclass(frozen=True)
class Sound:
    """What decoding a whole file shows."""

    header: Header
    finite: bool  # no NaN and no infinite sample
    silent: bool  # every sample is exactly zero


def find_files(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Sorted paths, relative to ``root`` with forward slashes, of the files whose lower-case name ends in a suffix.

    Symbolic links to folders are followed; every folder is visited once. Names that start with a dot (macOS metadata,
    unfinished files of this package) are left out. Raises OSError for a folder that cannot be read.
    """
    paths, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=forbidden, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up the tree
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "lost+found"]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                paths.append(Path(folder, name).relative_to(root).as_posix())
    return sorted(paths)


def forbidden(error: OSError) -> NoReturn:
    """``os.walk`` leaves out folders that cannot be read, unless this raises the error."""
    raise error


def find_audio(root: Path) -> list[str]:
    """``find_files`` for .wav, .flac and .ogg files. Raises UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that contains the audio files")
    paths = find_files(root, SUFFIXES)
    if not paths:
        raise UserError(f"{root}: contains no .wav, .flac or .ogg file; give the folder that contains the audio files")
    return paths


def is_cut_wav(path: Path) -> bool:
    """Whether a RIFF file is shorter than its header states, which libsndfile does not report."""
    with open(path, "rb") as file:
        head = file.read(8)
    declared = int.from_bytes(head[4:8], "little")
    streamed = declared == 0 or declared >= 0x7FFFFFFF  # written to a pipe: the length was unknown
    # tolerate one byte: some programs count the padding byte of an odd chunk but do not write it
    return head[:4] == b"RIFF" and not streamed and declared + 8 > path.stat().st_size + 1


def read_header(path: Path) -> Header:
    """Length, rate and channels, in a fraction of a millisecond; also reads the last sample, to detect truncated files.

    Raises AudioError for a file that is missing, empty, truncated, or not audio.
    """
    try:
        if path.stat().st_size == 0:
            raise AudioError("zero bytes long; remove it or fetch it again")
        if is_cut_wav(path):
            raise AudioError("truncated: shorter than its header says; fetch it again")
        with sf.SoundFile(os.fsencode(path)) as file:  # bytes: a name need not be UTF-8
            header = Header(file.frames, file.samplerate, file.channels)
            if header.samples == 0:
                raise AudioError("contains no samples (zero length or truncated); remove it or fetch it again")
            file.seek(header.samples - 1)
            if len(file.read(1)) != 1:
                raise AudioError("truncated: its last sample cannot be read; fetch it again")
    except FileNotFoundError:
        raise AudioError(f"no such file; restore it or {REMAKE_MANIFEST}") from None
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    return header


def unreadable(error: Exception) -> AudioError:
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or "decoding fails"
    return AudioError(f"unreadable or truncated ({reason.strip().rstrip('.')}); remove it or fetch it again")


def read_sound(path: Path) -> Sound:
    """Decodes the whole file. Raises AudioError as ``read_header`` does, and for damage anywhere in the file."""
    header = read_header(path)
    finite, silent = True, True
    try:
        with sf.SoundFile(path) as file:
            for block in file.blocks(BLOCK, dtype="float32"):
                finite = finite and bool(np.isfinite(block).all())
                silent = silent and np.count_nonzero(block) == 0
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    return Sound(header, finite, silent)


def read_part(path: Path, samples: int, start: int, length: int, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Samples ``start`` to ``start + length`` of a mono file, (length,) float32, without decoding the rest.

    Raises AudioError if the file is not mono at ``rate`` Hz, does not have ``samples`` samples, or if this part of it
    is damaged. Damage elsewhere in the file is not detected.
    """
    try:
        with sf.SoundFile(os.fsencode(path)) as file:
            if wrong := wrong_format(Header(file.frames, file.samplerate, file.channels), rate):
                raise AudioError(f"{wrong}; {MONO_COPIES}")
            if file.frames != samples:
                raise AudioError(f"{file.frames} samples, but {samples} in the manifest; {REMAKE_MANIFEST}")
            file.seek(start)
            wave = file.read(length, dtype="float32")
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    if len(wave) != length:
        raise AudioError("truncated: its end cannot be read; fetch it again")
    if not np.isfinite(wave).all():
        raise AudioError(NOT_FINITE)
    return wave


def parts_are_exact(path: Path) -> bool:
    """Whether ``read_part`` returns exactly the samples that reading the whole file returns, bit by bit.

    It does not if the codec depends on earlier samples: Opus and MP3 give approximately the same samples, and GSM files
    cannot be read in part. False for a file that cannot be opened.
    """
    try:
        with sf.SoundFile(os.fsencode(path)) as file:
            return file.subtype.startswith(STATELESS)
    except (sf.LibsndfileError, OSError):
        return False


def load_wave(path: Path) -> np.ndarray:
    """(T,) float32 in [-1, 1]. Raises UserError for a file that cannot be read or is not 16 kHz mono."""
    try:
        wave, rate = sf.read(path, dtype="float32")
    except (OSError, sf.LibsndfileError) as error:
        raise UserError(f"{path}: {unreadable(error)}; `dinosr check` lists all such files") from error
    if fault := wrong_format(Header(len(wave), rate, 1 if wave.ndim == 1 else wave.shape[1])):
        raise UserError(f"{path}: {fault}; convert it with `dinosr manifest folder ROOT --convert NEW_DIR`")
    return wave


def wrong_format(header: Header, rate: int = SAMPLE_RATE) -> str | None:
    """Describes the format of a file that is not mono at ``rate`` Hz; None for one that is."""
    if (header.rate, header.channels) == (rate, 1):
        return None
    return f"{header.rate} Hz, {header.channels} channel(s) instead of {rate} Hz, 1 channel"


def convert(source: Path, target: Path) -> int:
    """Writes ``source`` as 16 kHz mono 16-bit FLAC and returns the number of samples.

    The channels are averaged, and the mean is resampled with a polyphase filter. The samples of a file that is 16 kHz
    mono 16-bit already are unchanged. Raises AudioError for an unreadable source, OSError for an unwritable target.
    """
    from scipy.signal import resample_poly  # takes half a second to import

    try:
        sound, rate = sf.read(source, dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    mono = sound.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError("contains NaN or infinite samples; remove it or fetch it again")
    if rate != SAMPLE_RATE:
        divisor = math.gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // divisor, rate // divisor)
    pcm = np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)  # the resampling filter can overshoot
    write_sound(target, pcm)
    return len(pcm)


def write_sound(path: Path, pcm: np.ndarray) -> None:
    """Write (T,) int16 at 16 kHz as FLAC or WAV, into the unfinished folder of an output. Raises OSError."""
    data = io.BytesIO()  # libsndfile does not say why it cannot write a file
    sf.write(data, pcm, SAMPLE_RATE, subtype="PCM_16", format=path.suffix[1:])
    write_bytes(path, data.getbuffer())


def default_workers() -> int:
    """One thread per CPU, at most 16: with more, the disk or Python itself is the bottleneck."""
    return min(16, os.cpu_count() or 1)


def map_files(work: Callable[[Item], Result], items: list[Item], workers: int, title: str) -> list[Result | AudioError]:
    """``work(item)`` for every item, in order; where it raises an AudioError, the result is that error.

    Threads suffice because libsndfile decodes without holding Python's global lock. A progress bar is shown on stderr
    if that is a terminal.
    """

    def run(batch: list[Item]) -> list[Result | AudioError]:
        return [result_or_error(work, item) for item in batch]

    batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    results = []
    with tqdm(total=len(items), desc=title, unit="file", disable=None) as bar:
        for batch in run_in_threads(run, batches, workers):
            results.extend(batch)
            bar.update(len(batch))
    return results


def result_or_error(work: Callable[[Item], Result], item: Item) -> Result | AudioError:
    try:
        return work(item)
    except AudioError as error:
        return error


def run_in_threads(run: Callable[[list], list], batches: list[list], workers: int) -> Iterator[list]:
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(run, batches)
        except BaseException:  # also Ctrl-C: do not finish the remaining batches first
            pool.shutdown(wait=False, cancel_futures=True)
            raise

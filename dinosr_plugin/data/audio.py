"""Sound files on disk: finding them, asking for their length, reading them or parts of them, making 16 kHz mono copies.

What is wrong with one file is an ``AudioError``; the tools collect these and report them together.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile as sf
from tqdm import tqdm

from ..errors import UserError

SAMPLE_RATE = 16000  # Hz; the trunk's strides make 50 frames a second of it
SUFFIXES = (".wav", ".flac", ".ogg")
BLOCK = 1 << 20  # samples decoded at a time (65 s): a recording of hours needs no more memory than that
BATCH = 32  # files in one unit of work: a future for each of a million files would take more memory than the answers
STATELESS = (
    "PCM",
    "FLOAT",
    "DOUBLE",
)  # how libsndfile's names of codecs begin that read the same from the middle as from the start
MONO_COPIES = "`dinosr manifest folder ROOT --convert NEW_DIR --out DIR` makes 16 kHz mono copies"

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class AudioError(ValueError):
    """Why one sound file cannot be used, with the remedy; the caller adds the file's name."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself."""

    samples: int  # per channel
    rate: int  # Hz
    channels: int


@dataclass(frozen=True)
class Sound:
    """What reading a file to its end shows."""

    header: Header
    finite: bool  # neither NaN nor infinity
    silent: bool  # every sample is exactly zero


def find_files(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Paths relative to ``root``, with forward slashes, sorted, of the files whose lower-case name ends in one of ``suffixes``.

    Linked folders are followed, each folder once; names that start with a dot (macOS litter, our own unfinished files) are left out.
    """
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link back up the tree
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found.append(Path(folder, name).relative_to(root).as_posix())
    return sorted(found)


def find_audio(root: Path) -> list[str]:
    """Every .wav, .flac and .ogg file under ``root`` as ``find_files`` gives them. Raises UserError where there is none."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds the audio")
    found = find_files(root, SUFFIXES)
    if not found:
        raise UserError(f"{root}: no .wav, .flac or .ogg file in it; give the folder that holds the audio")
    return found


def is_cut_wav(path: Path) -> bool:
    """Whether a RIFF file is shorter than its header says; libsndfile shortens such a file without a word."""
    with open(path, "rb") as file:
        head = file.read(8)
    declared = int.from_bytes(head[4:8], "little")
    streamed = declared == 0 or declared >= 0x7FFFFFFF  # written to a pipe: the length was not known
    # one byte of grace: some programs count the padding byte of an odd chunk and do not write it
    return head[:4] == b"RIFF" and not streamed and declared + 8 > path.stat().st_size + 1


def read_header(path: Path) -> Header:
    """Length, rate and channels, found in a fraction of a millisecond; the last sample is read too, which finds truncated files.

    Raises AudioError for a file that is missing, empty, truncated, or no audio.
    """
    try:
        if path.stat().st_size == 0:
            raise AudioError("zero bytes long; remove it or fetch it again")
        if is_cut_wav(path):
            raise AudioError("truncated: shorter than its header says; fetch it again")
        with sf.SoundFile(os.fsencode(path)) as file:  # bytes: a name need not be UTF-8
            header = Header(file.frames, file.samplerate, file.channels)
            if header.samples == 0:
                raise AudioError("holds no samples (zero length or truncated); remove it or fetch it again")
            file.seek(header.samples - 1)
            if len(file.read(1)) != 1:
                raise AudioError("truncated: its last sample cannot be read; fetch it again")
    except FileNotFoundError:
        raise AudioError("no such file; put it back or make the manifest again") from None
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    return header


def unreadable(error: Exception) -> AudioError:
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or "decoding fails"
    return AudioError(f"unreadable or truncated ({reason.strip().rstrip('.')}); remove it or fetch it again")


def read_sound(path: Path) -> Sound:
    """Decode the whole file. Raises AudioError as ``read_header`` does, and for damage anywhere in the file."""
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
    """(length,) float32, from sample ``start`` on, of a mono file at ``rate`` Hz that should have so many ``samples``; no more is decoded.

    Raises AudioError for a file that cannot be used; what is wrong with the rest of it is not seen.
    """
    try:
        with sf.SoundFile(os.fsencode(path)) as file:
            if wrong := wrong_format(Header(file.frames, file.samplerate, file.channels), rate):
                raise AudioError(f"{wrong}; {MONO_COPIES}")
            if file.frames != samples:
                raise AudioError(
                    f"{file.frames} samples, but {samples} in the manifest; make that again with `dinosr manifest`"
                )
            file.seek(start)
            wave = file.read(length, dtype="float32")
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    if len(wave) != length:
        raise AudioError("truncated: its end cannot be read; fetch it again")
    if not np.isfinite(wave).all():
        raise AudioError("holds NaN or infinite samples; remove it or make it again")
    return wave


def parts_are_exact(path: Path) -> bool:
    """Whether ``read_part`` gives the samples that reading the whole file gives, to the last bit; not where the codec remembers what
    came before: of Opus and MP3 parts are about the same, of GSM there are none. False for what cannot be opened.
    """
    try:
        with sf.SoundFile(os.fsencode(path)) as file:
            return file.subtype.startswith(STATELESS)
    except (sf.LibsndfileError, OSError):
        return False


def load_wave(path: Path) -> np.ndarray:
    """(T,) float32 in [-1, 1]. Raises UserError, one line, for a file that cannot be read or is not 16 kHz mono."""
    try:
        wave, rate = sf.read(path, dtype="float32")
    except (OSError, sf.LibsndfileError) as error:
        raise UserError(f"{path}: {unreadable(error)}; `dinosr check` lists all such files") from error
    if fault := wrong_format(Header(len(wave), rate, 1 if wave.ndim == 1 else wave.shape[1])):
        raise UserError(f"{path}: {fault}; convert it with `dinosr manifest folder ROOT --convert NEW_DIR`")
    return wave


def wrong_format(header: Header, rate: int = SAMPLE_RATE) -> str | None:
    """What to tell about a file that is not mono at ``rate`` Hz, or None."""
    if (header.rate, header.channels) == (rate, 1):
        return None
    return f"{header.rate} Hz, {header.channels} channel(s) instead of {rate} Hz, 1 channel"


def convert(source: Path, target: Path) -> int:
    """Write ``source`` as 16 kHz mono 16-bit FLAC (mean of the channels, polyphase resampling); returns the number of samples.

    A file that is 16 kHz mono 16-bit already keeps every bit.
    Raises AudioError for an unreadable source, UserError for an unwritable target.
    """
    from scipy.signal import resample_poly  # half a second to import

    try:
        sound, rate = sf.read(source, dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    mono = sound.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError("holds NaN or infinite samples; remove it or fetch it again")
    if rate != SAMPLE_RATE:
        shared = math.gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // shared, rate // shared)
    pcm = np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)  # the resampling filter can overshoot
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sf.write(target, pcm, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    except (sf.LibsndfileError, OSError) as error:
        raise UserError(f"cannot write {target}: {error}; is the disk full, or the folder read-only?") from error
    return len(pcm)


def default_workers() -> int:
    """One thread a CPU, 16 at most: beyond that the disk or Python itself is the limit."""
    return min(16, os.cpu_count() or 1)


def map_files(work: Callable[[Item], Answer], items: list[Item], workers: int, title: str) -> list[Answer | AudioError]:
    """``work(item)`` for every item, in their order whatever the number of workers; an AudioError becomes the answer.

    Threads are enough: libsndfile decodes outside Python's lock. A progress bar shows on stderr when that is a terminal.
    """

    def run(batch: list[Item]) -> list[Answer | AudioError]:
        return [answer_or_error(work, item) for item in batch]

    batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    answers = []
    with tqdm(total=len(items), desc=title, unit="file", disable=None) as bar:
        for batch in run_in_threads(run, batches, workers):
            answers.extend(batch)
            bar.update(len(batch))
    return answers


def answer_or_error(work: Callable[[Item], Answer], item: Item) -> Answer | AudioError:
    try:
        return work(item)
    except AudioError as error:
        return error


def run_in_threads(run: Callable[[list], list], batches: list[list], workers: int) -> Iterator[list]:
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(run, batches)
        except BaseException:  # Ctrl-C too: do not finish the other thousand batches first
            pool.shutdown(wait=False, cancel_futures=True)
            raise

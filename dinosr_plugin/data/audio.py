"""Audio files on disk: finding them, reading their headers, all or part of their samples, and making 16 kHz mono
copies.

A problem with one file is an ``AudioError``; the tools collect these and report them together.
"""

import errno
import io
import math
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
import soundfile as sf
from tqdm import tqdm

from ..errors import UserError
from ..files import require_folder, unwritable, write_bytes
from ..modules.frame_grid import SAMPLE_RATE

SUFFIXES = (".wav", ".flac", ".ogg")
# Other formats that libsndfile reads: `convert` makes copies of such files
CONVERTIBLE = (
    ".aif", ".aiff", ".aifc", ".au", ".caf", ".mp2", ".mp3", ".nist", ".oga", ".opus", ".rf64", ".snd", ".sph", ".voc",
    ".w64",
)  # fmt: skip
# Formats that libsndfile cannot read
UNREADABLE = (".3gp", ".aac", ".ac3", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mp4", ".spx", ".webm", ".wma", ".wv")
BLOCK = 1 << 20  # samples of all channels decoded at a time (65 s of 16 kHz mono), which bounds the memory
SECONDS = 60  # of a recording that are converted to 16 kHz at a time
BATCH = 32  # files per task of a thread: one future for each of a million files would take more memory than the results
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

Item = TypeVar("Item")
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


def find_files(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Sorted paths, relative to ``root`` with forward slashes, of the files whose lower-case name ends in a suffix.

    Symbolic links to folders are followed; every folder is visited once. Names that start with a dot (macOS metadata,
    unfinished files of this package) are left out. Raises OSError for a folder that cannot be read.
    """
    paths, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=raise_error, followlinks=True):
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


def raise_error(error: OSError) -> NoReturn:
    """``onerror`` of ``os.walk``, which otherwise leaves out folders that cannot be read."""
    raise error


def find_audio(root: Path, convertible: bool = False) -> list[str]:
    """``find_files`` for .wav, .flac and .ogg files, and ``CONVERTIBLE`` ones if asked for.

    Raises UserError if there are none.
    """
    remedy = "give the folder that contains the audio files"
    require_folder(root, remedy)
    paths = find_files(root, SUFFIXES + CONVERTIBLE if convertible else SUFFIXES)
    if not paths:
        kinds = "sound file that can be converted" if convertible else ".wav, .flac or .ogg file"
        others = other_sound(root, convertible)
        raise UserError(f"{root}: contains no {kinds}; {'; '.join(others) if others else remedy}")
    return paths


def other_sound(root: Path, convertible: bool) -> list[str]:
    """Notes about the sound files that ``find_audio`` leaves out: how many of which kind, and how to use them."""
    suffixes = [PurePosixPath(path.lower()).suffix for path in find_files(root, CONVERTIBLE + UNREADABLE)]
    copied = "add --convert NEW_FOLDER, which copies them as 16 kHz mono FLAC"
    remedies = {
        CONVERTIBLE: copied,
        UNREADABLE: "convert each with `ffmpeg -i FILE FILE.flac`, libsndfile cannot read it",
    }
    notes = []
    for kinds, remedy in remedies.items():
        counts = Counter(suffix for suffix in suffixes if suffix in kinds)
        if counts and not (convertible and kinds == CONVERTIBLE):
            listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
            notes.append(f"{listed} file(s) left out; {remedy}")
    return notes


# ---- opening ---------------------------------------------------------------------------------------------------------


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


# ---- reading ---------------------------------------------------------------------------------------------------------


def header_of(file: sf.SoundFile) -> Header:
    """The header of a file from ``open_sound``."""
    return Header(file.frames, file.samplerate, file.channels, isinstance(file.name, UnfinishedWav))


def read_header(path: Path) -> Header:
    """Length, rate and channels, in a fraction of a millisecond; also reads the last sample, to detect truncated files.

    A file whose codec cannot be read from the middle (GSM 6.10) is decoded for that. Raises AudioError for a file that
    is missing, empty, truncated, or not audio.
    """
    with open_sound(path) as file:
        header = header_of(file)
        if is_truncated(path):
            raise AudioError(TRUNCATED)
        if header.samples == 0:
            raise AudioError("contains no samples (zero length or truncated); remove it or fetch it again")
        try:
            file.seek(header.samples - 1)
            if len(file.read(1)) == 1:
                return header
            failure: Exception | None = None
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


# ---- 16 kHz mono -----------------------------------------------------------------------------------------------------


class MonoFile:
    """The mean of the channels of a file, read in pieces that may overlap: ``with MonoFile(path) as file: file.read``.

    The file is decoded from its start to its end, so that every piece contains the samples of the whole file, whatever
    the codec (within rounding, for MP3); only the last piece is kept. A piece that begins before the one read last
    starts again.

    Attributes:
        header: the file's.
        peak: largest absolute value so far; NaN if a sample is.
    """

    def __init__(self, path: Path):
        self.path, self.stack, self.peak = path, ExitStack(), 0.0

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
            mono = block if block.ndim == 1 else block.mean(axis=1)
            self.peak = float(np.maximum(self.peak, np.abs(mono).max()))  # NaN if one of them is
            parts.append(mono)
            end += len(mono)
            while parts and first + len(parts[0]) <= start:
                first += len(parts.pop(0))
        if end < stop:
            raise AudioError(TRUNCATED)
        self.start, self.kept = start, np.concatenate([self.kept[:0], *parts])[start - first :]
        return self.kept[: stop - start]


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


@dataclass(frozen=True)
class Copy:
    """What ``convert`` has written: samples at 16 kHz, and the peak of the source; 1 is full scale."""

    samples: int
    peak: float


def convert(source: Path, target: Path) -> Copy:
    """Writes ``source`` as 16 kHz mono 16-bit FLAC, in bounded memory.

    The channels are averaged, and the mean is resampled with a polyphase filter. If the mean exceeds full scale, as in
    files of floats, the whole file is scaled so that its peak is full scale. The samples of a file that is 16 kHz mono
    16-bit already are unchanged. Raises AudioError for an unreadable source, UserError for an unwritable target.
    """
    with MonoFile(source) as file:
        write_copy(file, target, 1.0)
        if file.peak > 1:
            write_copy(file, target, 1 / file.peak)
        return Copy(samples_at_16k(file.header), file.peak)


def write_copy(file: MonoFile, target: Path, scale: float) -> None:
    """Write the file at 16 kHz, times ``scale``. Errors as ``convert``."""
    samples, step = samples_at_16k(file.header), SECONDS * SAMPLE_RATE
    with writing(target), sf.SoundFile(os.fsencode(target), "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as copy:
        for start in range(0, samples, step):
            mono = read_16k(file, start, min(samples, start + step)) * np.float32(scale)
            if not math.isfinite(file.peak):
                raise OtherAudio(NOT_FINITE)
            # the resampling filter can overshoot
            pcm = np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)
            copy.write(pcm)


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
    data = io.BytesIO()  # libsndfile does not tell why a file cannot be written, the system does
    sf.write(data, pcm, SAMPLE_RATE, subtype="PCM_16", format=path.suffix[1:])
    write_bytes(path, data.getbuffer())


# ---- many files ------------------------------------------------------------------------------------------------------


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

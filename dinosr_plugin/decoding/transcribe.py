"""Text from recordings of any length, sample rate and number of channels, with a fine-tuned checkpoint and nothing else.

A long recording runs through the model in overlapping chunks. They are joined before decoding: of each chunk the frames in its middle
are kept, which together are the recording's frames, each once. So no word or letter can be doubled or lost where two chunks meet.
Best path decodes the whole; the searches, which need memory for every frame, go from pause to pause (``segments.py``).
Memory: one chunk, and 4 bytes a frame and symbol of the dictionary; 69 MB for three hours and 32 letters.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import soundfile as sf
import torch
from tqdm import tqdm

from .recogniser import Recogniser
from ..data.audio import SAMPLE_RATE, AudioError, Header, is_cut_wav, read_header, unreadable, wrong_format
from ..data.manifest import require_writable, unwritable
from ..errors import UserError
from .base import CTCDecoder
from .best_path import BestPathDecoder
from .generator import frame_log_probs, never_emitted
from .pace import Pace
from .search import SearchOptions, check_decoder_options
from .segments import LONGEST, SHORTEST, decode_segments, segments
from .words import Word, words_of

CHUNK = 20.0  # s: what is kept of a chunk at most; recordings up to this length go through the model whole
CONTEXT = 2.0  # s: what a chunk sees beyond that on either side
BLOCK = 60 * SAMPLE_RATE  # samples at 16 kHz that are read at a time for mean and variance
BEAM = 50  # hypotheses, where --beam is not given
CUE_LETTERS, CUE_PAUSE = (
    42,
    1.0,
)  # a subtitle ends before it has more letters than fit on a line, or at a pause of so many seconds


@dataclass(frozen=True)
class Transcript:
    file: str
    duration: float  # s
    text: str
    words: list[Word]


# ---- recordings -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """A sound file that has been read to its end. samples, mean, variance: of what it is at 16 kHz, mono."""

    path: Path
    header: Header
    samples: int
    mean: float
    variance: float

    @property
    def duration(self) -> float:
        return self.samples / SAMPLE_RATE

    @property
    def name(self) -> str:
        """The path as it was given; a name that is not UTF-8 could not be printed."""
        return os.fsencode(self.path).decode("utf-8", "replace")

    def note(self) -> str | None:
        """What to tell about how the file is read, if anything."""
        if self.samples == 0 or self.variance == 0:
            return f"{self.name}: {'holds no samples' if self.samples == 0 else 'silent'}; its text is empty"
        wrong = wrong_format(self.header)
        done = ["resampled"] * (self.header.rate != SAMPLE_RATE) + ["mixed down"] * (self.header.channels != 1)
        return wrong and f"{self.name}: {wrong}; {' and '.join(done)}"


def survey(paths: Sequence[Path]) -> list[Recording]:
    """Read all files once. Raises one UserError, a line for each file that cannot be used."""
    recordings, problems = [], []
    for path in tqdm(paths, desc="reading", unit="file", disable=None):
        try:
            recordings.append(survey_one(path))
        except AudioError as error:
            problems.append(f"{path}: {error}")
    if len(problems) > 1:
        problems.insert(
            0,
            f"{len(problems)} of {len(paths)} files cannot be used; nothing was transcribed. Mend these or leave them out:",
        )
    if problems:
        raise UserError("\n  ".join(problems))
    return recordings


def survey_one(path: Path) -> Recording:
    """Mean and variance of a file at 16 kHz. Raises AudioError for a file that is missing, no sound or damaged."""
    if not path.exists():
        raise AudioError("no such file; is the name right?")
    if path.is_dir():
        raise AudioError("a folder; give the files in it")
    header = empty_header(path) or read_header(path)
    samples = -(-header.samples * SAMPLE_RATE // header.rate)
    total, squares = 0.0, 0.0
    try:
        with sf.SoundFile(os.fsencode(path)) as file:
            for start in range(0, samples, BLOCK):
                block = read_16k(file, start, min(samples, start + BLOCK)).astype(np.float64)
                total += block.sum()
                squares += np.square(block).sum()
    except (sf.LibsndfileError, OSError) as error:
        raise unreadable(error) from error
    if not math.isfinite(squares):
        raise AudioError("holds NaN or infinite samples; remove it or make it again")
    mean = total / max(1, samples)
    return Recording(path, header, samples, mean, max(0.0, squares / max(1, samples) - mean**2))


def empty_header(path: Path) -> Header | None:
    """The header of a whole sound file without a single sample, else None."""
    try:
        with sf.SoundFile(os.fsencode(path)) as file:
            return Header(0, file.samplerate, file.channels) if file.frames == 0 and not is_cut_wav(path) else None
    except (sf.LibsndfileError, OSError):
        return None  # read_header says what is wrong


def read_16k(file: sf.SoundFile, start: int, stop: int) -> np.ndarray:
    """Samples ``start`` to ``stop`` of what ``file`` is at 16 kHz (polyphase resampling), mono (mean of the channels): (stop - start,) float32.

    The same numbers, whatever piece is asked for: pieces begin at a whole second of the file, the resampling filter reaches a few
    milliseconds, and a second is read beyond either end. Raises AudioError for a file that ends too soon.
    """
    if file.samplerate == SAMPLE_RATE:
        return read_mono(file, start, stop)
    from scipy.signal import resample_poly  # half a second to import

    first, last = max(0, start // SAMPLE_RATE - 1), -(-stop // SAMPLE_RATE) + 1  # s
    sound = read_mono(file, first * file.samplerate, min(file.frames, last * file.samplerate))
    shared = math.gcd(file.samplerate, SAMPLE_RATE)
    wave = resample_poly(sound, SAMPLE_RATE // shared, file.samplerate // shared)
    return wave[start - first * SAMPLE_RATE : stop - first * SAMPLE_RATE]


def read_mono(file: sf.SoundFile, start: int, stop: int) -> np.ndarray:
    """Samples ``start`` to ``stop`` at the file's own rate, mean of the channels."""
    file.seek(start)
    sound = file.read(stop - start, dtype="float32", always_2d=True)
    if len(sound) != stop - start:
        raise AudioError("truncated: shorter than its header says; fetch it again")
    return sound.mean(axis=1)


# ---- decoder ----------------------------------------------------------------------------------------------------------------


def search_options(typed: Any) -> SearchOptions:
    """What was typed as --beam, --lm and so on, None where nothing was. Raises UserError for what --decoder has no use for."""
    check_decoder_options(typed)
    if typed.lm_weight and typed.lm is None:
        raise UserError(f"--lm-weight {typed.lm_weight:g}: no language model to weigh; give --lm FILE")
    given = {name: getattr(typed, name) for name in ("beam", "lm", "lm_weight", "lexicon", "word_score")}
    return SearchOptions(
        **{"beam": BEAM, "lm_weight": float(typed.lm is not None)}
        | {name: value for name, value in given.items() if value is not None}
    )


# ---- from sound to words ----------------------------------------------------------------------------------------------------


def chunks(frames: int, longest: int, context: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut ``frames`` into as few pieces as can be, equally long, of ``longest`` at most: (first seen, first kept, end of kept, end of seen)."""
    count = -(-frames // longest)  # 0 for no frames
    for start, stop in pairwise(frames * n // max(1, count) for n in range(count + 1)):
        yield max(0, start - context), start, stop, min(frames, stop + context)


@torch.no_grad()
def emissions(
    recogniser: Recogniser, recording: Recording, advance: Callable[[float], object] = lambda seconds: None
) -> torch.Tensor:
    """Log-probabilities of a whole recording, (F, V) float32; ``advance`` is told the seconds done. (0, V) for silence, as for no sound.

    The recording is normalised as a whole where the model wants that.
    """
    frames = recogniser.grid.count(recording.samples) if recording.variance > 0 else 0
    table = torch.empty(frames, len(recogniser.dictionary))
    rate = SAMPLE_RATE / recogniser.grid.hop  # frames a second
    with sf.SoundFile(os.fsencode(recording.path)) as file:
        for first, start, stop, last in chunks(frames, round(CHUNK * rate), round(CONTEXT * rate)):
            end = recording.samples if last == frames else (last - 1) * recogniser.grid.hop + recogniser.grid.field
            wave = torch.from_numpy(read_16k(file, first * recogniser.grid.hop, end))
            if recogniser.normalize:
                wave = (wave - recording.mean) / math.sqrt(
                    recording.variance + 1e-5
                )  # as layer_norm over the whole, fairseq's way
            log_probs, _ = frame_log_probs(
                recogniser.model, {"source": wave.unsqueeze(0), "padding_mask": None}
            )  # (1, last - first, V)
            table[start:stop] = log_probs[0, start - first : stop - first]
            advance((stop - start) / frames * recording.duration)
    return table


def decode(recogniser: Recogniser, decoder: CTCDecoder, table: torch.Tensor) -> list[Word]:
    """Words from the log-probabilities (F, V) of a whole recording, where symbols that are never said are ruled out (in place).

    Best path takes them whole; the searches go from pause to pause, for they remember what every frame might have been.
    """
    table[:, never_emitted(recogniser.dictionary, recogniser.blank)] = -math.inf
    pieces = [(0, len(table))]
    if not isinstance(decoder, BestPathDecoder):
        rate = SAMPLE_RATE / recogniser.grid.hop  # frames a second
        path = table.argmax(dim=1).numpy()
        pieces = segments(path, recogniser.dictionary, recogniser.blank, round(SHORTEST * rate), round(LONGEST * rate))
    found = decode_segments(decoder, table, pieces, recogniser.dictionary, recogniser.blank)
    return [word for start, hypothesis in found for word in words_of(hypothesis, recogniser, start)]


def transcript(
    recogniser: Recogniser, decoder: CTCDecoder, recording: Recording, pace: Pace, advance: Callable[[float], object]
) -> Transcript:
    with pace.of("network"):
        table = emissions(recogniser, recording, advance)
    with pace.of("search"):
        words = decode(recogniser, decoder, table)
    pace.sound += recording.duration
    return Transcript(recording.name, round(recording.duration, 3), " ".join(word.word for word in words), words)


# ---- writing ----------------------------------------------------------------------------------------------------------------


def as_text(transcript: Transcript) -> str:
    return f"{transcript.file}\t{transcript.text}\n"


def as_json(transcript: Transcript) -> str:
    """An object on one line."""
    return json.dumps(asdict(transcript), ensure_ascii=False) + "\n"


def as_ctm(transcript: Transcript) -> str:
    """NIST's lines "recording channel start duration word confidence", where recording is the file's name without suffix."""
    name = ctm_name(transcript.file)
    return "".join(
        f"{name} 1 {w.start:.2f} {w.end - w.start:.2f} {w.word} {w.confidence:.4f}\n" for w in transcript.words
    )


def ctm_name(file: str | Path) -> str:
    return "_".join(Path(file).stem.split())  # white space separates columns


def as_srt(transcript: Transcript) -> str:
    """Subtitles of one line each."""
    cues = [(cue[0].start, cue[-1].end, " ".join(word.word for word in cue)) for cue in cues_of(transcript.words)]
    return "".join(
        f"{n}\n{srt_time(start)} --> {srt_time(end)}\n{text}\n\n" for n, (start, end, text) in enumerate(cues, start=1)
    )


def cues_of(words: Sequence[Word]) -> list[list[Word]]:
    """Words -> subtitles, cut as ``CUE_LETTERS`` and ``CUE_PAUSE`` say; a longer word has one for itself."""
    cues: list[list[Word]] = []
    for word in words:
        full = not cues or len(" ".join([*(w.word for w in cues[-1]), word.word])) > CUE_LETTERS
        if full or word.start - cues[-1][-1].end >= CUE_PAUSE:
            cues.append([])
        cues[-1].append(word)
    return cues


def srt_time(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    return f"{milliseconds // 3600000:02d}:{milliseconds // 60000 % 60:02d}:{milliseconds // 1000 % 60:02d},{milliseconds % 1000:03d}"


FORMATS = {"text": as_text, "json": as_json, "srt": as_srt, "ctm": as_ctm}
"""What a user types -> ``Transcript`` to lines of a file."""


def require_possible(files: Sequence[Path], form: str, out: Path | None) -> None:
    """Raise UserError, before any work, for what ``write`` could not do."""
    if form == "srt" and len(files) > 1:
        raise UserError(
            f"--format srt: subtitles are of one recording, but {len(files)} are given; run the command once for each"
        )
    names = [ctm_name(file) for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if form == "ctm" and twice is not None:
        raise UserError(
            f"--format ctm: its lines would not tell apart the files named {twice}; rename one or transcribe it by itself"
        )
    if out is not None:
        if out.is_dir():
            raise UserError(f"--out {out}: a folder; give the name of a file")
        require_writable(out.parent)


def write(
    recogniser: Recogniser,
    decoder: CTCDecoder,
    recordings: Sequence[Recording],
    form: str,
    out: Path | None,
    pace: Pace,
) -> None:
    """Transcribe all recordings and write each as soon as it is done, to ``out`` or to stdout; ``pace`` is told the times."""
    seconds = sum(recording.duration for recording in recordings)
    with output(out) as file, tqdm(total=seconds, unit="s", unit_scale=True, desc="transcribing", disable=None) as bar:
        for recording in recordings:
            try:
                done = transcript(recogniser, decoder, recording, pace, bar.update)
            except (AudioError, sf.LibsndfileError, OSError) as error:  # it was whole a moment ago
                raise UserError(
                    f"{recording.name}: has changed since it was read first ({error}); run the command again"
                ) from error
            bar.write(FORMATS[form](done), file=file, end="")
            file.flush()


@contextmanager
def output(out: Path | None) -> Iterator[TextIO]:
    """stdout, or a file that gets its name at the end: nothing half-written is left by a failure."""
    if out is None:
        yield sys.stdout
        return
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(unfinished, out)
    except OSError as error:
        raise unwritable(out, error.strerror) from error
    finally:
        unfinished.unlink(missing_ok=True)

"""Transcribes recordings of any length, sample rate and number of channels; requires only a fine-tuned checkpoint.

A long recording is passed through the model in overlapping chunks, which are joined before decoding: only the frames in
the middle of each chunk are kept. Together they are the frames of the recording, each once, so that no word or letter
is doubled or lost where two chunks meet. Best-path decoding takes the whole recording; the searches, which need memory
for every frame, decode segments between pauses (``segments.py``). Memory: one chunk, plus 4 bytes for each frame and
dictionary symbol, which is 69 MB for three hours and 32 letters.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..checkpoints.chunks import CHUNK, CONTEXT
from ..data.audio import (
    SAMPLE_RATE,
    AudioError,
    Header,
    header_of,
    is_truncated,
    open_sound,
    read_header,
    wrong_format,
)
from ..data.conversion import MonoFile, mean_and_variance, read_16k, samples_at_16k
from ..errors import CONTROL, UserError, printable
from ..files import claim_new, kind_of, text_output
from ..modules.frame_grid import chunks
from .base import CTCDecoder
from .best_path import BestPathDecoder
from .empty import note_on_texts
from .generator import frame_log_probs, never_emitted
from .pace import Pace
from .recogniser import Recogniser
from .search import SearchOptions, check_decoder_options
from .segments import MAX_SEGMENT, MIN_SEGMENT, cut_at_pauses, decode_segments
from .words import Word, words_of

BEAM = 50  # default of --beam
MAX_CUE_LETTERS = 42  # of a subtitle: one line
MAX_CUE_PAUSE = 1.0  # seconds; a longer pause begins a new subtitle


@dataclass(frozen=True)
class Transcript:
    file: str
    duration: float  # seconds
    text: str
    words: list[Word]


# ---- recordings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """An audio file that has been read completely. samples, mean, variance: of the audio converted to 16 kHz mono."""

    path: Path
    header: Header
    samples: int
    mean: float
    variance: float
    channel: int | None = None  # the only one that is used, because the channels cancel each other; None: their mean

    @property
    def duration(self) -> float:
        return self.samples / SAMPLE_RATE

    @property
    def name(self) -> str:
        """The path as the user gave it; bytes that are not UTF-8, which could not be printed, are replaced."""
        return os.fsencode(self.path).decode("utf-8", "replace")

    def note(self) -> str | None:
        """A note for the user about how the file is read, or None."""
        if self.samples == 0 or self.variance == 0:
            return f"{self.name}: {'contains no samples' if self.samples == 0 else 'silent'}; its text is empty"
        if self.header.unfinished:
            return f"{self.name}: its header states no length; all samples in it are used"
        wrong = wrong_format(self.header)
        mono = "mixed down" if self.channel is None else f"only channel {self.channel + 1} used, the channels cancel"
        changes = ["resampled"] * (self.header.rate != SAMPLE_RATE) + [mono] * (self.header.channels != 1)
        return wrong and f"{self.name}: {wrong}; {' and '.join(changes)}"


def survey(paths: Sequence[Path]) -> list[Recording]:
    """Read all files once. Raises one UserError, with a line for each file that cannot be used."""
    recordings, problems = [], []
    for path in tqdm(paths, desc="reading", unit="file", disable=None):
        try:
            recordings.append(survey_one(path))
        except AudioError as error:
            problems.append(f"{path}: {error}")
    if len(problems) > 1:
        problems.insert(
            0,
            f"{len(problems)} of {len(paths)} files cannot be used; nothing was transcribed. Fix or omit these files:",
        )
    if problems:
        raise UserError(problems[0], [f"  {problem}" for problem in problems[1:]])
    return recordings


def survey_one(path: Path) -> Recording:
    """Mean and variance of a file at 16 kHz. Raises AudioError if it is missing, damaged or not an audio file."""
    if (kind := kind_of(path)) != "file":
        wrong = {"nothing": "no such file; check the name", "folder": "is a folder; give the files in it"}
        raise AudioError(wrong.get(kind, "is a pipe or a device; give files"))
    header = empty_header(path) or read_header(path)
    samples = samples_at_16k(header)
    with MonoFile(path) as file:
        mean, variance = mean_and_variance(file)
    if (channel := file.loudest_if_cancelled()) is not None:
        with MonoFile(path, channel) as file:
            mean, variance = mean_and_variance(file)
    return Recording(path, header, samples, mean, variance, channel)


def empty_header(path: Path) -> Header | None:
    """The header of an intact audio file that contains no samples; None for all other files."""
    try:
        with open_sound(path) as file:
            return header_of(file) if file.frames == 0 and not is_truncated(path) else None
    except AudioError:
        return None  # read_header reports the error


# ---- decoder ---------------------------------------------------------------------------------------------------------


def search_options(arguments: Any) -> SearchOptions:
    """Search options from command-line arguments, which are None if not given.

    Raises UserError for options that --decoder ignores.
    """
    check_decoder_options(arguments)
    if arguments.lm_weight and arguments.lm is None:
        raise UserError(f"--lm-weight {arguments.lm_weight:g}: requires a language model; give --lm FILE")
    options = {name: getattr(arguments, name) for name in ("beam", "lm", "lm_weight", "lexicon", "word_score")}
    return SearchOptions(
        **{"beam": BEAM, "lm_weight": float(arguments.lm is not None)}
        | {name: value for name, value in options.items() if value is not None}
    )


# ---- from audio to words ---------------------------------------------------------------------------------------------


@torch.no_grad()
def emissions(
    recogniser: Recogniser, recording: Recording, advance: Callable[[float], object] = lambda seconds: None
) -> torch.Tensor:
    """Log-probabilities of a whole recording, (F, V) float32; (0, V) if it is silent or empty.

    The recording is normalised as a whole if the model requires it. ``advance`` receives the seconds that are done.
    """
    frames = recogniser.grid.count(recording.samples) if recording.variance > 0 else 0
    table = torch.empty(frames, len(recogniser.dictionary))
    rate = recogniser.grid.rate  # frames per second
    with MonoFile(recording.path, recording.channel) as file:
        for first, start, stop, last in chunks(frames, round(CHUNK * rate), round(CONTEXT * rate)):
            begin, end = recogniser.grid.span(first, last)
            wave = torch.from_numpy(read_16k(file, begin, recording.samples if last == frames else end))
            if recogniser.normalize:
                # over the whole recording, with the epsilon of layer_norm, which fairseq uses
                wave = (wave - recording.mean) / math.sqrt(recording.variance + 1e-5)
            net_input = {"source": wave.unsqueeze(0), "padding_mask": None}
            log_probs, _ = frame_log_probs(recogniser.model, net_input)  # (1, last - first, V)
            table[start:stop] = log_probs[0, start - first : stop - first]
            advance((stop - start) / frames * recording.duration)
    return table


def decode(recogniser: Recogniser, decoder: CTCDecoder, table: torch.Tensor) -> list[Word]:
    """Words from the log-probabilities (F, V) of a whole recording.

    Best-path decoding takes the whole recording; the searches, which store hypotheses for every frame, decode segments.
    Log-probabilities of symbols that are never emitted are set to -inf in place.
    """
    table[:, never_emitted(recogniser.dictionary, recogniser.blank)] = -math.inf
    pieces = [(0, len(table))]
    if not isinstance(decoder, BestPathDecoder):
        rate = recogniser.grid.rate  # frames per second
        path = table.argmax(dim=1).numpy()  # (F,)
        shortest, longest = round(MIN_SEGMENT * rate), round(MAX_SEGMENT * rate)
        pieces = cut_at_pauses(path, recogniser.dictionary, recogniser.blank, shortest, longest)
    decoded = decode_segments(decoder, table, pieces, recogniser.dictionary, recogniser.blank)
    return [word for start, hypothesis in decoded for word in words_of(hypothesis, recogniser, start)]


def transcript(
    recogniser: Recogniser, decoder: CTCDecoder, recording: Recording, pace: Pace, advance: Callable[[float], object]
) -> Transcript:
    with pace.timing("network"):
        table = emissions(recogniser, recording, advance)
    with pace.timing("search"):
        words = decode(recogniser, decoder, table)
    pace.sound += recording.duration
    return Transcript(recording.name, round(recording.duration, 3), " ".join(word.word for word in words), words)


# ---- writing ---------------------------------------------------------------------------------------------------------


def as_text(transcript: Transcript) -> str:
    return f"{printable(transcript.file)}\t{printable(transcript.text)}\n"


def as_json(transcript: Transcript) -> str:
    """A JSON object on one line, with control characters as JSON's escapes."""
    text = json.dumps(asdict(transcript), ensure_ascii=False)
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def as_ctm(transcript: Transcript) -> str:
    """NIST CTM lines "recording channel start duration word confidence".

    The recording is the file's name without suffix.
    """
    name = ctm_name(transcript.file)
    return "".join(
        f"{name} 1 {w.start:.2f} {w.end - w.start:.2f} {printable(w.word)} {w.confidence:.4f}\n"
        for w in transcript.words
    )


def ctm_name(file: str | Path) -> str:
    return printable("_".join(Path(file).stem.split()))  # columns are separated by white space


def as_srt(transcript: Transcript) -> str:
    """Subtitles with one line of text each."""
    cues = [
        (cue[0].start, cue[-1].end, printable(" ".join(word.word for word in cue))) for cue in cues_of(transcript.words)
    ]
    return "".join(
        f"{n}\n{srt_time(start)} --> {srt_time(end)}\n{text}\n\n" for n, (start, end, text) in enumerate(cues, start=1)
    )


def cues_of(words: Sequence[Word]) -> list[list[Word]]:
    """Divide words into subtitles within ``MAX_CUE_LETTERS`` and ``MAX_CUE_PAUSE``; a longer word stands alone."""
    cues: list[list[Word]] = []
    for word in words:
        full = not cues or len(" ".join([*(w.word for w in cues[-1]), word.word])) > MAX_CUE_LETTERS
        if full or word.start - cues[-1][-1].end >= MAX_CUE_PAUSE:
            cues.append([])
        cues[-1].append(word)
    return cues


def srt_time(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


FORMATS = {"text": as_text, "json": as_json, "srt": as_srt, "ctm": as_ctm}
"""Value of --format -> function from a ``Transcript`` to lines of a file."""


def require_possible(files: Sequence[Path], form: str, out: Path | None) -> None:
    """Raise UserError, before any work, if ``write`` cannot write these files in this format."""
    if form == "srt" and len(files) > 1:
        raise UserError(
            f"--format srt: supports only one recording, but {len(files)} are given; run the command once for each"
        )
    names = [ctm_name(file) for file in files]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if form == "ctm" and duplicate is not None:
        raise UserError(
            f"--format ctm: several files would be called {duplicate} in its lines; "
            "rename one or transcribe it separately"
        )
    if out is not None:
        with claim_new(out):  # refused now, not when the work is done
            pass


def write(
    recogniser: Recogniser,
    decoder: CTCDecoder,
    recordings: Sequence[Recording],
    form: str,
    out: Path | None,
    pace: Pace,
) -> str | None:
    """Transcribe all recordings; write each to ``out`` or stdout as soon as it is done. Adds the times to ``pace``.

    Returns:
        A note for the user about empty texts of recordings that are not silent, or None.
    """
    texts = []
    seconds = sum(recording.duration for recording in recordings)
    with (
        text_output(out) if out else nullcontext(sys.stdout) as file,
        tqdm(total=seconds, unit="s", unit_scale=True, desc="transcribing", disable=None) as bar,
    ):
        for recording in recordings:
            try:
                done = transcript(recogniser, decoder, recording, pace, bar.update)
            except AudioError as error:  # it was readable a moment ago
                raise UserError(
                    f"{recording.name}: has changed since it was first read ({error}); run the command again"
                ) from error
            bar.write(FORMATS[form](done), file=file, end="")
            file.flush()
            if recording.variance > 0:  # else ``Recording.note`` says why the text is empty
                texts.append(done.text)
    return note_on_texts(texts, "texts")

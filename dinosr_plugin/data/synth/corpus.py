"""A small corpus of synthetic speech with exact phone times, spoken by eSpeak NG; no network access is needed.

The folder has LibriSpeech's layout (``part/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`` and ``.trans.txt``), with
``train.phones.tsv`` and ``dev.phones.tsv`` next to the parts. Train and dev share neither speakers nor sentences.

Speakers are synthesised in parallel, each from random streams that depend only on the seed and the speaker: the same
seed gives the same bytes, whatever the number of processes.
"""

import functools
import json
import multiprocessing
import os
import random
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.signal import lfilter, resample_poly
from tqdm import tqdm

from ...errors import UserError
from ...files import kind_of, output, read_json, write_lines
from ..audio import SAMPLE_RATE
from ..conversion import write_sound
from ..workers import set_up_worker
from . import espeak, grammar, spanish

PARTS = ("train", "dev")

_RECIPE = 1  # increase it when the same parameters give different bytes, so that an old corpus is not reused
_SUMMARY = "corpus.json"
_CHAPTER_LENGTH = 100  # utterances
_MIN_SECONDS = 5.0  # per speaker; a shorter time may not fit any sentence
_MIN_DEV_MINUTES = 1.5  # with less, an error rate is unreliable
_MAX_DEV_SHARE = 0.2

# Voice, pitch, pitch range, words per minute. Men and women alternate, and dev takes the first voices, so that both are
# evaluated. The voices were chosen by measurement: their median F0 and spectra differ from one another, they do not
# clip, and all their phones are mapped. Whispering voices are excluded because they have no F0.
_VOICES = (
    ("en-us+m3", 46, 55, 136),
    ("en-us+f2", 50, 50, 132),
    ("en+Michael", 58, 45, 140),
    ("en-us+Annie", 45, 60, 134),
    ("en-us+m1", 34, 40, 128),
    ("en-us+f5", 62, 45, 142),
    ("en+m7", 60, 60, 146),
    ("en+f3", 40, 50, 138),
    ("en-us+Lee", 50, 70, 134),
    ("en-us+linda", 52, 50, 128),
    ("en-us+boris", 56, 35, 126),
    ("en-029+f4", 48, 60, 140),
    ("en-us+klatt4", 50, 60, 144),
    ("en-us+shelby", 55, 40, 136),
    ("en-029+quincy", 42, 50, 132),
    ("en-us+Andrea", 52, 55, 120),
)


@dataclass(frozen=True)
class Language:
    """What is said, and by whom."""

    rules: grammar.Rules
    question_words: tuple[str, ...]
    voices: tuple[tuple[str, int, int, int], ...]
    first_speaker: int  # number; utterances of two languages have different ids, so that they can be in one manifest


LANGUAGES = {
    "en": Language(grammar.RULES, grammar.QUESTION_WORDS, _VOICES, 1001),
    "es": Language(spanish.RULES, spanish.QUESTION_WORDS, spanish.VOICES, 10001),
}
"""By the first two letters of the names of their voices."""


@dataclass(frozen=True)
class Speaker:
    """A voice and its recording conditions."""

    number: int
    part: str
    voice: str
    pitch: int  # eSpeak's scale, 0 to 100
    pitch_range: int
    rate: int  # words per minute
    tilt: float  # coefficient of a first-order filter: positive is dull, negative is bright
    level_db: float  # of the utterance, dB re full scale
    snr_db: float  # level of the utterance above that of the background noise

    @property
    def language(self) -> Language:
        return LANGUAGES[self.voice[:2]]


@dataclass(frozen=True)
class _Job:
    """The work of one process at a time: one speaker's part of the corpus."""

    speaker: Speaker
    seconds: float
    seed: int
    folder: Path


@dataclass(frozen=True)
class _Spoken:
    """An utterance ready to be written."""

    words: str
    wave: np.ndarray  # int16 at SAMPLE_RATE
    phones: list[tuple[float, float, str]]  # start and end in seconds

    @property
    def seconds(self) -> float:
        return len(self.wave) / SAMPLE_RATE


def synthesize(
    out: Path, minutes: float, speakers: int, seed: int, workers: int | None = None, language: str = "en"
) -> dict:
    """Writes a corpus of about ``minutes`` minutes (within 5 %) by ``speakers`` speakers to the folder ``out``.

    The folder gets its name when it is complete. If ``out`` contains a finished corpus with the same parameters,
    nothing is done.

    Args:
        out: the folder to create.
        minutes: total duration.
        speakers: number of speakers, at least 2.
        seed: determines the corpus, together with ``minutes`` and ``speakers``.
        workers: number of processes, by default one per core; the result does not depend on it.
        language: a key of ``LANGUAGES``.

    Returns:
        The content of ``OUT/corpus.json``: parameters; minutes, utterances and words per part; speakers.

    Raises:
        UserError: invalid parameters, ``out`` contains something else or is not writable, or eSpeak is missing.
    """
    _check_parameters(minutes, speakers)
    espeak.library_paths()  # raises UserError, before anything is written, if eSpeak is missing
    out = Path(out)
    parameters = {"recipe": _RECIPE, "minutes": float(minutes), "speakers": speakers, "seed": seed}
    if language != "en":  # corpora that were made before there was another language are known by the same parameters
        parameters["language"] = language
    if finished := _finished(out, parameters):
        print(f"{out} already exists and was made with the same parameters: nothing to do")
        return finished
    with output(out, folder=True) as unfinished:
        return _fill(unfinished, _jobs(unfinished, minutes, speakers, seed, language), parameters, workers)


def _check_parameters(minutes: float, speakers: int) -> None:
    if speakers < 2:
        raise UserError(f"--speakers {speakers}: must be at least 2, because train and dev have different speakers")
    if not 0 < minutes < float("inf"):
        raise UserError(f"--minutes {minutes}: must be a positive number")
    for part, share in _seconds_per_speaker(minutes, speakers).items():
        if share < _MIN_SECONDS:
            raise UserError(
                f"--minutes {minutes:g} gives each speaker in {part} {share:.1f} seconds, but at least "
                f"{_MIN_SECONDS:g} are needed; raise --minutes or lower --speakers"
            )


def _finished(out: Path, parameters: dict) -> dict | None:
    """The summary of the corpus in ``out`` if it has these parameters; None if ``out`` is missing or empty.

    Raises UserError for any other content.
    """
    kind = kind_of(out)
    if kind == "nothing" or (kind == "folder" and not any(out.iterdir())):
        return None
    try:
        summary = read_json(out / _SUMMARY, "remove it")
    except UserError:
        raise UserError(
            f"{out} exists and is not a finished synthetic corpus; choose another --out or remove it"
        ) from None
    if summary.get("parameters") != parameters:
        raise UserError(
            f"{out} contains a corpus made with {summary.get('parameters')}; choose another --out or remove it"
        )
    return summary


# ---- speakers and their share of the corpus ----


def _dev_speakers(speakers: int) -> int:
    """Number of speakers in dev: about a sixth of them, and at least two of eight or more."""
    return max(2 if speakers >= 8 else 1, round(speakers / 6))


def _seconds_per_speaker(minutes: float, speakers: int) -> dict[str, float]:
    """Part -> seconds of audio per speaker."""
    dev_speakers = _dev_speakers(speakers)
    dev_minutes = max(minutes * dev_speakers / speakers, _MIN_DEV_MINUTES if minutes >= 10 else 0.0)
    dev_minutes = min(dev_minutes, _MAX_DEV_SHARE * minutes)
    return {"train": 60 * (minutes - dev_minutes) / (speakers - dev_speakers), "dev": 60 * dev_minutes / dev_speakers}


def roster_speaker(index: int, part: str, seed: int, language: str = "en") -> Speaker:
    """Speaker number ``index``; when all voices are used, they are reused with another pitch and rate."""
    rng = random.Random(f"{seed}/speaker/{index}")
    voices = LANGUAGES[language].voices
    voice, pitch, pitch_range, rate = voices[index % len(voices)]
    if index >= len(voices):
        pitch += rng.choice((-1, 1)) * rng.randint(10, 25)
        rate += rng.choice((-1, 1)) * rng.randint(10, 22)
    return Speaker(
        number=LANGUAGES[language].first_speaker + index,
        part=part,
        voice=voice,
        pitch=pitch,
        pitch_range=pitch_range,
        rate=rate,
        tilt=round(rng.uniform(-0.35, 0.35), 3),
        level_db=round(rng.uniform(-27, -22), 2),
        snr_db=round(rng.uniform(30, 40), 2),
    )


def _jobs(folder: Path, minutes: float, speakers: int, seed: int, language: str) -> list[_Job]:
    seconds = _seconds_per_speaker(minutes, speakers)
    parts = ["dev" if index < _dev_speakers(speakers) else "train" for index in range(speakers)]
    return [
        _Job(roster_speaker(index, part, seed, language), seconds[part], seed, folder)
        for index, part in enumerate(parts)
    ]


# ---- one speaker ----


def _speak_all(job: _Job) -> tuple[dict, list[str]]:
    """Writes one speaker's chapters; returns the speaker's entry of the summary, and lines of ``.phones.tsv``."""
    speaker = job.speaker
    counts = {"utterances": 0, "words": 0, "seconds": 0.0}
    rows: list[str] = []
    transcripts: dict[Path, list[str]] = {}
    for index, spoken in enumerate(_utterances(job)):
        chapter, place = divmod(index, _CHAPTER_LENGTH)
        name = f"{speaker.number}-{chapter + 1}"
        folder = job.folder / speaker.part / str(speaker.number) / str(chapter + 1)
        utterance = f"{name}-{place:04d}"
        write_sound(folder / f"{utterance}.flac", spoken.wave)
        transcripts.setdefault(folder / f"{name}.trans.txt", []).append(f"{utterance} {spoken.words.upper()}")
        rows.extend(f"{utterance}\t{start:.3f}\t{end:.3f}\t{phone}" for start, end, phone in spoken.phones)
        counts["utterances"] += 1
        counts["words"] += len(spoken.words.split())
        counts["seconds"] += spoken.seconds
    for path, lines in transcripts.items():
        write_lines(path, lines)
    return asdict(speaker) | counts | {"seconds": round(counts["seconds"], 3)}, rows


def _utterances(job: _Job) -> Iterator[_Spoken]:
    """Sentences until the speaker's duration is reached within one second; a sentence that exceeds it is dropped."""
    speaker = job.speaker
    texts = sentences(job.seed, speaker)
    rng = np.random.default_rng([job.seed % 2**64, speaker.number])
    left, misfits = job.seconds, 0
    punctuated = functools.partial(grammar.punctuated, question_words=speaker.language.question_words)
    with espeak.Espeak(speaker.voice, speaker.pitch, speaker.pitch_range, speaker.rate) as talker:
        while left > 1.0 and misfits < 20:
            words = next(texts)
            spoken = _record(words, *talker.speak(punctuated(words)), speaker, rng)
            if spoken.seconds > left + 1.0:
                misfits += 1
                continue
            left -= spoken.seconds
            yield spoken


def sentences(seed: int, speaker: Speaker) -> Iterator[str]:
    """Sentences without repetition. Every possible sentence is assigned to one part, so that the parts share none."""
    rng = random.Random(f"{seed}/sentences/{speaker.number}")
    said: set[str] = set()
    while True:
        words = grammar.sentence(rng, speaker.language.rules)
        belongs = "dev" if zlib.crc32(f"{seed}/{words}".encode()) % 5 == 0 else "train"
        if belongs == speaker.part and words not in said:
            said.add(words)
            yield words


def _record(
    words: str, wave: np.ndarray, segments: list[espeak.Segment], speaker: Speaker, rng: np.random.Generator
) -> _Spoken:
    phones = espeak.phones(segments, wave, speaker.voice.split("+")[0])
    recorded, lead = microphone(wave, speaker, rng)
    return _Spoken(words, recorded, _times(phones, lead, len(recorded)))


def microphone(wave: np.ndarray, speaker: Speaker, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Simulates a recording of synthetic speech: adds silence, tilts the spectrum, sets the level, adds noise.

    int16 samples at eSpeak's rate -> int16 samples at ``SAMPLE_RATE``, and the number of samples before the speech.
    """
    speech = resample_poly(wave / 32768.0, 320, 441)  # 22,050 to 16,000 Hz
    lead, tail = (int(SAMPLE_RATE * seconds) for seconds in rng.uniform(0.15, 0.40, size=2))
    clean = lfilter([1.0, speaker.tilt], [1.0], np.pad(speech, (lead, tail)))
    clean *= 10 ** (speaker.level_db / 20) / np.sqrt(np.mean(clean**2))
    clean *= min(1.0, 0.9 / np.abs(clean).max())
    noise = 10 ** ((speaker.level_db - speaker.snr_db) / 20) * rng.standard_normal(len(clean))
    return np.round(32767 * (clean + noise)).astype(np.int16), lead


def _times(phones: list[espeak.Segment], lead: int, samples: int) -> list[tuple[float, float, str]]:
    """(start, end, phone) in seconds, from 0 to the end of the recording; the silence around the speech is ``SIL``."""
    edges = [lead / SAMPLE_RATE + phone.start / espeak.SAMPLE_RATE for phone in phones]
    names = [phone.name for phone in phones]
    if names[0] == "SIL":
        edges[0] = 0.0
    else:
        edges, names = [0.0, *edges], ["SIL", *names]
    if names[-1] != "SIL":
        edges, names = [*edges, lead / SAMPLE_RATE + phones[-1].end / espeak.SAMPLE_RATE], [*names, "SIL"]
    edges.append(samples / SAMPLE_RATE)
    return list(zip(edges[:-1], edges[1:], names, strict=True))


# ---- the whole corpus ----


def _fill(folder: Path, jobs: list[_Job], parameters: dict, workers: int | None) -> dict:
    """Synthesises all speakers, then writes the phone tables and the summary."""
    results = list(_run(jobs, min(workers or os.cpu_count() or 1, len(jobs))))
    for part in PARTS:
        rows = (row for entry, of_speaker in results if entry["part"] == part for row in of_speaker)
        write_lines(folder / f"{part}.phones.tsv", ["utt\tstart\tend\tphone", *rows])
    entries = [entry for entry, _ in results]
    summary = {"parameters": parameters, "parts": {part: _totals(part, entries) for part in PARTS}, "speakers": entries}
    write_lines(folder / _SUMMARY, [json.dumps(summary, indent=1)])
    return summary


def _totals(part: str, entries: list[dict]) -> dict:
    speakers = [entry for entry in entries if entry["part"] == part]
    return {
        "speakers": len(speakers),
        "minutes": round(sum(entry["seconds"] for entry in speakers) / 60, 3),
        "utterances": sum(entry["utterances"] for entry in speakers),
        "words": sum(entry["words"] for entry in speakers),
    }


def _run(jobs: list[_Job], workers: int) -> Iterator[tuple[dict, list[str]]]:
    """Results in the order of the jobs, with a progress bar."""
    bar = functools.partial(tqdm, total=len(jobs), desc="speaking", unit="speaker")
    if workers == 1:
        yield from bar(map(_speak_all, jobs))
        return
    with multiprocessing.Pool(workers, set_up_worker) as pool:
        yield from bar(pool.imap(_speak_all, jobs))

"""From recordings of any length and format to a folder of segments and a table of their times.

A recording is decoded twice, a minute at a time: to find its speech, and to write the segments.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...errors import UserError, first_few
from ...files import output, write_lines
from ..audio import NOT_FINITE, SAMPLE_RATE, AudioError, Header, OtherAudio, read_header
from ..audio_files import default_workers, map_files, result_or_error
from ..conversion import FULL_SCALE, MonoFile, read_16k, samples_at_16k, to_pcm, write_sound, writing
from .cutting import Cut, Rules, cut
from .sources import Source, find_sources, raise_any
from .voice import WINDOW, Detector, levels

BLOCK = 1875 * WINDOW  # samples read at a time: a minute
MILLISECOND = SAMPLE_RATE // 1000  # samples
TABLE = "segments.tsv"
HEADER = "segment\tsource\tstart\tend"

Advance = Callable[[float], object]
"""Receives the seconds of sound that are done."""


@dataclass(frozen=True)
class Found:
    """What a recording contains.

    samples, peak: of the audio at 16 kHz mono; 1 is full scale.
    speech: number of samples in windows of speech.
    channel: the only one that is used, because the channels cancel each other; None for their mean.
    """

    samples: int
    speech: int
    peak: float
    cut: Cut
    channel: int | None = None

    def spans(self) -> list[tuple[int, int]]:
        """(first sample, end) of every segment; both are whole milliseconds."""
        ends = [min(stop * WINDOW, self.samples) // MILLISECOND * MILLISECOND for _, stop in self.cut.segments]
        return [(start * WINDOW, end) for (start, _), end in zip(self.cut.segments, ends)]


@dataclass(frozen=True)
class Segmented:
    """What all recordings contain, and ``notes`` for the user."""

    found: list[Found]
    notes: list[str]

    def lines(self) -> list[str]:
        """A summary for the user."""
        seconds = [(end - start) / SAMPLE_RATE for one in self.found for start, end in one.spans()]
        whole = sum(one.samples for one in self.found) / SAMPLE_RATE
        speech = sum(one.speech for one in self.found) / SAMPLE_RATE
        short = [(stop - start) * WINDOW / SAMPLE_RATE for one in self.found for start, stop in one.cut.too_short]
        within = sum(one.cut.within_speech for one in self.found)
        lengths = f"{min(seconds):.1f} to {max(seconds):.1f} s, mean {sum(seconds) / len(seconds):.1f} s"
        return [
            f"{len(self.found)} recording(s), {duration(whole)}, of which {speech / whole:.0%} are speech",
            f"{len(seconds)} segment(s), {duration(sum(seconds))}: {lengths}",
            f"{len(short)} segment(s), {sum(short):.1f} s, are shorter than --min-seconds and left out",
            f"{within} cut(s) within speech, which is longer than --max-seconds without a pause",
        ]


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def segment(paths: Sequence[Path], out: Path, detector: Detector, rules: Rules) -> Segmented:
    """Cut recordings into segments, 16 kHz mono FLAC in the new folder ``out``, and write their times to its table.

    Args:
        paths: sound files, and folders that are searched for them.

    Raises:
        UserError: as ``find_sources``; lists every file that cannot be read; no speech in any of them; ``out`` cannot
            be written. Nothing is left behind.
    """
    sources, notes = find_sources(paths, out)
    headers = sound(
        map_files(lambda one: read_header(one.path), sources, default_workers(), "reading headers"), sources
    )
    total = sum(header.samples / header.rate for header in headers)
    with (
        output(out, folder=True) as unfinished,
        tqdm(total=total, unit="s", unit_scale=True, desc="segmenting", disable=None) as bar,
    ):
        write = lambda source: segment_one(source, unfinished, detector, rules, bar.update)
        found = sound([result_or_error(write, source) for source in sources], sources)
        if not any(one.cut.segments for one in found):
            raise UserError(f"{first_few([one.path for one in sources])}: no segment of speech; lower --min-seconds")
        write_lines(unfinished / TABLE, [HEADER, *rows(sources, found)])
    return Segmented(found, notes + notes_about(sources, headers, found))


def sound(results: list, sources: list[Source]) -> list:
    """The results. Raises one UserError for all that are an AudioError."""
    problems = [f"{source.path}: {one}" for source, one in zip(sources, results) if isinstance(one, AudioError)]
    raise_any(problems, [source.path for source in sources])
    return results


def segment_one(source: Source, out: Path, detector: Detector, rules: Rules, advance: Advance) -> Found:
    """Write the segments of one recording. Raises AudioError for it, UserError if ``out`` cannot be written."""
    found = listen(source.path, detector, rules, lambda seconds: advance(seconds / 2))
    scale = np.float32(FULL_SCALE / found.peak if found.peak > 1 else 1.0)
    done = 0
    with MonoFile(source.path, found.channel) as file:
        for start, end in found.spans():
            pcm = to_pcm(read_16k(file, start, end) * scale)
            target = out / source.segment(start, end)
            with writing(target):
                write_sound(target, pcm)
            advance((end - done) / SAMPLE_RATE / 2)
            done = end
    advance((found.samples - done) / SAMPLE_RATE / 2)
    return found


def listen(
    path: Path,
    detector: Detector,
    rules: Rules,
    advance: Advance = lambda seconds: None,
    channel: int | None = None,
) -> Found:
    """Find the speech of a recording, or of one channel, and where to cut it. Raises AudioError if it is unreadable."""
    scores, level, state, peak = [], [], None, 0.0
    with MonoFile(path, channel) as file:
        samples = samples_at_16k(file.header)
        for start in range(0, samples, BLOCK):
            wave = read_16k(file, start, min(start + BLOCK, samples))
            if not math.isfinite(file.peak):
                raise OtherAudio(NOT_FINITE)
            peak = max(peak, float(np.abs(wave).max()))
            windows = np.pad(wave, (0, -len(wave) % WINDOW)).reshape(-1, WINDOW)
            of_block, state = detector.scores(windows, state)
            scores.append(of_block)
            level.append(levels(windows))
            advance(len(wave) / SAMPLE_RATE)
    if channel is None and (loudest := file.loudest_if_cancelled()) is not None:
        return listen(path, detector, rules, channel=loudest)
    speech = detector.speech(np.concatenate(scores))
    return Found(samples, int(speech.sum()) * WINDOW, peak, cut(speech, np.concatenate(level), rules), channel)


def rows(sources: list[Source], found: list[Found]) -> Iterator[str]:
    """Lines of the table: utterance, recording, start and end in seconds."""
    for source, one in zip(sources, found):
        for start, end in one.spans():
            name = Path(source.segment(start, end)).stem
            yield f"{name}\t{source.path}\t{start / SAMPLE_RATE:.3f}\t{end / SAMPLE_RATE:.3f}"


def notes_about(sources: list[Source], headers: list[Header], found: list[Found]) -> list[str]:
    kinds = {
        "have no segment": [not one.cut.segments for one in found],
        "have a header that states no length, as after a recorder was switched off; all samples are used": [
            header.unfinished for header in headers
        ],
        "have channels that cancel each other; only the loudest channel is used": [
            one.channel is not None for one in found
        ],
        "are louder than full scale; their segments are scaled down": [one.peak > 1 for one in found],
    }
    named = {what: [one.path for one, yes in zip(sources, chosen) if yes] for what, chosen in kinds.items()}
    return [f"{len(paths)} recording(s) {what}: {first_few(paths)}" for what, paths in named.items() if paths]

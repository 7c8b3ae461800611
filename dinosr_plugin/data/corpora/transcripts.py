"""Words of recordings from .txt files beside them."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from ...errors import UserError, first_few
from ...files import read_text
from ..audio_files import find_files
from ..manifest import words_fault
from .names import nfc, stem_of

TIMIT = re.compile(r"0 \d+ (?=\S)")  # TIMIT's transcripts begin with the first and last sample


def read_words(
    root: Path, paths: list[str], problems: list[str], fault_of: Callable[[str], str | None] = words_fault
) -> tuple[dict[str, str], list[str]]:
    """(path -> words, notes) from the .txt files beside the audio files ``paths`` under ``root``.

    The words of ``x.wav`` are in ``x.txt`` or ``x.wav.txt``; the suffix may be written ``.TXT``, and names are compared
    in Unicode's form NFC. Added to ``problems``: files that cannot be read, audio with several transcripts, and words
    that cannot be used, for which ``fault_of`` returns the reason. An empty .txt is not a transcript.
    """
    texts, others = match_texts(paths, find_files(root, (".txt",)))
    words = {}
    for path, (text, *more) in texts.items():
        if more:
            problems.append(f"{path}: several transcripts, {', '.join([text, *more])}; remove all but one of them")
            continue
        try:
            words[path] = " ".join(read_text(root / text, "save it as UTF-8").split())
        except UserError as error:
            problems.append(str(error))
    empty = [texts[path][0] for path in words if not words[path]]
    words, notes = without_times({path: text for path, text in words.items() if text})
    problems += [f"{path}: {fault}" for path, text in words.items() if (fault := fault_of(text))]
    if empty:
        notes.append(f"{len(empty)} .txt file(s) are empty, so their audio is not transcribed: {first_few(empty)}")
    if others:
        what = "file(s) without an audio file of the same name were ignored"
        notes.append(f"{len(others)} .txt {what}: {first_few(others)}")
    return words, notes


def match_texts(paths: list[str], texts: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """(audio path -> its .txt files, .txt files without audio)."""
    owners: dict[str, list[str]] = defaultdict(list)  # name of a .txt without suffix -> audio
    for path in paths:
        owners[stem_of(path)].append(path)
    for path in paths:
        owners.setdefault(nfc(path), [path])  # x.wav.txt, unless there is an x.wav.flac
    matched: dict[str, list[str]] = defaultdict(list)
    others = []
    for text in texts:
        found = owners.get(stem_of(text), [])
        for path in found:
            matched[path].append(text)
        if not found:
            others.append(text)
    return {path: matched[path] for path in paths if path in matched}, others


def without_times(words: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """(path -> words without the numbers of samples that begin the transcripts of TIMIT, notes)."""
    if not words or not all(TIMIT.match(text) for text in words.values()):
        return words, []
    note = "all transcripts begin with 0 and another number, as those of TIMIT; these numbers are left out"
    return {path: TIMIT.sub("", text, count=1) for path, text in words.items()}, [note]

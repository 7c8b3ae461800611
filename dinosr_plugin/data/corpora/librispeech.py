"""Manifests of LibriSpeech and of the labelled part of Libri-light.

Both contain SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac and, in the same folder, SPEAKER-CHAPTER.trans.txt.

LibriSpeech: Panayotov et al. 2015, https://www.openslr.org/12. Libri-light's limited-resource release
(librispeech_finetuning.tgz): Kahn et al. 2020, https://arxiv.org/abs/1912.07875; 1h/0..5/{clean,other} are six sets of
ten minutes each, 9h/{clean,other} are the other nine hours.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...errors import UserError
from ...files import is_folder, read_lines
from ..audio import MONO_COPIES, AudioError, Header, read_header, wrong_format
from ..audio_files import SUFFIXES, find_audio, find_files, map_files
from ..manifest import (
    ManifestRow,
    Split,
    duplicate_ids,
    path_fault,
    raise_problems,
    utterance_id,
    words_fault,
)

TRANSCRIPTS = ".trans.txt"
LIBRILIGHT = {"train_10min": ("1h/0/",), "train_1h": ("1h/",), "train_10h": ("1h/", "9h/")}


def librispeech_splits(root: Path, parts: list[str] | None, workers: int) -> list[Split]:
    """One split for each LibriSpeech part under ``root``, or for ``root`` itself if it is a part.

    The root of a split is the part's folder. ``parts``: names of the parts to use, None for all. Raises UserError for a
    missing part, and one that lists every problem of the files.
    """
    folders = find_parts(root, parts)
    base = folders[0].parent
    paths = [f"{folder.name}/{path}" for folder in folders for path in find_audio(folder)]
    transcripts = [f"{folder.name}/{path}" for folder in folders for path in find_files(folder, (TRANSCRIPTS,))]
    utterances = read_utterances(base, paths, transcripts, workers)
    return [Split(folder.name, folder, below(f"{folder.name}/", utterances)) for folder in folders]


def joined(splits: list[Split], name: str, parts: list[str]) -> Split:
    """Several parts as one split, for example the three training parts as the 960 hours.

    The root of the split is the folder that contains the parts. Raises UserError for a part that is not among the
    splits, or if ``name`` is the name of one of them.
    """
    chosen = {split.name: split for split in splits}
    missing = [part for part in parts if part not in chosen]
    if missing or name in chosen:
        what = f"there is no part {missing[0]}" if missing else f"{name} is the name of a part; give another name"
        raise UserError(f"--join {name} {' '.join(parts)}: {what}; the parts are {', '.join(chosen)}")
    utterances = [replace(u, path=f"{part}/{u.path}") for part in parts for u in chosen[part].utterances]
    return Split(name, chosen[parts[0]].root.parent, sorted(utterances, key=lambda u: u.path))


def librilight_splits(root: Path, workers: int) -> list[Split]:
    """Splits ``train_10min`` (1h/0), ``train_1h`` (1h/*) and ``train_10h`` (1h/* and 9h).

    ``root`` is the folder librispeech_finetuning or its parent. Raises UserError if 1h/0 or 9h is missing, and one that
    lists every problem of the files.
    """
    root = absolute(root)
    if is_folder(root / "librispeech_finetuning"):
        root = root / "librispeech_finetuning"
    for needed in ("1h/0", "9h"):
        if not is_folder(root / needed):
            advice = "give the folder librispeech_finetuning of Libri-light's limited-resource release"
            raise UserError(f"{root}: contains no folder {needed}; {advice}")
    hours = LIBRILIGHT["train_10h"]
    paths = [path for path in find_audio(root) if path.startswith(hours)]
    transcripts = [path for path in find_files(root, (TRANSCRIPTS,)) if path.startswith(hours)]
    utterances = read_utterances(root, paths, transcripts, workers)
    return [
        Split(name, root, [utterance for utterance in utterances if utterance.path.startswith(folders)])
        for name, folders in LIBRILIGHT.items()
    ]


# ---- folders ---------------------------------------------------------------------------------------------------------


def absolute(folder: Path) -> Path:
    """The absolute path, with symbolic links kept: a manifest of a corpus behind a link contains that link."""
    return Path(os.path.abspath(folder))


def find_parts(root: Path, wanted: list[str] | None) -> list[Path]:
    """Folders of the parts under ``root``, sorted by name.

    Raises UserError if there are none, or if one of the ``wanted`` parts is missing.
    """
    root = absolute(root)
    if not is_folder(root):
        raise UserError(f"{root}: no such folder; give the folder that contains LibriSpeech's parts")
    if is_folder(root / "LibriSpeech"):
        root = root / "LibriSpeech"
    inside = (folder for folder in root.iterdir() if is_folder(folder) and is_part(folder))
    folders = [root] if is_part(root) else sorted(inside)
    names = [folder.name for folder in folders]
    if not folders:
        raise UserError(
            f"{root}: contains no LibriSpeech part (SPEAKER/CHAPTER/*.flac); give the folder that contains parts "
            "such as train-clean-100, or use `dinosr manifest folder` for other layouts"
        )
    missing = sorted(set(wanted or []) - set(names))
    if missing:
        raise UserError(f"{root}: contains no part {', '.join(missing)}; --parts can be any of: {', '.join(names)}")
    return [folder for folder in folders if wanted is None or folder.name in wanted]


def is_part(folder: Path) -> bool:
    """Whether the folder contains audio three levels down: SPEAKER/CHAPTER/file."""
    return any(file.suffix.lower() in SUFFIXES for file in folder.glob("*/*/*"))


def below(folder: str, utterances: Iterable[ManifestRow]) -> list[ManifestRow]:
    """The utterances under ``folder/``, with paths relative to it."""
    return [replace(u, path=u.path.removeprefix(folder)) for u in utterances if u.path.startswith(folder)]


# ---- utterances and their words --------------------------------------------------------------------------------------


def read_utterances(root: Path, paths: list[str], transcripts: list[str], workers: int) -> list[ManifestRow]:
    """Reads and matches audio headers and transcripts; returns the utterances sorted by path.

    ``paths`` and ``transcripts`` (the *.trans.txt files) are relative to ``root``. Raises one UserError that lists
    every problem.
    """
    paths = sorted(paths)
    problems = duplicate_ids(paths)
    problems += [f"{path!a}: {fault}" for path in paths if (fault := path_fault(path))]
    words = match_words(root, paths, transcripts, problems)
    headers = map_files(read_header, [root / path for path in paths], workers, "reading headers")
    problems += [f"{path}: {fault}" for path, header in zip(paths, headers) if (fault := header_fault(header))]
    if problems:
        raise_problems(problems, root)
    return [ManifestRow(path, header.samples, words[path]) for path, header in zip(paths, headers)]


def header_fault(header: Header | AudioError) -> str | None:
    if isinstance(header, AudioError):
        return str(header)
    fault = wrong_format(header)
    return fault and f"{fault}; {MONO_COPIES}"


def match_words(root: Path, paths: list[str], transcripts: list[str], problems: list[str]) -> dict[str, str]:
    """Path -> words for every file with a line in its chapter's transcript; mismatches are added to ``problems``."""
    chapters: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        chapters[str(PurePosixPath(path).parent)].append(path)
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for transcript in transcripts:
        texts[str(PurePosixPath(transcript).parent)].update(read_transcripts(root, transcript, problems))

    words: dict[str, str] = {}
    for chapter in sorted(chapters.keys() | texts.keys()):
        files, lines = chapters.get(chapter, []), texts.get(chapter)
        if lines is None:
            problems.append(
                f"{chapter}: no *{TRANSCRIPTS} file for its {len(files)} audio file(s); "
                "fetch the transcript again, or remove the folder"
            )
            continue
        names = {utterance_id(path): path for path in files}
        for name in sorted(names.keys() - lines.keys()):
            problems.append(
                f"{names[name]}: no line in the chapter's *{TRANSCRIPTS}; add one, or remove the audio file"
            )
        for name in sorted(lines.keys() - names.keys()):
            problems.append(f"{chapter}/{name}: transcript without audio; fetch the audio again, or remove the line")
        matched = {names[name]: lines[name] for name in names.keys() & lines.keys()}
        problems += [f"{path}: {fault}" for path, text in sorted(matched.items()) if (fault := words_fault(text))]
        words.update(matched)
    return words


def read_transcripts(root: Path, transcript: str, problems: list[str]) -> dict[str, str]:
    """Utterance id -> words, separated by single spaces, of one *.trans.txt (path relative to ``root``).

    A duplicate utterance and a file that cannot be read are added to ``problems``.
    """
    words: dict[str, str] = {}
    try:
        for number, line in enumerate(read_lines(root / transcript, "fetch it again"), start=1):
            name, *text = line.split() or [""]
            if name in words:
                problems.append(f"{transcript} line {number}: duplicate transcript of {name}; remove one of them")
            elif name:
                words[name] = " ".join(text)
    except UserError as error:
        problems.append(str(error))
    return words

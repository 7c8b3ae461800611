"""LibriSpeech and the labelled part of Libri-light: SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac beside SPEAKER-CHAPTER.trans.txt.

LibriSpeech: Panayotov et al. 2015, https://www.openslr.org/12. Libri-light's limited-resource release (librispeech_finetuning.tgz):
Kahn et al. 2020, https://arxiv.org/abs/1912.07875: 1h/0..5/{clean,other} are six times ten minutes, 9h/{clean,other} the other nine hours.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...errors import UserError
from ..audio import SUFFIXES, AudioError, Header, find_audio, find_files, map_files, read_header, wrong_format
from ..manifest import (
    Split,
    Utterance,
    duplicate_ids,
    path_fault,
    raise_problems,
    read_lines,
    utterance_id,
    words_fault,
)

TRANSCRIPTS = ".trans.txt"
LIBRILIGHT = {"train_10min": ("1h/0/",), "train_1h": ("1h/",), "train_10h": ("1h/", "9h/")}


def librispeech_splits(root: Path, parts: list[str] | None, workers: int) -> list[Split]:
    """One split for each LibriSpeech part under ``root`` (or for ``root`` itself, where that is a part), rooted at the part's folder.

    ``parts``: names of the parts to take, None for all. Raises UserError for a part that is not there, and with every problem of the files.
    """
    folders = find_parts(root, parts)
    base = folders[0].parent
    paths = [f"{folder.name}/{path}" for folder in folders for path in find_audio(folder)]
    transcripts = [f"{folder.name}/{path}" for folder in folders for path in find_files(folder, (TRANSCRIPTS,))]
    utterances = read_utterances(base, paths, transcripts, workers)
    return [Split(folder.name, folder, below(f"{folder.name}/", utterances)) for folder in folders]


def joined(splits: list[Split], name: str, parts: list[str]) -> Split:
    """Several parts as one split, for example the three training parts as the 960 hours; rooted at the folder that holds them.

    Raises UserError for a part that is not among the splits, or a name that one of them has.
    """
    chosen = {split.name: split for split in splits}
    missing = [part for part in parts if part not in chosen]
    if missing or name in chosen:
        what = f"no part {missing[0]}" if missing else f"{name} is a part itself"
        raise UserError(f"--join {name} {' '.join(parts)}: {what}; the parts are {', '.join(chosen)}")
    utterances = [replace(u, path=f"{part}/{u.path}") for part in parts for u in chosen[part].utterances]
    return Split(name, chosen[parts[0]].root.parent, sorted(utterances, key=lambda u: u.path))


def librilight_splits(root: Path, workers: int) -> list[Split]:
    """``train_10min`` (1h/0), ``train_1h`` (1h/*) and ``train_10h`` (1h/* and 9h) of the folder librispeech_finetuning, or of its parent.

    Raises UserError where 1h/0 or 9h is missing, and with every problem of the files.
    """
    root = absolute(root)
    if (root / "librispeech_finetuning").is_dir():
        root = root / "librispeech_finetuning"
    for needed in ("1h/0", "9h"):
        if not (root / needed).is_dir():
            advice = "give the folder librispeech_finetuning of Libri-light's limited-resource release"
            raise UserError(f"{root}: no folder {needed} in it; {advice}")
    hours = LIBRILIGHT["train_10h"]
    paths = [path for path in find_audio(root) if path.startswith(hours)]
    transcripts = [path for path in find_files(root, (TRANSCRIPTS,)) if path.startswith(hours)]
    utterances = read_utterances(root, paths, transcripts, workers)
    return [
        Split(name, root, [utterance for utterance in utterances if utterance.path.startswith(folders)])
        for name, folders in LIBRILIGHT.items()
    ]


# ---- folders ----------------------------------------------------------------------------------------------------------------


def absolute(folder: Path) -> Path:
    """Absolute, but not resolved: who reaches a corpus through a link wants that link in the manifest."""
    return Path(os.path.abspath(folder))


def find_parts(root: Path, wanted: list[str] | None) -> list[Path]:
    """Folders of the parts under ``root``, sorted by name. Raises UserError where there are none, or not those that are wanted."""
    root = absolute(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds LibriSpeech's parts")
    if (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    folders = (
        [root] if is_part(root) else sorted(folder for folder in root.iterdir() if folder.is_dir() and is_part(folder))
    )
    names = [folder.name for folder in folders]
    if not folders:
        raise UserError(
            f"{root}: no LibriSpeech part (SPEAKER/CHAPTER/*.flac) in it; give the folder that holds train-clean-100 and so on, "
            "or use `dinosr manifest folder` for other layouts"
        )
    missing = sorted(set(wanted or []) - set(names))
    if missing:
        raise UserError(f"{root}: no part {', '.join(missing)} in it; --parts can be any of: {', '.join(names)}")
    return [folder for folder in folders if wanted is None or folder.name in wanted]


def is_part(folder: Path) -> bool:
    """Whether audio lies three levels down: SPEAKER/CHAPTER/file."""
    return any(file.suffix.lower() in SUFFIXES for file in folder.glob("*/*/*"))


def below(folder: str, utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances under ``folder/``, with paths relative to it."""
    return [replace(u, path=u.path.removeprefix(folder)) for u in utterances if u.path.startswith(folder)]


# ---- utterances and their words ---------------------------------------------------------------------------------------------


def read_utterances(root: Path, paths: list[str], transcripts: list[str], workers: int) -> list[Utterance]:
    """Audio headers and transcripts put together, sorted by path; raises one UserError with every problem found.

    ``paths`` and ``transcripts`` (the *.trans.txt files) are relative to ``root``.
    """
    paths = sorted(paths)
    problems = duplicate_ids(paths)
    problems += [f"{path!a}: {fault}" for path in paths if (fault := path_fault(path))]
    words = match_words(root, paths, transcripts, problems)
    headers = map_files(read_header, [root / path for path in paths], workers, "reading headers")
    problems += [f"{path}: {fault}" for path, header in zip(paths, headers) if (fault := header_fault(header))]
    if problems:
        raise_problems(problems, root)
    return [Utterance(path, header.samples, words[path]) for path, header in zip(paths, headers)]


def header_fault(header: Header | AudioError) -> str | None:
    if isinstance(header, AudioError):
        return str(header)
    fault = wrong_format(header)
    return fault and f"{fault}; `dinosr manifest folder --convert` makes 16 kHz mono copies"


def match_words(root: Path, paths: list[str], transcripts: list[str], problems: list[str]) -> dict[str, str]:
    """Path -> words for every file whose chapter has a line for it; what does not match goes to ``problems``."""
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
                f"{chapter}: no *{TRANSCRIPTS} for its {len(files)} file(s); fetch it again, or remove the folder"
            )
            continue
        names = {utterance_id(path): path for path in files}
        for name in sorted(names.keys() - lines.keys()):
            problems.append(f"{names[name]}: no line in the *{TRANSCRIPTS} beside it; add one, or remove the file")
        for name in sorted(lines.keys() - names.keys()):
            problems.append(f"{chapter}/{name}: a transcript without audio; fetch the audio again, or remove the line")
        matched = {names[name]: lines[name] for name in names.keys() & lines.keys()}
        problems += [f"{path}: {fault}" for path, text in sorted(matched.items()) if (fault := words_fault(text))]
        words.update(matched)
    return words


def read_transcripts(root: Path, transcript: str, problems: list[str]) -> dict[str, str]:
    """Utterance id -> words, single spaces between them, of one *.trans.txt (path relative to ``root``).

    An utterance with two lines, or a file that cannot be read, goes to ``problems``.
    """
    words: dict[str, str] = {}
    try:
        for number, line in enumerate(read_lines(root / transcript, "fetch it again"), start=1):
            name, *text = line.split() or [""]
            if name in words:
                problems.append(f"{transcript} line {number}: a second line for {name}; remove one of them")
            elif name:
                words[name] = " ".join(text)
    except UserError as error:
        problems.append(str(error))
    return words

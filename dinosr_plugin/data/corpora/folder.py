"""Any folder of audio: split into training and validation by a hash, transcripts from .txt files, copies in 16 kHz mono."""

import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath

from ...errors import UserError
from ..audio import AudioError, Header, convert, find_audio, find_files, map_files, read_header, wrong_format
from ..manifest import (
    Split,
    Utterance,
    duplicate_ids,
    path_fault,
    raise_problems,
    read_lines,
    require_writable,
    speaker_of,
    words_fault,
)
from .librispeech import absolute

TRAIN, VALID = "train", "valid"


def folder_splits(
    root: Path, split_by: str, valid_share: float, seed: int, converted: Path | None, workers: int
) -> tuple[list[Split], list[str]]:
    """``train`` and ``valid`` of every wav, flac and ogg file under ``root``, and notes for the user.

    ``split_by``: "file" or "speaker" (see ``speaker_of``); ``valid_share``: share of the files or speakers in ``valid``, 0 for none.
    ``converted``: a new folder for 16 kHz mono FLAC copies of all files, which becomes the manifests' root; None: no copies.
    Raises UserError with every problem of the files; then no copy is left behind either.
    """
    root = absolute(root)
    paths = find_audio(root)
    names = split_names(paths, split_by, valid_share, seed)
    if converted is not None:
        converted = absolute(converted)
        require_new_folder(converted, root)
    problems = duplicate_ids(paths)
    problems += [f"{path!a}: {fault}" for path in paths if (fault := path_fault(path))]
    words, notes = read_words(root, paths, problems)
    headers = map_files(read_header, [root / path for path in paths], workers, "reading headers")
    problems += header_problems(paths, headers, any_format=converted is not None)
    if problems:
        raise_problems(problems, root)

    if converted is None:
        utterances = [Utterance(path, header.samples, words.get(path)) for path, header in zip(paths, headers)]
    else:
        utterances = convert_all(root, converted, paths, words, workers)
        root = converted
    return [Split(name, root, rows) for name in (TRAIN, VALID) if (rows := rows_of(name, utterances, names))], notes


def rows_of(split: str, utterances: list[Utterance], names: list[str]) -> list[Utterance]:
    """The utterances whose name in ``names`` is ``split``, sorted by path (a copy's new suffix can change the order)."""
    return sorted((u for u, name in zip(utterances, names) if name == split), key=lambda utterance: utterance.path)


def header_problems(paths: list[str], headers: list[Header | AudioError], any_format: bool) -> list[str]:
    problems = []
    for path, header in zip(paths, headers):
        if isinstance(header, AudioError):
            problems.append(f"{path}: {header}")
        elif not any_format and (fault := wrong_format(header)):
            problems.append(f"{path}: {fault}; add --convert NEW_FOLDER to make 16 kHz mono copies of all files")
    return problems


# ---- training or validation -------------------------------------------------------------------------------------------------


def split_names(paths: list[str], split_by: str, valid_share: float, seed: int) -> list[str]:
    """``train`` or ``valid`` for each path. A hash of the path (or speaker) and the seed decides for each by itself,
    so that an added file moves no other.

    Raises UserError where one of the two would be empty, with a share that works.
    """
    if not 0 <= valid_share < 1:
        raise UserError(f"--valid-share {valid_share}: not between 0 and 1 (1 excluded)")
    if split_by == "speaker" and (flat := [path for path in paths if "/" not in path]):
        advice = "make one folder a speaker, or use --split-by file"
        raise UserError(f"{flat[0]} lies in no speaker's folder ({len(flat)} file(s) like it); {advice}")
    # without the suffix: --convert changes that, and must not change the split
    keys = [speaker_of(path) if split_by == "speaker" else str(PurePosixPath(path).with_suffix("")) for path in paths]
    places = {key: place_of(key, seed) for key in set(keys)}
    lowest, highest = min(places.values()), max(places.values())
    if 0 < valid_share <= lowest:
        raise UserError(
            f"--valid-share {valid_share} of {len(places)} {split_by}(s) leaves valid empty; {remedy(places)}"
        )
    if valid_share > highest:
        raise UserError(
            f"--valid-share {valid_share} of {len(places)} {split_by}(s) leaves train empty; {remedy(places)}"
        )
    return [VALID if places[key] < valid_share else TRAIN for key in keys]


def place_of(key: str, seed: int) -> float:
    """A fixed pseudo-random number in [0, 1) for a path or speaker."""
    digest = hashlib.sha256(f"{seed}\t{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def remedy(places: dict[str, float]) -> str:
    if len(places) == 1:
        return "there is only one: use --valid-share 0"
    lowest, second = sorted(places.values())[:2]
    return f"a small share that fills both is {(lowest + second) / 2:.4g}; or try another --seed, or 0 for no valid.tsv"


# ---- transcripts ------------------------------------------------------------------------------------------------------------


def read_words(root: Path, paths: list[str], problems: list[str]) -> tuple[dict[str, str], list[str]]:
    """(path -> words, notes) from the .txt of the same name beside each file; both empty where no file has one.

    Some files with and some without goes to ``problems``; a .txt without audio is a note, it may be a README.
    """
    texts = set(find_files(root, (".txt",)))
    beside = {path: str(PurePosixPath(path).with_suffix(".txt")) for path in paths}
    matched = {path: text for path, text in beside.items() if text in texts}
    if not matched:
        return {}, []
    problems += [
        f"{path}: no {PurePosixPath(beside[path]).name} beside it, which {len(matched)} other file(s) have; write it, or remove the audio"
        for path in paths
        if path not in matched
    ]
    words = {}
    for path, text in matched.items():
        try:
            words[path] = " ".join(" ".join(read_lines(root / text, "save it as UTF-8")).removeprefix("\ufeff").split())
        except UserError as error:
            problems.append(str(error))
            continue
        if fault := words_fault(words[path]):
            problems.append(f"{path}: {fault}")
    strangers = sorted(texts - set(matched.values()))
    notes = (
        [f"{len(strangers)} .txt file(s) belong to no audio file and were left out, the first is {strangers[0]}"]
        if strangers
        else []
    )
    return words, notes


# ---- 16 kHz mono copies -----------------------------------------------------------------------------------------------------


def require_new_folder(converted: Path, root: Path) -> None:
    """Copies go to a folder of their own: never over the originals, never among them, where the next run would find both."""
    if converted.is_relative_to(root) or root.is_relative_to(converted):
        raise UserError(f"--convert {converted}: overlaps {root}; give a new folder outside it")
    if converted.exists() and not (converted.is_dir() and not any(converted.iterdir())):
        raise UserError(f"--convert {converted}: exists already; give a new folder, or remove it first")
    require_writable(converted)


def convert_all(root: Path, converted: Path, paths: list[str], words: dict[str, str], workers: int) -> list[Utterance]:
    """Copy every file as 16 kHz mono FLAC, in the order of ``paths``.

    The folder gets its name only when all are there; a failure, or Ctrl-C, removes what was made.
    """
    unfinished = converted.with_name(f".{converted.name}.{os.getpid()}")
    targets = [str(PurePosixPath(path).with_suffix(".flac")) for path in paths]

    def copy(path_and_target: tuple[str, str]) -> int:
        path, target = path_and_target
        return convert(root / path, unfinished / target)

    try:
        samples = map_files(copy, list(zip(paths, targets)), workers, "converting")
        problems = [f"{path}: {error}" for path, error in zip(paths, samples) if isinstance(error, AudioError)]
        if problems:
            raise_problems(problems, root)
        unfinished.rename(converted)
    except OSError as error:
        raise UserError(f"--convert {converted}: cannot be written ({error.strerror}); give another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return [Utterance(target, count, words.get(path)) for path, target, count in zip(paths, targets, samples)]

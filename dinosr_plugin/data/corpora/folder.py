"""Manifests of any folder of audio: a split by hash, transcripts from .txt files, and optional 16 kHz mono copies."""

import hashlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...errors import UserError, first_few
from ...files import output, read_text
from ..audio import AudioError, Header, read_header, wrong_format
from ..audio_files import find_audio, find_files, map_files, other_sound
from ..conversion import Copy, convert
from ..manifest import (
    ManifestRow,
    Split,
    duplicate_ids,
    path_fault,
    raise_problems,
    speaker_of,
    words_fault,
)
from .librispeech import absolute

TRAIN, VALID = "train", "valid"


def folder_splits(
    root: Path, split_by: str, valid_share: float, seed: int, converted: Path | None, workers: int
) -> tuple[list[Split], list[str]]:
    """Splits ``train`` and ``valid`` of all wav, flac and ogg files under ``root``; of copies, also of other files.

    Args:
        root: the folder that contains the audio.
        split_by: "file" or "speaker" (see ``speaker_of``).
        valid_share: share of the files or speakers in ``valid``, 0 for none.
        seed: determines the split.
        converted: a new folder for 16 kHz mono FLAC copies of all files, which becomes the manifests' root; None for no
            copies.
        workers: number of threads.

    Returns:
        The splits that are not empty, and notes for the user.

    Raises:
        UserError: lists every problem of the files; no copies are left behind.
    """
    root = absolute(root)
    paths = find_audio(root, convertible=converted is not None)
    names = split_names(paths, split_by, valid_share, seed)
    if converted is None:
        return read_splits(root, paths, names, workers)
    converted = absolute(converted)
    if converted.is_relative_to(root) or root.is_relative_to(converted):  # originals and copies would be mixed
        raise UserError(f"--convert {converted}: overlaps {root}; give a new folder outside it")
    with output(converted, "--convert", folder=True) as unfinished:
        splits, notes = read_splits(root, paths, names, workers, unfinished)
    return [replace(split, root=converted) for split in splits], notes


def read_splits(
    root: Path, paths: list[str], names: list[str], workers: int, copies: Path | None = None
) -> tuple[list[Split], list[str]]:
    """``folder_splits`` for these files; ``copies``: an unfinished folder for 16 kHz mono copies."""
    problems = duplicate_ids(paths)
    problems += [f"{path!a}: {fault}" for path in paths if (fault := path_fault(path))]
    words, notes = read_words(root, paths, problems)
    headers = map_files(read_header, [root / path for path in paths], workers, "reading headers")
    problems += header_problems(paths, headers, any_format=copies is not None)
    notes += other_sound(root, convertible=copies is not None) + unfinished_notes(paths, headers)
    if problems:
        raise_problems(problems, root)

    if copies is None:
        utterances = [ManifestRow(path, header.samples, words.get(path)) for path, header in zip(paths, headers)]
    else:
        made = convert_all(root, copies, paths, workers)
        utterances = [ManifestRow(copy_path(path), copy.samples, words.get(path)) for path, copy in zip(paths, made)]
        notes += scaled_notes(paths, made)
    return [Split(name, root, rows) for name in (TRAIN, VALID) if (rows := rows_of(name, utterances, names))], notes


def rows_of(split: str, utterances: list[ManifestRow], names: list[str]) -> list[ManifestRow]:
    """The utterances whose entry in ``names`` is ``split``, sorted by path: copies may change the order."""
    return sorted((u for u, name in zip(utterances, names) if name == split), key=lambda utterance: utterance.path)


def unfinished_notes(paths: list[str], headers: list[Header | AudioError]) -> list[str]:
    """A note about WAV files whose samples are used although their headers state none; [] if there are none."""
    files = [path for path, header in zip(paths, headers) if isinstance(header, Header) and header.unfinished]
    what = "file(s) whose header states no length, as after a recorder was switched off: all samples in them are used"
    return [f"{len(files)} {what}: {first_few(files)}"] if files else []


def scaled_notes(paths: list[str], copies: list[Copy]) -> list[str]:
    """A note about copies that ``convert`` has scaled down; [] if there are none."""
    loud = [f"{path} (by {copy.peak:.3g})" for path, copy in zip(paths, copies) if copy.peak > 1]
    what = "file(s) are louder than full scale, so their copies are scaled down to it"
    return [f"{len(loud)} {what}: {first_few(loud)}"] if loud else []


def header_problems(paths: list[str], headers: list[Header | AudioError], any_format: bool) -> list[str]:
    problems = []
    for path, header in zip(paths, headers):
        if isinstance(header, AudioError):
            problems.append(f"{path}: {header}")
        elif not any_format and (fault := wrong_format(header)):
            problems.append(f"{path}: {fault}; add --convert NEW_FOLDER, which makes 16 kHz mono copies of all files")
    return problems


# ---- training or validation ------------------------------------------------------------------------------------------


def split_names(paths: list[str], split_by: str, valid_share: float, seed: int) -> list[str]:
    """``train`` or ``valid`` for each path.

    A hash of the seed and the path (or speaker) decides for each independently, so that adding a file does not move
    others. Raises UserError if one of the splits would be empty, and suggests a share that works.
    """
    if not 0 <= valid_share < 1:
        raise UserError(f"--valid-share {valid_share}: must be at least 0 and less than 1")
    if split_by == "speaker" and (flat := [path for path in paths if "/" not in path]):
        advice = "put the files of each speaker into one folder, or use --split-by file"
        raise UserError(f"{flat[0]} is not in a speaker's folder ({len(flat)} such file(s)); {advice}")
    # without the suffix: --convert changes it, and must not change the split
    keys = [speaker_of(path) if split_by == "speaker" else str(PurePosixPath(path).with_suffix("")) for path in paths]
    numbers = {key: hash_number(key, seed) for key in set(keys)}
    for empty, name in (
        (0 < valid_share <= min(numbers.values()), VALID),
        (valid_share > max(numbers.values()), TRAIN),
    ):
        if empty:
            what = f"--valid-share {valid_share} of {len(numbers)} {split_by}(s) leaves {name} empty"
            raise UserError(f"{what}; {share_advice(numbers)}")
    return [VALID if numbers[key] < valid_share else TRAIN for key in keys]


def hash_number(key: str, seed: int) -> float:
    """A fixed pseudo-random number in [0, 1) for a path or speaker."""
    digest = hashlib.sha256(f"{seed}\t{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def share_advice(numbers: dict[str, float]) -> str:
    if len(numbers) == 1:
        return "there is only one: use --valid-share 0"
    lowest, second = sorted(numbers.values())[:2]
    share = (lowest + second) / 2
    return f"a small share that leaves neither empty is {share:.4g}; or try another --seed, or 0 for no valid.tsv"


# ---- transcripts -----------------------------------------------------------------------------------------------------


def read_words(root: Path, paths: list[str], problems: list[str]) -> tuple[dict[str, str], list[str]]:
    """(path -> words, notes) from .txt files with the names of the audio files; both are empty if there are none.

    If only some audio files have a .txt, the others are added to ``problems``. A .txt without audio, which may be a
    README, gets a note.
    """
    texts = set(find_files(root, (".txt",)))
    expected = {path: str(PurePosixPath(path).with_suffix(".txt")) for path in paths}
    matched = {path: text for path, text in expected.items() if text in texts}
    if not matched:
        return {}, []
    advice = f"while {len(matched)} other file(s) have one; write it, or remove the audio file"
    problems += [
        f"{path}: no transcript {PurePosixPath(expected[path]).name} in its folder, {advice}"
        for path in paths
        if path not in matched
    ]
    words = {}
    for path, text in matched.items():
        try:
            words[path] = " ".join(read_text(root / text, "save it as UTF-8").split())
        except UserError as error:
            problems.append(str(error))
            continue
        if fault := words_fault(words[path]):
            problems.append(f"{path}: {fault}")
    others = sorted(texts - set(matched.values()))
    note = f"{len(others)} .txt file(s) without an audio file of the same name were ignored: {first_few(others)}"
    return words, [note] if others else []


# ---- 16 kHz mono copies ----------------------------------------------------------------------------------------------


def copy_path(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(".flac"))


def convert_all(root: Path, copies: Path, paths: list[str], workers: int) -> list[Copy]:
    """Copies every file as 16 kHz mono FLAC to the folder ``copies``, in the order of ``paths``, named by
    ``copy_path``."""

    def copy(path: str) -> Copy:
        return convert(root / path, copies / copy_path(path))

    made = map_files(copy, paths, workers, "converting")
    if problems := [f"{path}: {error}" for path, error in zip(paths, made) if isinstance(error, AudioError)]:
        raise_problems(problems, root)
    return [one for one in made if isinstance(one, Copy)]  # all of them, but mypy does not know

"""Manifests of any folder of audio: all of it for pre-training, and the transcribed part for fine-tuning."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import UserError, first_few
from ...files import kind_of, output
from ..audio import SAMPLE_RATE, AudioError, Header, read_header, wrong_format
from ..audio_files import find_audio, map_files, other_sound
from ..manifest import LABELLED, ManifestRow, Split, path_fault, raise_problems, speaker_of, utterance_id, words_fault
from ..text_normalization import TextNormalization
from .copies import copy_notes, copy_paths, write_copies
from .librispeech import absolute
from .splitting import TRAIN, VALID, share_advice, split_keys, split_names, usual_share
from .tables import SPEAKERS, TRANSCRIPTS, match_table
from .transcripts import read_words

UNKNOWN = "unknown"  # the speaker of files that are not in the table of speakers
MAKE_COPIES = "add --convert NEW_FOLDER, which makes 16 kHz mono copies with unique names of all files"


@dataclass(frozen=True)
class Choices:
    """What users choose for a folder.

    Args:
        split_by: "file" or "speaker": what is assigned to training or validation as a whole.
        valid_share: share of the files or speakers in ``valid``, 0 for none; None: ``usual_share``.
        seed: determines the split.
        converted: a new folder for 16 kHz mono FLAC copies of all files, which becomes the manifests' root; None for no
            copies.
        transcripts: a table with the words of the files; None: .txt files beside them.
        speakers: a table with the speakers of the files; None: their folders (``speaker_of``).
        normalization: how the transcripts will be normalised; None: they stay as they are.
        workers: number of threads.
    """

    split_by: str = "file"
    valid_share: float | None = None
    seed: int = 0
    converted: Path | None = None
    transcripts: Path | None = None
    speakers: Path | None = None
    normalization: TextNormalization | None = None
    workers: int = 1


@dataclass
class Corpus:
    """The files of a folder, what is known about them, and what the user will read."""

    root: Path  # absolute
    paths: list[str]  # sorted, relative to the root
    speakers: dict[str, str] = field(default_factory=dict)  # of all paths
    words: dict[str, str] = field(default_factory=dict)  # of those that are transcribed
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def folder_splits(root: Path, choices: Choices) -> tuple[list[Split], list[str]]:
    """Splits ``train`` and ``valid`` of all wav, flac and ogg files under ``root``; of copies, also of other files.

    If only a part of the files is transcribed, it is also in ``train_labelled`` and ``valid_labelled``, and ``train``
    and ``valid`` have no words.

    Returns:
        The splits that are not empty, and notes for the user.

    Raises:
        UserError: lists every problem of the files; no copies are left behind.
    """
    root = absolute(root)
    corpus = Corpus(root, find_audio(root, convertible=choices.converted is not None))
    read_speakers(corpus, choices)
    keys = split_keys(corpus.paths, choices.split_by, corpus.speakers)
    share = choices.valid_share
    if share is None:
        share, notes = usual_share(keys, choices.split_by, choices.seed)
        corpus.notes += notes
    names = split_names(keys, choices.split_by, share, choices.seed)
    read_transcripts(corpus, choices)
    if choices.converted is None:
        rows = list_files(corpus, choices.workers)
    else:
        root = absolute(choices.converted)
        rows = list_copies(corpus, root, choices.workers)

    parts = {name: [row for row, part in zip(rows, names) if part == name] for name in (TRAIN, VALID)}
    splits = [Split(name, root, sorted(part, key=lambda row: row.path)) for name, part in parts.items() if part]
    if 0 < len(corpus.words) < len(rows):
        corpus.notes += labelled_notes(corpus, rows, names, keys, choices.seed)
        splits = with_labelled(splits)
    return splits, corpus.notes


# ---- what is known about the files -----------------------------------------------------------------------------------


def read_speakers(corpus: Corpus, choices: Choices) -> None:
    """Sets the speakers. Raises UserError for a table that is not used or contradicts itself."""
    if choices.speakers is None:
        corpus.speakers = {path: speaker_of(path) for path in corpus.paths}
        return
    option = f"--speakers {choices.speakers}"
    if choices.split_by != "speaker" and choices.converted is None:
        raise UserError(
            f"{option}: has no effect; add --split-by speaker, or --convert NEW_FOLDER, which makes a folder of copies "
            "for each speaker"
        )
    found, notes = match_table(choices.speakers, SPEAKERS, corpus.paths, corpus.problems)
    if corpus.problems:
        raise_problems(corpus.problems, corpus.root)
    corpus.notes += notes
    corpus.speakers = {path: found.get(path, UNKNOWN) for path in corpus.paths}
    if others := [path for path in corpus.paths if path not in found]:
        what = f"audio file(s) are not in it, and count as the speaker {UNKNOWN!r}"
        corpus.notes.append(f"{option}: {len(others)} {what}: {first_few(others)}")
    if choices.converted is None:
        corpus.notes.append(
            f"{option}: decides the split only; for later commands the speaker is the first folder of a path. Add "
            "--convert NEW_FOLDER, which makes a folder of copies for each speaker"
        )


def read_transcripts(corpus: Corpus, choices: Choices) -> None:
    """Sets the words, as they are written, from the table or from .txt files."""
    fault_of = choices.normalization.fault_of if choices.normalization else words_fault
    if choices.transcripts is None:
        corpus.words, notes = read_words(corpus.root, corpus.paths, corpus.problems, fault_of)
    else:
        corpus.words, notes = match_table(choices.transcripts, TRANSCRIPTS, corpus.paths, corpus.problems, fault_of)
    corpus.notes += notes


def read_headers(corpus: Corpus, workers: int) -> dict[str, Header]:
    """Path -> header. What prevents it, and names that a manifest cannot contain, are added to the problems."""
    corpus.problems += [f"{path!a}: {fault}" for path in corpus.paths if (fault := path_fault(path))]
    headers = {}
    found = map_files(read_header, [corpus.root / path for path in corpus.paths], workers, "reading headers")
    for path, header in zip(corpus.paths, found):
        if isinstance(header, AudioError):
            corpus.problems.append(f"{path}: {header}")
        else:
            headers[path] = header
    if unfinished := [path for path, header in headers.items() if header.unfinished]:
        what = "file(s) whose header states no length, as after a recorder was switched off"
        corpus.notes.append(f"{len(unfinished)} {what}: all samples in them are used: {first_few(unfinished)}")
    return headers


# ---- rows of the manifest --------------------------------------------------------------------------------------------


def list_files(corpus: Corpus, workers: int) -> list[ManifestRow]:
    """One row for each file. Raises UserError unless all are 16 kHz mono with unique names."""
    headers = read_headers(corpus, workers)
    corpus.problems += wrong_formats(headers) + repeated_names(corpus.paths)
    corpus.notes += other_sound(corpus.root, False, corpus.paths)
    if corpus.problems:
        raise_problems(corpus.problems, corpus.root)
    return [ManifestRow(path, headers[path].samples, corpus.words.get(path)) for path in corpus.paths]


def wrong_formats(headers: dict[str, Header]) -> list[str]:
    """One problem for each format that is not 16 kHz mono."""
    faults = defaultdict(list)
    for path, header in headers.items():
        if fault := wrong_format(header):
            faults[fault].append(path)
    return [f"{named(files)}: {fault}; {MAKE_COPIES}" for fault, files in sorted(faults.items())]


def repeated_names(paths: list[str]) -> list[str]:
    """One problem for all utterance ids that several files have."""
    files = defaultdict(list)
    for path in paths:
        files[utterance_id(path)].append(path)
    repeated = [" and ".join(same[:2]) for same in files.values() if len(same) > 1]
    what = f"same utterance id, of {len(repeated)} id(s) in all; rename or remove all but one of each, or {MAKE_COPIES}"
    return [f"{first_few(repeated)}: {what}"] if repeated else []


def named(files: list[str]) -> str:
    """The only file, or the first few with their number."""
    return files[0] if len(files) == 1 else f"{len(files)} files ({first_few(files)})"


def list_copies(corpus: Corpus, folder: Path, workers: int) -> list[ManifestRow]:
    """Makes 16 kHz mono copies in a new folder. One row for each copy. Errors as ``folder_splits``."""
    root = corpus.root
    if folder.is_relative_to(root) or root.is_relative_to(folder):  # originals and copies would be mixed
        raise UserError(f"--convert {folder}: overlaps {root}; give a new folder outside it")
    with output(folder, "--convert", folder=True) as unfinished:
        read_headers(corpus, workers)
        copies = copy_paths(corpus.paths, corpus.speakers, corpus.problems)
        corpus.notes += other_sound(root, True, corpus.paths)
        if corpus.problems:
            raise_problems(corpus.problems, root)
        made = write_copies(root, unfinished, corpus.paths, copies, workers)
    corpus.notes += copy_notes(corpus.paths, copies, made, folder)
    words = (corpus.words.get(path) for path in corpus.paths)
    return [ManifestRow(path, copy.samples, text) for path, copy, text in zip(copies, made, words)]


# ---- the transcribed part --------------------------------------------------------------------------------------------


def with_labelled(splits: list[Split]) -> list[Split]:
    """The splits without words, then those of their transcribed rows, if there are any."""
    plain = [replace(split, utterances=[replace(row, words=None) for row in split.utterances]) for split in splits]
    labelled = [
        replace(split, name=split.name + LABELLED, utterances=[row for row in split.utterances if row.words])
        for split in splits
    ]
    return plain + [split for split in labelled if split.utterances]


def labelled_notes(corpus: Corpus, rows: list[ManifestRow], names: list[str], keys: list[str], seed: int) -> list[str]:
    """How much is transcribed, how to use it, and which split has none of it."""
    hours, labelled_hours = (
        sum(row.samples for row in some) / SAMPLE_RATE / 3600 for some in (rows, [row for row in rows if row.words])
    )
    others = [path for path in corpus.paths if path not in corpus.words]
    there = {name for name, row in zip(names, rows) if row.words}
    fields = [f"dataset.{name}_subset={name}{LABELLED}" for name in (TRAIN, VALID) if name in there]
    notes = [
        f"{len(corpus.words)} of {len(rows)} files are transcribed ({labelled_hours:.2f} of {hours:.2f} hours); "
        f"fine-tune with {' '.join(fields)}. Not transcribed: {first_few(others)}"
    ]
    for name in sorted(set(names) - there):
        advice = share_advice([key for key, row in zip(keys, rows) if row.words], seed)
        notes.append(f"no file of {name} is transcribed, so there is no {name}{LABELLED}.tsv; {advice}")
    return notes


def counted_split(splits: list[Split]) -> str:
    """The split whose symbols the dictionary counts: the transcribed part of ``train`` if there is one."""
    return next((split.name for split in splits if split.has_words), TRAIN)


def left_over(out: Path, splits: list[Split]) -> list[str]:
    """A note about manifests and labels in ``out`` that an earlier command wrote and this one does not replace."""
    suffixes = {split.name: (".tsv", ".ltr", ".wrd") if split.has_words else (".tsv",) for split in splits}
    names = [name + part for name in (TRAIN, VALID) for part in ("", LABELLED)]
    old = [
        f"{name}{suffix}"
        for name in names
        for suffix in (".tsv", ".ltr", ".wrd")
        if suffix not in suffixes.get(name, ()) and kind_of(out / f"{name}{suffix}") != "nothing"
    ]
    what = "are from an earlier command and do not belong to these manifests; remove them"
    return [f"{', '.join(old)} in {out} {what}"] if old else []

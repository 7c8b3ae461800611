"""Names of the copies of ``dinosr manifest folder --convert``."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.data.corpora.copies import copy_paths
from dinosr_plugin.data.manifest import duplicate_ids, speaker_of
from support.folders import fails, lines, make_folder, notes, write_sound


def copies_of(paths: list[str]) -> list[str]:
    problems: list[str] = []
    copies = copy_paths(paths, {path: speaker_of(path) for path in paths}, problems)
    assert not problems
    return copies


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["a.wav", "s/b.mp3"], ["a.flac", "s/b.flac"]),
        (["id1/v1/1.wav", "id1/v2/1.wav"], ["id1/v1/id1-v1-1.flac", "id1/v2/id1-v2-1.flac"]),
        (["DR1/F/SA1.WAV", "DR1/F/SI9.WAV", "DR2/M/SA1.WAV"],
         ["DR1/F/DR1-F-SA1.flac", "DR1/F/SI9.flac", "DR2/M/DR2-M-SA1.flac"]),
        (["x.wav", "a/x.wav"], ["x.flac", "a/a-x.flac"]),
        (["x.wav", "a/x.wav", "a-x.wav"], ["x.flac", "a/a--x.flac", "a-x.flac"]),
        (["p/1/9/1-9-1.wav", "q/1/9/1-9-1.wav"], ["1/p-1-9-1-9-1.flac", "1/q-1-9-1-9-1.flac"]),  # LibriSpeech
    ],
)  # fmt: skip
def test_names_that_repeat_get_their_folders_in_front(paths, expected):
    assert copies_of(paths) == expected


@settings(max_examples=40)
@given(
    st.sets(st.text("ab-/", min_size=1, max_size=7).map(lambda name: str(PurePosixPath(name.strip("/")))), min_size=1)
)
def test_utterance_ids_are_unique_and_speakers_are_kept(names):
    paths = sorted(f"{name}.wav" for name in names if name != ".")
    copies = copies_of(paths)
    assert not duplicate_ids(copies) and len(set(copies)) == len(paths)
    assert [speaker_of(copy) for copy in copies] == [speaker_of(path) for path in paths]


def test_files_that_differ_only_in_the_suffix_are_a_problem(tmp_path, capsys):
    for name in ("s/a.wav", "s/a.flac", "t/b.wav"):
        write_sound(tmp_path / "in" / name)
    command = ["manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", "0"]
    message = fails(capsys, *command, "--convert", tmp_path / "copies")
    assert "1 problem(s)" in message and "s/a.wav: same name as s/a.flac; remove one of them" in message


def test_a_name_that_becomes_too_long_is_a_problem(tmp_path, capsys):
    for folder in ("x" * 200, "y" * 200):
        write_sound(tmp_path / f"in/{folder}/{'z' * 60}.wav")
    command = ["manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", "0"]
    message = fails(capsys, *command, "--convert", tmp_path / "copies")
    assert "2 problem(s)" in message and message.count("because a name is longer than 255 bytes; rename it") == 2


def test_transcripts_and_the_split_follow_the_files(tmp_path, capsys):
    root = tmp_path / "in"
    for number in range(12):
        path = write_sound(root / f"id{number // 3}/v{number % 3}/00001.wav", 1600 + number)
        path.with_suffix(".txt").write_text(f"words {number}")
    arguments = ["--split-by", "speaker", "--valid-share", "0.5"]
    make_folder(root, tmp_path / "out", *arguments, "--convert", str(tmp_path / "copies"))
    note = notes(capsys)[0]
    assert note == (
        f"note: 12 copies have a new name, because names repeat (all are listed in {tmp_path}/copies/originals.tsv): "
        "id0/v0/00001.wav -> id0/v0/id0-v0-00001.flac, id0/v1/00001.wav -> id0/v1/id0-v1-00001.flac, ..."
    )
    original = dict(line.split("\t") for line in lines(tmp_path / "copies/originals.tsv")[1:])
    speakers = []
    for name in ("train", "valid"):
        root_of_copies, *rows = lines(tmp_path / f"out/{name}.tsv")
        assert root_of_copies == str(tmp_path / "copies")
        for row, words in zip(rows, lines(tmp_path / f"out/{name}.wrd"), strict=True):
            path, samples = row.split("\t")
            assert (root / original[path]).with_suffix(".txt").read_text() == words
            assert int(samples) == 1600 + int(words.split()[1]) and (tmp_path / "copies" / path).is_file()
        speakers.append({Path(row).parts[0] for row in rows})
    assert not speakers[0] & speakers[1] and len(speakers[0] | speakers[1]) == 4

"""`dinosr manifest`: the files written for good corpora, and the messages about bad ones.

Every corpus consists of real audio files in a temporary folder.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from fairseq.data import Dictionary
from fairseq.data.audio.raw_audio_dataset import FileAudioDataset
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.cli import main
from dinosr_plugin.data import audio, audio_files, manifest
from dinosr_plugin.data.corpora import splitting
from dinosr_plugin.errors import UserError
from support.folders import fails, lines, make_folder, noise, notes, write_sound


def write_chapter(part: Path, speaker: int, chapter: int, texts: list[str]) -> Path:
    """Writes a chapter in LibriSpeech's layout; file number n has 3200 + 100 n samples."""
    place = part / str(speaker) / str(chapter)
    names = [f"{speaker}-{chapter}-{number:04d}" for number in range(len(texts))]
    for number, name in enumerate(names):
        write_sound(place / f"{name}.flac", 3200 + 100 * number)
    lines = [f"{name} {text}\n" for name, text in zip(names, texts)]
    (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(reversed(lines)))  # the order must not matter
    return place


@pytest.fixture
def librispeech(tmp_path) -> Path:
    root = tmp_path / "LibriSpeech"
    write_chapter(root / "train", 19, 198, ["HELLO WORLD", "IT'S A DAY"])
    write_chapter(root / "train", 103, 1, ["HELLO"])
    write_chapter(root / "dev", 7, 2, ["WHO", "QUICK DOGS"])
    return root


# ---- LibriSpeech -----------------------------------------------------------------------------------------------------


def test_librispeech_files(librispeech, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["manifest", "librispeech", str(librispeech), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        f"{part}.{kind}" for part in ("train", "dev") for kind in ("tsv", "ltr", "wrd")
    } | {"dict.ltr.txt"}
    assert lines(out / "train.tsv") == [
        str(librispeech / "train"),
        "103/1/103-1-0000.flac\t3200",
        "19/198/19-198-0000.flac\t3200",
        "19/198/19-198-0001.flac\t3300",
    ]
    assert lines(out / "train.wrd") == ["HELLO", "HELLO WORLD", "IT'S A DAY"]
    assert lines(out / "train.ltr") == ["H E L L O |", "H E L L O | W O R L D |", "I T ' S | A | D A Y |"]
    assert lines(out / "dev.ltr") == ["W H O |", "Q U I C K | D O G S |"]
    printed = capsys.readouterr()
    assert f"{out}/train.tsv, .ltr, .wrd: 3 utterances, 0.00 hours, 2 speaker(s)" in printed.out
    assert "note: 'Q' occurs in dev but not in train" in printed.err


def test_parts_joined_into_one_split(librispeech, tmp_path, capsys):
    command = ["manifest", "librispeech", str(librispeech), "--out", str(tmp_path)]
    assert main([*command, "--join", "all", "train", "dev"]) == 0
    root, *rows = lines(tmp_path / "all.tsv")
    assert root == str(librispeech) and rows == sorted(rows)
    assert {row.split("/")[0] for row in rows} == {"train", "dev"} and len(rows) == 5
    words = dict(zip((row.split("\t")[0].split("/", 1)[1] for row in rows), lines(tmp_path / "all.wrd")))
    for part in ("train", "dev"):
        for row, text in zip(lines(tmp_path / f"{part}.tsv")[1:], lines(tmp_path / f"{part}.wrd")):
            assert words[row.split("\t")[0]] == text
    assert "| 6" in lines(tmp_path / "dict.ltr.txt")  # training words count once, joined or not
    for wrong in (["all"], ["all", "train", "absent"], ["dev", "train"]):
        assert main([*command, "--join", *wrong]) == 1
        assert capsys.readouterr().err.count("error: --join") == 1


def test_dictionary_counts_the_training_part_and_holds_every_symbol(librispeech, tmp_path):
    main(["manifest", "librispeech", str(librispeech), "--out", str(tmp_path)])
    rows = [line.rsplit(" ", 1) for line in lines(tmp_path / "dict.ltr.txt")]
    counts = {symbol: int(count) for symbol, count in rows}
    assert counts["|"] == 6 and counts["L"] == 5 and counts["'"] == 1 and counts["Q"] == counts["C"] == 0
    assert rows == sorted(rows, key=lambda row: (-int(row[1]), row[0]))
    dictionary = Dictionary.load(str(tmp_path / "dict.ltr.txt"))
    for name in ("train", "dev"):
        for line in lines(tmp_path / f"{name}.ltr"):
            assert dictionary.unk() not in dictionary.encode_line(line, add_if_not_exist=False).tolist()


def test_dictionary_without_a_training_part_counts_all(librispeech, tmp_path):
    (librispeech / "train").rename(librispeech / "other")
    main(["manifest", "librispeech", str(librispeech), "--out", str(tmp_path)])
    assert "| 9" in lines(tmp_path / "dict.ltr.txt")


def test_fairseq_reads_the_manifest(librispeech, tmp_path):
    main(["manifest", "librispeech", str(librispeech), "--out", str(tmp_path)])
    dataset = FileAudioDataset(str(tmp_path / "train.tsv"), sample_rate=16000)
    assert [len(dataset[index]["source"]) for index in range(3)] == [3200, 3200, 3300]


def test_librispeech_parts_and_parents(librispeech, tmp_path, capsys):
    for root, options, expected in [
        (librispeech, ["--parts", "dev"], {"dev"}),
        (librispeech.parent, [], {"dev", "train"}),
        (librispeech / "train", [], {"train"}),
    ]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["manifest", "librispeech", str(root), "--out", str(out), *options]) == 0
        assert {path.stem for path in out.glob("*.tsv")} == expected
        assert all(lines(path)[0] == str(librispeech / path.stem) for path in out.glob("*.tsv"))
    capsys.readouterr()
    message = fails(
        capsys, "manifest", "librispeech", librispeech, "--out", tmp_path / "none", "--parts", "dev", "tset"
    )
    assert "no part tset" in message and "dev, train" in message


def test_librispeech_root_that_is_relative(librispeech, tmp_path, monkeypatch):
    monkeypatch.chdir(librispeech.parent)
    main(["manifest", "librispeech", "LibriSpeech", "--out", "out"])
    assert lines(tmp_path / "out/dev.tsv")[0] == str(librispeech / "dev")


def test_all_problems_are_reported_together_and_nothing_is_written(librispeech, tmp_path, capsys):
    chapter = librispeech / "train/19/198"
    whole = (chapter / "19-198-0000.flac").read_bytes()
    (chapter / "19-198-0000.flac").write_bytes(whole[:-7])  # truncated
    (chapter / "19-198-0001.flac").write_bytes(b"")  # zero length
    write_sound(chapter / "19-198-0002.flac")  # no transcript
    write_sound(chapter / "19-198-0003.flac", rate=8000, channels=2)
    (chapter / "19-198-0004.wav").write_text("this is text " * 50)
    transcript = chapter / "19-198.trans.txt"
    transcript.write_text(
        transcript.read_text() + "19-198-0003 STEREO\n19-198-0004\n19-198-0009 NO AUDIO\n19-198-0000 AGAIN\n"
    )
    shutil.copy(chapter / "19-198-0003.flac", librispeech / "dev/7/2/19-198-0003.flac")  # same id in another part
    (librispeech / "train/103/1/103-1.trans.txt").unlink()

    out = tmp_path / "out"
    message = fails(capsys, "manifest", "librispeech", librispeech, "--out", out)
    assert not out.exists()
    assert str(librispeech) in message.splitlines()[0]
    for expected in (
        "train/19/198/19-198-0000.flac: unreadable or truncated",
        "train/19/198/19-198-0001.flac: zero bytes long",
        "train/19/198/19-198-0002.flac: no line in the chapter's *.trans.txt",
        "train/19/198/19-198-0003.flac: 8000 Hz, 2 channel(s)",
        "train/19/198/19-198-0004.wav: unreadable",
        "train/19/198/19-198-0004.wav: its transcript is empty",
        "train/19/198/19-198-0009: transcript without audio",
        "19-198.trans.txt line 6: duplicate transcript of 19-198-0000",
        "train/19/198/19-198-0003.flac: same utterance id as dev/7/2/19-198-0003.flac",
        "train/103/1: no *.trans.txt file for its 1 audio file(s)",
        "dev/7/2/19-198-0003.flac: no line",
    ):
        assert message.count(expected) == 1, expected
    assert f"error: {len(message.splitlines()) - 1} problem(s)" in message


def test_long_lists_of_problems_are_truncated_and_counted(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in range(25):
        (tmp_path / f"in/{number}.wav").touch()
    message = fails(capsys, "manifest", "folder", tmp_path / "in", "--out", tmp_path / "out")
    assert "25 problem(s)" in message and message.count("zero bytes long") == 20 and "... and 5 more" in message


def test_files_of_the_same_wrong_format_are_one_problem(tmp_path, capsys):
    for number in range(25):
        write_sound(tmp_path / f"in/{number:02d}.wav", 100, rate=8000)
    write_sound(tmp_path / "in/x.wav", 100, channels=2)
    _, first, second = fails(capsys, "manifest", "folder", tmp_path / "in", "--out", tmp_path / "out").splitlines()
    assert first.startswith("  x.wav: 16000 Hz, 2 channel(s) instead of 16000 Hz, 1 channel; add --convert NEW_FOLDER")
    assert second.startswith("  25 files (00.wav, 01.wav, 02.wav, ...): 8000 Hz, 1 channel(s) instead of")


@pytest.mark.parametrize("corpus", ["librispeech", "librilight", "folder"])
def test_missing_and_empty_roots(corpus, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "empty"):
        message = fails(capsys, "manifest", corpus, root, "--out", tmp_path / "out")
        assert str(root) in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_unwritable_out_is_one_line(librispeech, tmp_path, capsys, out):
    (tmp_path / "file").write_text("not a folder")
    message = fails(capsys, "manifest", "librispeech", librispeech, "--out", tmp_path / out)
    assert "--out" in message and "not a folder" in message and len(message.splitlines()) == 1


def test_no_file_is_left_of_a_set_that_cannot_be_completed(tmp_path):
    (tmp_path / "b.tsv").mkdir()
    (tmp_path / "b.tsv/x").touch()
    with pytest.raises(UserError, match="--out .*b.tsv: is a folder; give the name of a file"):
        manifest.write_files(tmp_path, {"b.tsv": ["2"], "a.tsv": ["1"]})
    assert [path.name for path in tmp_path.iterdir()] == ["b.tsv"]


def test_the_setting_that_the_folder_was_given_with_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="^checkpoint.save_dir=.*a.tsv: cannot be written .*; give another folder$"):
        manifest.write_files(tmp_path / "file", {"a.tsv": ["1"]}, "checkpoint.save_dir")


def test_real_corpus(librispeech_mini, tmp_path):
    assert main(["manifest", "librispeech", str(librispeech_mini), "--out", str(tmp_path), "--parts", "dev"]) == 0
    rows, words = lines(tmp_path / "dev.tsv")[1:], lines(tmp_path / "dev.wrd")
    assert len(rows) == len(words) == len(lines(tmp_path / "dev.ltr")) > 50
    for row, text in list(zip(rows, words))[::10]:
        path, samples = row.split("\t")
        sound, rate = sf.read(librispeech_mini / "dev" / path)
        transcript = next((librispeech_mini / "dev" / path).parent.glob("*.trans.txt")).read_text()
        assert len(sound) == int(samples) and rate == 16000
        assert f"{Path(path).stem} {text}\n" in transcript


# ---- Libri-light -----------------------------------------------------------------------------------------------------


@pytest.fixture
def librilight(tmp_path) -> Path:
    root = tmp_path / "librispeech_finetuning"
    write_chapter(root / "1h/0/clean", 1, 10, ["A"])
    write_chapter(root / "1h/0/other", 2, 10, ["B B"])
    write_chapter(root / "1h/5/clean", 3, 10, ["C"])
    write_chapter(root / "9h/other", 4, 10, ["D", "E"])
    (root / "phones").mkdir()
    (root / "phones/10min_phones.txt").write_text("1-10-0000 3 4 5\n")
    return root


@pytest.mark.parametrize("given_parent", [False, True])
def test_librilight_splits(librilight, tmp_path, given_parent):
    out = tmp_path / "out"
    root = librilight.parent if given_parent else librilight
    assert main(["manifest", "librilight", str(root), "--out", str(out)]) == 0
    ten_minutes = ["1h/0/clean/1/10/1-10-0000.flac\t3200", "1h/0/other/2/10/2-10-0000.flac\t3200"]
    hour = [*ten_minutes, "1h/5/clean/3/10/3-10-0000.flac\t3200"]
    assert lines(out / "train_10min.tsv") == [str(librilight), *ten_minutes]
    assert lines(out / "train_1h.tsv") == [str(librilight), *hour]
    assert lines(out / "train_10h.tsv") == [
        str(librilight),
        *hour,
        "9h/other/4/10/4-10-0000.flac\t3200",
        "9h/other/4/10/4-10-0001.flac\t3300",
    ]
    assert lines(out / "train_10h.ltr") == ["A |", "B | B |", "C |", "D |", "E |"]
    assert lines(out / "dict.ltr.txt") == ["| 6", "B 2", "A 1", "C 1", "D 1", "E 1"]  # each utterance counted once


def test_librilight_with_a_part_missing(librilight, tmp_path, capsys):
    shutil.rmtree(librilight / "9h")
    assert "no folder 9h" in fails(capsys, "manifest", "librilight", librilight, "--out", tmp_path / "out")


# ---- any folder ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path) -> Path:
    """40 files of 8 speakers, three formats."""
    root = tmp_path / "tree"
    for number in range(40):
        suffix = ("wav", "flac", "ogg")[number % 3]
        write_sound(root / f"speaker{number % 8}/session/{number:02d}.{suffix}", 1600 + number)
    return root


def test_folder_split_by_file(tree, tmp_path):
    made = make_folder(tree, tmp_path / "out", "--valid-share", "0.3")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.tsv", "valid.tsv"}
    assert sorted(made["train"] + made["valid"]) == sorted(
        path.relative_to(tree).as_posix() for path in tree.rglob("*.*")
    )
    assert made["train"] == sorted(made["train"]) and 4 <= len(made["valid"]) <= 20
    lengths = dict(
        line.split("\t") for line in lines(tmp_path / "out/train.tsv")[1:] + lines(tmp_path / "out/valid.tsv")[1:]
    )
    assert all(int(samples) == 1600 + int(Path(path).stem) for path, samples in lengths.items())


def test_folder_split_by_speaker(tree, tmp_path):
    made = make_folder(tree, tmp_path / "out", "--split-by", "speaker", "--valid-share", "0.4")
    train, valid = ({path.split("/")[0] for path in made[name]} for name in ("train", "valid"))
    assert train and valid and not train & valid and len(train | valid) == 8


def test_an_added_file_moves_no_other_and_the_seed_does(tree, tmp_path):
    before = make_folder(tree, tmp_path / "before", "--valid-share", "0.3")
    another = make_folder(tree, tmp_path / "seed", "--valid-share", "0.3", "--seed", "1")
    write_sound(tree / "a_new_speaker/x.wav")
    after = make_folder(tree, tmp_path / "after", "--valid-share", "0.3")
    for name in ("train", "valid"):
        assert [path for path in after[name] if path != "a_new_speaker/x.wav"] == before[name]
    assert another != before


def test_folder_without_validation(tree, tmp_path):
    assert list(make_folder(tree, tmp_path / "out", "--valid-share", "0")) == ["train"]


def test_a_share_that_leaves_a_split_empty_suggests_another(tmp_path, capsys):
    for number in range(3):
        write_sound(tmp_path / f"in/{number}.wav")
    for share in ("0.0001", "0.9999"):
        message = fails(
            capsys, "manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", share
        )
        advice = message.split("leaves neither empty is ")[1].split(";")[0]
        assert len(make_folder(tmp_path / "in", tmp_path / "out", "--valid-share", advice)) == 2
        capsys.readouterr()
    assert "must be at least 0 and less than 1" in fails(
        capsys, "manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", "1"
    )


def test_split_by_speaker_needs_folders(tmp_path, capsys):
    write_sound(tmp_path / "in/a.wav")
    assert "--split-by file" in fails(
        capsys, "manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--split-by", "speaker"
    )


@given(st.sets(st.text("abc/", min_size=1, max_size=6), min_size=8), st.integers(0, 5), st.floats(0.2, 0.8))
def test_each_path_is_split_independently(names, seed, share):
    paths = sorted(f"{name}.wav" for name in names)
    try:
        every = dict(zip(paths, splitting.split_names(paths, "file", share, seed)))
        some = dict(zip(paths[::2], splitting.split_names(paths[::2], "file", share, seed)))
    except UserError:
        return  # one split would be empty
    assert all(every[path] == name for path, name in some.items())


def test_transcripts_next_to_the_audio(tree, tmp_path, capsys):
    for path in list(tree.rglob("*.*")):
        path.with_suffix(".txt").write_text(f"\ufeff Straße\n number\t{path.stem}  \n", encoding="utf-8")
    (tree / "README.txt").write_text("about")
    made = make_folder(tree, tmp_path / "out", "--valid-share", "0.3")
    assert "1 .txt file(s) without an audio file of the same name were ignored: README.txt" in capsys.readouterr().err
    for name, paths in made.items():
        assert lines(tmp_path / f"out/{name}.wrd") == [f"Straße number {Path(path).stem}" for path in paths]
        assert lines(tmp_path / f"out/{name}.ltr")[0].startswith("S t r a ß e | n u m b e r | ")
    assert "ß" in manifest.read_dictionary(tmp_path / "out/dict.ltr.txt")


def test_bad_transcripts(tmp_path, capsys):
    root = tmp_path / "in"
    for name in "abcde":
        write_sound(root / f"{name}.wav")
    (root / "a.txt").write_text("fine")
    (root / "c.txt").write_bytes("Stra\xdfe".encode("latin-1"))
    (root / "d.txt").write_text("a | b")
    message = fails(capsys, "manifest", "folder", root, "--out", tmp_path / "out", "--valid-share", "0")
    assert "2 problem(s)" in message and "c.txt: not UTF-8 text" in message
    assert "d.wav: '|' in its transcript" in message


def test_duplicate_ids_and_invalid_names(tmp_path, capsys):
    root = tmp_path / "in"
    for name in ("one/a.wav", "two/a.flac", "b\tc.wav", "d .wav/e.wav", " f.wav"):
        write_sound(root / name)
    (root / os.fsdecode(b"\xff.wav")).write_bytes((root / "one/a.wav").read_bytes())
    message = fails(capsys, "manifest", "folder", root, "--out", tmp_path / "out", "--valid-share", "0")
    assert "one/a.wav and two/a.flac: same utterance id, of 1 id(s) in all" in message
    for name in ("'b\\tc.wav'", "' f.wav'"):
        assert f"{name}: the name contains a tab or a line break, or starts or ends with a space" in message
    assert "the name is not UTF-8" in message
    assert "4 problem(s)" in message


def test_truncated_wav_and_ogg(tmp_path, capsys):
    for name in ("a.wav", "b.ogg", "c.flac"):
        path = write_sound(tmp_path / "in" / name, 32000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    sf.write(tmp_path / "in/d.wav", noise(0), 16000)
    message = fails(capsys, "manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", "0")
    assert "4 problem(s)" in message and "a.wav: truncated" in message and "d.wav: contains no samples" in message


def test_links_and_dot_files(tmp_path):
    write_sound(tmp_path / "store/x.wav")
    root = tmp_path / "in"
    write_sound(root / "a.WAV")
    (root / "._a.WAV").write_bytes(b"\0" * 100)
    (root / "linked").symlink_to(tmp_path / "store")
    (root / "loop").symlink_to(root)
    assert make_folder(root, tmp_path / "out", "--valid-share", "0") == {"train": ["a.WAV", "linked/x.wav"]}


# ---- copies ----------------------------------------------------------------------------------------------------------


def tone(rate: int, hertz: float, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def test_convert_keeps_good_files_and_resamples_the_others(tmp_path):
    root, copies = tmp_path / "in", tmp_path / "copies"
    good = write_sound(root / "s/good.wav", 5000)
    loud = root / "s/loud.wav"
    sf.write(loud, np.array([-32768, 32767, 0, 1], dtype=np.int16), 16000)
    sf.write(root / "s/a.b.wav", np.stack([tone(44100, 440), np.zeros(44100)], axis=1), 44100, subtype="FLOAT")
    sf.write(root / "s/a.g.flac", tone(8000, 440), 8000)
    made = make_folder(root, tmp_path / "out", "--convert", str(copies), "--valid-share", "0")
    assert made == {"train": ["s/a.b.flac", "s/a.g.flac", "s/good.flac", "s/loud.flac"]}
    assert lines(tmp_path / "out/train.tsv")[0] == str(copies)
    for line in lines(tmp_path / "out/train.tsv")[1:]:
        path, samples = line.split("\t")
        info = sf.info(copies / path)
        assert (info.frames, info.samplerate, info.channels, info.subtype) == (int(samples), 16000, 1, "PCM_16")
    for source in (good, loud):
        assert np.array_equal(
            sf.read(source, dtype="int16")[0], sf.read(copies / f"s/{source.stem}.flac", dtype="int16")[0]
        )
    middle = slice(1000, 15000)  # away from the filter's ends
    assert np.abs(sf.read(copies / "s/a.b.flac")[0] - tone(16000, 440) / 2)[middle].max() < 0.002
    assert np.abs(sf.read(copies / "s/a.g.flac")[0] - tone(16000, 440))[middle].max() < 0.002


def test_sound_of_other_kinds_is_converted_or_counted(tmp_path, capsys):
    root = tmp_path / "in"
    write_sound(root / "a.wav")
    for name, format, subtype in (
        ("b.mp3", "MP3", "MPEG_LAYER_III"), ("c.opus", "OGG", "OPUS"), ("d.AIFF", "AIFF", "PCM_16"),
        ("e.au", "AU", "ULAW"), ("f.caf", "CAF", "PCM_16"), ("g.w64", "W64", "PCM_16"),
        ("h.mp3", "MP3", "MPEG_LAYER_III"), ("call.wav", "WAV", "GSM610"),
    ):  # fmt: skip
        sf.write(root / name, noise(8000), 8000 if subtype == "GSM610" else 16000, format=format, subtype=subtype)
    for name in ("i.m4a", "j.m4a", "k.WMA", "a.m4a"):  # the last one has been converted to a.wav
        (root / name).write_bytes(b"not for libsndfile")
    made = make_folder(root, tmp_path / "out", "--convert", str(tmp_path / "copies"), "--valid-share", "0")
    assert made == {"train": [f"{name}.flac" for name in ("a", "b", "c", "call", "d", "e", "f", "g", "h")]}
    left_out, copied = notes(capsys)[:2]  # libsndfile ends the GSM file with noise, which may exceed full scale
    assert left_out.startswith("note: 2 .m4a, 1 .wma file(s) left out, because libsndfile cannot read them; convert")
    assert copied == (
        "note: of 9 copies, decoded .aiff: 1 file(s); decoded .au: 1 file(s); decoded .caf: 1 file(s); "
        "decoded .mp3: 2 file(s); decoded .opus: 1 file(s); decoded .w64: 1 file(s); resampled from 8000 Hz: 1 file(s)"
    )
    (root / "call.wav").unlink()
    assert make_folder(root, tmp_path / "plain", "--valid-share", "0") == {"train": ["a.wav"]}
    first, second = notes(capsys)
    assert first.startswith("note: 1 .aiff, 1 .au, 1 .caf, 2 .mp3, 1 .opus, 1 .w64 file(s) left out; add --convert")
    assert second.startswith("note: 2 .m4a, 1 .wma file(s) left out")
    (root / "a.wav").unlink()
    message = fails(capsys, "manifest", "folder", root, "--out", tmp_path / "none", "--valid-share", "0")
    assert "contains no .wav, .flac or .ogg file; 1 .aiff, 1 .au" in message and "add --convert" in message


def test_the_command_for_other_kinds_converts_them_all(tmp_path, capsys, monkeypatch):
    root = tmp_path / "it's in"
    write_sound(root / "a.wav")
    for name in ("b c.m4a", "sub/d.e.M4A", "sub/f.wma"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not for libsndfile")
    ffmpeg = tmp_path / "bin/ffmpeg"  # ffmpeg -nostdin -i FILE FILE.flac
    ffmpeg.parent.mkdir()
    ffmpeg.write_text(f"#!/bin/sh\ncp '{write_sound(tmp_path / 'x.flac')}' \"$4\"\n")
    ffmpeg.chmod(0o755)
    make_folder(root, tmp_path / "out", "--valid-share", "0")
    (note,) = notes(capsys)
    monkeypatch.setenv("PATH", f"{ffmpeg.parent}:{os.environ['PATH']}")
    subprocess.run(["sh", "-c", note.partition("convert them first: ")[2]], check=True, timeout=60)
    made = make_folder(root, tmp_path / "out", "--valid-share", "0")
    assert made == {"train": ["a.wav", "b c.flac", "sub/d.e.flac", "sub/f.flac"]} and notes(capsys) == []


def test_loud_and_unfinished_files_are_noted(tmp_path, capsys):
    root = tmp_path / "in"
    for row in range(5):
        sf.write(write_sound(root / f"loud{row}.wav"), 8 * tone(16000, 200), 16000, subtype="FLOAT")
    data = bytearray(write_sound(root / "off.wav", 4000).read_bytes())
    data[4:8] = data[40:44] = bytes(4)
    (root / "off.wav").write_bytes(data)
    make_folder(root, tmp_path / "out", "--convert", str(tmp_path / "copies"), "--valid-share", "0")
    unfinished, loud = notes(capsys)
    assert unfinished.startswith("note: 1 file(s) whose header states no length") and unfinished.endswith(": off.wav")
    assert loud == (
        "note: 5 file(s) exceed full scale, some only when resampled, so their copies are scaled down to it: "
        "loud0.wav (by 4), loud1.wav (by 4), loud2.wav (by 4), ..."
    )
    assert lines(tmp_path / "out/train.tsv")[-1] == "off.flac\t4000"


def test_convert_does_not_change_the_split(tree, tmp_path):
    plain = make_folder(tree, tmp_path / "plain", "--valid-share", "0.3")
    copied = make_folder(tree, tmp_path / "copied", "--valid-share", "0.3", "--convert", str(tmp_path / "copies"))
    assert {name: [path.rsplit(".", 1)[0] for path in paths] for name, paths in plain.items()} == {
        name: [path.rsplit(".", 1)[0] for path in paths] for name, paths in copied.items()
    }


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, capsys):
    write_sound(tmp_path / "in/a.wav", rate=8000)
    sf.write(tmp_path / "in/b.wav", np.array([0.1, np.nan, 0.1]), 16000, subtype="FLOAT")
    command = ["manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", "0"]
    command += ["--convert", tmp_path / "copies"]
    assert "b.wav: contains NaN" in fails(capsys, *command)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_convert_requires_a_new_folder(tmp_path, capsys):
    write_sound(tmp_path / "in/a.wav")
    write_sound(tmp_path / "full/b.wav")
    command = ["manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", "0", "--convert"]
    for place, reason in (
        ("in", "overlaps"),
        ("in/copies", "overlaps"),
        (".", "overlaps"),
        ("full", "already exists"),
        ("full/b.wav/x", "not a folder"),
    ):
        assert reason in fails(capsys, *command, tmp_path / place)
    assert not (tmp_path / "out").exists()


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_the_number_of_workers_does_not_change_the_files(tree, tmp_path):
    outputs = []
    for workers in ("1", "2", "7"):
        out = tmp_path / f"out{workers}"
        make_folder(tree, out, "--workers", workers, "--valid-share", "0.3")
        outputs.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert outputs[0] == outputs[1] == outputs[2]


def test_map_files_keeps_the_order_and_returns_audio_errors():
    def work(item):
        if item % 10 == 3:
            raise audio.AudioError(str(item))
        return item

    answers = audio_files.map_files(work, list(range(500)), workers=8, title="")
    assert [int(str(answer)) for answer in answers] == list(range(500))
    assert [isinstance(answer, audio.AudioError) for answer in answers] == [item % 10 == 3 for item in range(500)]


def test_map_files_passes_other_errors_on():
    with pytest.raises(KeyboardInterrupt):
        audio_files.map_files(
            lambda item: (_ for _ in ()).throw(KeyboardInterrupt()), list(range(500)), workers=2, title=""
        )


# ---- small parts -----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="|"), min_size=1), min_size=1))
def test_letters_and_back(words):
    text = " ".join(words)
    line = manifest.letters(text)
    assert line.endswith(" |") and line.split().count("|") == len(words)
    assert manifest.words_of(line) == text


def test_names():
    assert manifest.utterance_id("a/b.c/d.e.flac") == "d.e"
    assert manifest.speaker_of("1h/0/clean/19/198/19-198-0001.flac") == "19"
    assert manifest.speaker_of("anna/monday/1.wav") == "anna"
    assert manifest.speaker_of("1.wav") == ""


def test_read_manifest(librispeech, tmp_path):
    main(["manifest", "librispeech", str(librispeech), "--out", str(tmp_path)])
    split = manifest.read_manifest(tmp_path / "dev.tsv")
    assert (split.name, split.root) == ("dev", librispeech / "dev")
    assert split.utterances == [
        manifest.ManifestRow("7/2/7-2-0000.flac", 3200),
        manifest.ManifestRow("7/2/7-2-0001.flac", 3300),
    ]


def test_a_stream_of_unknown_length_is_not_truncated(tmp_path):
    path = write_sound(tmp_path / "a.wav", 1000)
    head = path.read_bytes()
    path.write_bytes(head[:4] + b"\xff\xff\xff\xff" + head[8:])
    assert audio.read_header(path).samples == 1000


def test_a_folder_that_cannot_be_read_is_not_left_out(tree, tmp_path, monkeypatch, capsys):
    folder = next(path for path in sorted(tree.iterdir()) if path.is_dir())
    scandir = os.scandir

    def forbidden(path="."):
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    message = fails(capsys, "manifest", "folder", tree, "--out", tmp_path / "out")
    assert f"{folder}: Permission denied" in message and not (tmp_path / "out").exists()

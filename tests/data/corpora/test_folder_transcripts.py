"""Words of a folder's recordings: which text belongs to which file, and folders of which only a part has words."""

import unicodedata
from pathlib import Path

import pytest

from dinosr_plugin.cli import main
from dinosr_plugin.data import manifest
from dinosr_plugin.data.corpora.transcripts import match_texts
from dinosr_plugin.data.validation import validate_manifest
from dinosr_plugin.errors import UserError
from support.folders import fails, lines, make_folder, notes, write_sound

NFC, NFD = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def half(tmp_path) -> Path:
    """20 files of 0.1 s; those of even numbers are transcribed."""
    root = tmp_path / "half"
    for number in range(20):
        write_sound(root / f"s{number % 3}/{number:02d}.wav", 1600)
        if number % 2 == 0:
            write_text(root / f"s{number % 3}/{number:02d}.txt", f"number {number}")
    return root


# ---- a part is transcribed -------------------------------------------------------------------------------------------


def test_all_audio_is_listed_and_the_transcribed_part_again_with_labels(half, tmp_path, capsys):
    out = tmp_path / "out"
    made = make_folder(half, out, "--valid-share", "0.4")
    assert {path.name for path in out.iterdir()} == {
        "train.tsv", "valid.tsv", "dict.ltr.txt",
        *(f"{name}_labelled.{kind}" for name in ("train", "valid") for kind in ("tsv", "ltr", "wrd")),
    }  # fmt: skip
    assert len(made["train"]) + len(made["valid"]) == 20
    for name in ("train", "valid"):
        even = [path for path in made[name] if int(Path(path).stem) % 2 == 0]
        assert made[f"{name}_labelled"] == even
        assert lines(out / f"{name}_labelled.wrd") == [f"number {int(Path(path).stem)}" for path in even]
    letters = " ".join(lines(out / "train_labelled.ltr")).split()
    known = manifest.read_dictionary(out / "dict.ltr.txt")
    assert {symbol: count for symbol, count in known.items() if count} == {s: letters.count(s) for s in set(letters)}
    assert notes(capsys)[0] == (
        "note: 10 of 20 files are transcribed (0.00 of 0.00 hours); fine-tune with "
        "dataset.train_subset=train_labelled dataset.valid_subset=valid_labelled. "
        "Not transcribed: s0/03.wav, s0/09.wav, s0/15.wav, ..."
    )


def test_every_manifest_of_a_half_transcribed_folder_is_in_order(half, tmp_path, capsys):
    made = make_folder(half, tmp_path / "out", "--valid-share", "0.4")
    for name in made:
        assert main(["check", str(tmp_path / f"out/{name}.tsv")]) == 0
    for name in ("train_labelled", "valid_labelled"):
        validate_manifest(tmp_path / f"out/{name}.tsv", "ltr", 1)


def test_fine_tuning_on_all_files_names_the_transcribed_part(half, tmp_path):
    make_folder(half, tmp_path / "out", "--valid-share", "0.4")
    with pytest.raises(UserError, match=r"train.ltr: no such file; only the files in train_labelled.tsv are .*: use"):
        validate_manifest(tmp_path / "out/train.tsv", "ltr", 1)


def test_word_pieces_of_a_half_transcribed_folder(half, tmp_path):
    make_folder(half, tmp_path / "out", "--valid-share", "0.4", "--bpe", "14")
    assert len(lines(tmp_path / "out/train_labelled.bpe")) == len(lines(tmp_path / "out/train_labelled.ltr"))
    assert not (tmp_path / "out/train.bpe").exists()


def test_a_split_without_transcribed_files_is_noted_with_a_share_that_helps(half, tmp_path, capsys):
    for path in sorted(half.rglob("*.txt"))[2:]:
        path.unlink()
    made = make_folder(half, tmp_path / "out", "--valid-share", "0.1", "--seed", "1")
    assert "train_labelled" in made and "valid_labelled" not in made
    _, note = notes(capsys)
    assert note.startswith("note: no file of valid is transcribed, so there is no valid_labelled.tsv; a small share")
    share = note.split("leaves neither empty is ")[1].split(";")[0]
    made = make_folder(half, tmp_path / "other", "--valid-share", share, "--seed", "1")
    assert len(made["train_labelled"]) == len(made["valid_labelled"]) == 1
    made = make_folder(half, tmp_path / "most", "--valid-share", "0.95", "--seed", "1")
    assert "train_labelled" not in made and "note: no file of train is transcribed" in capsys.readouterr().err
    assert manifest.read_dictionary(tmp_path / "most/dict.ltr.txt")["|"] > 0  # of the validation split


def test_files_of_an_earlier_manifest_are_noted(half, tmp_path, capsys):
    make_folder(half, tmp_path / "out", "--valid-share", "0.4")
    for path in half.rglob("*.wav"):
        write_text(path.with_suffix(".txt"), "words")
    capsys.readouterr()
    make_folder(half, tmp_path / "out", "--valid-share", "0")
    (note,) = notes(capsys)
    assert note.startswith(
        "note: train_labelled.tsv, train_labelled.ltr, train_labelled.wrd, valid.tsv, valid_labelled"
    )
    assert note.endswith("are from an earlier command and do not belong to these manifests; remove them")
    for name in ("train_labelled", "valid", "valid_labelled"):
        for kind in ("tsv", "ltr", "wrd"):
            (tmp_path / f"out/{name}.{kind}").unlink(missing_ok=True)
    sorted(half.rglob("*.txt"))[0].unlink()
    make_folder(half, tmp_path / "out", "--valid-share", "0")
    assert "note: train.ltr, train.wrd in " in "\n".join(notes(capsys))


# ---- which text belongs to which file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "audio, text",
    [
        ("a.wav", "a.txt"), ("a.wav", "a.TXT"), ("a.WAV", "a.txt"), ("a.wav", "a.wav.txt"), ("a.WAV", "a.WAV.TXT"),
        ("a.b.wav", "a.b.txt"), (f"{NFC}.wav", f"{NFD}.txt"), (f"{NFD}.wav", f"{NFC}.txt"),
        (f"{NFD}/{NFC}.wav", f"{NFC}/{NFD}.TXT"), (f"{NFD}.wav", f"{NFC}.wav.txt"),
    ],
)  # fmt: skip
def test_texts_that_belong_to_a_recording(audio, text):
    assert match_texts([audio], [text]) == ({audio: [text]}, [])


@pytest.mark.parametrize("text", ["b.txt", "x/a.txt", "A.txt", "a.wav.bak.txt", "README.txt", "a.flac.txt"])
def test_texts_that_do_not(text):
    assert match_texts(["a.wav"], [text]) == ({}, [text])


def test_a_text_belongs_to_the_file_with_its_whole_name():
    matched, others = match_texts(["a.wav", "a.wav.flac"], ["a.txt", "a.wav.txt"])
    assert matched == {"a.wav": ["a.txt"], "a.wav.flac": ["a.wav.txt"]} and not others


def test_several_texts_of_a_file_are_a_problem(tmp_path, capsys):
    write_sound(tmp_path / "in/a.wav")
    for name in ("a.txt", "a.TXT", "a.wav.txt"):
        write_text(tmp_path / f"in/{name}", "words")
    message = fails(capsys, "manifest", "folder", tmp_path / "in", "--out", tmp_path / "out", "--valid-share", "0")
    assert "1 problem(s)" in message
    assert "a.wav: several transcripts, a.TXT, a.txt, a.wav.txt; remove all but one of them" in message


def test_texts_of_accented_names_are_read_from_the_disk(tmp_path):
    write_sound(tmp_path / f"in/{NFD}.wav")
    write_text(tmp_path / f"in/{NFC}.TXT", "words")
    make_folder(tmp_path / "in", tmp_path / "out", "--valid-share", "0")
    assert lines(tmp_path / "out/train.wrd") == ["words"]


def test_empty_texts_and_texts_without_audio_are_counted(tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_sound(tmp_path / f"in/{name}.wav")
    write_text(tmp_path / "in/a.txt", " \n")
    write_text(tmp_path / "in/README.txt", "about")
    make_folder(tmp_path / "in", tmp_path / "out", "--valid-share", "0")
    assert notes(capsys) == [
        "note: 1 .txt file(s) are empty, so their audio is not transcribed: a.txt",
        "note: 1 .txt file(s) without an audio file of the same name were ignored: README.txt",
    ]
    assert not (tmp_path / "out/train.ltr").exists()


def test_numbers_of_samples_are_removed_from_the_transcripts_of_timit_only(tmp_path, capsys):
    for name in ("SA1", "SA2"):
        write_sound(tmp_path / f"in/{name}.WAV")
        write_text(tmp_path / f"in/{name}.TXT", "0 46797 She had 2 suits.\n")
    make_folder(tmp_path / "in", tmp_path / "out", "--valid-share", "0")
    assert lines(tmp_path / "out/train.wrd") == ["She had 2 suits."] * 2
    assert "as those of TIMIT; these numbers are left out" in capsys.readouterr().err
    write_text(tmp_path / "in/SA2.TXT", "10 green bottles")
    make_folder(tmp_path / "in", tmp_path / "out", "--valid-share", "0")
    assert lines(tmp_path / "out/train.wrd") == ["0 46797 She had 2 suits.", "10 green bottles"]

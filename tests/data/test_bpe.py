"""`dinosr manifest --bpe`: pieces, dictionary and labels, and the messages where they cannot be made."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fairseq.data import Dictionary
from fairseq.data.data_utils import post_process
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.cli import main
from dinosr_plugin.data import bpe, piece_model
from dinosr_plugin.data.validation import validate_manifest
from dinosr_plugin.errors import UserError

pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
TRAIN = ["HELLO WORLD", "HELLO YELLOW DAY", "IT'S A DAY"]
DEV = ["HELLO DAY", "QUICK ZZ"]  # K, C, Q, U and Z are not in the training words


def write_part(part: Path, speaker: int, texts: list[str]) -> None:
    folder = part / str(speaker) / "1"
    folder.mkdir(parents=True)
    for number, _ in enumerate(texts):
        soundfile.write(
            folder / f"{speaker}-1-{number:04d}.flac", np.random.default_rng(number).normal(0, 0.1, 3200), 16000
        )
    (folder / f"{speaker}-1.trans.txt").write_text(
        "".join(f"{speaker}-1-{number:04d} {text}\n" for number, text in enumerate(texts))
    )


@pytest.fixture
def corpus(tmp_path) -> Path:
    write_part(tmp_path / "corpus/train", 1, TRAIN)
    write_part(tmp_path / "corpus/dev", 2, DEV)
    return tmp_path / "corpus"


def manifest(corpus: Path, out: Path, number, *more) -> int:
    return main(["manifest", "librispeech", str(corpus), "--out", str(out), "--bpe", str(number), *more])


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_model_dictionary_and_labels(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    assert manifest(corpus, out, 20) == 0
    printed = capsys.readouterr()
    kinds = {f"{part}.{kind}" for part in ("train", "dev") for kind in ("tsv", "ltr", "wrd", "bpe")}
    assert {path.name for path in out.iterdir()} == kinds | {"bpe.model", "dict.bpe.txt", "dict.ltr.txt"}
    for part, texts in (("train", TRAIN), ("dev", DEV)):
        assert [post_process(line, "sentencepiece") for line in lines(out / f"{part}.bpe")] == texts
        assert [bpe.words_of_pieces(line) for line in lines(out / f"{part}.bpe")] == texts
    counts = dict(line.split() for line in lines(out / "dict.bpe.txt"))
    new = sorted("QUICKZ".replace("I", ""))
    assert list(counts)[20:] == new and len(counts) == 25
    assert f"{out}/bpe.model, dict.bpe.txt: 25 pieces" in printed.out
    assert [line for line in printed.err.splitlines() if "dict.bpe.txt" in line] == [
        f"note: {symbol!r} occurs in dev but is not a piece of bpe.model; it is added to dict.bpe.txt" for symbol in new
    ]
    assert sum(map(int, counts.values())) == sum(
        len(line.split()) for line in lines(out / "train.bpe")
    )  # dev is not counted


def test_fairseq_knows_every_piece(corpus, tmp_path):
    manifest(corpus, tmp_path, 20)
    dictionary = Dictionary.load(str(tmp_path / "dict.bpe.txt"))
    for part in ("train", "dev"):
        for line in lines(tmp_path / f"{part}.bpe"):
            assert dictionary.unk() not in dictionary.encode_line(line, add_if_not_exist=False).tolist()
            assert dictionary.string(
                dictionary.encode_line(line, append_eos=False), "sentencepiece"
            ) == bpe.words_of_pieces(line)


def test_the_same_text_gives_the_same_files(corpus, tmp_path):
    for out in ("a", "b"):
        manifest(corpus, tmp_path / out, 20)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_another_manifest_with_the_same_pieces(corpus, tmp_path):
    together, apart = tmp_path / "together", tmp_path / "apart"
    manifest(corpus, together, 20)
    manifest(corpus, apart, 20, "--parts", "train")
    assert manifest(corpus, apart, apart / "bpe.model", "--parts", "dev") == 0
    for name in ("bpe.model", "train.bpe", "dev.bpe"):
        assert (apart / name).read_bytes() == (together / name).read_bytes(), name
    assert Dictionary.load(str(apart / "dict.bpe.txt")) == Dictionary.load(str(together / "dict.bpe.txt"))


def test_any_folder_and_libri_light(tmp_path, capsys):
    write_part(tmp_path / "light/1h/0/clean", 1, TRAIN)
    write_part(tmp_path / "light/9h/clean", 2, DEV)
    assert main(["manifest", "librilight", str(tmp_path / "light"), "--out", str(tmp_path / "l"), "--bpe", "22"]) == 0
    assert len(lines(tmp_path / "l/train_10min.bpe")) == 3 and len(lines(tmp_path / "l/train_10h.bpe")) == 5
    for number, text in enumerate(TRAIN):
        path = tmp_path / f"mine/{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.full(3200, 0.1), 16000)
        path.with_suffix(".txt").write_text(text.lower())
    command = ["manifest", "folder", str(tmp_path / "mine"), "--out", str(tmp_path / "f"), "--valid-share", "0"]
    assert main([*command, "--bpe", "20"]) == 0
    assert bpe.words_of_pieces(lines(tmp_path / "f/train.bpe")[0]) == "hello world"


def test_check_reads_pieces(corpus, tmp_path, capsys):
    manifest(corpus, tmp_path, 20)
    command = ["check", str(tmp_path / "train.tsv")]
    assert main(command) == 0
    validate_manifest(tmp_path / "train.tsv", "bpe", None)
    capsys.readouterr()
    labels = lines(tmp_path / "train.bpe")
    for wrong, expected in [
        (labels[1:], "train.bpe: 2 lines for 3 rows"),
        ([labels[1], labels[0], labels[2]], "train.bpe and train.wrd disagree on 2 row(s), the first is line 1"),
        ([labels[0] + " \u2581NEVER", *labels[1:]], "train.bpe: symbol '\u2581NEVER' is not in dict.bpe.txt"),
    ]:
        (tmp_path / "train.bpe").write_text("".join(f"{line}\n" for line in wrong))
        assert main(command) == 1
        assert expected in capsys.readouterr().out
    (tmp_path / "dict.bpe.txt").unlink()
    assert main(command) == 1
    assert "dict.bpe.txt: no such file" in capsys.readouterr().out


def fails(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and len(captured.err.splitlines()) == 1
    return captured.err


def test_the_suggested_number_works(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    for number, words in ((1000, "or less"), (5, "or more")):
        message = fails(capsys, "manifest", "librispeech", corpus, "--out", out, "--bpe", number)
        assert f"--bpe {number}: " in message and words in message
        assert not out.exists()
        suggested = int(message.split("give ")[1].split()[0])
        beyond = suggested + 1 if number > suggested else suggested - 1
        assert words in fails(capsys, "manifest", "librispeech", corpus, "--out", out, "--bpe", beyond)
        assert manifest(corpus, tmp_path / str(number), suggested) == 0
        capsys.readouterr()


def test_errors_are_reported_before_any_audio_is_read(tmp_path, capsys, monkeypatch):
    (tmp_path / "text").write_text("text " * 20)
    (tmp_path / "empty").touch()
    command = ("manifest", "librispeech", tmp_path / "nowhere", "--out", tmp_path / "out", "--bpe")
    for model, expected in (
        ("absent", "no such file"),
        ("text", "not a sentencepiece model"),
        ("empty", "not a sentencepiece model"),
    ):
        message = fails(capsys, *command, tmp_path / model)
        assert str(tmp_path / model) in message and expected in message and "give a number of pieces" in message
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert "pip install sentencepiece" in fails(capsys, *command, 20)
    with pytest.raises(SystemExit):
        main([str(argument) for argument in (*command, 0)])
    assert "positive integer or model file" in capsys.readouterr().err


def test_no_transcripts(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.full(3200, 0.1), 16000)
    message = fails(
        capsys, "manifest", "folder", tmp_path, "--out", tmp_path / "out", "--valid-share", "0", "--bpe", 20
    )
    assert "a.wav has no transcript" in message and not (tmp_path / "out").exists()


def test_the_word_marker_of_pieces_in_a_transcript(corpus, tmp_path, capsys):
    transcript = corpus / "dev/2/1/2-1.trans.txt"
    transcript.write_text(transcript.read_text().replace("HELLO", "\u2581HELLO"))
    message = fails(capsys, "manifest", "librispeech", corpus, "--out", tmp_path / "out", "--bpe", 20)
    assert "2-1-0000.flac has '\u2581' in its transcript" in message


WORDS = st.lists(st.text("AB'\u00c4\u1e9e\ufb01\u2460\u4e2d", min_size=1, max_size=6), min_size=1, max_size=8).map(
    " ".join
)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=5), other=WORDS)
def test_pieces_are_converted_back_to_the_words(texts, other):
    """For any letters: text is not normalised, and unknown characters are kept."""
    characters = set("".join(texts)) - {" "}
    try:
        model = piece_model.train(bpe.WORDS, texts, len(characters) + 2)
    except UserError as error:  # texts with a single character allow fewer pieces
        model = piece_model.train(bpe.WORDS, texts, int(str(error).split("give ")[1].split()[0]))
    processor = piece_model.load(bpe.WORDS, model, Path("bpe.model"))
    for text in (*texts, other):
        assert bpe.words_of_pieces(" ".join(bpe.pieces_of(processor, text))) == text

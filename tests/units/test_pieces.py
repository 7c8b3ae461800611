"""Acoustic pieces: against a plain byte-pair encoding, exact expansion to frames, label files for training, errors."""

import io
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.checkpoints.readers import FrameReader
from dinosr_plugin.cli import main
from dinosr_plugin.data.labels import count_classes, read_labels
from dinosr_plugin.errors import UserError
from dinosr_plugin.units import codes
from dinosr_plugin.units.codes import write_codebook_units
from dinosr_plugin.units.pieces import MAX_SYMBOLS, PieceModel, run_lengths, to_text, to_units
from dinosr_plugin.units.unit_files import UnitInfo, dedup, read_info, read_units, write_units
from support.paths import GOLDEN
from support.training import write_corpus

sentencepiece = pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
CHECKPOINT = GOLDEN / "official_format_tiny.pt"  # two codebooks of 8 units
SEQUENCES = st.lists(
    st.lists(st.integers(0, 5), max_size=40).map(lambda ids: np.array(ids, dtype=np.int64)), min_size=1, max_size=6
)


# ---- a plain byte-pair encoding --------------------------------------------------------------------------------------


def merges(sequences: list[list[int]], count: int) -> list[tuple[int, ...]]:
    """The first ``count`` merges of the most frequent pair. Fails at a tie, which has no right answer."""
    words = [[(unit,) for unit in sequence] for sequence in sequences]
    found = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in zip(word, word[1:]))
        (best, most), (_, second) = pairs.most_common(2)
        assert most > second
        found.append(best[0] + best[1])
        words = [merge(word, best) for word in words]
    return found


def merge(word: list[tuple[int, ...]], pair: tuple) -> list[tuple[int, ...]]:
    merged = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] = merged[-1] + piece
        else:
            merged.append(piece)
    return merged


def encode(sequence: list[int], found: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The earliest merge that applies, at its first place, until none does."""
    word = [(unit,) for unit in sequence]
    while True:
        joined = [(found.index(a + b), place) for place, (a, b) in enumerate(zip(word, word[1:])) if a + b in found]
        if not joined:
            return word
        _, place = min(joined)
        word[place : place + 2] = [word[place] + word[place + 1]]


SEEDS = (4, 8, 12, 15)  # of sequences in whose first ten merges no two pairs are equally frequent


def sequences(seed: int, count: int) -> list[list[int]]:
    """Sequences of 40 units or fewer, without repetitions; some of the five units are more frequent than others."""
    rng = np.random.default_rng(seed)
    return [dedup(rng.choice(5, 40, p=[0.35, 0.3, 0.2, 0.1, 0.05])).tolist() for _ in range(count)]


def frames_of(sequence: list[int], seed: int = 0) -> np.ndarray:
    """Each unit for one to four frames."""
    return np.repeat(sequence, np.random.default_rng(seed).integers(1, 5, len(sequence)))


@pytest.mark.parametrize("seed", SEEDS)
def test_pieces_are_those_of_plain_byte_pair_encoding(seed):
    train, other = sequences(seed, 30), sequences(seed + 1000, 5)
    expected = merges(train, 10)
    model = PieceModel.fit([frames_of(sequence, n) for n, sequence in enumerate(train)], 5, 5 + 10)
    assert [tuple(piece) for piece in model.pieces if len(piece) > 1] == expected
    assert sorted(tuple(piece) for piece in model.pieces if len(piece) == 1) == [(unit,) for unit in range(5)]
    for sequence in [*train, *other]:
        found = [tuple(model.pieces[piece]) for piece in model.encode(np.array(sequence))]
        assert found == encode(sequence, expected)


def test_a_label_belongs_to_the_frames_of_its_units():
    model = PieceModel.fit([np.array([1, 2, 3, 1, 2, 3, 1, 2, 0])], 4, 6)
    number = {tuple(piece): place for place, piece in enumerate(model.pieces)}
    units = np.array([1, 1, 2, 3, 3, 3, 2, 2])
    assert model.labels(units).tolist() == [number[1, 2, 3]] * 6 + [number[2,]] * 2
    assert model.labels(units[:0]).tolist() == []


# ---- exactness -------------------------------------------------------------------------------------------------------


def fit(sequences: list[np.ndarray], n_units: int, pieces: int) -> PieceModel:
    """With as many pieces as the sequences allow, if that is less."""
    try:
        return PieceModel.fit(sequences, n_units, pieces)
    except UserError as error:
        return PieceModel.fit(sequences, n_units, int(str(error).split("give ")[1].split()[0]))


@settings(max_examples=50, deadline=None)
@given(train=SEQUENCES, other=SEQUENCES)
def test_pieces_and_durations_give_the_units_back(train, other):
    """For any units, also those that do not occur in training."""
    model = fit(train, 6, 12)
    for units in [*train, *other]:
        once, durations = dedup(units), run_lengths(units)
        np.testing.assert_array_equal(np.repeat(once, durations), units)
        pieces = model.encode(once)
        rebuilt = np.concatenate([np.zeros(0, np.int64), *(model.pieces[piece] for piece in pieces)])
        np.testing.assert_array_equal(rebuilt, once)
        labels = model.labels(units)
        runs = np.repeat(np.repeat(pieces, model.lengths[pieces]), durations)  # the piece of each run, for its frames
        np.testing.assert_array_equal(labels, runs)


@given(st.lists(st.integers(0, MAX_SYMBOLS - 1), max_size=20))
def test_every_unit_is_one_character(ids):
    units = np.array(ids, dtype=np.int64)
    text = to_text(units)
    assert len(text) == len(units) and not any(character.isspace() for character in text)
    np.testing.assert_array_equal(to_units(text), units)


def test_units_at_the_ends_of_both_areas():
    units = np.array([0, 65533, 65534, 65535, MAX_SYMBOLS - 1])
    assert [hex(ord(character)) for character in to_text(units)] == [
        "0xf0000", "0xffffd", "0x100000", "0x100001", "0x10fffd"
    ]  # fmt: skip
    assert to_units("a\ufffe\U000ffffe\U0010ffff").tolist() == [-1] * 4


def test_codebooks_of_65536_units():
    sequence = np.array([65535, 3, 65535, 3, 40000, 65535, 3])
    model = PieceModel.fit([sequence], 65536, 65537)
    assert model.n_units == 65536 and model.pieces[model.labels(sequence)[0]].tolist() == [65535, 3]


def test_the_same_units_give_the_same_bytes():
    sequences = [np.random.default_rng(seed).integers(0, 20, 300) for seed in range(10)]
    first, again = (PieceModel.fit(sequences, 20, 60) for _ in range(2))
    assert first.data == again.data and len(first.pieces) == 60


def test_a_recording_of_hours_can_be_learned_from():
    """sentencepiece refuses sequences of more than 65,535 symbols."""
    units = np.tile([1, 2, 3], 60_000)
    model = PieceModel.fit([units], 4, 6)
    assert (1, 2) in [tuple(piece) for piece in model.pieces] and len(model.labels(units)) == len(units)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """``train.tsv`` and ``dev.tsv``, with the units of codebook 1 of a tiny model."""
    folder = tmp_path_factory.mktemp("pieces")
    for split, lengths in (("train", (16000, 9000, 20000)), ("dev", (12000, 8000))):
        write_corpus(folder, split, lengths)
        written = write_codebook_units(CHECKPOINT, folder / f"{split}.tsv", folder / split, codebooks=[1])
        assert [path.name for path in written.files] == ["codebook_1.units"]
    return folder


def units(folder: Path, split: str, *more) -> list[str]:
    return ["units", str(folder / split / "codebook_1.units"), str(folder / f"{split}.tsv"), *map(str, more)]


def test_labels_of_training_and_validation(made, tmp_path, capsys):
    assert main(units(made, "train", "--pieces", 20, "--out", tmp_path / "train.ap")) == 0
    assert main(units(made, "dev", "--pieces", tmp_path / "pieces.ap.model", "--out", tmp_path / "dev.ap")) == 0
    printed = capsys.readouterr().out
    model = PieceModel.read(tmp_path / "pieces.ap.model")
    assert count_classes(tmp_path, "ap") == len(model.pieces) == 20 and model.n_units == 8
    for split, sizes in (("train", [16000, 9000, 20000]), ("dev", [12000, 8000])):
        labels = read_labels(tmp_path / f"{split}.ap", 20, sizes, 50)
        by_name = read_units(made / split / "codebook_1.units")
        for row in range(len(sizes)):
            np.testing.assert_array_equal(labels[row], model.labels(by_name[f"{split}{row}"]))
        used = len(np.unique(labels.values))
        assert f"{split}.ap: {len(labels.values)} frames, {used} of 20 pieces occur" in printed
        assert read_info(tmp_path / f"{split}.ap") == UnitInfo(50.0, 0.0125, 20)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("train.ap", "train.ap.json", "dev.ap", "dev.ap.json", "dict.ap.txt", "pieces.ap.model")
    }


def test_running_again_gives_the_same_bytes(made, tmp_path):
    for folder in ("a", "b", "b"):
        assert main(units(made, "train", "--pieces", 20, "--out", tmp_path / folder / "train.km")) == 0
    first, again = ({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} for folder in "ab")
    assert first == again and "dict.km.txt" in first


def test_from_the_checkpoint_in_one_step(made, tmp_path):
    """The same as in two; and so do the labels of a ``.km`` file, which has no names."""
    assert main(units(made, "train", "--pieces", 20, "--out", tmp_path / "two" / "train.km")) == 0
    command = ["units", str(CHECKPOINT), str(made / "train.tsv"), "--codebooks", "1", "--pieces", "20", "--out"]
    assert main([*command, str(tmp_path / "one" / "train.km")]) == 0
    unnamed = tmp_path / "unnamed.km"
    write_units(unnamed, read_units(made / "train" / "codebook_1.units").items(), plain=True)
    command = ["units", str(unnamed), str(made / "train.tsv"), "--pieces", "20", "--out"]
    assert main([*command, str(tmp_path / "km" / "train.km")]) == 0
    for name in ("train.km", "pieces.km.model"):
        contents = {(tmp_path / folder / name).read_bytes() for folder in ("two", "one", "km")}
        assert len(contents) == 1


def test_an_interrupted_run_from_a_checkpoint_resumes(made, tmp_path, monkeypatch, capsys):
    """The sound is read again only for what is missing; other pieces of the same units take no second pass."""
    command = ["units", str(CHECKPOINT), str(made / "train.tsv"), "--codebooks", "1", "--out"]
    assert main([*command, str(tmp_path / "whole/train.km"), "--pieces", "20"]) == 0
    read, lengths = FrameReader.read, []

    def recorded(self, waves, *arguments):
        lengths.extend(map(len, waves))
        if len(lengths) == 2:
            raise KeyboardInterrupt
        return read(self, waves, *arguments)

    monkeypatch.setattr(FrameReader, "read", recorded)
    monkeypatch.setattr(codes, "store_codes", partial(codes.store_codes, batch_samples=1))
    interrupted = [*command, str(tmp_path / "killed/train.km")]
    assert main([*interrupted, "--pieces", "20"]) == 130
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["train.km.codes"]
    assert main([*interrupted, "--pieces", "20"]) == 0
    assert lengths == [20000, 16000, 16000, 9000]  # longest first; the interrupted one twice
    whole, resumed = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        for name in ("whole", "killed")
    )
    assert whole == resumed and "train.km" in whole
    model = str(tmp_path / "whole/pieces.km.model")
    assert main([*interrupted[:-1], str(tmp_path / "killed/train.km"), "--pieces", model]) == 0 and len(lengths) == 4
    capsys.readouterr()
    message = refused(
        capsys, [*command[:2], made / "dev.tsv", *command[3:], tmp_path / "killed/train.km", "--pieces", 9]
    )
    assert (
        "train.km.codes: contains features of other utterances; remove it, or give another folder with --out" in message
    )


def test_pieces_that_occur_only_within_longer_ones_are_not_counted(made, tmp_path, capsys):
    path = tmp_path / "x.units"
    names = read_units(made / "train" / "codebook_1.units")
    write_units(path, ((name, np.tile([1, 2, 3, 4], 3)) for name in names), info=UnitInfo(50.0, 0.0125, 8))
    assert main(["units", str(path), str(made / "train.tsv"), "--pieces", "11", "--out", str(tmp_path / "x.km")]) == 0
    assert "36 frames, 1 of 11 pieces occur" in capsys.readouterr().out


# ---- errors ----------------------------------------------------------------------------------------------------------


def refused(capsys, command: list) -> str:
    assert main([str(argument) for argument in command]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    return message


@pytest.mark.parametrize(
    "options, message",
    [
        (["--pieces", 7], "--pieces 7: fewer pieces than units in this speech; give 8 or more"),
        (["--pieces", 100000], "--pieces 100000: too many pieces for this speech; give "),
        (["--pieces", 20, "--dedup"], "--pieces: every frame gets a label; omit --rate, --dedup, --plain and --shard"),
        (["--pieces", 20, "--shard", "1/2"], "--pieces: every frame gets a label; omit"),
        (["--pieces", 20, "--kmeans", "k.npz"], "--kmeans: not with --pieces; write the units of k-means first"),
        (["--pieces", 20, "--predicted"], "codebook_1.units: is a file of units; omit --predicted and --codebooks"),
        (
            ["--pieces", "absent.model"],
            "--pieces absent.model: no such file; give a number of pieces, or the pieces.km",
        ),
    ],
)
def test_options_that_cannot_work(made, tmp_path, capsys, options, message):
    assert message in refused(capsys, units(made, "train", *options, "--out", tmp_path / "train.km"))
    assert not list(tmp_path.iterdir())


def test_other_units_than_those_of_the_pieces(made, tmp_path, capsys):
    out = ["--out", tmp_path / "dev.km"]
    few = PieceModel.fit([np.array([0, 1, 2, 0, 1])], 3, 4)
    (tmp_path / "few.model").write_bytes(few.data)
    message = refused(capsys, units(made, "dev", "--pieces", tmp_path / "few.model", *out))
    assert "few.model: made of 3 units, but these are 8; give those of the same model" in message
    words = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world"]), model_writer=words, model_type="bpe", vocab_size=12, minloglevel=2
    )
    (tmp_path / "bpe.model").write_bytes(words.getvalue())
    message = refused(capsys, units(made, "dev", "--pieces", tmp_path / "bpe.model", *out))
    assert "bpe.model: a sentencepiece model, but not of units; give a number of pieces" in message
    assert not (tmp_path / "dev.km").exists()


def test_pieces_that_other_labels_were_made_with_are_not_replaced(made, tmp_path, capsys):
    assert main(units(made, "train", "--pieces", 20, "--out", tmp_path / "train.km")) == 0
    capsys.readouterr()
    message = refused(capsys, units(made, "dev", "--pieces", 20, "--out", tmp_path / "dev.km"))
    assert "pieces.km.model: contains other pieces; use them with --pieces" in message
    message = refused(capsys, units(made, "train", "--pieces", 21, "--out", tmp_path / "train.km"))
    assert "pieces.km.model: contains other pieces" in message
    assert len((tmp_path / "train.km").read_text().splitlines()) == 3 and not (tmp_path / "dev.km").exists()


def test_units_that_do_not_match_the_manifest(made, tmp_path, capsys):
    path, out = made / "train" / "codebook_1.units", tmp_path / "train.km"
    message = refused(capsys, ["units", path, made / "dev.tsv", "--pieces", 20, "--out", out])
    assert "dev.tsv: 2 of 2 utterances have no units: dev0, dev1; make them with `dinosr units`" in message
    message = refused(capsys, ["units", path, "--pieces", 20, "--out", out])
    assert "MANIFEST: required with --pieces" in message
    message = refused(capsys, ["units", CHECKPOINT, made / "train.tsv", "--pieces", 20, "--out", out])
    assert "has codebooks 0 to 1; give one, whose units are used" in message
    write_units(tmp_path / "once.units", read_units(path).items(), info=UnitInfo(None, 0.0125, 8))
    message = refused(capsys, ["units", tmp_path / "once.units", made / "train.tsv", "--pieces", 20, "--out", out])
    assert "--pieces 20: these units have no rate, as after --dedup; give units of frames" in message
    assert not out.exists()


def test_the_package_is_missing(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    message = refused(capsys, units(made, "train", "--pieces", 20, "--out", tmp_path / "train.km"))
    assert "--pieces needs sentencepiece, which is not installed: pip install sentencepiece" in message

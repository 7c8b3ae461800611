"""`dinosr transcribe`: seamless chunks, all sample rates and channels, words with times, messages about bad input.

A stand-in model, which maps the level of each frame to a letter, gives texts that are known in advance.
"""

import json
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import post_process
from hypothesis import given, settings
from hypothesis import strategies as st

import dinosr_plugin
from dinosr_plugin import cli
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.data.conversion import MonoFile, convert, read_16k
from dinosr_plugin.decoding import DECODERS, BestPathDecoder, SearchOptions, build_decoder, transcribe
from dinosr_plugin.decoding.pace import Pace, format_seconds
from dinosr_plugin.decoding.recogniser import Recogniser, load_recogniser
from dinosr_plugin.decoding.transcribe import FORMATS, Transcript, decode, emissions, survey
from dinosr_plugin.decoding.words import Word, group_into_words
from dinosr_plugin.errors import UserError
from dinosr_plugin.modules.frame_grid import TRUNK, chunks
from support.decoding import needs_flashlight
from support.small_arpa import write_arpa

LETTERS = "ABC|"
HOLD = 6  # frames of a letter in the stand-in's speech, and of the pause after it


class Levels(torch.nn.Module):
    """Emits letter n (from 1) if the mean of the middle of a frame is n / 10, otherwise the blank."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, source, padding_mask):
        level = source.unfold(1, 400, 320)[:, :, 100:300].mean(-1)  # (B, F)
        return {"logits": -50 * (level.unsqueeze(-1) * 10 - torch.tensor(STAND_IN_LEVELS)).abs(), "padding_mask": None}

    def get_normalized_probs(self, output, log_probs):
        return output["logits"].log_softmax(-1).transpose(0, 1)


@pytest.fixture(scope="module")
def stand_in() -> Recogniser:
    return make_stand_in()


def make_stand_in() -> Recogniser:
    dictionary = Dictionary()
    for letter in LETTERS:
        dictionary.add_symbol(letter)
    return Recogniser(Levels(), dictionary, blank=0, normalize=False, grid=TRUNK)


STAND_IN_LEVELS = [0.0, 99.0, 99.0, 99.0, 1.0, 2.0, 3.0, 4.0]  # <s> (the blank), <pad>, </s>, <unk>, then LETTERS


def speech(text: str, rate: int = 16000) -> np.ndarray:
    """(T,) float32 waveform that the stand-in transcribes as ``text``, with "|" between words."""
    frame = rate // 50
    parts = [np.repeat([(1 + LETTERS.index(letter)) / 10, 0.0], HOLD * frame) for letter in text]
    return np.concatenate([np.zeros(frame), *parts, np.zeros(frame)]).astype(np.float32)


def best_path(recogniser: Recogniser, table: torch.Tensor) -> list:
    return decode(recogniser, BestPathDecoder(recogniser.blank), table)


def texts(recogniser: Recogniser, path: Path) -> str:
    (recording,) = survey([path])
    return " ".join(word.word for word in best_path(recogniser, emissions(recogniser, recording)))


# ---- chunks ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.integers(1, 900), st.integers(0, 200))
def test_chunks_keep_every_frame_once(frames, longest, context):
    pieces = list(chunks(frames, longest, context))
    kept = [frame for _, start, stop, _ in pieces for frame in range(start, stop)]
    assert kept == list(range(frames))
    for first, start, stop, last in pieces:
        assert 0 < stop - start <= longest and (first, last) == (max(0, start - context), min(frames, stop + context))


@settings(max_examples=40, deadline=None)
@given(text=st.text(LETTERS, min_size=1, max_size=40), chunk=st.floats(0.02, 3), context=st.floats(0, 0.5))
def test_no_letter_is_doubled_or_lost(tmp_path_factory, text, chunk, context):
    """However short the chunks are, the text and all probabilities are those of the whole file."""
    path = tmp_path_factory.getbasetemp() / "speech.wav"
    soundfile.write(path, speech(text), 16000, subtype="FLOAT")
    recogniser = make_stand_in()
    (recording,) = survey([path])
    whole = emissions(recogniser, recording)
    normalising = replace(recogniser, normalize=True)
    normalised = emissions(normalising, recording)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcribe, "CHUNK", chunk)
        patch.setattr(transcribe, "CONTEXT", context)
        assert torch.equal(emissions(recogniser, recording), whole)
        assert torch.equal(emissions(normalising, recording), normalised)  # with mean and variance of the whole file
        assert texts(recogniser, path).split() == text.replace("|", " ").split()


MEASURED = 0.1  # of probability; 0.046 here, on noise


def test_a_real_model_in_chunks(good, tmp_path, monkeypatch):
    """Attention and log-Mel normalisation see only the chunk: close, but not equal. A single chunk is exactly equal."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", rng.normal(0, 0.1, 16000 * 50), 16000)
    (recording,) = survey([tmp_path / "long.wav"])
    recogniser = load_recogniser(good)
    wave = torch.from_numpy(soundfile.read(tmp_path / "long.wav", dtype="float32")[0])
    wave = torch.nn.functional.layer_norm(wave, wave.shape)
    with torch.no_grad():
        output = recogniser.model(source=wave.unsqueeze(0), padding_mask=None)
        whole = recogniser.model.get_normalized_probs(output, log_probs=True)[:, 0]
    chunked = emissions(recogniser, recording)
    monkeypatch.setattr(transcribe, "CHUNK", 50.0)
    torch.testing.assert_close(emissions(recogniser, recording), whole, atol=1e-4, rtol=0)
    assert chunked.shape == whole.shape
    difference = (chunked.exp() - whole.exp()).abs()
    assert 0 < difference.max() < MEASURED, difference.max()


# ---- audio -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 22050, 44100, 48000, 16000]),
    samples=st.integers(1, 200_000),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    channels=st.integers(1, 3),
)
def test_ranges_of_a_file_equal_those_of_the_whole(tmp_path_factory, rate, samples, cuts, channels):
    """A file read in ranges equals its conversion by `dinosr manifest folder --convert`."""
    folder = tmp_path_factory.getbasetemp()
    soundfile.write(
        folder / "source.wav", np.random.default_rng(samples).normal(0, 0.1, (samples, channels)), rate, subtype="FLOAT"
    )
    length = convert(folder / "source.wav", folder / "converted.flac").samples
    (recording,) = survey([folder / "source.wav"])
    assert recording.samples == length
    edges = sorted({0, length, *(int(cut * length) for cut in cuts)})
    with MonoFile(folder / "source.wav") as file:
        pieces = np.concatenate([read_16k(file, start, stop) for start, stop in zip(edges, edges[1:])])
    whole = soundfile.read(folder / "converted.flac", dtype="float32")[0]
    np.testing.assert_allclose(np.clip(pieces, -1, 1), whole, atol=2 / 32768)
    assert recording.mean == pytest.approx(pieces.mean(dtype=np.float64), abs=1e-6)
    assert recording.variance == pytest.approx(pieces.var(dtype=np.float64), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("rate, channels", [(8000, 1), (44100, 2), (48000, 6), (16000, 2), (22050, 1)])
def test_any_rate_and_channels(stand_in, tmp_path, rate, channels):
    sound = np.zeros((len(speech("AB|CAB", rate)), channels), dtype=np.float32)
    sound[:, 0] = channels * speech("AB|CAB", rate)  # the mean of the channels is used
    soundfile.write(tmp_path / "x.wav", sound, rate, subtype="FLOAT")
    (recording,) = survey([tmp_path / "x.wav"])
    assert texts(stand_in, tmp_path / "x.wav") == "AB CAB"
    note = recording.note()
    assert f"{rate} Hz, {channels} channel(s) instead of 16000 Hz, 1 channel" in note
    assert ("resampled" in note, "mixed down" in note) == (rate != 16000, channels != 1)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_of_channels_that_cancel_one_is_used(stand_in, tmp_path, rate):
    sound = speech("AB|CAB", rate)
    soundfile.write(tmp_path / "x.wav", np.stack([sound, -0.999 * sound], 1), rate, subtype="FLOAT")
    (recording,) = survey([tmp_path / "x.wav"])
    assert texts(stand_in, tmp_path / "x.wav") == "AB CAB"
    assert "only channel 1 used, the channels cancel" in recording.note()


def test_plain_files_need_no_note(tmp_path):
    soundfile.write(tmp_path / "x.flac", speech("A"), 16000)
    assert survey([tmp_path / "x.flac"])[0].note() is None


NOTHING = [
    (np.zeros(0), "contains no samples"),
    (np.zeros(50000), "silent"),
    (np.zeros(100), "silent"),
    (np.full(399, 0.1), None),
]


@pytest.mark.parametrize("sound, message", NOTHING)
def test_audio_without_speech(stand_in, tmp_path, sound, message):
    path = tmp_path / "x.wav"
    soundfile.write(path, sound, 16000)
    (recording,) = survey([path])
    assert texts(stand_in, path) == ""
    assert message is None or message in recording.note()


def damaged(folder: Path) -> dict:
    """Name -> message about it."""
    rng = np.random.default_rng(0)
    (folder / "text.wav").write_text("words " * 1000)
    (folder / "zero.wav").write_bytes(b"")
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan] * 1000), 16000, subtype="FLOAT")
    for name, share in (("cut.wav", 0.5), ("cut.flac", 0.5)):
        soundfile.write(folder / name, rng.normal(0, 0.1, 30000), 16000)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])
    soundfile.write(folder / "hole.flac", rng.normal(0, 0.1, 30000), 16000)
    data = bytearray((folder / "hole.flac").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9000] = bytes(9000)
    (folder / "hole.flac").write_bytes(data)
    return {
        "missing.wav": "no such file; check the name",
        "text.wav": "unreadable.*; remove it or fetch it again",
        "zero.wav": "zero bytes long; remove it",
        "folder.wav": "is a folder; give the files in it",
        "nan.wav": "contains NaN or infinite samples; remove it",
        "cut.wav": "truncated.*; fetch it again",
        "cut.flac": "unreadable or truncated .*; remove it or fetch it again",
        "hole.flac": "(unreadable or )?truncated.*; .*fetch it again",
    }


def test_every_bad_file_is_named(tmp_path):
    wanted = damaged(tmp_path)
    for name, message in wanted.items():
        with pytest.raises(UserError, match=f"^{tmp_path}/{name}: {message}") as error:
            survey([tmp_path / name])
        assert "\n" not in str(error.value)
    soundfile.write(tmp_path / "good.wav", speech("A"), 16000)
    with pytest.raises(
        UserError, match=f"{len(wanted)} of {len(wanted) + 1} files cannot be used; nothing was transcribed"
    ) as error:
        survey([tmp_path / name for name in [*wanted, "good.wav"]])
    assert len(str(error.value).splitlines()) == len(wanted) + 1


# ---- words -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["A", "B", "'", "|"])))
def test_letters_are_grouped_as_in_fairseq(symbols):
    spelt = group_into_words(symbols, ["A", "B", "'", "|"])
    assert [word for word, _, _ in spelt] == post_process(" ".join(symbols), "letter").split()
    assert all("".join(symbols[first : last + 1]) == word for word, first, last in spelt)


@given(st.lists(st.sampled_from(["\u2581A", "B", "\u2581", "\u2581CD"])))
def test_pieces_are_grouped_as_in_fairseq(symbols):
    spelt = group_into_words(symbols, ["\u2581A", "B", "\u2581", "\u2581CD"])
    assert [word for word, _, _ in spelt] == post_process(" ".join(symbols), "sentencepiece").split()


def test_phones_are_words():
    assert group_into_words(["AH", "B", "B"], ["AH", "B"]) == [("AH", 0, 0), ("B", 1, 1), ("B", 2, 2)]


def test_times_and_confidence(stand_in):
    """A word spans the frames (20 ms) of its first to its last letter; its confidence is the geometric mean of
    theirs.
    """
    path = "  AA B |  C"  # a space is the blank
    table = torch.full((len(path), 8), -20.0)
    for frame, symbol in enumerate(path):
        table[frame, 0 if symbol == " " else stand_in.dictionary.index(symbol)] = float(
            np.log(0.9 if symbol == "A" else 0.4)
        )
    assert best_path(stand_in, table) == [Word("AB", 0.04, 0.12, 0.6), Word("C", 0.2, 0.22, 0.4)]


def test_symbols_that_are_never_emitted(stand_in):
    table = torch.full((3, 8), -9.0)
    table[:, 3] = -0.1  # <unk>
    table[:, 4] = -1.0
    assert [word.word for word in best_path(stand_in, table)] == ["A"]


WORDS = [Word("ONE", 0.5, 0.9, 0.75), Word("TWO", 1.0, 1.4, 0.5), Word("LATER", 3661.5, 3662.0, 1.0)]


def test_formats():
    done = Transcript("a folder/my file.wav", 3700.0, "ONE TWO LATER", WORDS)
    assert FORMATS["text"](done) == "a folder/my file.wav\tONE TWO LATER\n"
    assert json.loads(FORMATS["json"](done))["words"][1] == {"word": "TWO", "start": 1.0, "end": 1.4, "confidence": 0.5}
    assert FORMATS["json"](done).count("\n") == 1
    assert FORMATS["ctm"](done).splitlines()[0] == "my_file 1 0.50 0.40 ONE 0.7500"
    assert (
        FORMATS["srt"](done)
        == "1\n00:00:00,500 --> 00:00:01,400\nONE TWO\n\n2\n01:01:01,500 --> 01:01:02,000\nLATER\n\n"
    )


def test_names_and_symbols_cannot_add_fields_or_control_a_terminal():
    words = [Word("A\x1b[2J", 0.5, 0.9, 0.75), Word("B\u202e", 1.0, 1.4, 0.5)]
    done = Transcript("my\tfile\n\x9b.wav", 2.0, "A\x1b[2J B\u202e", words)
    assert FORMATS["text"](done) == "my\\tfile\\n\\x9b.wav\tA\\x1b[2J B\\u202e\n"
    assert FORMATS["ctm"](done).splitlines()[0].startswith("my_file_\\x9b 1 0.50 0.40 A\\x1b[2J ")
    for form, write in FORMATS.items():
        assert not set("\x1b\x9b\u202e") & set(write(done)), form
    assert json.loads(FORMATS["json"](done))["file"] == done.file  # JSON keeps the name


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 2)), max_size=30))
def test_subtitles_fit_on_a_line(lengths_and_pauses):
    now, words = 0.0, []
    for length, pause in lengths_and_pauses:
        words.append(Word("X" * length, now + pause, now + pause + 0.1, 1.0))
        now += pause + 0.1
    cues = transcribe.cues_of(words)
    assert [word for cue in cues for word in cue] == words
    assert all(len(cue) == 1 or len(" ".join(word.word for word in cue)) <= 42 for cue in cues)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_checkpoints) -> dict:
    """A pre-training and a fine-tuning checkpoint, and the folder of their data, which is deleted."""
    names = ("pretraining", "finetuning")
    return {"data": tiny_checkpoints / "data", **{name: tiny_checkpoints / f"{name}.pt" for name in names}}


@pytest.fixture
def good(trained) -> Path:
    return trained["finetuning"]


@pytest.fixture
def sounds(tmp_path) -> list:
    rng = np.random.default_rng(1)
    soundfile.write(tmp_path / "long.wav", rng.normal(0, 0.1, 16000 * 25), 16000)
    soundfile.write(tmp_path / "stereo.flac", rng.normal(0, 0.1, (44100, 2)), 44100)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    return [str(tmp_path / name) for name in ("long.wav", "stereo.flac", "empty.wav")]


def test_the_checkpoint_alone(good, sounds, capsys):
    assert dinosr(["transcribe", str(good), *sounds]) == 0
    printed = capsys.readouterr()
    rows = [line.split("\t") for line in printed.out.splitlines()]
    assert [row[0] for row in rows] == sounds and all(len(row) == 2 for row in rows) and rows[2][1] == ""
    notes = [line for line in printed.err.splitlines() if line.startswith("note: ")]
    assert (
        len(notes) == 2 and "stereo.flac: 44100 Hz, 2 channel(s)" in notes[0] and "resampled and mixed down" in notes[0]
    )
    assert "empty.wav: contains no samples; its text is empty" in notes[1]


def test_a_name_that_is_not_utf8(good, tmp_path, capfdbinary):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    soundfile.write(os.fsencode(path), np.random.default_rng(0).normal(0, 0.1, 8000), 16000)
    for form in FORMATS:
        assert dinosr(["transcribe", str(good), path, "--format", form]) == 0


@pytest.mark.parametrize("form", ["json", "ctm", "text"])
def test_out(good, sounds, tmp_path, form, capsys):
    out = tmp_path / "new folder" / "words"
    assert dinosr(["transcribe", str(good), *sounds, "--format", form, "--out", str(out)]) == 0
    written = out.read_text()
    assert capsys.readouterr().out == "" and [path.name for path in out.parent.iterdir()] == ["words"]
    assert dinosr(["transcribe", str(good), *sounds, "--format", form]) == 0
    assert capsys.readouterr().out == written
    if form == "json":
        objects = [json.loads(line) for line in written.splitlines()]
        assert [found["file"] for found in objects] == sounds and [found["duration"] for found in objects] == [25, 1, 0]


def test_a_failure_leaves_no_partial_file(good, sounds, tmp_path, monkeypatch, capsys):
    out = tmp_path / "words.txt"
    out.write_text("from before")
    work = transcribe.transcript

    def fail(recogniser, decoder, recording, *rest):
        if recording.path.name == "stereo.flac":
            raise KeyboardInterrupt
        return work(recogniser, decoder, recording, *rest)

    monkeypatch.setattr(transcribe, "transcript", fail)
    assert dinosr(["transcribe", str(good), *sounds, "--out", str(out)]) == 130
    assert out.read_text() == "from before" and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_that_changes_meanwhile(good, sounds, monkeypatch, capsys):
    recordings = survey([Path(sounds[0])])
    soundfile.write(sounds[0], np.zeros(100), 16000)
    with pytest.raises(UserError, match="long.wav: has changed since it was first read .*; run the command again"):
        transcribe.write(load_recogniser(good), BestPathDecoder(0), recordings, "text", None, Pace())


def refused(arguments, capsys) -> str:
    assert dinosr(["transcribe", *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    return line


def test_bad_input(trained, good, sounds, tmp_path, capsys):
    missing = tmp_path / "no.wav"
    assert "no.wav: no such file; check the name" in refused([good, sounds[0], missing], capsys)
    assert "contains a DinoSR, which is not a speech recogniser; fine-tune it first" in refused(
        [trained["pretraining"], sounds[0]], capsys
    )
    assert "no such checkpoint" in refused([tmp_path / "no.pt", sounds[0]], capsys)
    message = "not a PyTorch file but a sound file (.wav); give a checkpoint that a training saved"
    assert message in refused([sounds[0], sounds[0]], capsys)
    assert "supports only one recording" in refused([good, *sounds, "--format", "srt"], capsys)
    assert "several files would be called long" in refused(
        [good, sounds[0], tmp_path / "x" / "long.flac", "--format", "ctm"], capsys
    )
    torch.save({"weights": torch.zeros(3)}, tmp_path / "weights.pt")
    assert "not a checkpoint of fairseq" in refused([tmp_path / "weights.pt", sounds[0]], capsys)
    assert "is a folder; give the name of a file" in refused([good, sounds[0], "--out", tmp_path], capsys)
    assert "cannot be written" in refused([good, sounds[0], "--out", f"{sounds[0]}/words.txt"], capsys)


@pytest.fixture
def word_files(tmp_path) -> dict:
    """Good and bad lexicons and language models for the recogniser of A, B and |."""
    texts = {
        "good.wrd": "AB BA\n",
        "foreign.wrd": "AB\nAXE\n",
        "lower.txt": "ab a b |\n",
        "open.txt": "AB A B\n",
        "empty.wrd": "\n",
        "text.arpa": "words\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    write_arpa(tmp_path / "words.arpa", ["AB", "BA"], favourite="AB")
    write_arpa(tmp_path / "symbols.arpa", ["A", "B", "|"], favourite="A")
    write_arpa(tmp_path / "other.arpa", ["seven"], favourite="seven")
    return {path.name: path for path in tmp_path.iterdir()}


IGNORED = [
    (["--lm", "x.arpa"], "--lm x.arpa: not used by --decoder best_path; choose --decoder beam or lexicon"),
    (["--lm-weight", "1"], "--lm-weight 1.0: not used by --decoder best_path"),
    (["--beam", "9"], "--beam 9: not used by --decoder best_path"),
    (
        ["--decoder", "beam", "--lexicon", "x"],
        "--lexicon x: not used by --decoder beam; choose --decoder lexicon",
    ),
    (["--decoder", "beam", "--word-score", "-1"], "--word-score -1.0: not used by --decoder beam"),
    (["--decoder", "beam", "--lm-weight", "1"], "--lm-weight 1: requires a language model; give --lm FILE"),
]


@pytest.mark.parametrize("given, message", IGNORED)
def test_options_without_effect_are_rejected_at_once(given, message, capsys):
    assert message in refused(["no.pt", "no.wav", *given], capsys)


@needs_flashlight
def test_faulty_lexicons_and_language_models(good, sounds, word_files, capsys):
    def error(*given):
        line = refused([good, sounds[0], "--decoder", *given], capsys)
        assert "task." not in line
        return line

    assert "error: --lexicon: required by --decoder lexicon; give" in error("lexicon")
    files = word_files
    assert f"error: --lexicon {files['foreign.wrd']}, line 2: 'AXE': its spelling contains 'X', which" in error(
        "lexicon", "--lexicon", files["foreign.wrd"]
    )
    assert "'a', which is not in the model's dictionary; remove the word, or check upper and lower case" in error(
        "lexicon", "--lexicon", files["lower.txt"]
    )
    assert "line 1: 'AB': a spelling must be symbols followed by |" in error("lexicon", "--lexicon", files["open.txt"])
    assert "contains no words" in error("lexicon", "--lexicon", files["empty.wrd"])
    assert "no such file" in error("lexicon", "--lexicon", "nowhere.txt")
    for lm, fault in (
        ("text.arpa", "KenLM cannot read it"),
        ("other.arpa", "does not know 2 of 2 words"),
        ("symbols.arpa", "does not know 2 of 2 words"),
    ):
        given = ["--lexicon", files["good.wrd"], "--lm", files[lm], "--lm-weight", 1]
        assert f"error: --lm {files[lm]}: {fault}" in error("lexicon", *given)
    assert "does not know 3 of 3 words or symbols" in error("beam", "--lm", files["words.arpa"], "--lm-weight", 1)
    assert "nowhere.arpa: no such file" in error("beam", "--lm", "nowhere.arpa", "--lm-weight", 1)


@pytest.mark.parametrize("name", ["beam", "lexicon"])
def test_without_flashlight_one_line_names_the_package(good, sounds, name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    assert "pip install flashlight-text" in refused([good, sounds[0], "--decoder", name], capsys)


@pytest.mark.parametrize(
    "option", [["--beam", "0"], ["--lm-weight", "nan"], ["--word-score", "x"], ["--decoder", "best"]]
)
def test_invalid_values(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        dinosr(["transcribe", "x.pt", "x.wav", *option])
    assert stopped.value.code == 2 and option[0] in capsys.readouterr().err


def test_names_and_defaults_of_the_parser():
    """The parser has copies of them, so that `dinosr --help` does not import torch."""
    assert tuple(DECODERS) == cli.decoding.DECODERS
    parsed = cli.make_parser().parse_args(["transcribe", "x.pt", "x.wav", "--decoder", "beam"])
    assert transcribe.search_options(parsed) == SearchOptions(beam=50)
    parsed = cli.make_parser().parse_args(["transcribe", "x.pt", "x.wav", "--decoder", "beam", "--lm", "l"])
    assert transcribe.search_options(parsed) == SearchOptions(beam=50, lm="l", lm_weight=1.0)
    given = [
        "--decoder",
        "lexicon",
        "--lm",
        "l",
        "--lm-weight",
        "2",
        "--lexicon",
        "w",
        "--word-score",
        "-1",
        "--beam",
        "7",
    ]
    parsed = cli.make_parser().parse_args(["transcribe", "x.pt", "x.wav", *given])
    assert transcribe.search_options(parsed) == SearchOptions(
        beam=7, lm="l", lm_weight=2.0, lexicon="w", word_score=-1.0
    )


@needs_flashlight
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_agrees_with_fairseq_generate(good, sounds, word_files, name, capsys):
    """On a recording of 25 s, which is not cut."""
    lexicon = [
        "--lexicon",
        str(word_files["good.wrd"]),
        "--lm",
        str(word_files["words.arpa"]),
        "--lm-weight",
        "0.5",
        "--word-score",
        "1",
    ]
    assert dinosr(["transcribe", str(good), *sounds, "--decoder", name, *(lexicon if name == "lexicon" else [])]) == 0
    texts_of = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    recogniser = load_recogniser(good)
    options = (
        {"lexicon": lexicon[1], "lm": lexicon[3], "lm_weight": 0.5, "word_score": 1.0} if name == "lexicon" else {}
    )
    decoder = build_decoder(name, recogniser.dictionary, recogniser.blank, SearchOptions(beam=50, **options))
    for recording in survey([Path(sound) for sound in sounds[:2]]):
        table = emissions(recogniser, recording)
        table[:, 1:4] = -np.inf
        ((hypothesis, *_),) = decoder.decode(table[None], torch.tensor([len(table)]))
        assert (
            texts_of[recording.name].split()
            == post_process(recogniser.dictionary.string(hypothesis["tokens"]), "letter").split()
        )
    assert texts_of[sounds[2]] == ""


@needs_flashlight
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("sound", [sound for sound, _ in NOTHING])
def test_audio_without_speech_with_every_decoder(good, word_files, tmp_path, name, sound, capsys):
    soundfile.write(tmp_path / "x.wav", sound, 16000)
    lexicon = ["--lexicon", str(word_files["good.wrd"])] if name == "lexicon" else []
    assert dinosr(["transcribe", str(good), str(tmp_path / "x.wav"), "--decoder", name, *lexicon]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/x.wav\t\n"


def test_the_real_time_factor_is_printed_on_stderr(good, sounds, capsys):
    assert dinosr(["transcribe", str(good), *sounds]) == 0
    printed = capsys.readouterr()
    number = r"\d+\.\d{3}"
    assert re.search(
        rf"^26 s of speech in [\d.]+ s: real-time factor {number} \(network {number}, search {number}\)$",
        printed.err,
        re.MULTILINE,
    )
    assert "real-time" not in printed.out
    assert dinosr(["transcribe", str(good), sounds[2]]) == 0  # without audio there is no factor
    assert "real-time" not in capsys.readouterr().err


def test_pace():
    pace = Pace(sound=4320.0, parts={"network": 64.8, "search": 30.2}, start=time.perf_counter() - 95)
    assert pace.summary() == "1.2 h of speech in 95 s: real-time factor 0.022 (network 0.015, search 0.007)"
    assert [format_seconds(seconds) for seconds in (0.04, 9.94, 9.96, 99.4, 99.6, 3599, 3600)] == [
        "0.0 s",
        "9.9 s",
        "10 s",
        "99 s",
        "1.7 min",
        "60.0 min",
        "1.0 h",
    ]
    with pytest.raises(ZeroDivisionError), pace.timing("search"):
        raise ZeroDivisionError
    with pace.timing("search"):
        time.sleep(0.01)
    assert 30.2 + 0.01 <= pace.parts["search"] < 40


def test_another_dictionary_in_the_data_folder_does_not_matter(trained, good):
    trained["data"].mkdir()
    try:
        (trained["data"] / "dict.ltr.txt").write_text("X 1\n")
        assert "A" in load_recogniser(good).dictionary.symbols
    finally:
        shutil.rmtree(trained["data"])


def test_from_python(trained, good):
    """Features of a fine-tuned model are the inputs of its CTC layer; it has no units."""
    speech_model = dinosr_plugin.load(good)
    wave = np.random.default_rng(0).normal(0, 0.1, 16000)
    features = speech_model.features(wave)
    assert features.shape == (49, 16) and features.dtype == torch.float32
    encoder = load_model(good).model.w2v_encoder
    source = torch.nn.functional.layer_norm(torch.from_numpy(wave).float(), wave.shape).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(encoder.proj(features), encoder(source, None)["encoder_out"][:, 0])
    with pytest.raises(UserError, match="finetuning.pt: contains DinoSR, which has no codebooks"):
        speech_model.units(wave)
    assert dinosr_plugin.load(trained["pretraining"]).units(wave).shape == (2, 49)

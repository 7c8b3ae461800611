"""A recogniser that has not learned is said to be one, wherever its texts are scored or written."""

import logging
import re

import numpy as np
import pytest
import soundfile
import torch
from fairseq.scoring import build_scorer

from dinosr_plugin.cli import main
from dinosr_plugin.decoding.empty import LONGER, count_empty, describe_texts, note_on_texts
from dinosr_plugin.decoding.transcribe import survey
from dinosr_plugin.decoding.tune import Trial, summary
from dinosr_plugin.errors import UserError
from support.recogniser import run_generate


@pytest.mark.parametrize(
    "texts, described",
    [
        (["", " "], "all 2 hypotheses are empty"),
        (["", "A", "", "A"], "2 of 4 hypotheses are empty"),
        (["A", "A", "A"], "all 3 hypotheses are 'A'"),
        (["A", "A"], None),  # may well be right
        (["A", "A", "B"], None),
        ([], None),
    ],
)
def test_what_is_said_of_texts(texts, described):
    assert describe_texts(texts) == described


def test_the_remedy_depends_on_the_share():
    assert note_on_texts(["", ""], "texts") == f"all 2 texts are empty; {LONGER}"
    assert note_on_texts(["", "A"]) == f"1 of 2 hypotheses are empty; if these recordings contain speech, {LONGER}"
    assert note_on_texts(["A", "B"]) is None


def test_best_paths_without_symbols():
    """Blank 0 and boundary 3 are no text; what is in the padding does not count."""
    paths = torch.tensor([[0, 0, 0, 0], [0, 3, 0, 3], [0, 0, 1, 1], [0, 1, 0, 0]])
    output = {"encoder_out": torch.eye(4)[paths].transpose(0, 1), "padding_mask": None}
    assert count_empty(output, [0, 3]) == 2
    output["padding_mask"] = torch.tensor([[False] * 4, [False] * 4, [False, False, True, True], [False] * 4])
    assert count_empty(output, [0, 3]) == 3


def with_bias(recogniser, folder, symbol):
    """The recogniser, whose most likely symbol in every frame is this one; index 0 is the blank."""
    saved = torch.load(recogniser / "model.pt", weights_only=True)
    saved["model"]["w2v_encoder.proj.weight"].zero_()
    saved["model"]["w2v_encoder.proj.bias"].zero_()
    saved["model"]["w2v_encoder.proj.bias"][symbol] = 9
    torch.save(saved, folder / "biased.pt")
    return folder / "biased.pt"


@pytest.mark.parametrize("batch, scoring", [("1", "dinosr_wer"), ("3", "wer")])
def test_fairseq_generate_says_that_all_texts_are_empty(recogniser, tmp_path, caplog, batch, scoring):
    model = with_bias(recogniser, tmp_path, symbol=0)
    with caplog.at_level(logging.WARNING, logger="dinosr_plugin"):
        more = ["--path", model, "--batch-size", batch, "--scoring", scoring]
        lines = run_generate(recogniser, tmp_path, *more).read_text().splitlines()
    assert [record.getMessage() for record in caplog.records] == [f"all 3 hypotheses are empty; {LONGER}"]
    if scoring == "dinosr_wer":
        assert "WER: 100.00" in lines[-1] and lines[-1].endswith("over 3 utterances); all 3 hypotheses are empty")


def test_fairseq_generate_says_that_all_texts_are_the_same(recogniser, tmp_path, caplog):
    run_generate(recogniser, tmp_path, "--path", with_bias(recogniser, tmp_path, symbol=5))
    assert any(re.fullmatch(f"all 3 hypotheses are '.'; {LONGER}", message) for message in caplog.messages)


def test_transcribe_says_that_texts_are_empty(recogniser, tmp_path, capsys):
    """Silent recordings do not count: their empty text has another reason, which is said too."""
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    files = [str(recogniser / f"corpus/{number}.wav") for number in range(2)] + [str(tmp_path / "silent.wav")]
    assert main(["transcribe", str(with_bias(recogniser, tmp_path, symbol=0)), *files]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {files[2]}: silent; its text is empty", f"note: all 2 texts are empty; {LONGER}"]


def test_silent_channels_are_said_and_those_that_cancel_are_not_silent(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    for name, other in (("cancel", -noise), ("silent", 0 * noise)):
        first = noise if name == "cancel" else other
        soundfile.write(tmp_path / f"{name}.wav", np.stack([first, other], axis=1), 16000, subtype="FLOAT")
    cancel, silent = (one.note() for one in survey([tmp_path / "cancel.wav", tmp_path / "silent.wav"]))
    assert cancel.endswith("only channel 1 used, the channels cancel")
    assert silent == f"{tmp_path}/silent.wav: silent; its text is empty"


def test_tuning_says_that_the_best_texts_are_empty():
    rates = {"wer": 100.0, "cer": 100.0, "wer_interval": (100.0, 100.0)}
    trials = [Trial(1.0, 0.0, rates, note=f"all 3 hypotheses are empty; {LONGER}")]
    assert summary(trials, 50).endswith(f"\nnote: all 3 hypotheses are empty; {LONGER}")


def test_the_summary_of_a_recogniser_that_has_learned():
    scorer = build_scorer("dinosr_wer", None)
    for text in ("A", "B", "C"):
        scorer.add_string(text, text)
    assert scorer.result_string().endswith("over 3 utterances)")


def test_recordings_without_transcripts(recogniser, tmp_path):
    for name in ("train.tsv", "dict.ltr.txt"):
        (tmp_path / name).write_bytes((recogniser / name).read_bytes())
    with pytest.raises(UserError) as error:
        run_generate(tmp_path, tmp_path / "out", "--path", recogniser / "model.pt")
    assert str(error.value) == (
        f"{tmp_path}/train.ltr: no such file, and fairseq-generate compares with transcripts; for recordings without "
        "them use `dinosr transcribe CHECKPOINT FILE...`"
    )

"""Bad input ends in one line that names the file or field and what to do, with a status that is not 0, and leaves no
checkpoint.

The programs themselves run once each; the other cases call what they call, in this process.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.errors import UserError
from support.paths import CONFIGS, PLUGIN
from support.two_stages import CONFIG_NAMES, stage_overrides, train_stage, write_noise_with_words


@pytest.fixture
def data(tmp_path) -> Path:
    return write_noise_with_words(tmp_path / "data")


# -- faults ----------------------------------------------------------------------------------------------------------


def edit(name: str, change):
    def breaks(data: Path) -> None:
        path = data / name
        path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))

    return breaks


def rewrite(sound, rate=16000):
    return lambda data: soundfile.write(data / "corpus/u1.wav", sound, rate)


def nothing(data: Path) -> None:
    pass


NOISE = np.full(16500, 0.1)
DATA_FAULTS = {  # name -> (function that damages the data, expected message)
    "missing root": (
        lambda data: (data / "corpus").rename(data / "moved"),
        r"train.tsv: its root folder .*corpus does not exist; .*dinosr manifest",
    ),
    "empty manifest": (edit("train.tsv", lambda lines: lines[:1]), "train.tsv: empty manifest.*dinosr manifest"),
    "no manifest": (lambda data: (data / "train.tsv").unlink(), "train.tsv: no such file.*dinosr manifest"),
    "malformed row": (edit("train.tsv", lambda lines: [*lines, "u9.wav 16000"]), "train.tsv line 8: .*dinosr manifest"),
    "duplicate id": (
        edit("train.tsv", lambda lines: [*lines, "x/u1.wav\t16000"]),
        "train.tsv line 8: duplicate utterance id u1, already on line 3; rename",
    ),
    "zero bytes": (lambda data: (data / "corpus/u1.wav").write_bytes(b""), "corpus/u1.wav: zero bytes.*dinosr check"),
    "truncated": (
        lambda data: os.truncate(data / "corpus/u1.wav", 9000),
        "corpus/u1.wav: .*16500 in the manifest.*dinosr manifest",
    ),
    "text": (
        lambda data: (data / "corpus/u1.wav").write_text("words " * 6000),
        "corpus/u1.wav: unreadable.*dinosr check",
    ),
    "gone": (lambda data: (data / "corpus/u1.wav").unlink(), "corpus/u1.wav: no such file; .*dinosr check"),
    "8 kHz": (rewrite(NOISE, 8000), "corpus/u1.wav: 8000 Hz.*instead of 16000 Hz.*dinosr manifest folder .*--convert"),
    "stereo": (
        rewrite(np.stack([NOISE, NOISE], 1)),
        r"corpus/u1.wav: .*2 channel\(s\).*dinosr manifest folder .*--convert",
    ),
    "another length": (
        rewrite(NOISE[:-1]),
        "corpus/u1.wav: 16499 samples, but 16500 in the manifest; .*dinosr manifest",
    ),
}

PRETRAINING_FAULTS = {
    "task.data": (["task.data='???'"], "task.data: not given; add task.data=DIR"),
    "train split": (["dataset.train_subset=nowhere"], "nowhere.tsv: no such file.*dinosr manifest"),
    "valid split": (["dataset.disable_validation=false"], "valid.tsv: no such file.*dinosr manifest"),
    "all too short": (
        ["task.min_sample_size=99999"],
        "train.tsv: every file is shorter than task.min_sample_size=99999.*lower it",
    ),
    "one frame": (["task.min_sample_size=400"], "task.min_sample_size=400 .*raise it"),
    "top layers": (
        ["model.average_top_k_layers=3"],
        "model.average_top_k_layers=3 must be between 1 and model.encoder_layers=2",
    ),
    "codebook": (["model.codebook_size=1"], "model.codebook_size=1: must be between 2 and 65536"),
    "mask nothing": (["model.mask_prob=0"], "model.mask_prob=0.0 masks nothing.*raise it"),
    "mask length": (["model.mask_length=0"], "model.mask_length=0: must be between 1 and 100000"),
    "convolutions": (
        ["model.front_end=conv", "model.conv_feature_layers=nonsense"],
        "model.conv_feature_layers='nonsense' is not a list of .* such as",
    ),
    "save_dir": (
        ["checkpoint.save_dir=DATA/train.tsv/sub"],
        r"checkpoint.save_dir=.*/train.tsv/sub: cannot be written \(Not a directory\); give another",
    ),
    "max_tokens": (["dataset.max_tokens=9000"], "dataset.max_tokens=9000 .*18500 samples.*raise it"),
}

FINETUNING_FAULTS = {
    "task.data": (nothing, ["task.data=''"], "task.data: not given; add task.data=DIR"),
    "no labels": (lambda data: (data / "train.ltr").unlink(), [], "train.ltr: no such file.*dinosr manifest"),
    "fewer labels": (
        edit("train.ltr", lambda lines: lines[1:]),
        [],
        "train.ltr: 5 lines for the 6 rows of train.tsv; .*dinosr manifest",
    ),
    "symbol": (
        edit("dict.ltr.txt", lambda lines: lines[:-1]),
        [],
        "train.ltr line 1: symbol '.' is not in .*dict.ltr.txt; .*add the symbol",
    ),
    "no dictionary": (lambda data: (data / "dict.ltr.txt").unlink(), [], "dict.ltr.txt: no such file; task.data"),
    "stereo": (DATA_FAULTS["stereo"][0], [], DATA_FAULTS["stereo"][1]),
    "max_tokens": (nothing, ["dataset.max_tokens=9000"], "dataset.max_tokens=9000 .*18500 samples; raise it"),
    "w2v_path missing": (
        nothing,
        ["model.w2v_path=DATA/none.pt"],
        "model.w2v_path=.*/none.pt: no such file; give a pre-trained checkpoint",
    ),
    "w2v_path not given": (nothing, ["model.w2v_path='???'"], "model.w2v_path: not given; add model.w2v_path=FILE"),
    "w2v_path text": (
        lambda data: (data / "x").write_text("hello"),
        ["model.w2v_path=DATA/x"],
        "model.w2v_path=.*/x: not a PyTorch file; give a pre-trained checkpoint",
    ),
    "w2v_path folder": (
        nothing,
        ["model.w2v_path=DATA/corpus"],
        "model.w2v_path=.*/corpus: is a folder, not a file; give a pre-trained checkpoint",
    ),
    "w2v_path other": (
        lambda data: torch.save({"a": 1}, data / "x"),
        ["model.w2v_path=DATA/x"],
        "model.w2v_path=.*/x: not a checkpoint of fairseq: it contains 'a'; give a pre-trained checkpoint",
    ),
}


def expect_one_line(expected: str, stage: str, data: Path, more=()) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        train_stage(stage, data, more)
    assert "\n" not in str(caught.value)
    assert not list(data.rglob("*.pt"))


@pytest.fixture
def no_sleep(monkeypatch):
    """fairseq waits 3 s between its attempts to read a file."""
    monkeypatch.setattr("fairseq.data.audio.raw_audio_dataset.time.sleep", lambda seconds: None)


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_pretraining_on_bad_data(data, fault, no_sleep):
    breaks, expected = DATA_FAULTS[fault]
    breaks(data)
    expect_one_line(expected, "pretraining", data)


@pytest.mark.parametrize("fault", PRETRAINING_FAULTS)
def test_pretraining_with_bad_settings(data, fault):
    more, expected = PRETRAINING_FAULTS[fault]
    expect_one_line(expected, "pretraining", data, more)


@pytest.mark.parametrize("fault", FINETUNING_FAULTS)
def test_finetuning(data, tiny_checkpoints, fault):
    breaks, more, expected = FINETUNING_FAULTS[fault]
    breaks(data)
    expect_one_line(expected, "finetuning", data, [f"model.w2v_path={tiny_checkpoints}/pretraining.pt", *more])


def test_bad_files_can_be_skipped(data, no_sleep, caplog):
    """A whole run: a bad file in a batch of several, and batches (the first one, too) without a good file."""
    for name in ("text", "stereo"):
        DATA_FAULTS[name][0](data)
    (data / "corpus/u5.wav").unlink()
    for max_tokens in (18500, 40000):
        caplog.clear()
        more = [
            "task.skip_bad_audio=true",
            f"dataset.max_tokens={max_tokens}",
            f"checkpoint.save_dir=DATA/{max_tokens}",
        ]
        train_stage("pretraining", data, more)
        assert (data / f"{max_tokens}/checkpoint_last.pt").is_file()
        assert sum("skipped " + str(data / "corpus") in record.getMessage() for record in caplog.records) == 2


def test_labels_in_another_order_are_found_by_check(data, capsys):
    (data / "train.wrd").write_text("AB BA\n" * 5 + "BA\n")
    assert dinosr(["check", str(data / "train.tsv")]) == 1
    assert "train.ltr and train.wrd disagree on 1 row(s), the first is line 6" in capsys.readouterr().out


# -- the programs ----------------------------------------------------------------------------------------------------


def run(program: Path, *arguments) -> list[str]:
    """Lines of stderr of a program that must fail, without a traceback."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr.rstrip().split("\n")


def run_training(commands: Path, stage: str, data: Path, more=()) -> str:
    """The error that fairseq-hydra-train prints, between the overrides and how to get a traceback."""
    options = ["--config-dir", CONFIGS / stage, "--config-name", CONFIG_NAMES[stage]]
    *_, first, message, blank, last = run(
        commands / "fairseq-hydra-train", *options, *stage_overrides(stage, data, [f"hydra.run.dir={data}", *more])
    )
    assert first.startswith("Error executing job") and not blank and "HYDRA_FULL_ERROR" in last
    assert not list(data.rglob("*.pt"))
    return message


def test_pretraining_by_its_program(data, commands):
    DATA_FAULTS["stereo"][0](data)
    message = run_training(
        commands, "pretraining", data, ["dataset.num_workers=1", "dataset.max_tokens=18500"]
    )  # not in the batch that is read first
    assert message.startswith(f"{data}/corpus/u1.wav: 16000 Hz, 2 channel(s)")


def test_finetuning_by_its_program(data, commands):
    message = run_training(commands, "finetuning", data, ["model.w2v_path=DATA/none.pt"])
    assert message == f"model.w2v_path={data}/none.pt: no such file; give a pre-trained checkpoint"


def test_generate_by_its_program(data, tiny_checkpoints):
    DATA_FAULTS["stereo"][0](data)
    options = [
        "--user-dir",
        PLUGIN,
        "--task",
        "dinosr_finetuning",
        "--labels",
        "ltr",
        "--gen-subset",
        "train",
        "--cpu",
        "--path",
        tiny_checkpoints / "finetuning.pt",
    ]
    *_, message = run(Path(sys.executable).with_name("fairseq-generate"), data, *options)
    assert message.startswith(f"error: {data}/corpus/u1.wav: 16000 Hz, 2 channel(s)")

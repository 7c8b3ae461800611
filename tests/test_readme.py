"""Runs every command and all Python code of README.md, then of the quickstart's page, in order on a small synthetic
corpus.

This is also the end-to-end test: manifests, check, 30 updates of pre-training, 30 of fine-tuning and fairseq-generate,
each command in a process of its own (see support/command_server.py).
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from dinosr_plugin.data.synth.corpus import synthesize
from dinosr_plugin.evaluation.training_log import loss_curve, read_training_log
from support.decoding import needs_flashlight
from support.paths import REPOSITORY

PAGES = ("README.md", "examples/quickstart/README.md")
README = "".join((REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES)
RUN_ELSEWHERE = {"./examples/quickstart/run.sh": "tests/examples/test_quickstart.py", "./tests/run.sh": ".ci/run"}
FLASHLIGHT_INSTALLED = importlib.util.find_spec("flashlight") is not None  # there is no wheel for Python 3.13
NEED_FLASHLIGHT = ("dinosr tune-lm", "lexicon", "dinosr transcribe, lexicon")  # keys of commands, see key_of
FEW_UPDATES = "optimization.max_update=30 common.log_interval=10"
SHORT = {  # overrides that shorten a training; the rest of the command is as in the README
    "dinosr_tiny": FEW_UPDATES,
    "tiny": f"{FEW_UPDATES} dataset.validate_interval_updates=30",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.replace("\\\n", "").splitlines() if line.strip()]


def shell(command: str, folder: Path, *programs: Path) -> subprocess.CompletedProcess:
    """Runs ``command`` in ``folder``; programs are searched for in the folders ``programs`` first."""
    path = os.pathsep.join(map(str, [*programs, Path(sys.executable).parent, os.environ["PATH"]]))
    return subprocess.run(
        ["bash", "-euc", command], cwd=folder, env={**os.environ, "PATH": path}, text=True, capture_output=True
    )


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory) -> Path:
    """A folder with the repository's examples and a user's audio: a folder per speaker, a transcript next to each file,
    a phone alignment."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    corpus = folder / "synth"
    synthesize(corpus, minutes=2.5, speakers=8, seed=3)
    names = {}
    for transcripts in sorted(corpus.rglob("*.trans.txt")):
        for line in transcripts.read_text().splitlines():
            utterance, words = line.split(" ", 1)
            speaker = utterance.split("-")[0]
            names.setdefault(speaker, "anna" if not names else f"speaker{speaker}")
            target = folder / "my_audio" / names[speaker]
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(transcripts.parent / f"{utterance}.flac", target)
            (target / f"{utterance}.txt").write_text(words)
    first = sorted((folder / "my_audio" / "anna").glob("*.flac"))[0]
    wave, rate = soundfile.read(first)
    soundfile.write(first.parent / "one.wav", wave, rate)
    shutil.copy(first.with_suffix(".txt"), first.parent / "one.txt")
    rows = [line for part in ("train", "dev") for line in (corpus / f"{part}.phones.tsv").read_text().splitlines()[1:]]
    rows += [row.replace(first.stem, "one") for row in rows if row.startswith(first.stem + "\t")]
    (folder / "valid.phones.tsv").write_text("\n".join(["utt\tstart\tend\tphone", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def outputs(newcomer, commands) -> dict[str, str]:
    """``key_of(command)`` -> output, for all commands of the pages, run in order.

    Each must succeed, or fail with the name of the package that is missing.
    """
    printed = {}
    for command in COMMANDS:
        if command in RUN_ELSEWHERE:
            continue
        config = re.search(r"--config-name (\S+)", command)
        result = shell(f"{command} {SHORT[config.group(1)]}" if config else command, newcomer, commands)
        if key_of(command) in NEED_FLASHLIGHT and not FLASHLIGHT_INSTALLED:
            assert result.returncode == 1 and "pip install flashlight-text" in result.stderr, result.stderr
            continue
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
        log = result.stderr if command.startswith("fairseq-generate") else ""
        printed[key_of(command)] = result.stdout + log
    return printed


def key_of(command: str) -> str:
    """The program and its sub-command, with the decoder or ``units`` if given; for fairseq's programs the config or
    decoder alone."""
    option = re.search(r"--(?:config-name|decoder) (\S+)", command) or re.match(r"dinosr quality (units)", command)
    program = " ".join(command.split()[:2]) if command.startswith("dinosr") else command.split()[0]
    return (
        program if not option else option.group(1) if program.startswith("fairseq") else f"{program}, {option.group(1)}"
    )


def test_skipped_commands_are_tested_elsewhere():
    assert set(RUN_ELSEWHERE) <= set(COMMANDS)
    for script, where in RUN_ELSEWHERE.items():
        assert os.access(REPOSITORY / script, os.X_OK)
        assert Path(script).name in (REPOSITORY / where).read_text()


def test_manifest_and_check(outputs, newcomer):
    assert "train.tsv" in outputs["dinosr manifest"] and (newcomer / "data" / "valid.ltr").exists()
    assert "problem" in outputs["dinosr check"]  # the number of problems: 0, since the exit status was 0


def test_pretraining_reduces_the_loss(outputs, newcomer):
    losses = [loss for _, loss in loss_curve(read_training_log(newcomer / "pretrain/training.log"))]
    assert len(losses) == 3 and losses[-1] < losses[0] < 4.6  # chance is ln 64 = 4.16 nats
    assert (newcomer / "pretrain" / "checkpoint_last.pt").exists()


def test_finetuning_reports_wer_and_keeps_the_best(outputs, newcomer):
    records = read_training_log(newcomer / "finetune/training.log", "valid")
    assert (
        [record["num_updates"] for record in records] == [30] and 0 < records[0]["wer"] <= 100 and records[0]["uer"] > 0
    )
    state = torch.load(newcomer / "finetune" / "checkpoint_best.pt", weights_only=False)
    assert state["extra_state"]["best"] == pytest.approx(records[0]["wer"], abs=0.01)


def test_generate_prints_hypotheses_and_wer(outputs, newcomer):
    printed = outputs["fairseq-generate"]
    rows = len((newcomer / "data" / "valid.tsv").read_text().splitlines()) - 1
    for kind in "THDP":
        assert len(re.findall(rf"^{kind}-\d+\t", printed, flags=re.MULTILINE)) == rows
    assert re.search(r"Generate valid with beam=5: WER: \d", printed)
    assert len(re.findall(r"of speech in .*: real-time factor \d", printed)) == 1


def test_language_model(outputs, newcomer):
    assert re.match(r"words.arpa: 3-gram model of \d+ lines", outputs["dinosr ngram"])


@needs_flashlight
def test_weights_of_the_language_model(outputs):
    assert re.search(r"^best: --lm-weight \d.*: WER \d", outputs["dinosr tune-lm"], flags=re.MULTILINE)


@needs_flashlight
def test_lexicon(outputs):
    assert re.search(
        r"Generate valid with beam=100: WER: \d+\.\d\d \[.*\] CER: .* \(95 % bootstrap intervals over \d+ utterances\)",
        outputs["lexicon"],
    )


def test_transcribe(outputs):
    assert outputs["dinosr transcribe"].startswith("my_audio/anna/one.wav\t")


@needs_flashlight
def test_transcribe_with_a_lexicon(outputs):
    assert json.loads(outputs["dinosr transcribe, lexicon"])["file"] == "my_audio/anna/one.wav"


def test_quality(outputs, newcomer):
    assert all(
        name in outputs["dinosr quality"]
        for name in ("PNMI", "MFCC", "log-Mel", "untrained layer 4", "layer 0", "codebook 3", "head 3")
    )
    figures = json.loads((newcomer / "quality" / "quality.json").read_text())
    assert len(figures["history"][0]["teacher"]) == 4 and 0 < figures["history"][0]["teacher"][0]["pnmi"] < 1
    assert {path.name for path in (newcomer / "quality").iterdir()} == {
        "quality.json",
        "curves.png",
        "code_by_phone.png",
        "comparison",
    }


def test_report(outputs, newcomer):
    assert outputs["dinosr report"] == "report/report.html\n"
    names = {row["name"] for row in json.loads((newcomer / "report" / "figures.json").read_text())["rows"]}
    assert {"MFCC", "log-Mel", "untrained layer 4", "layer 0", "codebook 3", "head 3"} <= names
    page = (newcomer / "report" / "report.html").read_text()
    assert "Perplexity of the codes over updates" in page  # read from TensorBoard's files


def test_quality_of_units(outputs):
    lines = outputs["dinosr quality, units"].splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["codebook_0", "codebook_1", "codebook_2", "codebook_3", "valid"]


def test_features_kmeans_units_and_abx(outputs, newcomer):
    rows = len((newcomer / "data" / "valid.tsv").read_text().splitlines()) - 1
    labels = [line.split() for line in (newcomer / "data" / "valid.km").read_text().splitlines()]
    assert len(labels) == rows and all(0 <= int(unit) < 50 for line in labels for unit in line)
    units = (newcomer / "units" / "codebook_0.units").read_text().splitlines()
    assert [len(line.split()) - 1 for line in units] == [len(line) for line in labels]
    for name in ("features +angular", "units/codebook_3.units +onehot"):  # within speaker: valid has only one
        assert re.search(rf"^{name} +50 +\d+\.\d\d", outputs["dinosr abx"], flags=re.MULTILINE)


def test_python_block(outputs, newcomer):
    (code,) = blocks("python")
    script = newcomer / "units.py"
    script.write_text(code + "\nprint(tuple(units.shape), units.min().item() >= 0)\n")
    result = shell(f"python {script}", newcomer)
    assert result.returncode == 0, result.stderr
    frames = 1 + (soundfile.info(newcomer / "my_audio" / "anna" / "one.wav").frames - 400) // 320
    assert result.stdout.strip().splitlines()[-1] == f"{(4, frames)} True"
    line = (newcomer / "units_of_one/codebook_0.units").read_text()  # of the command with the same model
    assert len(line.split()) == 1 + frames

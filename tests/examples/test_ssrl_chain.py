"""examples/ssrl: all stages of run.sh once with the real commands; its control flow with commands that only record
their arguments; pieces of recordings."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin.evaluation.training_log import read_training_log
from support.chains import calls, modification_times, run_command, write_recording_commands
from support.paths import EXAMPLES
from support.speakers import write_speech

RUN, ABLATIONS, PIECES = (EXAMPLES / "ssrl" / name for name in ("run.sh", "ablations.sh", "pieces.py"))
SMALL = [
    "model.channels=[8,8,16]",
    "model.kernels=[5,3,1]",
    "model.dilations=[1,2,1]",
    "model.se_width=4",
    "model.attention_width=4",
    "model.embedding_dim=8",
    "dataset.num_workers=0",
    "common.log_interval=1",
]
NAMES = ("dino", "ssrl")
FEW = {"DINO_BATCH": "5", "SSRL_BATCH": "4", "DINO_UPDATES": "4", "FIXED_EPOCHS": "2", "SSRL_EPOCHS": "4"}


def run(folder: Path, *words: str, path: Path, **settings: str) -> subprocess.CompletedProcess:
    return run_command([RUN, *words], folder, path, **settings)


def test_the_whole_chain_and_again(tmp_path, commands):
    """Started again it trains nothing, and has the same speakers."""
    manifest = write_speech(tmp_path, {name: [32000] * 2 for name in "abcde"}, name="{speaker}{number}")
    other = write_speech(tmp_path / "other", {name: [32000] * 3 for name in "vwxy"}, name="{speaker}{number}")
    (tmp_path / "data").mkdir()
    manifest.rename(tmp_path / "data/train.tsv")
    arguments, settings = ["data", "3", "out", *SMALL], {**FEW, "EVAL": str(other)}
    first = run(tmp_path, *arguments, path=commands, **settings)
    assert first.returncode == 0, first.stderr[-3000:]
    out = tmp_path / "out"
    updates = {
        name: [record["num_updates"] for record in read_training_log(out / name / "training.log")] for name in NAMES
    }
    assert updates == {"dino": [1, 2, 3, 4], "ssrl": [1, 2, 3, 4, 5, 6, 7, 8]}  # 10 recordings: 2 batches of 4
    speakers = (out / "speakers.tsv").read_text()
    assert [line.split("\t")[0] for line in speakers.splitlines()] == [
        line.split("\t")[0] for line in (out / "data/train.tsv").read_text().splitlines()[1:]
    ]
    assert first.stdout.count("EER (%)") == 2 and (out / "report.html").exists()
    kept = {path: time for path, time in modification_times(out).items() if path.suffix in (".pt", ".npz", ".npy")}
    assert len(kept) > 5
    again = run(tmp_path, *arguments, path=commands, **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    after = modification_times(out)
    assert {path: after[path] for path in kept} == kept
    assert (out / "speakers.tsv").read_text() == speakers


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """130 recordings, and commands that only record their arguments."""
    write_recording_commands(tmp_path)
    (tmp_path / "data/train.tsv").write_text("/\n" + "".join(f"{n}.wav\t32000\n" for n in range(130)))
    return tmp_path


def test_the_arguments_of_each_stage(sandbox):
    """130 recordings are two batches of 64 or four of 32; the rest is left out."""
    assert run(sandbox, "data", "7", "out", "common.seed=3", path=sandbox / "bin").returncode == 0
    dino, embed, fit, apply, ssrl, again, cluster = calls(sandbox)
    for field in (
        "--config-name dino_speaker_tiny",
        f"task.data={sandbox}/out/data",
        "dataset.batch_size=64",
        "checkpoint.save_dir=out/dino",
        "optimization.max_update=500",
        "lr_scheduler.warmup_updates=33",
        "lr_scheduler.phase_updates=[467]",
        "model.ema_anneal_end_step=500",
        "model.freeze_last_layer_updates=2",
        "common.seed=3",
    ):
        assert f" {field} " in f"{dino} "
    assert embed == "dinosr speaker embed out/dino/checkpoint_last.pt out/data/train.tsv --out out/dino_embeddings"
    assert fit == "dinosr kmeans fit out/dino_embeddings --clusters 7 --out out/kmeans.npz"
    assert apply == (
        "dinosr kmeans apply out/kmeans.npz out/dino_embeddings out/data/train.tsv --out out/data/train.clusters"
    )
    for field in (
        "--config-name ssrl_speaker_tiny",
        "dataset.batch_size=32",
        "optimization.max_epoch=32",
        "task.fixed_epochs=12",
        "model.start_from=out/dino/checkpoint_last.pt",
        "model.centroids=out/kmeans.npz",
        "model.ema_anneal_end_step=128",
        "checkpoint.save_interval=4",
        "lr_scheduler.phase_updates=[48,80]",
        "common.seed=3",
    ):
        assert f" {field} " in f"{ssrl} "
    assert again == "dinosr speaker embed out/ssrl/checkpoint_last.pt out/data/train.tsv --out out/embeddings"
    assert cluster == (
        "dinosr speaker cluster out/embeddings --classifier out/ssrl/checkpoint_last.pt --out out/speakers.tsv"
    )


@pytest.mark.parametrize("failing", range(7))
def test_it_stops_at_the_first_step_that_fails_and_resumes(sandbox, failing):
    """The clusters are made once; every other command is started again, and ends at once if nothing is left to do."""
    start = lambda **settings: run(sandbox, "data", "7", "out", path=sandbox / "bin", **settings).returncode
    assert start() == 0
    complete = calls(sandbox)
    shutil.rmtree(sandbox / "out")
    assert start(FAIL_AT=str(failing)) == 3
    assert calls(sandbox) == [*complete[:failing], f"failed: {complete[failing]}"]
    assert start() == 0
    made = [call for call in complete[:failing] if call.startswith("dinosr kmeans")]
    assert calls(sandbox) == [call for call in complete if call not in made]


def test_too_few_recordings_for_a_batch(sandbox):
    refused = run(sandbox, "data", "7", "out", path=sandbox / "bin", SSRL_BATCH="200")
    assert refused.returncode == 2
    assert refused.stderr == "data/train.tsv has 130 recordings; set SSRL_BATCH to 130 or less\n"


@pytest.mark.parametrize("arguments", [[], ["data", "7"]])
def test_too_few_arguments_print_the_usage(arguments):
    printed = subprocess.run([RUN, *arguments], text=True, capture_output=True)
    assert printed.returncode == 2
    assert "run.sh DATA CLUSTERS OUT [FIELD...]" in printed.stderr
    assert printed.stderr.strip().endswith("(none).")


def test_the_trainings_of_the_ablations(sandbox):
    """Each has the updates of run.sh; a round starts with the model and the clusters of the one before."""
    assert run(sandbox, "data", "7", "out", path=sandbox / "bin").returncode == 0
    (sandbox / "out/data/dict.clusters.txt").write_text("0 1\n1 1\n2 1\n")
    calls(sandbox)
    assert run_command([ABLATIONS, "out"], sandbox, sandbox / "bin").returncode == 0
    recorded = calls(sandbox)
    trainings = {call.split("save_dir=out/")[1].split()[0]: f"{call} " for call in recorded if "save_dir" in call}
    assert list(trainings) == ["no_queue", "no_weights", "round1", "round2", "round3"]
    for name in ("no_queue", "no_weights"):
        for field in ("optimization.max_epoch=32", "task.fixed_epochs=12", "lr_scheduler.phase_updates=[48,80]"):
            assert f" {field} " in trainings[name]
        assert " model.start_from=out/dino/checkpoint_last.pt model.centroids=out/kmeans.npz " in trainings[name]
    assert "label_queue=1" in trainings["no_queue"] and "clean_weights" not in trainings["no_queue"]
    assert "clean_weights=false" in trainings["no_weights"] and "label_queue" not in trainings["no_weights"]
    starts = ("dino/checkpoint_last.pt", "round1/checkpoint_last.pt", "round2/checkpoint_last.pt")
    for number, (epochs, start) in enumerate(zip((12, 10, 10), starts), 1):
        clusters = "" if number == 1 else str(number)
        for field in (
            f"task.data={sandbox}/out/data{clusters}",
            f"optimization.max_epoch={epochs}",
            f"lr_scheduler.phase_updates=[{4 * epochs}]",
            f"model.start_from=out/{start}",
            f"model.centroids=out/kmeans{clusters}.npz",
            "task.fixed_epochs=1000000",
        ):
            assert f" {field} " in trainings[f"round{number}"]
    assert "dinosr speaker embed out/round1/checkpoint_last.pt out/data2/train.tsv --out out/embeddings2" in recorded
    assert "dinosr kmeans fit out/embeddings2 --clusters 3 --out out/kmeans2.npz" in recorded


def test_pieces_of_recordings(tmp_path):
    """Two pieces of 1.5 s of a recording of 3 s, and two of its faster copy; nothing is lost."""
    manifest = write_speech(tmp_path, {"a": [48000], "b": [16000]})
    command = [sys.executable, PIECES, manifest, tmp_path / "out", "--seconds", "1.5", "--speeds", "125"]
    subprocess.run(command, check=True, capture_output=True)
    lengths = {
        str(path.relative_to(tmp_path / "out")): soundfile.info(path).frames for path in (tmp_path / "out").rglob("*.*")
    }
    assert lengths == {
        "a/0-0.flac": 24000,
        "a/0-1.flac": 24000,
        "b/0-0.flac": 16000,
        "a-speed125/0-0-speed125.flac": 19200,
        "a-speed125/0-1-speed125.flac": 19200,
        "b-speed125/0-0-speed125.flac": 12800,
    }
    whole = np.concatenate([soundfile.read(tmp_path / f"out/a/0-{n}.flac")[0] for n in range(2)])
    np.testing.assert_allclose(whole, soundfile.read(tmp_path / "audio/a/0.wav")[0], atol=1e-4)

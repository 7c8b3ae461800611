"""examples/spin/run.sh: all stages once with the real commands; the script's control flow with commands that only
record their arguments."""

import json
import subprocess
from pathlib import Path

import pytest

from dinosr_plugin.evaluation.training_log import read_training_log
from support.chains import calls, modification_times, run_chain, write_recording_commands, write_tones
from support.paths import EXAMPLES
from support.spin import spin_checkpoint

RUN = EXAMPLES / "spin/run.sh"
FIELDS = [
    "task.min_sample_size=16000",
    "task.normalize=false",
    "task.perturb_by=resample",
    "dataset.num_workers=0",
    "optimization.max_update=4",
    "common.log_interval=1",
    "model.projection_dim=6",
]


def test_the_whole_chain_and_again(tmp_path, commands):
    """Started again it trains and measures nothing, and has the same tables."""
    write_tones(tmp_path, utterances=3)  # the speaker probe needs three
    spin_checkpoint(tmp_path / "base.pt")
    first = run_chain(RUN, tmp_path, *FIELDS, path=commands, base=["base.pt"], CODES="5")
    assert first.returncode == 0, first.stderr[-3000:]
    out = tmp_path / "out"
    assert [record["num_updates"] for record in read_training_log(out / "spin5/training.log")] == [1, 2, 3, 4]
    names = {}
    for name in ("base5", "measured5"):
        rows = json.loads((out / name / "quality.json").read_text())["rows"]
        assert all(row["n_codes"] == 5 and row["unit_abx_across"] >= 0 for row in rows)
        names[name] = {row["name"] for row in rows}
    assert {"MFCC", "layer 2", "projection"} <= names["base5"]
    assert names["measured5"] == {*names["base5"], "codebook"}  # of the model after, not of the one before
    assert "== the model before, 5 clusters" in first.stdout and "== Spin with 5 codes" in first.stdout
    tables = {name: (out / name / "quality.json").read_text() for name in names}
    kept = {path: time for path, time in modification_times(out).items() if path.suffix in (".pt", ".npz", ".json")}
    for name in names:  # the table is rewritten from the stored rows
        del kept[out / name / "quality.json"]
    assert len(kept) > 20
    again = run_chain(RUN, tmp_path, *FIELDS, path=commands, base=["base.pt"], CODES="5")
    assert again.returncode == 0, again.stderr[-3000:]
    after = modification_times(out)
    assert {path: after[path] for path in kept} == kept
    assert [record["num_updates"] for record in read_training_log(out / "spin5/training.log")] == [1, 2, 3, 4]
    assert {name: (out / name / "quality.json").read_text() for name in names} == tables


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with data and with commands that only record their arguments."""
    write_recording_commands(tmp_path)
    return tmp_path


def run(sandbox: Path, *words: str, **settings: str) -> subprocess.CompletedProcess:
    return run_chain(RUN, sandbox, *words, path=sandbox / "bin", base=["base.pt"], **settings)


def test_the_arguments_of_each_stage(sandbox):
    """Each size of codebook: the model before, the training, the model after."""
    assert run(sandbox, "common.seed=3", "model.dropout=0.1", CODES="7 9", CONFIG="spin_256").returncode == 0
    recorded = calls(sandbox)
    assert [call.split()[0] for call in recorded] == ["dinosr", "fairseq-hydra-train", "dinosr"] * 2
    for codes, (before, training, after) in zip((7, 9), (recorded[:3], recorded[3:])):
        measured = "--manifest data/dev.tsv --phones dev.phones.tsv --train data/train.tsv --abx --speakers"
        assert before == (
            f"dinosr quality base.pt --clusters {codes} {measured} --cache out/cache --out out/base{codes}"
        )
        assert "--config-name spin_256 " in training and training.endswith(" common.seed=3 model.dropout=0.1")
        for field in (
            f"task.data={sandbox}/data",
            "dataset.valid_subset=dev",
            "model.start_from=base.pt",
            f"model.codebook_size={codes}",
            f"checkpoint.save_dir=out/spin{codes}",
        ):
            assert f" {field} " in training
        last = f"out/spin{codes}/checkpoint_last.pt"
        assert after == f"dinosr quality {last} {measured} --cache out/cache --out out/measured{codes}"


@pytest.mark.parametrize("items, abx", [({}, ""), ({"ITEMS": "dev.item"}, "--items dev.item ")])
def test_without_phones_the_measures_that_need_none(sandbox, items, abx):
    """PHONES is -; with ITEMS there is ABX."""
    assert run(sandbox, phones="-", CODES="7", **items).returncode == 0
    measured = [call for call in calls(sandbox) if call.startswith("dinosr quality")]
    data = "--manifest data/dev.tsv --train data/train.tsv"
    assert measured == [
        f"dinosr quality base.pt --clusters 7 {data} {abx}--speakers --cache out/cache --out out/base7",
        f"dinosr quality out/spin7/checkpoint_last.pt {data} {abx}--speakers --cache out/cache --out out/measured7",
    ]


@pytest.mark.parametrize("failing", range(6))
def test_it_stops_at_the_first_step_that_fails_and_resumes(sandbox, failing):
    """Every command is started again, and ends at once if it has nothing left to do."""
    assert run(sandbox).returncode == 0
    complete = calls(sandbox)
    assert len(complete) == 6
    assert run(sandbox, FAIL_AT=str(failing)).returncode == 3
    assert calls(sandbox) == [*complete[:failing], f"failed: {complete[failing]}"]
    assert run(sandbox).returncode == 0 and calls(sandbox) == complete


@pytest.mark.parametrize("arguments", [[], ["base.pt", "data", "dev.phones.tsv"]])
def test_too_few_arguments_print_the_usage(arguments):
    printed = subprocess.run([RUN, *arguments], text=True, capture_output=True)
    assert printed.returncode == 2
    assert "run.sh CHECKPOINT DATA PHONES OUT [FIELD...]" in printed.stderr
    assert printed.stderr.strip().endswith("(the triphones of PHONES).")

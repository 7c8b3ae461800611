"""examples/hubert/run.sh: all stages once with the real commands; the script's control flow with commands that only
record their arguments."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.chains import calls, modification_times, run_chain, write_recording_commands, write_tones
from support.paths import EXAMPLES

RUN = EXAMPLES / "hubert/run.sh"
SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "final_dim": 8,
}
FIELDS = [
    "task.min_sample_size=16000",
    "dataset.num_workers=0",
    "optimization.max_update=4",
    "lr_scheduler.warmup_updates=1",
    *(f"model.{name}={n}" for name, n in SMALL.items()),
]


def test_the_whole_chain_and_its_last_labels_again(tmp_path, commands):
    write_tones(tmp_path)
    settings = {"CLUSTERS": "6 5", "ITERATIONS": "1", "LAYER": "1"}
    first = run_chain(RUN, tmp_path, *FIELDS, path=commands, **settings)
    assert first.returncode == 0, first.stderr[-3000:]
    out = tmp_path / "out"
    for iteration, clusters in ((1, 6), (2, 5)):
        labels = (out / f"labels{iteration}/train.km").read_text().splitlines()
        assert len(labels) == 4 and {int(label) for line in labels for label in line.split()} <= set(range(clusters))
    assert '"train_num_updates": "4"' in (out / "it1/training.log").read_text()
    rows = {row["name"] for row in json.loads((out / "quality1/quality.json").read_text())["rows"]}
    assert rows == {"MFCC", "log-Mel", *(f"{kind}layer {i}" for kind in ("", "untrained ") for i in range(2))}
    tables = first.stdout[first.stdout.index("== labels") :]
    assert len(re.findall(r"^out/labels[12]/dev.km ", tables, flags=re.MULTILINE)) == 4  # quality, ABX

    labels = {path.name: path.read_bytes() for path in (out / "labels2").iterdir()}
    shutil.rmtree(out / "labels2")
    weights = {path: time for path, time in modification_times(out).items() if path.suffix in (".pt", ".km", ".npz")}
    again = run_chain(RUN, tmp_path, *FIELDS, path=commands, **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path.name: path.read_bytes() for path in (out / "labels2").iterdir()} == labels
    after = {path: time for path, time in modification_times(out).items() if path in weights}
    assert after == weights  # no other file was written
    assert again.stdout[again.stdout.index("== labels") :] == tables


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with data and with commands that only record their arguments."""
    write_recording_commands(tmp_path)
    return tmp_path


def test_the_arguments_of_each_stage(sandbox):
    settings = {
        "ITERATIONS": "3",
        "CONFIG": "hubert_base_it1 hubert_base_it2",
        "CLUSTERS": "100 500",
        "LAYER": "5",
        "NORMALIZE": "no",
    }
    assert run_chain(RUN, sandbox, "common.seed=3", path=sandbox / "bin", **settings).returncode == 0
    recorded = calls(sandbox)
    trainings = [call for call in recorded if call.startswith("fairseq")]
    assert [re.search(r"--config-name (\S+)", call).group(1) for call in trainings] == [
        "hubert_base_it1",
        "hubert_base_it2",
        "hubert_base_it2",
    ]
    assert [re.search(r"task.data=(\S+)", call).group(1) for call in trainings] == [
        f"{sandbox}/out/labels{i}" for i in (1, 2, 3)
    ]
    assert all(call.endswith(" common.seed=3") for call in trainings)
    fits = [call for call in recorded if call.startswith("dinosr kmeans fit")]
    assert [re.search(r"--clusters (\d+)", fit).group(1) for fit in fits] == ["100", "500", "500", "500"] and not any(
        "--normalize" in fit for fit in fits
    )
    assert "--mfcc" in fits[0] and all(
        f"out/it{i}/checkpoint_last.pt --layer 5" in fit for i, fit in enumerate(fits[1:], 1)
    )
    assert sum(call.startswith("dinosr quality out/it") for call in recorded) == 3


def test_without_phones_the_measures_that_need_none(sandbox):
    """PHONES is -; with ITEMS there is ABX."""
    options = {"path": sandbox / "bin", "phones": "-", "ITERATIONS": "1"}
    assert run_chain(RUN, sandbox, **options).returncode == 0
    *_, of_labels, of_model = calls(sandbox)
    units = "out/labels1/dev.km out/labels2/dev.km"
    assert of_labels == f"dinosr quality {units} --manifest data/dev.tsv"
    model = "dinosr quality out/it1/checkpoint_last.pt --manifest data/dev.tsv --train data/train.tsv --clusters 100"
    assert of_model == f"{model} --out out/quality1"
    assert run_chain(RUN, sandbox, **options, ITEMS="dev.item").returncode == 0
    *_, of_labels, abx, of_model = calls(sandbox)
    assert of_labels == f"dinosr quality {units} --manifest data/dev.tsv"
    assert abx == f"dinosr abx {units} --rate 50 --manifest data/dev.tsv --items dev.item"
    assert of_model == f"{model} --items dev.item --out out/quality1"


@pytest.mark.parametrize("failing", [1, 3, 4, 5, 7])
def test_it_resumes_at_the_failed_stage(sandbox, failing):
    """Existing labels are not computed again; a training is started, and ends at once if it is finished."""
    assert run_chain(RUN, sandbox, path=sandbox / "bin").returncode == 0
    complete = calls(sandbox)
    shutil.rmtree(sandbox / "out")
    assert run_chain(RUN, sandbox, path=sandbox / "bin", FAIL_AT=str(failing)).returncode == 3
    assert calls(sandbox) == [*complete[:failing], f"failed: {complete[failing]}"]
    assert run_chain(RUN, sandbox, path=sandbox / "bin").returncode == 0
    recorded = calls(sandbox)
    assert set(recorded) <= set(complete) and complete[failing] in recorded and recorded[-1] == complete[-1]


def test_too_few_arguments_print_the_usage():
    printed = subprocess.run([RUN, "data"], text=True, capture_output=True)
    assert (
        printed.returncode == 2
        and "run.sh DATA PHONES OUT [FIELD...]" in printed.stderr
        and printed.stderr.strip().endswith("(the triphones of PHONES).")
    )

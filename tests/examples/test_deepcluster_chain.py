"""examples/cpc_deepcluster/run.sh: all stages once with the real commands; the script's control flow with commands that
only record their arguments."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from support.chains import calls, modification_times, run_chain, write_recording_commands, write_tones
from support.paths import EXAMPLES
from support.training import SMALL_CPC

RUN = EXAMPLES / "cpc_deepcluster/run.sh"
FIELDS = [
    "task.window_samples=3200",
    "dataset.batch_size=2",
    "dataset.num_workers=0",
    *(f"model.{setting}" for setting in SMALL_CPC),
]


# ---- with the real commands ------------------------------------------------------------------------------------------


def test_the_whole_chain_and_its_last_stage_again(tmp_path, commands):
    write_tones(tmp_path)
    settings = {
        "CLUSTERS": "6",
        "ROUNDS": "1",
        "CPC_FIELDS": "optimization.max_update=6",
        "ROUND_FIELDS": "optimization.max_update=3 optimization.lr=[0.02]",
    }
    first = run_chain(RUN, tmp_path, *FIELDS, path=commands, **settings)
    assert first.returncode == 0, first.stderr[-3000:]
    out = tmp_path / "out"
    for model, loss in (("cpc", "dev_loss"), ("round1", "dev_cluster_loss")):
        assert loss in (out / model / "training.log").read_text()
        lines = (out / model / "labels/train.km").read_text().splitlines()
        assert len(lines) == 4 and all(len(line.split()) == 200 for line in lines)
    ((share, _),) = re.findall(
        r"^labels of out/cpc/labels/train.km: (\S+) % changed, NMI (\S+)$", first.stdout, flags=re.MULTILINE
    )
    old, new = (np.array((out / model / "labels/train.km").read_text().split()) for model in ("cpc", "round1"))
    assert float(share) == pytest.approx(100 * np.mean(old != new), abs=0.051)
    tables = first.stdout[first.stdout.index("== units") :]
    for model in ("cpc", "round1"):
        assert len(re.findall(rf"^out/{model}/labels/dev.km ", tables, flags=re.MULTILINE)) == 2  # quality, ABX
        assert re.search(rf"^out/{model}/dev +angular +100 +\d", tables, flags=re.MULTILINE)
    assert re.search(r"^out/mfcc +angular +50 +\d", tables, flags=re.MULTILINE)

    labels = {path.name: path.read_bytes() for path in (out / "round1/labels").iterdir()}
    shutil.rmtree(out / "round1/labels")
    before = modification_times(out)
    again = run_chain(RUN, tmp_path, *FIELDS, path=commands, **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path.name: path.read_bytes() for path in (out / "round1/labels").iterdir()} == labels
    after = {path: time for path, time in modification_times(out).items() if path in before}
    assert after == before  # no other file was written
    assert again.stdout[again.stdout.index("== units") :] == tables


# ---- with commands that only record their arguments ------------------------------------------------------------------


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with data and with commands that only record their arguments."""
    write_recording_commands(tmp_path)
    return tmp_path


def test_the_arguments_of_each_stage(sandbox):
    settings = {
        "CPC_CONFIG": "cpc_big",
        "CONFIG": "deepcluster_big",
        "CPC_FIELDS": "a=1 b=2",
        "ROUND_FIELDS": "c=3",
        "ROUNDS": "3",
        "LAYER": "2",
        "NORMALIZE": "no",
    }
    run_chain(RUN, sandbox, "common.seed=3", "model.steps=5", path=sandbox / "bin", **settings)
    recorded = calls(sandbox)
    trainings = [call for call in recorded if call.startswith("fairseq")]
    assert [re.search(r"--config-name (\S+)", call).group(1) for call in trainings] == ["cpc_big"] + 3 * [
        "deepcluster_big"
    ]
    assert trainings[0].endswith("common.seed=3 model.steps=5 a=1 b=2") and "start_from" not in trainings[0]
    for training, before in zip(trainings[1:], ("cpc", "round1", "round2")):
        assert (
            f"task.data={sandbox}/out/{before}/labels " in training
            and f"model.start_from=out/{before}/checkpoint_best.pt " in training
        )
        assert training.endswith("common.seed=3 model.steps=5 c=3")
    fits = [call for call in recorded if call.startswith("dinosr kmeans fit")]
    assert (
        len(fits) == 4
        and "--restarts 3" in fits[0]
        and all("--layer 2" in fit and "--normalize" not in fit for fit in fits)
    )
    assert [re.search(r"--from-labels out/(\w+)/labels/train.km", fit).group(1) for fit in fits[1:]] == [
        "cpc",
        "round1",
        "round2",
    ]


@pytest.mark.parametrize("share, rounds", [("5.0", 2), ("4.9", 1), ("0.0", 1), ("100.0", 2)])
def test_it_stops_when_the_labels_have_settled(sandbox, share, rounds):
    done = run_chain(RUN, sandbox, path=sandbox / "bin", CHANGED=share)
    recorded = calls(sandbox)
    assert done.returncode == 0 and ("== round 1 changed fewer than 5 %" in done.stdout) == (rounds == 1)
    assert sum(call.startswith("fairseq") for call in recorded) == 1 + rounds
    assert ("out/round2/dev" in recorded[-1]) == (rounds == 2) and recorded[-1].startswith(
        "dinosr abx out/mfcc out/cpc/dev out/round1/dev"
    )


def test_without_phones_the_measures_that_need_none(sandbox):
    """PHONES is -; with ITEMS there is ABX."""
    options = {"path": sandbox / "bin", "phones": "-", "ROUNDS": "0"}
    units = "out/cpc/labels/dev.km"
    quality = f"dinosr quality {units} --manifest data/dev.tsv --rate 100"
    assert run_chain(RUN, sandbox, **options).returncode == 0
    assert calls(sandbox)[-2:] == ["dinosr features --mfcc data/dev.tsv --out out/mfcc", quality]
    assert run_chain(RUN, sandbox, **options, ITEMS="dev.item").returncode == 0
    abx = f"dinosr abx out/mfcc out/cpc/dev {units} --manifest data/dev.tsv --items dev.item --rate 100"
    assert calls(sandbox)[-2:] == [quality, abx]


def test_it_resumes_at_the_failed_stage(sandbox):
    """The failed stage is repeated from its beginning, earlier stages are not."""
    assert run_chain(RUN, sandbox, path=sandbox / "bin", ROUNDS="1").returncode == 0
    whole = calls(sandbox)
    assert run_chain(RUN, sandbox, path=sandbox / "bin", ROUNDS="1").returncode == 0
    last = calls(sandbox)
    assert last == whole[-3:] and last[0].startswith("dinosr features --mfcc")
    stages = [
        0,
        *(i for i, call in enumerate(whole) if call.startswith(("fairseq", "dinosr kmeans fit"))),
        len(whole) - 3,
    ]
    for failing in range(1, len(whole) - 3):
        shutil.rmtree(sandbox / "out")
        assert run_chain(RUN, sandbox, path=sandbox / "bin", ROUNDS="1", FAIL_AT=str(failing)).returncode == 3
        assert calls(sandbox) == [*whole[:failing], f"failed: {whole[failing]}"]
        assert run_chain(RUN, sandbox, path=sandbox / "bin", ROUNDS="1").returncode == 0
        assert calls(sandbox) == whole[max(stage for stage in stages if stage <= failing) :]


def test_too_few_arguments_print_the_usage():
    printed = subprocess.run([RUN, "data"], text=True, capture_output=True)
    assert (
        printed.returncode == 2
        and "run.sh DATA PHONES OUT [FIELD...]" in printed.stderr
        and printed.stderr.strip().endswith("(the triphones of PHONES).")
    )

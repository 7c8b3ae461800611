"""`dinosr probe --checkpoints`: validation losses of runs, correlations, what is written, and how it resumes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from dinosr_plugin.cli import main
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.probing import measure as measure_module
from dinosr_plugin.evaluation.probes.checkpoints import (
    correlation,
    correlations,
    direction,
    directions,
    expand_checkpoints,
    open_runs,
    probe_runs,
    validation_loss,
)
from dinosr_plugin.evaluation.probes.inputs import ProbeOptions
from dinosr_plugin.evaluation.probes.run_results import answer
from support import paths

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"


UPDATES = [100, 200, 300, 400, 500]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Five checkpoints of different weights, the last one twice, as a training saves them: losses 5, 4, 3, 2, 1."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    for number in range(1, 6):
        state = torch.load(GOLDEN, weights_only=True)
        rng = torch.Generator().manual_seed(number)
        for name, value in state["model"].items():
            if name.startswith("encoder") and value.is_floating_point():
                value += 0.02 * number * torch.randn(value.shape, generator=rng)
        state["optimizer_history"][-1]["num_updates"] = 100 * number
        state["extra_state"] = {"val_loss": 6.0 - number}
        names = [f"checkpoint_1_{100 * number}.pt", *(["checkpoint_last.pt"] if number == 5 else [])]
        for name in names:
            torch.save(state, folder / name)
    return folder


@pytest.fixture(scope="module")
def opposite(run) -> Path:
    """The same models, but the loss rises: 1, 2, 3, 4, 5."""
    folder = run.parent / "opposite"
    folder.mkdir()
    for number in range(1, 6):
        path = folder / f"checkpoint_1_{100 * number}.pt"
        state = torch.load(run / path.name, weights_only=True)
        torch.save({**state, "extra_state": {"val_loss": float(number)}}, path)
    return folder


def options_of(corpus: Path) -> ProbeOptions:
    return ProbeOptions(corpus / "train.tsv", corpus / "test.tsv", ("energy", "position"))


def probe(corpus: Path, *arguments) -> int:
    speech = ["--train", corpus / "train.tsv", "--manifest", corpus / "test.tsv", "--task", "energy", "position"]
    return main([str(one) for one in ("probe", *arguments, *speech)])


def test_checkpoints_of_a_folder_in_order_of_updates_each_once(run, tmp_path):
    found = expand_checkpoints(run)
    assert {updates: path.name for updates, path in found.items()} == {n: f"checkpoint_1_{n}.pt" for n in UPDATES}
    assert list(found) == UPDATES
    with pytest.raises(UserError, match="contains no checkpoint"):
        expand_checkpoints(tmp_path)


def test_names_of_runs_are_the_parts_of_their_paths_that_differ(run, tmp_path, monkeypatch):
    for name in ("apc.v1", "apc.v2"):
        (tmp_path / name).mkdir()
        shutil.copytree(run, tmp_path / name / "checkpoints")
    runs = open_runs([tmp_path / name / "checkpoints" for name in ("apc.v1", "apc.v2")])
    assert [one.name for one in runs] == ["apc.v1", "apc.v2"]
    assert [one.loss for one in runs[1].checkpoints] == [5, 4, 3, 2, 1]
    assert [one.updates for one in runs[1].checkpoints] == UPDATES
    monkeypatch.chdir(run)
    assert [one.name for one in open_runs([Path()])] == ["run"]
    with pytest.raises(UserError, match="given twice; give it once"):
        open_runs([run, run.parent / "run"])


def changed(run: Path, path: Path, **fields) -> Path:
    state = torch.load(run / "checkpoint_1_100.pt", weights_only=True)
    for name, value in fields.items():
        state[name] = value
    torch.save(state, path)
    return path


def test_validation_losses(run, tmp_path):
    checkpoint = run / "checkpoint_1_300.pt"
    assert validation_loss(checkpoint, 300, {}) == 3.0 and validation_loss(checkpoint, 300, {300: 2.5}) == 2.5
    with pytest.raises(UserError, match="the log has no validation loss at 300 updates"):
        validation_loss(checkpoint, 300, {301: 2.5})
    for value in (None, float("nan")):
        with pytest.raises(UserError, match="contains no validation loss; give the log of its run with --log"):
            validation_loss(changed(run, tmp_path / "none.pt", extra_state={"val_loss": value}), 100, {})
    cfg = torch.load(checkpoint, weights_only=True)["cfg"]
    cfg["checkpoint"] = {**(cfg.get("checkpoint") or {}), "best_checkpoint_metric": "wer"}
    with pytest.raises(UserError, match="contains its wer on validation data, not its loss"):
        validation_loss(changed(run, tmp_path / "wer.pt", cfg=cfg), 100, {})


@pytest.fixture
def points() -> list[dict]:
    rng = np.random.default_rng(0)
    losses = np.linspace(3, 1, 12)
    return [
        {"loss": loss, "phone": {"last": float(np.exp(-loss) + 0.02 * rng.normal()), "best": 0.5}} for loss in losses
    ]


def test_correlations_are_those_of_scipy_with_an_interval_around_them(points):
    losses, scores = [one["loss"] for one in points], [one["phone"]["last"] for one in points]
    found = correlations(points, "phone", "last")
    assert found["pearson"]["value"] == pytest.approx(stats.pearsonr(losses, scores).statistic)
    assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(losses, scores).statistic)
    for figures in found.values():
        assert -1 <= figures["low"] <= figures["value"] <= figures["high"] <= 1 and figures["high"] < -0.5
    assert correlations(points, "phone", "last") == found
    # of an exact relation all samples have the same correlation
    exact = [{"loss": one["loss"], "phone": {"last": -one["loss"]}} for one in points]
    assert correlations(exact, "phone", "last")["pearson"] == pytest.approx({"value": -1, "low": -1, "high": -1})


def test_a_constant_has_no_correlation(points):
    assert np.isnan(correlation(np.array([[[1.0, 2.0], [3.0, 2.0]]]), "pearson"))
    found = correlations(points, "phone", "best")
    assert found["pearson"] == found["spearman"] == {"value": None, "low": None, "high": None}


def test_a_direction_requires_an_interval_on_one_side_of_zero():
    intervals = {"with": (-1, -0.1), "against": (0.1, 1), "unclear": (-0.5, 0.1)}
    assert {direction({"low": low, "high": high}): (low, high) for low, high in intervals.values()} == intervals
    assert direction({"low": None, "high": None}) == direction({"low": -1, "high": 0}) == "unclear"


def test_answers_count_the_runs():
    def run_of(name: str, low: float, high: float) -> dict:
        figures = {"pearson": {"low": low, "high": high}, "spearman": {"low": -1, "high": -1}}
        return {"name": name, "correlations": {"phone": {"last": figures, "best": figures}}}

    found = directions(
        [run_of("a", -1, -0.5), run_of("b", -0.9, -0.1), run_of("c", 0.1, 1), run_of("d", -1, 1)], ["phone"]
    )
    assert found["phone"]["last"] == {"a": "with", "b": "with", "c": "against", "d": "unclear"}
    found["phone"]["best"]["a"] = "against"
    assert answer("phone", found["phone"]) == (
        "phone: the loss goes with the probe in 2 of 4 runs, against it in 1 (last layer); in 1, against it in 2 "
        "(best layer)"
    )


@pytest.fixture(scope="module")
def one(run, corpus, tmp_path_factory) -> Path:
    """The output of a single run."""
    out = tmp_path_factory.mktemp("one")
    assert probe(corpus, "--checkpoints", run, "--out", out) == 0
    return out


def test_a_single_run(one, run, corpus, capsys):
    assert probe(corpus, "--checkpoints", run, "--out", one) == 0  # resumes
    printed = capsys.readouterr()
    assert "5 checkpoints: correlations of fewer than 8 are rough" in printed.err
    assert "negative: a lower loss goes with a better probe" in printed.out and "all runs" not in printed.out
    found = json.loads((one / "loss_probes.json").read_text())
    (of_run,) = found["runs"]
    assert [point["updates"] for point in of_run["points"]] == UPDATES
    assert [point["loss"] for point in of_run["points"]] == [5, 4, 3, 2, 1]
    for point in of_run["points"]:
        assert point["energy"]["best"] >= point["energy"]["last"]
    value = stats.pearsonr([5, 4, 3, 2, 1], [point["energy"]["last"] for point in of_run["points"]]).statistic
    assert of_run["correlations"]["energy"]["last"]["pearson"]["value"] == pytest.approx(value)
    assert (one / "loss_probes.png").read_bytes().startswith(b"\x89PNG")
    (work,) = (one / "probing").iterdir()
    assert sorted(path.name for path in work.iterdir()) == [str(n) for n in UPDATES]


def test_several_runs(one, run, opposite, corpus, tmp_path, capsys, monkeypatch):
    """The first run was measured before, alone; the other one has its own working folder, and opposite losses."""
    out = tmp_path / "out"
    shutil.copytree(one, out)
    fitted, fit = [], measure_module.fit_with_best_penalty
    monkeypatch.setattr(measure_module, "fit_with_best_penalty", lambda *given: fitted.append(0) or fit(*given))
    assert probe(corpus, "--checkpoints", run, opposite, "--out", out) == 0
    single, found = (json.loads((folder / "loss_probes.json").read_text()) for folder in (one, out))
    layers = len(json.loads(next(out.glob("probing/*/100/rows.json")).read_text())["rows"])
    assert len(fitted) == 5 * layers * 2  # of the second run alone
    assert [of_run["name"] for of_run in found["runs"]] == ["run", "opposite"]
    assert found["runs"][0]["points"] == single["runs"][0]["points"]
    for task in ("energy", "position"):
        first, second = (of_run["correlations"][task]["last"]["pearson"]["value"] for of_run in found["runs"])
        assert first == pytest.approx(-second)
    printed, progress = capsys.readouterr()
    assert "run 2 of 2, opposite: checkpoint 3 of 5, checkpoint_1_300.pt" in progress
    assert "never pooled" in printed and "energy: the loss goes with the probe in" in printed
    assert "of 2 runs" in printed.splitlines()[-4]
    rows = list(csv.DictReader((out / "loss_probes.csv").read_text().splitlines()))
    assert [(row["run"], int(row["updates"])) for row in rows] == [(r, n) for r in ("run", "opposite") for n in UPDATES]
    point = found["runs"][1]["points"][2]
    assert float(rows[7]["loss"]) == point["loss"] and float(rows[7]["energy_best"]) == point["energy"]["best"]


def test_losses_of_the_log(one, run, corpus, tmp_path):
    log = tmp_path / "train.log"
    lines = [json.dumps({"valid_num_updates": f"{100 * n}", "valid_loss": f"{10 * n}"}) for n in range(1, 6)]
    log.write_text("\n".join(lines) + "\n")
    shutil.copytree(one, tmp_path / "out")
    (found,) = probe_runs(open_runs([run], log), options_of(corpus), tmp_path / "out")["runs"]
    assert [point["loss"] for point in found["points"]] == [10, 20, 30, 40, 50]
    with pytest.raises(UserError, match="train.log: contains no loss of the subset dev"):
        open_runs([run], log, "dev")


def test_too_few_checkpoints(run, tmp_path):
    for number in (100, 200, 300):
        shutil.copy(run / f"checkpoint_1_{number}.pt", tmp_path)
    with pytest.raises(UserError, match="3 checkpoint.* of different updates; at least 4 of a run are required"):
        open_runs([run, tmp_path])


def test_bad_input(run, opposite, corpus, tmp_path, capsys):
    messages: list[tuple[list, str]] = [
        ([run], f"{run}: is a folder; give a checkpoint in it, or --checkpoints DIR for all"),
        ([GOLDEN, "--log", run], "--log: only used with --checkpoints; remove it"),
        (["--checkpoints", GOLDEN], f"{GOLDEN}: is not a folder; give the checkpoint.save_dir of a training"),
        (["--checkpoints", run, "--valid-subset", "dev"], "--log is required with --valid-subset"),
        (["--checkpoints", run, opposite, "--log", run], "only used with one folder of --checkpoints, not 2"),
    ]
    for arguments, message in messages:
        assert probe(corpus, *arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    for arguments in ([], [GOLDEN, "--checkpoints", run], [GOLDEN, GOLDEN]):
        with pytest.raises(SystemExit):
            probe(corpus, *arguments)

"""`dinosr probe` of several checkpoints: their validation losses, correlations, and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from dinosr_plugin.cli import main
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.probes.checkpoints import (
    correlation,
    correlations,
    expand_checkpoints,
    probe_checkpoints,
    validation_loss,
)
from dinosr_plugin.evaluation.probes.inputs import ProbeOptions
from support import paths

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Five checkpoints of different weights, the last one twice, as a training saves them: losses 5, 4, 3, 2, 1."""
    folder = tmp_path_factory.mktemp("run")
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


def options_of(corpus: Path) -> ProbeOptions:
    return ProbeOptions(corpus / "train.tsv", corpus / "test.tsv", ("energy", "position"))


def test_checkpoints_of_a_folder_in_order_of_updates_each_once(run):
    found = expand_checkpoints([run])
    assert [path.name for path in found] == [f"checkpoint_1_{n}00.pt" for n in range(1, 6)]
    assert expand_checkpoints([run / "checkpoint_last.pt", run / "checkpoint_1_100.pt"]) == [
        run / "checkpoint_1_100.pt",
        run / "checkpoint_last.pt",
    ]


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match="contains no checkpoint"):
        expand_checkpoints([tmp_path])


def changed(run: Path, path: Path, **fields) -> Path:
    state = torch.load(run / "checkpoint_1_100.pt", weights_only=True)
    for name, value in fields.items():
        state[name] = value
    torch.save(state, path)
    return path


def test_validation_losses(run, tmp_path):
    checkpoint = run / "checkpoint_1_300.pt"
    assert validation_loss(checkpoint, {}) == 3.0 and validation_loss(checkpoint, {300: 2.5}) == 2.5
    with pytest.raises(UserError, match="the log has no validation loss at 300 updates"):
        validation_loss(checkpoint, {301: 2.5})
    for value in (None, float("nan")):
        with pytest.raises(UserError, match="contains no validation loss; give the log of its run with --log"):
            validation_loss(changed(run, tmp_path / "none.pt", extra_state={"val_loss": value}), {})
    cfg = torch.load(checkpoint, weights_only=True)["cfg"]
    cfg["checkpoint"] = {**(cfg.get("checkpoint") or {}), "best_checkpoint_metric": "wer"}
    with pytest.raises(UserError, match="contains its wer on validation data, not its loss"):
        validation_loss(changed(run, tmp_path / "wer.pt", cfg=cfg), {})


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


def test_the_command(run, corpus, tmp_path, capsys):
    arguments = ["--train", corpus / "train.tsv", "--manifest", corpus / "test.tsv", "--task", "energy", "position"]
    out = tmp_path / "out"
    assert main([str(one) for one in ("probe", run, *arguments, "--out", out)]) == 0
    printed = capsys.readouterr()
    assert "5 checkpoints: correlations of fewer than 8 are rough" in printed.err
    assert "negative: a lower loss goes with a better probe" in printed.out
    found = json.loads((out / "loss_probes.json").read_text())
    assert [point["updates"] for point in found["points"]] == [100, 200, 300, 400, 500]
    assert [point["loss"] for point in found["points"]] == [5, 4, 3, 2, 1]
    for point in found["points"]:
        assert point["energy"]["best"] >= point["energy"]["last"]
    value = stats.pearsonr([5, 4, 3, 2, 1], [point["energy"]["last"] for point in found["points"]]).statistic
    assert found["correlations"]["energy"]["last"]["pearson"]["value"] == pytest.approx(value)
    assert (out / "loss_probes.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (out / "probing").iterdir()) == ["100", "200", "300", "400", "500"]


def test_losses_of_the_log(run, corpus, tmp_path):
    log = tmp_path / "train.log"
    lines = [json.dumps({"valid_num_updates": f"{100 * n}", "valid_loss": f"{10 * n}"}) for n in range(1, 6)]
    log.write_text("\n".join(lines) + "\n")
    found = probe_checkpoints(expand_checkpoints([run]), options_of(corpus), log)
    assert [point["loss"] for point in found["points"]] == [10, 20, 30, 40, 50]
    with pytest.raises(UserError, match="train.log: contains no loss of the subset dev"):
        probe_checkpoints(expand_checkpoints([run]), options_of(corpus), log, "dev")


def test_too_few_checkpoints(run, corpus):
    with pytest.raises(UserError, match="3 checkpoint.* of different updates; give at least 4 of a run"):
        probe_checkpoints(expand_checkpoints([run])[:3], options_of(corpus))


def test_options_of_several_checkpoints(run, corpus, capsys):
    arguments = ["--train", corpus / "train.tsv", "--manifest", corpus / "test.tsv", "--task", "position"]
    assert main([str(one) for one in ("probe", GOLDEN, *arguments, "--log", run)]) == 1
    assert "--log: only used with several checkpoints of a run; remove it" in capsys.readouterr().err
    assert main([str(one) for one in ("probe", run, *arguments, "--valid-subset", "dev")]) == 1
    assert "--log is required with --valid-subset" in capsys.readouterr().err

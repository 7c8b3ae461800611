"""`dinosr bench kills`: what it compares, and that it finds what is wrong."""

import copy
import importlib
import json
import signal

import pytest
import torch

from dinosr_plugin.errors import UserError
from support.checkpoints import put
from support.paths import BENCHMARKS


@pytest.fixture(scope="module")
def kills():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("kills")


@pytest.fixture
def state(kills, tmp_path) -> dict:
    """A checkpoint with a tensor, a number, a text and nan."""
    loaded = kills.load(put(tmp_path / "checkpoint_last.pt", 4))
    loaded["last_optimizer_state"] = {"step": 3, "rate": 0.1, "worst": float("nan"), "half": torch.ones(3).half()}
    loaded["task_state"] = {"labels": "a", "epochs": [1, 2]}
    return loaded


def flipped(tensor: torch.Tensor, bit: int) -> torch.Tensor:
    """A copy with one other bit."""
    other = tensor.clone()
    other.view(-1).view(torch.uint8)[bit // 8] ^= 1 << bit % 8
    return other


def test_equal_checkpoints_have_no_differences(kills, state):
    assert kills.differences(state, copy.deepcopy(state)) == []


@pytest.mark.parametrize("bit", [0, 31, 79999])
def test_one_flipped_bit_of_a_parameter_is_found(kills, state, bit):
    other = copy.deepcopy(state)
    other["model"]["w"] = flipped(other["model"]["w"], bit)
    assert kills.differences(state, other) == ["/model/w"]


@pytest.mark.parametrize(
    "part, key, value, name",
    [
        ("last_optimizer_state", "rate", 0.1 * (1 + 2**-52), "/last_optimizer_state/rate"),
        ("last_optimizer_state", "rate", -0.0, "/last_optimizer_state/rate"),
        ("last_optimizer_state", "step", 3.0, "/last_optimizer_state/step"),
        ("last_optimizer_state", "half", torch.ones(3), "/last_optimizer_state/half"),
        ("last_optimizer_state", "half", torch.ones(3, 1).half(), "/last_optimizer_state/half"),
        ("task_state", "labels", "b", "/task_state/labels"),
        ("task_state", "epochs", [1, 3], "/task_state/epochs/1"),
        ("task_state", "more", None, "/task_state/more"),
    ],
)
def test_other_numbers_types_shapes_and_texts_are_found(kills, state, part, key, value, name):
    other = copy.deepcopy(state)
    other[part][key] = value
    assert kills.differences(state, other) == [name]


def test_times_are_not_compared(kills, state):
    other = copy.deepcopy(state)
    other["extra_state"]["previous_training_time"] = 5.0
    state["extra_state"]["previous_training_time"] = 6.0
    assert kills.differences(state, other) == []


def row(name: str, lost: int, **more) -> dict:
    return {"run": 0, "signal": name, "after": 1.0, "updates": 9, "lost": lost, "error": "", "seconds": 1.0, **more}


@pytest.mark.parametrize(
    "rows, fault",
    [
        ({"kill 0": row("KILL", 10)}, None),
        ({"kill 0": row("KILL", 11)}, "lost 11 updates"),
        ({"kill 0": row("TERM", 1)}, "lost 1 updates"),
        ({"kill 0": row("INT", 0, error="runs on")}, "runs on"),
        ({"run 0": {"differences": ["/model/w"], "leftovers": []}}, "differs from the reference in 1 places: /model/w"),
        ({"run 0": {"differences": [], "leftovers": [".lock"]}}, "leaves .lock"),
    ],
)
def test_faults(kills, rows, fault):
    table = kills.RowTable()
    table.rows = rows
    found = kills.faults(table, save_every=10)
    assert found == [] if fault is None else fault in found[0]


def test_moments_and_signals_are_drawn_by_number(kills):
    draws = [kills.draw(3, "random", number, 8.0) for number in range(200)]
    assert draws == [kills.draw(3, "random", number, 8.0) for number in range(200)]
    assert {name for name, _ in draws} == set(kills.SIGNALS) and all(0 <= moment <= 8 for _, moment in draws)
    assert all(hasattr(signal, f"SIG{name}") for name in kills.SIGNALS)


def test_two_kills(kills, tmp_path, capsys):
    """Real processes, then the same command again, which has nothing left to do, and another one."""
    command = ["--kills", "2", "--updates", "60", "--seed", "10", "--out", str(tmp_path / "out")]
    record = tmp_path / "kills.json"
    kills.main([*command, "--json", str(record)])
    result = json.loads(record.read_text())
    assert len(result["kills"]) == 2 and result["runs"] and not result["faults"]
    assert not list(tmp_path.glob("out/run_*")), "runs that equal the reference are deleted"
    before = (tmp_path / "out/kills.json").read_bytes()
    kills.main(command)
    assert (tmp_path / "out/kills.json").read_bytes() == before
    assert "2 kills in" in capsys.readouterr().out
    with pytest.raises(UserError, match="figures of other options"):
        kills.main([*command, "model.dropout=0.1"])

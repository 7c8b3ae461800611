"""Loading a checkpoint for measuring: a model, or one line that names the file."""

from pathlib import Path

import pytest
import torch
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.checkpoint import load_dinosr, load_model, untrained_model
from dinosr_plugin.models.dinosr import DinoSR

WHOLE = Path(__file__).parents[1] / "golden/official_format_tiny.pt"


def refused(path: Path, load=load_model) -> str:
    with pytest.raises(UserError) as error:
        load(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


def test_missing_file(tmp_path):
    assert "no such checkpoint" in refused(tmp_path / "missing.pt")
    assert "no such checkpoint" in refused(tmp_path)


def test_text_file(tmp_path):
    (tmp_path / "text.pt").write_text("this is no checkpoint\n" * 100)
    refused(tmp_path / "text.pt")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.95])
def test_truncated_file(tmp_path, share):
    data = WHOLE.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / "cut.pt")


def test_torch_file_that_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    refused(tmp_path / "other.pt")


def test_codebooks_of_another_size_are_named(tmp_path):
    state = torch.load(WHOLE, weights_only=True)
    state["model"]["_codebook0"] = state["model"]["_codebook0"][:-1]
    torch.save(state, tmp_path / "smaller.pt")
    refused(tmp_path / "smaller.pt")


def test_a_model_for_measuring():
    """In eval mode, with its whole config; a string does as well as a path."""
    model, cfg = load_model(str(WHOLE))
    assert isinstance(model, DinoSR) and not model.training
    assert cfg.model._name == "dinosr" and cfg.task.normalize in (True, False)
    assert isinstance(load_dinosr(WHOLE)[0], DinoSR)


def test_codebooks_are_asked_for(monkeypatch):
    """A fine-tuned model has none."""
    monkeypatch.setattr("dinosr_plugin.models.checkpoint.load_model", lambda path: (torch.nn.Linear(2, 2), None))
    assert "has no codebooks" in refused(WHOLE, load_dinosr)


def test_untrained_model():
    model, cfg = load_model(WHOLE)
    first, same, other = untrained_model(cfg), untrained_model(cfg), untrained_model(cfg, seed=1)
    assert torch.equal(first.heads[0].weight, same.heads[0].weight) and not first.training
    assert not torch.equal(first.heads[0].weight, other.heads[0].weight)
    assert not torch.equal(first.heads[0].weight, model.heads[0].weight)
    assert first.state_dict().keys() == model.state_dict().keys()

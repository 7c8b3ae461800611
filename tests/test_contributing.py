"""The recipes of .github/CONTRIBUTING.md, followed to the letter: their code is taken from the page and used."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dinosr_plugin.checkpoints import opening
from dinosr_plugin.checkpoints.opening import reader_of
from dinosr_plugin.evaluation.measuring import Entry, Source, measure_all
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.evaluation.table import RowTable, format_table
from support.paths import GOLDEN, REPOSITORY
from support.training import train, write_corpus

PAGE = (REPOSITORY / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")
MAX_LINES = 60


def blocks(recipe: str) -> list[str]:
    """The Python blocks of a recipe."""
    section = PAGE.split(f"## Recipe: {recipe}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def imported(folder: Path, name: str, text: str):
    """The module that a newcomer saves."""
    (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return __import__(name)


@pytest.mark.parametrize("recipe", ["an objective", "a measure", "a reader"])
def test_recipes_are_short(recipe):
    assert 0 < len(blocks(recipe)[0].splitlines()) < MAX_LINES


def test_an_objective(tmp_path, monkeypatch):
    """Trains by the tiny HuBERT's config with the changes that the page tells."""
    module = imported(tmp_path, "masked_energy_recipe", blocks("an objective")[0])
    data = write_corpus(tmp_path / "data")
    losses = []
    forward = module.MaskedEnergy.forward

    def noted(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        losses.append(float(output.losses["energy"].detach()) / output.sample_size)
        return output

    monkeypatch.setattr(module.MaskedEnergy, "forward", noted)
    objective = {"num_classes", "start_codebooks", "final_dim", "untie_final_proj", "logit_temp", "pred_masked_weight"}
    objective |= {"pred_nomask_weight", "skip_masked", "skip_nomask"}
    overrides = ["model._name=masked_energy", "task.labels=null", "task.relabel_normalize=false"]
    overrides += [f"~model.{name}" for name in sorted(objective)]
    overrides += ["optimization.max_update=12", "optimization.lr=[0.01]", "lr_scheduler.warmup_updates=2"]
    trainer = train(data, tmp_path / "run", *overrides, config="hubert_tiny")
    assert trainer.get_num_updates() == 12 and isinstance(trainer.get_model(), module.MaskedEnergy)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.fixture
def speech(tmp_path) -> Speech:
    rows = ["utt\tstart\tend\tphone", "a\t0.0\t0.1\tAA", "a\t0.1\t0.2\tB", "a\t0.2\t0.3\tAA"]
    (tmp_path / "a.phones.tsv").write_text("\n".join(rows) + "\n")
    return Speech(PhoneAlignment.read(tmp_path / "a.phones.tsv"), None)


def test_a_measure(tmp_path, speech):
    """Two boundaries, at one of which the unit changes; the row is printed and kept."""
    measure = imported(tmp_path, "boundaries_recipe", blocks("a measure")[0]).BoundaryMeasure()
    source = Source("half", 50, 0.0125, units={"a": np.array([0] * 5 + [1] * 10)})
    table = RowTable(tmp_path / "rows.json", "digest")
    entry = Entry("half", {"name": "half"}, lambda: source)
    (row,) = measure_all([entry], speech, [measure], table)
    assert row == {"name": "half", "boundary_recall": 0.5} == RowTable(tmp_path / "rows.json", "digest").get("half")
    assert "boundaries found" in format_table([row], measure.columns)
    features_only = Source("none", 50, 0.0125, features={"a": np.zeros((15, 2))})
    assert measure(features_only, speech) == {"boundary_recall": None}


def test_a_measure_of_every_row_of_a_model(tmp_path, monkeypatch):
    """The second block of the recipe, on a small corpus and the golden checkpoint."""
    write_corpus(tmp_path / "data", "train")
    write_corpus(tmp_path / "data", "valid", (16000,) * 3)
    rows = ["utt\tstart\tend\tphone"]
    rows += [f"valid{n}\t{i / 10}\t{(i + 1) / 10}\t{'AB'[i % 2]}" for n in range(3) for i in range(10)]
    (tmp_path / "valid.phones.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "checkpoint.pt").write_bytes((GOLDEN / "official_format_tiny.pt").read_bytes())
    monkeypatch.chdir(tmp_path)
    first, second = blocks("a measure")
    module = imported(tmp_path, "boundaries_of_a_model", f"{first}\n{second}")
    assert {row["kind"] for row in module.rows} == {"mfcc", "fbank", "untrained", "layer", "teacher", "head"}
    assert all(0 <= row["boundary_recall"] <= 1 for row in module.rows)


def test_a_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "ADAPTERS", dict(opening.ADAPTERS))
    module = imported(tmp_path, "linear_stack_recipe", blocks("a reader")[0])
    monkeypatch.delitem(sys.modules, "linear_stack_recipe")
    model = module.LinearStack()
    reader = reader_of(model)
    assert (reader.rate, reader.first_centre, reader.n_layers, reader.width) == (100, 0.005, 2, 8)
    waves = [torch.randn(480), torch.randn(330)]
    first, second = reader.read(waves, [0, "last"])
    assert [x.shape for x in first.layers] == [(3, 8)] * 2 and [x.shape for x in second.layers] == [(2, 8)] * 2
    torch.testing.assert_close(second.layers[1], model(waves[1][None])[0])

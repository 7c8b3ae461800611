"""Configs of the package, found by name from any folder; names that do not exist are answered with similar ones."""

import sys

import pytest
from fairseq_cli import hydra_train
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from dinosr_plugin.runs import composition
from support.paths import PLUGIN


@pytest.fixture
def compose(tmp_path, monkeypatch, capsys):
    """(exit status, stdout, stderr) of ``fairseq-hydra-train --config-path pkg://... ARGUMENT... --cfg job``."""

    def run(*arguments: str, stage: str = "pretraining", name: str = "dinosr_tiny"):
        GlobalHydra.instance().clear()
        monkeypatch.chdir(tmp_path)
        place = ["--config-path", f"pkg://dinosr_plugin.config.{stage}", "--config-name", name]
        monkeypatch.setattr(sys, "argv", ["fairseq-hydra-train", *place, *arguments, "--cfg", "job"])
        try:
            hydra_train.cli_main()
            status = 0
        except SystemExit as ended:
            status = ended.code
        return (status, *capsys.readouterr())

    yield run
    HydraConfig.instance().cfg = None  # fairseq would take the settings of its log from it


@pytest.mark.parametrize(
    "stage, name", [("pretraining", "dinosr_tiny"), ("finetuning", "librilight_1h"), ("lm", "unit_lstm")]
)
def test_a_config_is_found_from_any_folder(compose, stage, name):
    """``common.user_dir`` is the package, wherever it is installed."""
    status, printed, _ = compose("checkpoint.save_dir=here", stage=stage, name=name)
    assert status == 0 and f"user_dir: {PLUGIN}\n" in printed and "save_dir: here\n" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["optimization.max_updat=3"], "optimization.max_updat: there is no such field; did you mean max_update?"),
        (["model.mask_probb=1"], "model.mask_probb: there is no such field; did you mean mask_prob?"),
        (["task.dat=x"], "task.dat: there is no such field; did you mean data?"),
        (["optimisation.lr=[1]"], "optimisation: there is no such field; did you mean optimization?"),
        (["dataset.zzz=1"], "dataset.zzz: there is no such field"),
    ],
)
def test_a_mistyped_field_is_answered_with_a_similar_one(compose, arguments, message):
    status, _, errors = compose(*arguments)
    assert status == 1 and errors.splitlines()[0].startswith(message), errors


def test_a_field_that_the_config_leaves_out_can_be_added(compose):
    """Spin takes the trunk's fields from the model that it starts from."""
    status, _, errors = compose("model.encoder_layers=2", name="spin_tiny")
    message = "model.encoder_layers: is not in this config; add it with a plus sign: +model.encoder_layers=VALUE"
    assert status == 1 and errors.splitlines()[0] == message
    assert "encoder_layers: 2\n" in compose("+model.encoder_layers=2", name="spin_tiny")[1]


@pytest.mark.parametrize(
    "name, message",
    [("dinosr_tinny", "; did you mean dinosr_tiny?"), ("wav2vec", ""), ("finetuning", "")],
)
def test_a_mistyped_config_is_answered_with_a_similar_one(compose, name, message):
    """... and not replaced by fairseq's defaults, which it registers under every name."""
    status, _, errors = compose("task.data=x", name=name)
    first = f"--config-name {name}: dinosr_plugin.config.pretraining has no such config{message}"
    assert status == 1 and errors.splitlines()[0] == first


def test_an_impossible_value_keeps_its_error(compose):
    """Only unknown fields are explained by this module."""
    status, _, errors = compose("optimization.max_update=many")
    assert status == 1 and "could not be converted to Integer" in errors


def test_a_user_dir_of_the_user_stays(compose):
    assert "user_dir: elsewhere\n" in compose("common.user_dir=elsewhere")[1]
    assert composition.PACKAGE == PLUGIN

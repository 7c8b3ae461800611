"""Settings that follow from the data and from other settings: the validation split, the schedule of a few updates."""

import pytest
from fairseq.dataclass.initialize import add_defaults
from omegaconf import OmegaConf

from dinosr_plugin.runs.adjusting import adjust
from dinosr_plugin.runs.settings import check_training
from support.paths import CONFIGS
from support.training import read_config, train, write_corpus

TINY = sorted(path.stem for path in (CONFIGS / "pretraining").glob("*tiny.yaml"))


def config(split: str, folder) -> OmegaConf:
    rest = {"lr_scheduler": None, "optimization": {"max_update": 9}}
    return OmegaConf.create({"task": {"data": str(folder)}, "dataset": {"valid_subset": split}, **rest})


@pytest.mark.parametrize(
    "present, wanted, used",
    [
        (["valid"], "valid", "valid"),
        (["dev"], "valid", "dev"),
        (["valid"], "dev", "valid"),
        (["valid", "dev"], "dev", "dev"),
        (["dev"], "valid,more", "dev,more"),
        (["valid"], "dev-clean", "dev-clean"),  # a name of the user's own stays, and its absence is an error later
        ([], "valid", "valid"),
    ],
)
def test_valid_or_dev_is_chosen_by_what_is_there(tmp_path, present, wanted, used):
    for name in present:
        (tmp_path / f"{name}.tsv").touch()
    cfg = config(wanted, tmp_path)
    adjust(cfg)
    assert cfg.dataset.valid_subset == used


def test_a_training_validates_on_dev_if_there_is_no_valid(tmp_path, caplog):
    data = write_corpus(write_corpus(tmp_path, lengths=[16000] * 4), "dev", [16000] * 2)
    with caplog.at_level("INFO", "dinosr_plugin"):
        trainer = train(data, tmp_path / "run", "optimization.max_update=1", "dataset.disable_validation=false")
    assert trainer.get_num_updates() == 1  # of a schedule with three phases
    assert f"{tmp_path}: has no dataset.valid_subset=valid, so that validation uses dev" in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("updates", [1, 2, 3])
@pytest.mark.parametrize("name", TINY)
def test_a_first_try_can_have_one_update(name, updates):
    """The schedule of each small config can be built, and starts with a finite rate."""
    import torch
    from fairseq.optim import build_optimizer
    from fairseq.optim.lr_scheduler import build_lr_scheduler

    cfg = read_config(
        "pretraining", name, ["task.data=x", "++model.start_from=x", f"optimization.max_update={updates}"]
    )
    add_defaults(cfg)
    check_training(cfg)
    adjust(cfg)
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    optimizer = build_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.zeros(2))])
    schedule = build_lr_scheduler(cfg.lr_scheduler, optimizer)
    schedule.step_begin_epoch(1)
    rates = [schedule.step_update(update) for update in range(updates + 1)]
    assert all(0 <= rate < 1 for rate in rates)

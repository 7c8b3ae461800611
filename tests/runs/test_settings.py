"""The check of all settings with which a training begins; ``tests/test_ranges.py`` tests the ranges."""

import fairseq_cli.train
import pytest
import torch
from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.distributed.utils import infer_init_method
from omegaconf import OmegaConf

from dinosr_plugin.errors import UserError
from dinosr_plugin.runs.settings import check_betas
from support.training import read_config, settings, train, write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data"))


def start(*overrides: str, config: str = "dinosr_tiny") -> None:
    """What fairseq's training does first."""
    cfg = read_config("pretraining", config, settings("/nowhere", "/nowhere", *overrides, config=config))
    fairseq_cli.train.add_defaults(cfg)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "overrides, message",
    [
        ("model.dropout=-1", "model.dropout=-1.0: must be at least 0 and less than 1"),
        ("+task.label_rate=0", "task.label_rate=0: must be between 1 and 16000"),
        (
            "+criterion.loss_weights={dinosr:nan}",
            "criterion.loss_weights={'dinosr': nan}: must be between 0 and 1000000",
        ),
        ("optimization.lr=[nan]", "optimization.lr=[nan]: must be between 0 and 1000000000"),
        ("optimization.lr=[-0.1]", "optimization.lr=[-0.1]: must be between 0 and 1000000000"),
        ("optimization.lr=[]", "optimization.lr: empty; give at least one number in brackets"),
        (
            "optimization.lr=[0.1,0.2]",
            "optimization.lr=[0.1, 0.2]: the schedule tri_stage takes one rate; give only one",
        ),
        ("optimization.update_freq=[0]", "optimization.update_freq=[0]: must be between 1 and 1000000000"),
        ("optimization.clip_norm=nan", "optimization.clip_norm=nan: must be between 0 and 1000000000"),
        ("dataset.max_tokens=0", "dataset.max_tokens=0: must be between 1 and 1000000000"),
        ("dataset.num_workers=-1", "dataset.num_workers=-1: must be between 0 and 1000"),
        ("common.log_interval=0", "common.log_interval=0: must be between 1 and 1000000000"),
        ("common.seed=-1", "common.seed=-1: must be between 0 and 4294967295"),
        ("lr_scheduler.final_lr_scale=0", "lr_scheduler.final_lr_scale=0.0: must be above 0 and at most 1000000"),
        ('optimizer.adam_betas="(0.9,1)"', "optimizer.adam_betas=(0.9,1): give two numbers, each at least 0 and less"),
        (
            "dataset.max_tokens=null",
            "dataset.max_tokens and dataset.batch_size: both are missing; give the size of a batch in samples",
        ),
        ("lr_scheduler.phase_ratio=[0.5,0.5,0]", "lr_scheduler.phase_ratio=[0.5, 0.5, 0.0]: there is no decay"),
        ("optimization.max_update=0", "optimization.max_update=0: the schedule tri_stage divides the updates by"),
        (
            "lr_scheduler.phase_ratio=[0.7,0.2,0.1]",
            "lr_scheduler.phase_ratio=[0.7, 0.2, 0.1]: add up to 0.9999999999999999 when rounded; give [0.7, 0.2, 0.10",
        ),
        ("lr_scheduler.phase_ratio=[0.5,0.6,0.3]", "lr_scheduler.phase_ratio=[0.5, 0.6, 0.3]: give three shares"),
        ("lr_scheduler.phase_ratio=null", "lr_scheduler.decay_steps=0: must be at least 1 without phase_ratio"),
        ("model._name=dinosor", "model._name=dinosor: there is no such model; did you mean dinosr?"),
        ("task._name=wrong", "task._name=wrong: there is no such task"),
        ("criterion._name=dinsr", "criterion._name=dinsr: there is no such criterion; did you mean dinosr?"),
        ("+model.dropuot=0.1", "model.dropuot: there is no such field; did you mean dropout?"),
        (
            "model.encoder_layers=2.5",
            "model.encoder_layers: Value '2.5' of type 'float' could not be converted to Integer",
        ),
        ("task.max_sample_size=x", "task.max_sample_size: Value 'x' of type 'str' could not be converted to Integer"),
    ],
)
def test_settings_that_cannot_work_are_one_line(overrides, message):
    with pytest.raises(UserError) as error:
        start(*overrides.split())
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "config, overrides, message",
    [
        ("dino_speaker_ecapa", "common.amp=true", "common.amp=True: optimizer=dino_sgd needs float32 copies of the "),
        ("dino_speaker_ecapa", "optimizer.clip_each=-1", "optimizer.clip_each=-1.0: must be between 0 and 1000000000"),
        ("ssrl_speaker_tiny", "common.memory_efficient_bf16=true", "common.memory_efficient_bf16=True: optimizer=ada"),
        ("ssrl_speaker_tiny", "optimizer.adam_betas=0.9", "optimizer.adam_betas=0.9: give two numbers, each at least "),
    ],
)
def test_settings_of_the_optimisers_of_this_plugin(config, overrides, message):
    with pytest.raises(UserError) as error:
        start(overrides, "model.start_from=null", config=config)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    start("common.fp16=true", "model.start_from=null", config=config)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("group", ["task", "model", "criterion", "optimizer"])
def test_a_group_that_is_missing(group):
    cfg = read_config("pretraining", "dinosr_tiny", settings("/nowhere", "/nowhere"))
    cfg = OmegaConf.create({**cfg, group: None})
    with pytest.raises(
        UserError, match=f"^{group}: not given; add it to the config, as in those of `dinosr path configs`$"
    ):
        fairseq_cli.train.add_defaults(cfg)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_decay_needs_updates():
    """hubert_tiny's schedule is polynomial_decay."""
    with pytest.raises(
        UserError, match="^optimization.max_update=0: the schedule polynomial_decay reaches its last rate"
    ):
        start("optimization.max_update=0", config="hubert_tiny")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_warm_up_that_is_longer_than_the_run_is_mentioned(caplog):
    start("optimization.max_update=3", config="hubert_tiny")
    assert "lr_scheduler.warmup_updates=320 is more than optimization.max_update=3: the learning rate" in caplog.text


@pytest.mark.parametrize("betas", ["(0.9,0.98)", "[0, 0.5]", [0.9, 0.999], OmegaConf.create([0.9, 0.98])])
def test_valid_betas_are_accepted(betas):
    check_betas(betas)


@pytest.mark.parametrize("betas", ["x", "(0.9,)", "0.9", "('a','b')", "(nan,0.9)", "(", None, "(0.9,-0.1)", 0.9])
def test_betas_that_cannot_work(betas):
    with pytest.raises(UserError, match="^optimizer.adam_betas.*: give two numbers"):
        check_betas(betas)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    cfg = OmegaConf.structured(DistributedTrainingConfig(distributed_world_size=16, tpu=False))
    with pytest.raises(UserError, match="distributed_world_size=16: this machine has 4 GPUs; set it to their number"):
        infer_init_method(cfg)
    cfg.distributed_world_size = 4
    infer_init_method(cfg)
    assert cfg.distributed_init_method.startswith("tcp://localhost:")


def test_nothing_is_written_before_the_check(data, tmp_path):
    with pytest.raises(UserError, match="^model.encoder_layerdrop=inf: must be"):
        train(data, tmp_path / "run", "model.encoder_layerdrop=inf", "optimization.max_update=4")
    assert not (tmp_path / "run").exists()

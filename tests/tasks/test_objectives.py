"""The training protocol through fairseq's trainer: a new objective in one file, data that is needed, ``start_from``."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
import torch
from fairseq.models import register_model
from fairseq.trainer import Trainer
from hydra import compose
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from dinosr_plugin.models.objective import DataNeeds, Objective, ObjectiveConfig, Output
from support.fairseq_models import fairseq_checkpoint
from support.training import checkpoint, differences, train, train_on_two_ranks, write_corpus

# ---- a new objective -----------------------------------------------------------------------------------------------


@dataclass
class ToyConfig(ObjectiveConfig):
    width: int = field(default=4, metadata={"help": "samples that are predicted from as many before them"})


@register_model("toy", dataclass=ToyConfig)
class Toy(Objective):
    """Predicts each block of samples from the one before it, and notes the calls of the protocol."""

    def __init__(self, cfg: ToyConfig):
        super().__init__()
        self.predict = nn.Linear(cfg.width, cfg.width)
        self.width = cfg.width
        self.calls = []

    def forward(self, source: Tensor, utterances: Tensor) -> Output:
        blocks = source.unfold(1, self.width, self.width)  # (B, N, width)
        errors = (self.predict(blocks[:, :-1]) - blocks[:, 1:]).pow(2).sum(-1)  # (B, N - 1)
        return Output({"toy": errors.sum()}, errors.numel(), "blocks", {"error": errors.detach().mean()})

    def check(self, task_cfg):
        if task_cfg.normalize:
            raise UserError("task.normalize=true: a toy learns from sound as it is; set task.normalize=false")

    def start_from(self, source: Objective, file: str):
        self.load_state_dict(source.state_dict())

    def begin_update(self):
        self.calls.append("begin")

    def skip_batch(self, skipped: bool):
        self.calls.append("skip" if skipped else "batch")

    def end_update(self, n_updates: int):
        self.calls.append(n_updates)


def train_model(model: dict, data: Path, save_dir: Path, *overrides: str, run=train):
    """As ``run``, with ``cfg.model`` replaced by ``model``."""

    def with_model(*args, **kwargs):
        cfg = compose(*args, **kwargs)
        with open_dict(cfg):
            cfg.model = OmegaConf.create(model)
        return cfg

    with mock.patch("support.training.compose", with_model):
        return run(data, save_dir, *overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"))


SCHEDULE = ["lr_scheduler.phase_ratio=null", "+lr_scheduler.hold_steps=3", "+lr_scheduler.decay_steps=6"]
PLAIN = ["task.normalize=false", "optimization.max_update=2", *SCHEDULE]


def test_a_toy_trains(data, tmp_path):
    """... although nothing outside its class knows of it; its figures are in the log, its calls in order."""
    log, micro_batches = f"common.log_file={tmp_path}/log", "optimization.update_freq=[2]"
    toy = {"_name": "toy", "width": 8}
    trainer = train_model(toy, data, tmp_path / "run", *PLAIN, log, micro_batches)
    model = trainer.get_model()
    assert trainer.get_num_updates() == 2 and isinstance(model, Toy)
    in_training = [call for call in model.calls if call != "skip"]  # fairseq begins with a dummy batch
    assert in_training == ["begin", "batch", "batch", 1, "begin", "batch", "batch", 2]
    first = read_training_log(tmp_path / "log")[0]
    assert first["blocks"] == 4 * 2 * (16000 // 8 - 1) / 2 and first["loss"] == pytest.approx(first["error"], rel=1e-3)
    assert "masked_frames" not in first
    loaded, cfg, _ = load_model(tmp_path / "run/checkpoint_last.pt")
    assert cfg.model.width == 8 and torch.equal(loaded.predict.weight, model.predict.weight)
    start = ["optimization.lr=[0.0]", "optimization.max_update=1"]
    again = train_model(
        {**toy, "start_from": f"{tmp_path}/run/checkpoint_last.pt"}, data, tmp_path / "again", *PLAIN, *start
    )
    assert torch.equal(again.get_model().predict.weight, model.predict.weight)
    assert len(inspect.getsource(ToyConfig).splitlines() + inspect.getsource(Toy).splitlines()) < 60


def test_its_own_check_is_asked(data, tmp_path):
    with pytest.raises(UserError, match="task.normalize=true: a toy learns from sound as it is"):
        train_model({"_name": "toy"}, data, tmp_path)


def test_outputs_pass_through_fairseqs_wrapper(data, tmp_path):
    first, second = train_model({"_name": "toy"}, data, tmp_path, *PLAIN, run=train_on_two_ranks)
    assert not differences(first, second)


def test_outputs_pass_through_torchs_wrapper(tmp_path):
    """ddp_backend=pytorch_ddp, which looks for tensors in the output to find parameters without gradient."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = Toy(ToyConfig())
        model.unused = nn.Linear(2, 2)
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        for _ in range(2):  # the second pass fails if the first still waits for gradients
            output = wrapped(source=torch.randn(2, 40), utterances=torch.arange(2))
            output.losses["toy"].backward()
    finally:
        torch.distributed.destroy_process_group()
    assert isinstance(output, Output) and model.predict.weight.grad.any() and output.losses["toy"].requires_grad


def test_an_update_that_overflows_has_no_end(data, tmp_path):
    """fp16 with a scale that is too high at first."""
    fp16 = ["common.fp16=true", "common.fp16_init_scale=1073741824"]
    calls = train_model({"_name": "toy"}, data, tmp_path, *PLAIN, *fp16).get_model().calls
    calls = [call for call in calls if call != "skip"]
    assert calls.count("begin") > 2 and [call for call in calls if isinstance(call, int)] == [1, 2]
    assert calls[:3] == ["begin", "batch", "begin"]


# ---- data that an objective needs, and settings that it cannot use -------------------------------------------------


@pytest.mark.parametrize(
    "config, setting, message",
    [
        (
            "dinosr_tiny",
            "+task.window_samples=20480 task.normalize=false",
            "task.window_samples=20480: model=dinosr learns from whole utte",
        ),
        ("dinosr_tiny", "+task.labels=km", "task.labels=km: model=dinosr learns without labels; remove it"),
        ("dinosr_tiny", "+task.relabel_every=3", "task.relabel_every=3: model=dinosr learns without labels; remove it"),
        ("hubert_tiny", "+task.negatives=mixed", "task.negatives=mixed: model=dinosr_hubert learns from whole"),
        ("cpc_tiny", "+task.label_rate=100", "task.label_rate=100: model=cpc learns without labels; remove it"),
        ("cpc_tiny", "+task.on_collapse=stop", "task.on_collapse=stop: model=cpc has no codebooks; remove it"),
        ("cpc_tiny", "+task.collapse_patience=5", "task.collapse_patience=5: model=cpc has no codebooks; remove it"),
        ("deepcluster_tiny", "task.labels=null model.start_from=null", "task.labels: not given, but model=cpc_deep"),
        ("deepcluster_tiny", "", r"model.start_from: not given; add model.start_from=FILE, .* or null to start with"),
    ],
)
def test_settings_that_an_objective_cannot_use(data, tmp_path, config, setting, message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        train(data, tmp_path, *setting.split(), config=config)
    assert "\n" not in str(error.value)


def test_models_that_are_not_objectives(data, tmp_path):
    with pytest.raises(
        UserError, match="^model=wav2vec2: task=dinosr_pretraining cannot train it; choose one of apc, cpc, "
    ):
        train_model({"_name": "wav2vec2"}, data, tmp_path)


def test_data_that_this_task_does_not_supply(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "needs", DataNeeds(speakers=True))
    with pytest.raises(UserError, match="^model=toy: learns from speakers or whole utterances, which task=dinosr_pr"):
        train_model({"_name": "toy"}, data, tmp_path, *PLAIN)


# ---- model.start_from ----------------------------------------------------------------------------------------------


TRUNK = [
    "model.front_end=conv",
    "model.conv_feature_layers='[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2'",
    "model.encoder_layers=3",
    "model.encoder_embed_dim=32",
    "model.encoder_ffn_embed_dim=48",
    "model.encoder_attention_heads=4",
    "model.conv_pos=10",
    "model.conv_pos_groups=4",
    "model.extractor_mode=default",
    "task.normalize=false",
]
"""The sizes of ``support.fairseq_models``."""
WITHOUT_LEARNING = ["optimization.lr=[0.0]", "optimization.max_update=1"]


def require_features_of(theirs, trainer: Trainer):
    model, source = trainer.get_model().eval(), torch.randn(1, 9000)
    with torch.no_grad():
        features = theirs.extract_features(source, None, mask=False)
        expected = features["x"] if isinstance(features, dict) else features[0]
        torch.testing.assert_close(model.extract_features(source)["x"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_dinosr_from_fairseqs_models(data, tmp_path, kind):
    theirs = fairseq_checkpoint(tmp_path / "theirs.pt", kind)
    setting = [*TRUNK, *WITHOUT_LEARNING, *SCHEDULE, f"model.start_from={tmp_path}/theirs.pt"]
    require_features_of(theirs, train(data, tmp_path / "run", *setting))
    with pytest.raises(UserError, match="theirs.pt: was trained with model.encoder_layers=3, not 2; set model.encoder"):
        train(data, tmp_path / "other", *setting, "model.encoder_layers=2")


def test_hubert_from_wav2vec2_and_dinosr_from_that(data, tmp_path):
    """With labels; each starts with the features of the one before."""
    rows = [16000 // 320] * 14
    (data / "train.km").write_text("".join(" ".join(str(i // 5 % 3) for i in range(n)) + "\n" for n in rows))
    (data / "dict.km.txt").write_text("0 1\n1 1\n2 1\n")
    theirs = fairseq_checkpoint(tmp_path / "theirs.pt", "wav2vec2")
    setting = [*TRUNK, *WITHOUT_LEARNING]
    hubert = ["model.final_dim=8", "+lr_scheduler.total_num_update=40", f"model.start_from={tmp_path}/theirs.pt"]
    trainer = train(data, tmp_path / "hubert", *setting, *hubert, config="hubert_tiny")
    require_features_of(theirs, trainer)
    start = f"model.start_from={tmp_path}/hubert/checkpoint_last.pt"
    require_features_of(theirs, train(data, tmp_path / "dinosr", *setting, *SCHEDULE, start))


def test_a_run_that_started_from_a_checkpoint_resumes(data, tmp_path):
    """Bit for bit: what it saved replaces the weights it started with, and loads and resumes without any other file."""
    train(data, tmp_path / "first", "optimization.max_update=2", *SCHEDULE)
    source = tmp_path / "first/checkpoint_last.pt"
    setting = [*SCHEDULE, f"model.start_from={source}", "model.dropout=0.1", "model.revive_after=2"]
    train(data, tmp_path / "whole", *setting, "optimization.max_update=4")
    for end in (1, 4):
        train(data, tmp_path / "parts", *setting, f"optimization.max_update={end}")
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))
    assert differences(checkpoint(tmp_path / "whole")["model"], checkpoint(tmp_path / "first")["model"])
    source.unlink()
    load_model(tmp_path / "whole/checkpoint_last.pt")
    assert train(data, tmp_path / "parts", *setting, "optimization.max_update=5").get_num_updates() == 5
    with pytest.raises(UserError, match="no such checkpoint"):
        train(data, tmp_path / "again", *setting)


def test_another_normalisation_or_rate_is_refused(data, tmp_path):
    train(data, tmp_path / "first", "optimization.max_update=1", *SCHEDULE)
    source = tmp_path / "first/checkpoint_last.pt"
    start = [*SCHEDULE, f"model.start_from={source}", "optimization.max_update=1"]
    with pytest.raises(UserError, match="was trained with task.normalize=true; set task.normalize=true"):
        train(data, tmp_path / "second", *start, "task.normalize=false")
    state = torch.load(source, weights_only=False)
    state["cfg"]["task"]["sample_rate"] = 8000
    torch.save(state, source)
    with pytest.raises(
        UserError, match="was trained at task.sample_rate=8000, not 16000; give a checkpoint of the same"
    ):
        train(data, tmp_path / "second", *start)

"""Spin through fairseq's trainer: updates, precision, batches, what it starts from, what stops it."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from fairseq.data import data_utils
from torch.testing import assert_close

from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.readers import trunk_of
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from dinosr_plugin.models.spin import Spin
from dinosr_plugin.runs.resuming import own_checkpoint
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingTask
from support import plain_spin
from support.fairseq_models import MODELS, fairseq_checkpoint
from support.plain_spin import PlainAdam, Recipe, spin_loss
from support.training import checkpoint, fine_tune, train, write_corpus

CONV = ["model.front_end=conv", "+model.conv_feature_layers='[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2'"]
CONV += ["+model.extractor_mode=layer_norm"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = write_corpus(tmp_path_factory.mktemp("data"), lengths=[16000, 12000, 17000, 9000, 16000, 11000])
    return write_corpus(folder, "valid", [16000, 17000, 21000, 30000, 16500])


def spin(data: Path, save_dir: Path, updates: int, *overrides: str):
    return train(data, save_dir, f"optimization.max_update={updates}", *overrides, config="spin_tiny")


# ---- an update -------------------------------------------------------------------------------------------------------


def test_three_updates_of_fairseqs_trainer_equal_the_plain_implementation(data, tmp_path):
    """With the batches, the schedule and the limit of the gradient's norm of the run."""
    batches, start, forward = [], {}, Spin.forward

    def recorded(self, source, padding_mask, **inputs):
        if self.training and not self.batch_skipped:
            start.update({} if start else {name: p.detach().clone() for name, p in self.state_dict().items()})
            batches.append([[wave[~pad] for wave, pad in zip(*view)] for view in zip(source, padding_mask)])
        return forward(self, source, padding_mask, **inputs)

    setting = [*CONV, "optimizer.adam_eps=1e-5", "optimization.clip_norm=0.5"]
    setting += ["model.trained_layers=[0,1]", "lr_scheduler.lr_period_updates=6", "lr_scheduler.max_lr=0.01"]
    with mock.patch.object(Spin, "forward", recorded):
        log = f"common.log_file={tmp_path}/log"
        model = spin(data, tmp_path / "run", 3, *setting, log).get_model()
    rates = [0.00001 + (0.01 - 0.00001) * number / 3 for number in range(3)]
    p = {name: value.double() for name, value in start.items()}
    theirs = {name: p[name].requires_grad_() for name, value in model.named_parameters() if value.requires_grad}
    plain, losses, norms = PlainAdam(theirs, 1e-5, fairseqs_epsilon=True), [], []
    for views, rate in zip(batches, rates, strict=True):
        loss = spin_loss(p, [[wave.double() for wave in view] for view in views], Recipe(2, 2, 2))
        gradients = plain_spin.gradients(loss, theirs)
        norms.append(torch.cat([g.flatten() for g in gradients.values()]).norm().item())
        factor = min(1.0, 0.5 / norms[-1])
        plain.step({name: factor * g for name, g in gradients.items()}, rate)
        losses.append(loss.item())
    records = read_training_log(tmp_path / "log")
    assert [record["loss"] for record in records] == pytest.approx(losses, abs=1e-3)
    assert [record["gnorm"] for record in records] == pytest.approx(norms, abs=1e-3) and max(norms) > 0.5
    for name, value in model.state_dict().items():
        assert_close(value.double(), p[name].detach(), rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


PRECISIONS = {
    "float32": [],
    "bf16": ["common.bf16=true"],
    "fp16": ["common.fp16=true", "common.fp16_init_scale=4"],
    "memory-efficient bf16": ["common.bf16=true", "common.memory_efficient_bf16=true"],
    "memory-efficient fp16": ["common.fp16=true", "common.memory_efficient_fp16=true", "common.fp16_init_scale=4"],
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_rows_of_the_codebook_have_norm_1_after_every_update(data, tmp_path, name):
    """Also with accumulated batches. In half precision, the rounded copies of rows of norm 1."""
    norms, end_update = [], Spin.end_update

    def recorded(self, number):
        norms.append(self.codebook.weight.detach().float().norm(dim=1))
        return end_update(self, number)

    with mock.patch.object(Spin, "end_update", recorded):
        trainer = spin(data, tmp_path, 3, *PRECISIONS[name], "optimization.update_freq=[2]", "lr_scheduler.max_lr=0.5")
    assert len(norms) == 3
    for found in norms:
        assert_close(found, torch.ones(8), rtol=0, atol=1e-6 if name == "float32" else 5e-3)
    copies = getattr(trainer.optimizer, "fp32_params", None)
    assert (copies is None) == (name == "float32" or name.startswith("memory"))
    if copies is not None:
        weight = trainer.get_model().codebook.weight
        (master,) = [copy for half, copy in zip(trainer.optimizer.fp16_params, copies) if half is weight]
        assert_close(master.norm(dim=1), torch.ones(8), rtol=0, atol=1e-6)
        assert torch.equal(master.to(weight.dtype), weight) and not torch.equal(master, weight.float())


def test_the_optimiser_moves_only_what_is_trained(data, tmp_path):
    model = spin(data, tmp_path, 2).get_model()
    state = checkpoint(tmp_path)
    moments = [value["exp_avg"].shape for value in state["last_optimizer_state"]["state"].values()]
    assert sorted(moments) == sorted(p.shape for p in model.parameters() if p.requires_grad)
    assert sum(p.requires_grad for p in model.parameters()) == 16 + 2 + 1 < len(list(model.parameters()))


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_batches_are_sorted_by_length_and_fixed_and_their_order_is_drawn_in_each_epoch(tmp_path):
    """At most max_tokens samples in a view; the last batch, of the shortest utterances, is kept."""
    lengths = [8000 + 371 * (7 * n % 23) for n in range(22)]
    data = write_corpus(tmp_path / "data", lengths=lengths)
    epochs, train_step = {}, DinoSRPretrainingTask.train_step

    def recorded(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        assert not ignore_grad
        batch = tuple(sample["numbers"])
        epochs.setdefault(int(self.datasets["train"].epoch), []).append(batch)
        (first, second), crops = sample["net_input"]["source"], [min(lengths[row], 14000) for row in batch]
        assert first.shape == second.shape == (len(batch), max(crops)) and first.numel() <= 45000
        return train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad)

    setting = ["task.max_sample_size=14000", "dataset.max_tokens=45000", "optimization.max_epoch=3"]
    with mock.patch.object(DinoSRPretrainingTask, "train_step", recorded):
        spin(data, tmp_path / "run", 0, *setting)
    first = epochs[1]
    assert len(epochs) == 3 and all(sorted(epoch) == sorted(first) for epoch in epochs.values())
    assert sorted(row for batch in first for row in batch) == list(range(22))
    assert len({tuple(epoch) for epoch in epochs.values()}) == 3
    crops = sorted(([min(lengths[row], 14000) for row in batch] for batch in first), reverse=True)
    in_order = [crop for batch in crops for crop in sorted(batch, reverse=True)]
    assert in_order == sorted(in_order, reverse=True)
    for batch, following in zip(crops, crops[1:]):  # another utterance would not fit
        assert max(batch) * len(batch) <= 45000 < max(batch) * (len(batch) + 1) and following
    assert len(crops[-1]) < len(crops[-2])


# ---- validation ------------------------------------------------------------------------------------------------------


def test_validation_figures_do_not_depend_on_the_order_of_batches(data, tmp_path):
    """... and are the same each time, with views of their own that do not change; training is not changed by them."""
    logs, shuffled = [], data_utils.batch_by_size

    def reversed_batches(*args, **kwargs):
        return list(shuffled(*args, **kwargs))[::-1]

    setting = ["dataset.disable_validation=false", "dataset.validate_interval_updates=1"]
    still = ["lr_scheduler.max_lr=1e-12", "optimization.lr=[1e-13]"]
    for name in ("one", "other"):
        log = f"common.log_file={tmp_path}/{name}.log"
        with mock.patch.object(data_utils, "batch_by_size", reversed_batches if name == "other" else shuffled):
            spin(data, tmp_path / name, 2, *setting, *still, log)
        logs += read_training_log(f"{tmp_path}/{name}.log", "valid")
    assert len(logs) == 4
    for record in logs[1:]:
        for name in ("loss", "accuracy", "target_ppl", "pred_ppl", "active_codes"):
            assert record[name] == pytest.approx(logs[0][name], abs=2e-4), name


# ---- starting and resuming -------------------------------------------------------------------------------------------


def base(data: Path, folder: Path, kind: str) -> tuple[Path, torch.nn.Module]:
    """A checkpoint of this kind, and its model."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind in MODELS:
        return folder / "base.pt", fairseq_checkpoint(folder / "base.pt", kind)
    if kind == "dinosr":
        train(data, folder, "optimization.max_update=4", "task.normalize=false")
    else:
        spin(data, folder, 1, "task.normalize=false")
    return folder / "checkpoint_last.pt", load_model(folder / "checkpoint_last.pt").model


@pytest.mark.parametrize("kind", [*MODELS, "dinosr", "spin"])
def test_starting_from_every_kind_of_checkpoint(data, tmp_path, kind):
    """Without a size in the config. The result loads and resumes without that file."""
    file, theirs = base(data, tmp_path / "base", kind)
    setting = ["task.normalize=false", f"model.start_from={file}", "model.trained_layers=[-1]"]

    def run(name: str, updates: int):
        with mock.patch("support.training.SMALL_SPIN", ["task.views=clean/equalizer", "model.codebook_size=8"]):
            return spin(data, tmp_path / name, updates, *setting, "model.projection_dim=8", "model.dropout=0.1")

    run("run", 1)
    file.unlink()
    trainer = run("run", 2)
    assert trainer.get_num_updates() == 2
    loaded, model = load_model(tmp_path / "run/checkpoint_last.pt").model, trainer.get_model().eval()
    wave = torch.randn(1, 9000)
    with torch.no_grad():
        assert torch.equal(loaded.extract_features(wave)["x"], model.extract_features(wave)["x"])
    assert torch.equal(loaded.encoder.layers[0].fc1.weight, theirs.encoder.layers[0].fc1.weight)
    assert len(loaded.encoder.layers) == len(theirs.encoder.layers)
    with pytest.raises(UserError, match=f"{file}: no such checkpoint"):
        run("another", 1)


def test_a_run_resumes_from_an_older_checkpoint_without_the_file_it_started_from(data, tmp_path):
    """If its last checkpoint is damaged. A training that has ended leaves nothing for the next one in its process."""
    file, _ = base(data, tmp_path / "base", "hubert")
    setting = ["task.normalize=false", "model.trained_layers=[-1]", "checkpoint.save_interval_updates=1"]
    small = ["task.views=clean/equalizer", f"model.start_from={file}", "checkpoint.keep_interval_updates=-1"]
    with mock.patch("support.training.SMALL_SPIN", small):
        spin(data, tmp_path / "run", 2, *setting)
        assert own_checkpoint() is None
        file.unlink()
        (tmp_path / "run/checkpoint_1_2.pt").unlink()
        (tmp_path / "run/checkpoint_last.pt").write_bytes(b"not a checkpoint")
        trainer = spin(data, tmp_path / "run", 3, *setting)
    assert trainer.get_num_updates() == 3 and trainer.get_model().n_layers == 3
    assert (tmp_path / "run/checkpoint_last.pt.broken").exists()


def test_what_it_cannot_start_from(data, tmp_path):
    """Each in one line that names the file or the field."""
    train(data, tmp_path / "cpc", "optimization.max_update=1", config="cpc_tiny")
    cpc = f"{tmp_path}/cpc/checkpoint_last.pt"
    hubert, _ = base(data, tmp_path / "hubert", "hubert")
    from_hubert = ["task.normalize=false", f"model.start_from={hubert}"]
    for setting, message in (
        (["task.normalize=false", f"model.start_from={cpc}"], f"model.start_from={cpc}: contains CPC, which does not"),
        ([*from_hubert, "model.trained_layers=[-4]"], r"model.trained_layers=\[-4\]: the model has 3 layers; give num"),
        ([*from_hubert, "model.read_layer=3"], "model.read_layer=3: the model has 3 layers; give a number from 0 to 2"),
        (
            [*from_hubert, "task.normalize=true"],
            f"model.start_from={hubert}: was trained with task.normalize=false; set",
        ),
        (["model.start_from=???"], "model.start_from: not given; add model.start_from=FILE"),
        (
            ["task.views=null"],
            "task.views: not given, but model=spin learns from 2 of each utterance; set task.views=cl",
        ),
        (
            ["task.views=clean"],
            "task.views=clean: 1 view, but model=spin learns from 2 of each utterance; set task.views",
        ),
        (["task.views=clean/clean/clean"], "task.views=clean/clean/clean: 3 views, but model=spin learns from 2"),
        (["task.views=clean/equaliser"], "task.views=clean/equaliser: 'equaliser' is not a transform; give a chain of"),
        (["task.min_sample_size=100"], "task.min_sample_size=100 allows utterances shorter than a frame"),
        (["model.encoder_layerdrop=0.1"], "model.encoder_layerdrop=0.1: Spin trains without LayerDrop"),
        (["task.enable_padding=false"], "task.enable_padding=False: views must not depend on the batch"),
    ):
        with pytest.raises(UserError, match=f"^{message}") as error:
            spin(data, tmp_path / "run", 1, *setting)
        assert "\n" not in str(error.value)


# ---- a codebook that collapses ---------------------------------------------------------------------------------------


def one_code(self, x):
    """Scores with which every frame has code 0, more or less surely."""
    scores = self.project_frames(x) @ self.codebook.weight.t()
    return torch.cat([scores[..., :1] * 0 + 0.9, scores[..., 1:] * 0.5], -1)


def the_same_for_all_codes(self, x):
    """Scores with which all codes are equally likely: the loss is ln K."""
    return self.project_frames(x) @ self.codebook.weight.t() * 1e-3


@pytest.mark.parametrize(
    "scores, what, loss",
    [(one_code, "all frames have one code", None), (the_same_for_all_codes, "the prediction is the same", 2.0794)],
)
def test_a_collapse_stops_the_run_with_a_remedy_that_fits(data, tmp_path, scores, what, loss):
    setting = ["task.on_collapse=stop", "task.collapse_patience=2", f"common.log_file={tmp_path}/log"]
    with mock.patch.object(Spin, "scores", scores), pytest.raises(UserError) as error:
        spin(data, tmp_path / "run", 9, *setting)
    assert f"update 2: codebook 0 has collapsed ({what}" in str(error.value)
    assert "train fewer layers (model.trained_layers" in str(error.value) and "ema_decay" not in str(error.value)
    if loss is not None:
        assert read_training_log(tmp_path / "log")[0]["loss"] == pytest.approx(loss, abs=0.01)


def at_random(self, x):
    """Scores that have nothing to do with the frame: logits with a standard deviation of 0.15."""
    scores = self.project_frames(x) @ self.codebook.weight.t()
    return scores * 0 + 0.015 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(x.size(1)))


def test_a_loss_that_stays_at_ln_k_stops_the_run(data, tmp_path):
    """Neither the codes nor the predictions have collapsed."""
    setting = ["task.on_collapse=stop", "task.collapse_patience=3"]
    with mock.patch.object(Spin, "scores", at_random), pytest.raises(UserError) as error:
        spin(data, tmp_path / "run", 9, *setting)
    assert str(error.value) == (
        "update 3: codebook 0 learns nothing (its loss is ln 8 = 2.079, that of guessing, for 3 updates); "
        "start from a trained model (model.start_from), or change the learning rate; stopped because of "
        "task.on_collapse=stop"
    )


def test_a_run_that_learns_is_no_collapse(data, tmp_path):
    trainer = spin(data, tmp_path, 3, "task.on_collapse=stop", "task.collapse_patience=1")
    assert trainer.get_num_updates() == 3


# ---- fine-tuning -----------------------------------------------------------------------------------------------------


def test_fine_tuning_trains_all_layers_without_projection_and_codebook(data, tmp_path):
    """With LayerDrop, which Spin's own training refuses."""
    before = spin(data, tmp_path / "spin", 1, "task.normalize=false").get_model().state_dict()
    (data / "train.ltr").write_text("A B |\n" * 6)
    (data / "dict.ltr.txt").write_text("| 1\nA 1\nB 1\n")
    switches = ["model.mask_prob=0.3", "model.layerdrop=0.1", "model.freeze_finetune_updates=0"]
    pretrained = tmp_path / "spin/checkpoint_last.pt"
    settings = [*switches, "model.feature_grad_mult=1", "task.normalize=false"]
    model = trunk_of(load_model(fine_tune(data, tmp_path / "tuned", pretrained, *settings)).model)
    assert isinstance(model, Spin) and model.projection is None and model.codebook is None
    after = model.state_dict()
    assert not [name for name in after if name.startswith(("projection", "codebook"))]
    same = [name for name, value in after.items() if torch.equal(value, before[name])]
    assert same == [] and "encoder.layers.0.fc1.weight" in after and "post_extract_proj.weight" in after

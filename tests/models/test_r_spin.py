"""The R-Spin objective: the loss of the labels against plain torch, padding, crops, dummy batches, settings."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dinosr_plugin.criterions.dinosr import DinoSRCriterion
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.r_spin import RSpin, RSpinConfig
from dinosr_plugin.models.spin import Spin, SpinConfig

SIZES = dict(
    start_from=None,
    front_end="fbank",
    n_mels=8,
    encoder_layers=2,
    encoder_embed_dim=16,
    encoder_ffn_embed_dim=24,
    encoder_attention_heads=2,
    dropout=0.0,
    attention_dropout=0.0,
    conv_pos=4,
    conv_pos_groups=2,
    projection_dim=8,
    codebook_size=6,
)
CLASSES = 7


def config(**changes) -> RSpinConfig:
    return RSpinConfig(**{**SIZES, "trained_layers": [0, 1], "num_classes": [CLASSES], **changes})


def build(seed: int = 0, **changes) -> RSpin:
    torch.manual_seed(seed)
    return RSpin(config(**changes)).train()


def random_batch(*sizes: int, starts: tuple[int, ...] = (), seed: int = 0) -> dict:
    """Inputs for crops of ``sizes`` samples that begin at ``starts`` in their utterances; two different views."""
    generator = torch.Generator().manual_seed(seed)
    starts = starts or (0,) * len(sizes)
    padding = torch.arange(max(sizes)) >= torch.tensor(sizes).unsqueeze(1)  # (B, T)
    views = [torch.randn(len(sizes), max(sizes), generator=generator).masked_fill(padding, 0) for _ in range(2)]
    lengths = [(start + size) // 320 + 1 for start, size in zip(starts, sizes)]
    labels = torch.full((1, len(sizes), max(lengths)), -1)
    for row, length in enumerate(lengths):
        labels[0, row, :length] = torch.randint(CLASSES, (length,), generator=generator)
    return {
        "source": views,
        "padding_mask": [padding, padding.clone()],
        "labels": labels,
        "label_starts": torch.tensor(starts),
        "label_rate": 50,
    }


def alone(model: RSpin, batch: dict, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of both views of one utterance, without its padding, (2, F, D), and their labels (F,)."""
    size = int((~batch["padding_mask"][0][row]).sum())
    x = torch.cat([model.extract_features(view[row : row + 1, :size])["x"] for view in batch["source"]])
    # a frame starts every 320 samples, and so does a label at 50 Hz
    first = [round((int(batch["label_starts"][row]) + 320 * frame) / 320 + 1e-9) for frame in range(x.size(1))]
    return x, batch["labels"][0, row, first]


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_losses_and_gradients_are_those_of_plain_torch():
    """Utterances one by one, with torch's own functions: padding, batches and crops change nothing."""
    batch = random_batch(8000, 5000, 6500, starts=(0, 1280, 700))
    ours, plain = build(), build()
    loss, sample_size, log = DinoSRCriterion(None)(ours, {"id": torch.arange(3), "net_input": batch})
    loss.backward()

    utterances = [alone(plain, batch, row) for row in range(3)]
    x = torch.cat([frames for frames, _ in utterances], 1)  # (2, N, D)
    labels = torch.cat([of_row for _, of_row in utterances])
    per_view = [F.cross_entropy(plain.classifier(view), labels) for view in x]
    spin = plain.losses(scores := plain.scores(x), plain.targets(scores.detach())).losses["spin"]
    expected = spin + 5 * len(labels) * sum(per_view) / 2
    expected.backward()

    assert sample_size == len(labels)
    assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    assert_close(log["loss_aux"], 5 * len(labels) * (sum(per_view) / 2).detach(), rtol=1e-5, atol=1e-4)
    assert_close(log["loss_spin"], spin.detach(), rtol=1e-5, atol=1e-4)
    correct = sum((plain.classifier(view).argmax(-1) == labels).sum().item() for view in x)
    assert log["mean_aux_accuracy"] / sample_size == pytest.approx(correct / (2 * len(labels)))
    for (name, a), b in zip(ours.named_parameters(), plain.parameters()):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            assert_close(a.grad, b.grad, rtol=1e-4, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_everything_but_the_mask_is_trained():
    model = build()
    output = model(**random_batch(6000, 6000))
    sum(output.losses.values()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"mask_emb"}
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if p.grad is not None and "k_proj" not in n)


def test_the_front_end_and_layers_can_be_left_as_they_are():
    model = build(train_front_end=False, trained_layers=[-1])
    sum(model(**random_batch(6000, 6000)).losses.values()).backward()
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"projection", "codebook", "classifier", "encoder"}
    assert all(parameter.grad is None for parameter in model.encoder.layers[0].parameters())


def test_the_labels_of_a_crop_are_those_of_its_place_in_the_utterance():
    batch = random_batch(6400, starts=(3200,))
    batch["labels"][0, 0] = 0
    batch["labels"][0, 0, 10:] = 1  # from sample 3200 on
    model = build()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(F.one_hot(torch.tensor(1), CLASSES) * 100.0)
    output = model(**batch)
    assert output.scalars["aux_accuracy"] == 1 and output.losses["aux"] == 0
    assert model(**{**batch, "label_starts": torch.tensor([0])}).scalars["aux_accuracy"] < 1


def test_weights_of_the_criterion_apply_to_both_losses():
    batch, model = random_batch(6000, 5000), build()
    output = model(**batch)
    loss, _, _ = DinoSRCriterion(None, {"spin": 0.25, "aux": 2.0})(model, {"id": torch.arange(2), "net_input": batch})
    assert_close(loss, 0.25 * output.losses["spin"] + 2 * output.losses["aux"])
    assert_close(build(aux_weight=1.0)(**batch).losses["aux"] * 5, output.losses["aux"])


def test_a_dummy_batch_teaches_nothing():
    model = build()
    model.skip_batch(True)
    output = model(**random_batch(6000, 5000))
    total = sum(output.losses.values())
    total.backward()
    assert (total.item(), output.sample_size, float(output.scalars["aux_accuracy"])) == (0, 0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_without_labels_features_are_those_of_the_trunk():
    model, batch = build().eval(), random_batch(6000)
    wave = batch["source"][0]
    assert_close(model(wave, features_only=True)["x"], model.extract_features(wave)["x"])


# ---- settings --------------------------------------------------------------------------------------------------------


def test_all_layers_and_the_size_of_the_label_set_are_filled_in():
    cfg = config(trained_layers=[], num_classes=[], read_layer=0, encoder_layers=3)
    RSpin.configure(cfg, [9])
    assert (cfg.trained_layers, cfg.num_classes, cfg.encoder_layers) == ([0], [9], 1)
    model = RSpin(cfg)
    assert model.classifier.out_features == 9 and model.structure()["num_classes"] == [9]
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_classes": []}, r"model.num_classes=\[\]: R-Spin predicts one label set"),
        ({"num_classes": [3, 4]}, r"model.num_classes=\[3, 4\]: R-Spin predicts one label set"),
        ({"trained_layers": []}, r"model.trained_layers=\[\]: no layer is trained"),
        ({"trained_layers": [2]}, r"model.trained_layers=\[2\]: the model has 2 layers"),
        ({"aux_weight": -1.0}, "model.aux_weight=-1.0: must be between 0 and 1000000"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_labels_that_change_are_refused():
    task = SimpleNamespace(min_sample_size=8000, max_sample_size=None, relabel_every=2)
    with pytest.raises(UserError, match="task.relabel_every=2: R-Spin learns from fixed labels"):
        build().check(task)
    task.relabel_every = 0
    build().check(task)


# ---- other models and checkpoints ------------------------------------------------------------------------------------


def states_agree(a: torch.nn.Module, b: torch.nn.Module, but: str = "nothing") -> bool:
    theirs = b.state_dict()
    return all(torch.equal(v, theirs[name]) for name, v in a.state_dict().items() if name in theirs and but not in name)


def test_what_matches_is_taken_over_from_another_model(caplog):
    spin = Spin(SpinConfig(**SIZES))
    model = build(seed=1)
    model.start_from(spin, "spin.pt")
    assert states_agree(model, spin)
    classifier = model.classifier.weight.clone()

    again = build(seed=2)
    again.start_from(model, "r_spin.pt")
    assert states_agree(again, model) and torch.equal(again.classifier.weight, classifier)

    other = build(seed=3, num_classes=[4])
    with caplog.at_level(logging.WARNING):
        other.start_from(model, "r_spin.pt")
    assert "r_spin.pt: was trained with model.num_classes=[7], so that the classifier starts untrained" in caplog.text
    assert states_agree(other, model, but="classifier") and other.classifier.out_features == 4

    spin = Spin(SpinConfig(**SIZES))
    spin.start_from(model, "r_spin.pt")
    assert states_agree(spin, model)


def test_fine_tuning_removes_the_heads_and_reads_the_checkpoint():
    trained, model = build(), build(seed=1)
    model.remove_pretraining_modules(last_layer=1)
    assert model.classifier is None and model.projection is None and model.codebook is None
    model.load_state_dict(trained.state_dict())
    wave = torch.randn(1, 4000)
    assert_close(model.eval().extract_features(wave)["x"], trained.eval().extract_features(wave)["x"])

"""The HuBERT objective: parity with fairseq's model and criterion on the same inputs, masks and labels; settings."""

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from fairseq.criterions.hubert_criterion import HubertCriterion
from fairseq.data import Dictionary
from fairseq.models.hubert import HubertModel
from fairseq.models.hubert.hubert import HubertConfig as FairseqConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from torch.testing import assert_close

from dinosr_plugin.criterions.dinosr import DinoSRCriterion
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.hubert import Hubert, HubertConfig

SIZES = dict(
    conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    encoder_layers=2,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    dropout=0.0,
    attention_dropout=0.0,
    conv_pos=10,
    conv_pos_groups=4,
    final_dim=8,
)


def build(seed: int = 0, **changes) -> Hubert:
    torch.manual_seed(seed)
    return Hubert(HubertConfig(**{**SIZES, "num_classes": [12, 9], **changes})).train()


def fairseqs(classes: list[int], rate: int = 50, **changes) -> HubertModel:
    """fairseq's model; its dictionaries have four symbols more than labels."""
    dictionaries = []
    for n in classes:
        dictionaries.append(Dictionary())
        for label in range(n - len(dictionaries[-1])):
            dictionaries[-1].add_symbol(str(label))
    task = HubertPretrainingConfig(data="", label_rate=rate)
    torch.manual_seed(1)
    return HubertModel(FairseqConfig(**{**SIZES, "label_rate": rate, **changes}), task, dictionaries).train()


def random_batch(classes: list[int], samples: int = 9000, rows: int = 3, rate: int = 50, seed: int = 0):
    """source (B, T), labels (S, B, L) of whole utterances as long as the crops, mask_indices (B, F)."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(rows, samples, generator=generator)
    labels = torch.stack([torch.randint(n, (rows, samples * rate // 16000 + 1), generator=generator) for n in classes])
    masked = torch.rand(rows, (samples - 400) // 320 + 1, generator=generator) < 0.6
    return source, labels, masked


def compare(ours: Hubert, theirs: HubertModel, source, labels, masked, rate, penalty, padding_mask=None):
    """Loss, sample size and the gradient of every parameter, through the two criterions."""
    weights = {"features_pen": penalty}
    net_input = {
        "source": source,
        "padding_mask": padding_mask,
        "labels": labels,
        "label_starts": torch.zeros(len(source), dtype=torch.long),
    }
    net_input |= {"label_rate": rate, "mask_indices": masked}
    loss, sample_size, log = DinoSRCriterion(None, weights)(
        ours, {"id": torch.arange(len(source)), "net_input": net_input}
    )
    loss.backward()

    padding_mask = torch.zeros_like(source, dtype=torch.bool) if padding_mask is None else padding_mask
    sample = {
        "id": torch.arange(len(source)),
        "net_input": {"source": source, "padding_mask": padding_mask},
        "target_list": list(labels),
    }
    criterion = HubertCriterion(None, ours.cfg.pred_masked_weight, ours.cfg.pred_nomask_weight, [penalty])
    with mock.patch("fairseq.models.hubert.hubert.compute_mask_indices", return_value=masked.numpy()):
        expected, expected_size, expected_log = criterion(theirs, sample)
    expected.backward()

    assert sample_size == expected_size > 0
    assert_close(loss, expected, rtol=1e-5, atol=0)
    gradients = dict(theirs.named_parameters())
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        reference = gradients[name].grad
        if name.endswith("k_proj.bias"):  # 0 but for rounding: it moves all scores of a query alike
            assert parameter.grad.abs().max() < 1e-5 and reference.abs().max() < 1e-5, name
        elif reference is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            scale = float(reference.abs().max())
            assert_close(
                parameter.grad, reference, rtol=1e-5, atol=1e-5 * scale, msg=lambda text, name=name: f"{name}: {text}"
            )
    return log, expected_log


@pytest.mark.parametrize("untied", [True, False])
@pytest.mark.parametrize("classes", [[12], [12, 9], [9, 12, 12]])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 0.5), (0.0, 2.0), (0.3, 0.0)])
@pytest.mark.parametrize("extractor_mode, penalty", [("default", 10.0), ("layer_norm", 0.0)])
def test_is_fairseqs_hubert(untied, classes, weights, extractor_mode, penalty):
    shared = {"untie_final_proj": untied, "extractor_mode": extractor_mode, "feature_grad_mult": 0.1}
    theirs = fairseqs(classes, **shared)
    ours = build(num_classes=classes, pred_masked_weight=weights[0], pred_nomask_weight=weights[1], **shared)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    log, expected = compare(ours, theirs, *random_batch(classes), 50, penalty)
    if weights[0] > 0:
        accuracy = sum(expected[f"correct_m_{i}"] for i in range(len(classes))) / sum(
            expected[f"count_m_{i}"] for i in range(len(classes))
        )
        assert float(log["codebook_correct"].sum() / log["codebook_frames"].sum()) == pytest.approx(accuracy)


@pytest.mark.parametrize("skipped", ["skip_masked", "skip_nomask"])
def test_skipped_frames(skipped):
    weights = {"pred_masked_weight": 0.0, "pred_nomask_weight": 1.0} if skipped == "skip_masked" else {}
    theirs = fairseqs([12, 9], untie_final_proj=True, **{skipped: True})
    ours = build(**{skipped: True}, **weights, extractor_mode="default")
    ours.load_state_dict(theirs.state_dict())
    log, _ = compare(ours, theirs, *random_batch([12, 9]), 50, 10.0)
    assert "mean_unmasked_accuracy" not in log and log["codebook_frames"].tolist() == [log["ntokens"]] * 2


def test_labels_at_100_hz():
    theirs = fairseqs([12, 9], 100, untie_final_proj=True)
    ours = build(extractor_mode="default")
    ours.load_state_dict(theirs.state_dict())
    compare(ours, theirs, *random_batch([12, 9], rate=100), 100, 10.0)


def test_padded_batches():
    """... with layer norm and one positional convolution, for which fairseq's HuBERT does not depend on padding."""
    shared = {"extractor_mode": "layer_norm", "untie_final_proj": True}
    theirs, ours = fairseqs([12, 9], **shared), build(**shared)
    ours.load_state_dict(theirs.state_dict())
    source, labels, masked = random_batch(
        [12, 9], samples=28 * 334
    )  # fairseq cuts these into 28 frames of 334 samples each
    padding_mask = torch.arange(source.size(1)) >= torch.tensor([[28], [20], [15]]) * 334
    source = source.masked_fill(padding_mask, 0)
    frames = ours.frame_padding(source, padding_mask)
    assert torch.equal(frames, theirs.forward_padding_mask(torch.empty(3, 28, 1), padding_mask))
    compare(ours, theirs, source, labels, masked, 50, 0.0, padding_mask)


# ---- without fairseq -----------------------------------------------------------------------------------------------


def forward(model: Hubert, samples: int = 9000, labels=None, **inputs):
    source, drawn, masked = random_batch(model.num_classes, samples)
    labels = drawn if labels is None else labels
    inputs = {"mask_indices": masked, "label_starts": torch.zeros(len(source), dtype=torch.long), **inputs}
    return model(source, labels=labels, **inputs), masked


def test_losses_start_at_chance():
    """Cosines of an untrained model tell the labels hardly apart: about ln V nats for each label set."""
    output, masked = forward(build(num_classes=[100, 500], final_dim=256))
    chance = math.log(100) + math.log(500)
    assert chance - 0.5 < output.losses["hubert"] / masked.sum() < chance + 1.5
    assert output.sample_size == masked.sum() and set(output.losses) == {"hubert", "features_pen"}


def test_figures_of_label_sets_of_different_sizes():
    model = build(num_classes=[12, 5])
    output, masked = forward(model)
    sums = output.codebook_sums
    assert (
        sums["codes"].shape == sums["probs"].shape == (2, 12)
        and not sums["codes"][1, 5:].any()
        and not sums["probs"][1, 5:].any()
    )
    assert_close(sums["probs"].sum(1), torch.full((2,), float(masked.sum()), dtype=torch.float64), rtol=1e-5, atol=0)
    assert_close(sums["nll"].sum(), output.losses["hubert"].double(), rtol=1e-5, atol=0)
    assert 0 <= output.scalars["unmasked_accuracy"] <= 1


@pytest.mark.parametrize("front_end", ["conv", "fbank"])
def test_every_parameter_learns(front_end):
    output, _ = forward(build(front_end=front_end, n_mels=20))
    assert ("features_pen" in output.losses) == (front_end == "conv")  # log-Mel has nothing to learn
    model = build(front_end=front_end, n_mels=20)
    sum(forward(model)[0].losses.values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_the_penalty_does_not_see_padding():
    """An utterance's share of it is what it has alone."""
    model = build().eval()
    source, labels, masked = random_batch(model.num_classes, 9000, rows=1)
    alone = model(source, labels=labels, label_starts=torch.zeros(1, dtype=torch.long), mask_indices=masked)
    padded = F.pad(source, (0, 3200))
    padding_mask = torch.arange(padded.size(1)).unsqueeze(0) >= 9000
    together = model(
        padded,
        padding_mask,
        labels=labels,
        label_starts=torch.zeros(1, dtype=torch.long),
        mask_indices=F.pad(masked, (0, 10), value=True),
    )
    assert together.sample_size == alone.sample_size
    for name in alone.losses:
        assert_close(together.losses[name], alone.losses[name], rtol=1e-4, atol=0)


def test_one_step_after_another_lowers_the_loss():
    model = build(num_classes=[12])
    labels = torch.arange(29).div(3, rounding_mode="floor").expand(1, 3, -1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        output, masked = forward(model, labels=labels)
        losses.append(float(output.losses["hubert"].detach() / masked.sum()))
        optimizer.zero_grad()
        output.losses["hubert"].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_features_are_the_trunks():
    model = build().eval()
    source = torch.randn(1, 9000)
    assert_close(model(source, features_only=True, mask=False)["x"], model.extract_features(source)["x"])
    model.remove_pretraining_modules(last_layer=0)
    assert len(model.encoder.layers) == 1 and not any(
        name.startswith(("final_proj", "label_embs")) for name in model.state_dict()
    )


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"num_classes": []}, r"model.num_classes=\[\]: give a number for every label set"),
        ({"num_classes": [3, 1]}, r"model.num_classes=\[3, 1\]: must be between 2 and"),
        ({"mask_prob": 0.0}, "model.mask_prob=0.0 masks nothing"),
        ({"final_dim": 0}, "model.final_dim=0: must be between 1 and"),
        ({"logit_temp": 0.0}, "model.logit_temp=0.0: must be above 0"),
        ({"skip_masked": True}, "model.pred_masked_weight=1.0 must be 0 with model.skip_masked=true"),
        ({"skip_nomask": True, "pred_nomask_weight": 1.0}, "model.pred_nomask_weight=1.0 must be 0"),
        ({"pred_nomask_weight": -1.0}, "model.pred_nomask_weight=-1.0: must be between 0 and"),
        ({"pred_masked_weight": 0.0}, "both 0: nothing is learned"),
    ],
)
def test_settings_that_cannot_work(setting, message):
    with pytest.raises(UserError, match=message):
        build(**setting)

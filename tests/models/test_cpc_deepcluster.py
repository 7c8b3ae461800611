"""CPC+DeepCluster: the joint loss, which label an anchor has, and starting from a CPC checkpoint."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc_deepcluster import CPCDeepCluster, CPCDeepClusterConfig

SMALL = dict(encoder_channels=16, context_dim=16, steps=4, n_negatives=8, num_classes=[5])


def model_of(seed: int = 0, **changes) -> CPCDeepCluster:
    torch.manual_seed(seed)
    return CPCDeepCluster(CPCDeepClusterConfig(**{**SMALL, **changes}))


def windows(rows: int = 2, samples: int = 3200, classes: int = 5, labels: int = 60) -> dict:
    torch.manual_seed(1)
    inputs = {
        "source": torch.randn(rows, samples),
        "labels": torch.randint(classes, (1, rows, labels)),
        "label_rate": 100,
    }
    return {**inputs, "label_starts": torch.randint(labels * 160 - samples, (rows,))}


def test_loss_of_an_untrained_model():
    """58.32 of CPC and 12 times 3.912: 105.3."""
    torch.manual_seed(0)
    model = CPCDeepCluster(CPCDeepClusterConfig(num_classes=[50]))
    assert sum(p.numel() for p in model.classifier.parameters()) == 12_850
    with torch.no_grad():
        output = model(**windows(2, 20480, 50, 300))
    assert_close(
        sum(output.losses.values()) / output.sample_size,
        torch.tensor(12 * math.log(129) + 12 * math.log(50)),
        rtol=0.02,
        atol=0,
    )
    assert_close(output.scalars["cluster_loss"], torch.tensor(math.log(50)), rtol=0.02, atol=0)


@pytest.mark.parametrize("alpha", [12.0, 1.0, 0.0])
def test_joint_loss(alpha):
    """The unchanged loss of CPC plus alpha times the mean cross-entropy of the frames with K frames after them."""
    model, inputs = model_of(alpha=alpha), windows()
    output = model(**inputs)
    c = model.extract_features(inputs["source"])["x"][:, :16]
    picked = torch.stack(
        [
            labels[(start + 160 * torch.arange(16)) // 160]
            for labels, start in zip(inputs["labels"][0], inputs["label_starts"])
        ]
    )
    logits = c @ model.classifier.weight.T + model.classifier.bias
    assert output.sample_size == 32 and set(output.losses) == {"cpc", "clusters"}
    expected = F.cross_entropy(logits.reshape(32, 5), picked.reshape(32))
    assert_close(output.losses["clusters"] / 32, alpha * expected)
    assert_close(
        (output.scalars["cluster_loss"], output.scalars["cluster_accuracy"]),
        (expected.detach(), (logits.argmax(-1) == picked).float().mean()),
    )
    assert_close(output.losses["cpc"] / 32, sum(output.scalars[f"loss_{k}"] for k in range(1, 5)))


def test_alpha_0_teaches_the_classifier_nothing():
    for alpha, learns in ((0.0, False), (12.0, True)):
        model = model_of(alpha=alpha)
        sum(model(**windows()).losses.values()).backward()
        assert bool(model.classifier.weight.grad.any()) == learns and model.encoder.convolutions[0].weight.grad.any()
    losses = [model_of(alpha=alpha)(**windows()).losses["cpc"] for alpha in (0.0, 12.0)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    "start, first", [(0, 0), (1, 0), (159, 0), (160, 1), (319, 1), (320, 2), (1_000_000 * 160 - 1, 999_999)]
)
def test_first_label_of_a_window(start, first, monkeypatch):
    """floor(start / 160), and one more for each frame."""
    seen = {}
    monkeypatch.setattr(F, "cross_entropy", lambda logits, targets, **_: seen.update(targets=targets) or logits.sum())
    labels = torch.arange(first + 30) % 5
    model_of()(torch.randn(1, 3200), labels=labels.view(1, 1, -1), label_starts=torch.tensor([start]), label_rate=100)
    assert torch.equal(seen["targets"][0], labels[first : first + 16])


def test_labels_of_other_rates(monkeypatch):
    seen = {}
    monkeypatch.setattr(F, "cross_entropy", lambda logits, targets, **_: seen.update(targets=targets) or logits.sum())
    model_of(num_classes=[40])(
        torch.randn(1, 3200), labels=torch.arange(40).view(1, 1, -1), label_starts=torch.tensor([250]), label_rate=50
    )
    assert seen["targets"][0].tolist() == [(250 + 160 * t) // 320 for t in range(16)]


@pytest.mark.parametrize("classes", [[], [1], [5, 6]])
def test_label_sets_that_cannot_work(classes):
    with pytest.raises(UserError, match="model.num_classes"):
        model_of(num_classes=classes)


def test_a_negative_weight():
    with pytest.raises(UserError, match=r"model.alpha=-1.0: must be between 0 and 1000000"):
        model_of(alpha=-1.0)


def test_fine_tuning_removes_predictors_and_classifier():
    """... and takes the rest from the checkpoint of pre-training."""
    pretrained, model = model_of(), model_of(seed=1)
    model.remove_pretraining_modules()
    model.load_state_dict(pretrained.state_dict())
    state = model.state_dict()
    assert {name.split(".")[0] for name in state} == {"encoder", "context"}
    assert all(torch.equal(value, pretrained.state_dict()[name]) for name, value in state.items())

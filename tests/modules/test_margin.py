"""Additive angular margin: published values, angles, removed classes, gradients at the poles."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dinosr_plugin.modules.margin import AamSoftmax

S, M = 32.0, 0.2


def in_the_plane(*angles: float) -> torch.Tensor:
    """Vectors of length 3 at these angles."""
    return torch.tensor([[3 * math.cos(a), 3 * math.sin(a)] for a in angles])


def classifier(*angles: float) -> AamSoftmax:
    """Classes at these angles in the plane."""
    module = AamSoftmax(2, len(angles))
    with torch.no_grad():
        module.weight.copy_(in_the_plane(*angles) / 5)
    return module


def random_classifier(dim: int = 5, n_classes: int = 7, seed: int = 0) -> tuple[AamSoftmax, torch.Tensor, torch.Tensor]:
    """A classifier, embeddings (4, D) and labels (4,)."""
    torch.manual_seed(seed)
    return AamSoftmax(dim, n_classes), torch.randn(4, dim), torch.randint(n_classes, (4,))


def test_at_the_centre_of_the_class():
    logits = classifier(0, 1.0, 2.5)(in_the_plane(0), torch.tensor([0]))
    assert_close(logits, torch.tensor([[31.3621, S * math.cos(1.0), S * math.cos(2.5)]]), rtol=0, atol=1e-3)


@given(angle=st.floats(0.001, math.pi - 0.001), other=st.floats(0, 2 * math.pi))
def test_the_margin_is_added_to_the_angle_of_the_label(angle, other):
    """Beyond pi - m the logit continues to fall with the cosine."""
    logits = classifier(0, other)(in_the_plane(angle), torch.tensor([0]))
    target = math.cos(angle + M) if angle < math.pi - M else math.cos(angle) - M * math.sin(math.pi - M)
    assert_close(logits, torch.tensor([[S * target, S * math.cos(angle - other)]]), rtol=0, atol=0.02)


def test_the_logit_falls_with_the_angle_everywhere():
    angles = torch.linspace(0, math.pi, 500).tolist()
    logits = classifier(0)(in_the_plane(*angles), torch.zeros(500, dtype=torch.long)).squeeze(1)
    assert (logits.diff() < 1e-4).all()
    assert logits[0] == logits.max() and logits[-1] == logits.min()


@pytest.mark.parametrize("angle", [0.0, math.pi, 1e-4, math.pi - 1e-4, math.pi - M])
def test_finite_at_the_poles(angle):
    module = classifier(0, 1.0, math.pi)
    embeddings = in_the_plane(angle, angle).requires_grad_()
    logits = module(embeddings, torch.tensor([0, 2]))
    F.cross_entropy(logits, torch.tensor([0, 2])).backward()
    assert logits.isfinite().all() and embeddings.grad.isfinite().all() and module.weight.grad.isfinite().all()


def test_cosines_rounded_beyond_1_are_finite():
    cosine = torch.tensor([1.0, 1.0000002, -1.0, -1.0000002], requires_grad=True)
    found = AamSoftmax(2, 2).with_margin(cosine)
    found.sum().backward()
    assert_close(found[:2], torch.full((2,), math.cos(M)), rtol=0, atol=1e-5)
    assert found.isfinite().all() and cosine.grad.isfinite().all()


def test_without_labels_there_is_no_margin():
    module, embeddings, labels = random_classifier()
    expected = S * F.cosine_similarity(embeddings.unsqueeze(1), module.weight.unsqueeze(0), dim=2)
    found = module(embeddings)
    assert_close(found, expected, rtol=1e-5, atol=1e-4)
    with_margin = module(embeddings, labels)
    at_label = F.one_hot(labels, 7).bool()
    assert torch.equal(with_margin[~at_label], found[~at_label])
    assert (with_margin[at_label] < found[at_label]).all()


def test_norms_have_no_influence():
    module, embeddings, labels = random_classifier()
    expected = module(embeddings, labels)
    with torch.no_grad():
        module.weight.mul_(torch.rand(7, 1) + 0.5)
    assert_close(module(embeddings * 11, labels), expected, rtol=1e-4, atol=1e-4)


def test_removed_classes_have_no_probability_and_no_gradient():
    module, embeddings, _ = random_classifier()
    removed = torch.tensor([False, True, False, False, True, True, False])
    labels = torch.tensor([0, 2, 3, 6])
    logits = module(embeddings, labels, removed)
    F.cross_entropy(logits, labels).backward()
    assert (logits[:, removed] == float("-inf")).all() and logits[:, ~removed].isfinite().all()
    assert (logits.softmax(1)[:, removed] == 0).all()
    assert (module.weight.grad[removed] == 0).all() and (module.weight.grad[~removed].abs().sum(1) > 0).all()
    assert module.weight.grad.isfinite().all()
    alone = AamSoftmax(5, 4)
    with torch.no_grad():
        alone.weight.copy_(module.weight[~removed])
    assert_close(logits[:, ~removed], alone(embeddings, torch.arange(4)))


def test_a_removed_label_costs_infinitely_much():
    module, embeddings, labels = random_classifier()
    removed = F.one_hot(labels[0], 7).bool()
    assert F.cross_entropy(module(embeddings, labels, removed), labels, reduction="none")[0] == float("inf")


def test_the_gradient_equals_that_of_the_formula():
    module, embeddings, labels = random_classifier()
    embeddings.requires_grad_()
    F.cross_entropy(module(embeddings, labels), labels).backward()
    weight, double = (x.detach().double().requires_grad_() for x in (module.weight, embeddings))
    cosine = F.cosine_similarity(double.unsqueeze(1), weight.unsqueeze(0), dim=2)
    angle = cosine.acos() + M * F.one_hot(labels, 7)
    F.cross_entropy(S * angle.cos(), labels).backward()
    assert angle.max() < math.pi
    assert_close(embeddings.grad, double.grad.float(), rtol=1e-3, atol=1e-4)
    assert_close(module.weight.grad, weight.grad.float(), rtol=1e-3, atol=1e-4)


def test_float32_in_any_precision():
    module, embeddings, labels = random_classifier()
    expected = module(embeddings, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(embeddings, labels), expected)
    found = module.bfloat16()(embeddings.bfloat16(), labels)
    assert found.dtype == torch.float32
    assert_close(found, expected, rtol=0, atol=1.0)


def test_the_weight_is_the_only_parameter():
    module = AamSoftmax(5, 7)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == {"weight": (7, 5)}

"""Adam with an L2 penalty against a plain loop."""

import pytest
import torch
from fairseq.optim import build_optimizer
from omegaconf import OmegaConf
from torch import nn
from torch.testing import assert_close

from dinosr_plugin.runs.adam_l2 import AdamL2Config

LR, EPS, DECAY = 0.01, 1e-3, 0.1


def optimizer_of(params: list[nn.Parameter], betas):
    fields = {"_name": "adam_l2", "lr": [LR], "adam_betas": betas, "adam_eps": EPS, "weight_decay": DECAY}
    return build_optimizer(OmegaConf.merge(OmegaConf.structured(AdamL2Config), OmegaConf.create(fields)), params)


@pytest.mark.parametrize("betas", ["(0.8,0.9)", [0.8, 0.9]])
def test_updates_equal_those_of_a_plain_loop(betas):
    """The penalty is part of both moments, of all parameters, vectors included; a resumed run continues exactly."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (4,))]
    expected = [p.detach().double() for p in params]
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in expected]
    optimizer = optimizer_of(params, betas)
    for step in range(1, 6):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=generator) * 10 ** -(2 * i)
            gradient = p.grad.double() + DECAY * expected[i]
            first, second = moments[i]
            first.mul_(0.8).add_(0.2 * gradient)
            second.mul_(0.9).add_(0.1 * gradient.square())
            root = (second / (1 - 0.9**step)).sqrt() + EPS
            expected[i] = expected[i] - LR * first / (1 - 0.8**step) / root
        optimizer.step()
        if step == 2:
            saved = optimizer.state_dict()
            optimizer = optimizer_of(params, betas)
            optimizer.load_state_dict(saved)
    for p, value in zip(params, expected):
        assert_close(p.detach().double(), value, rtol=1e-5, atol=1e-6)


def test_float32_copies_may_be_one_vector():
    """The penalty is the same for all parameters; fairseq asks this before it joins them on a GPU."""
    optimizer = optimizer_of([nn.Parameter(torch.ones(3))], "(0.9,0.999)")
    assert optimizer.supports_flat_params and not optimizer.supports_memory_efficient_fp16

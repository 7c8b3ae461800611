"""The fused Adam computes what fairseq's Adam does."""

import pytest
import torch
from fairseq.optim.adam import Adam


def fairseqs_adam(p, grad, state: dict, lr: float, betas, eps: float, weight_decay: float):
    """The reference: one step on one parameter as in fairseq's code, in float64."""
    state["step"] += 1
    state["exp_avg"] = betas[0] * state["exp_avg"] + (1 - betas[0]) * grad
    state["exp_avg_sq"] = betas[1] * state["exp_avg_sq"] + (1 - betas[1]) * grad**2
    size = lr * (1 - betas[1] ** state["step"]) ** 0.5 / (1 - betas[0] ** state["step"])
    return p * (1 - weight_decay * lr) - size * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + eps)


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_fairseqs_adam(eps, weight_decay):
    """Also with gradients the size of eps, a parameter without gradients in some updates, and a loaded checkpoint."""
    settings = {"lr": 0.01, "betas": (0.9, 0.98), "eps": eps, "weight_decay": weight_decay}
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 5), (7,), (2, 3, 4))]
    expected = [p.detach().double() for p in parameters]
    states = [{"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)} for p in expected]
    optimizer = Adam(parameters, **settings)
    for number in range(6):
        for i, p in enumerate(parameters):
            p.grad = None
            if i != 1 or number % 2:
                p.grad = torch.randn(p.shape, generator=generator) * 10 ** (i - 3)
                expected[i] = fairseqs_adam(expected[i], p.grad.double(), states[i], **settings)
        optimizer.step()
        if number == 3:
            saved = optimizer.state_dict()
            optimizer = Adam(parameters, **settings)
            optimizer.load_state_dict(saved)
        for p, value in zip(parameters, expected):
            torch.testing.assert_close(p.detach().double(), value, rtol=1e-6, atol=1e-6)
    for i, state in enumerate(states):
        saved = optimizer.state_dict()["state"][i]
        assert saved.keys() == {"step", "exp_avg", "exp_avg_sq"} and saved["step"] == state["step"]


@pytest.mark.parametrize("dtype, amsgrad", [(torch.bfloat16, False), (torch.float32, True)])
def test_unsupported_parameters_are_left_to_fairseq(dtype, amsgrad, monkeypatch):
    monkeypatch.setattr(torch, "_fused_adamw_", None)
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    p.grad = torch.ones_like(p)
    Adam([p], lr=0.1, amsgrad=amsgrad).step()
    assert torch.allclose(p.float(), torch.full((3,), 0.9), atol=0.01)

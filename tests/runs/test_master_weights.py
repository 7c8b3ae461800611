"""The tensor that the optimiser moves for a parameter, and rows of norm 1, for each of fairseq's optimisers."""

import inspect

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import build_optimizer
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf
from torch import nn
from torch.testing import assert_close

from dinosr_plugin.runs.master_weights import master_weight, normalize_rows


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    """A vector, the matrix whose rows are normalised, and another matrix."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5,), (4, 6), (3, 2))
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


@pytest.fixture
def optimizer(monkeypatch):
    """optimizer(kind, parameters) -> fairseq's optimiser. On a CPU its vector of all parameters has the device None."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    build_flat = inspect.unwrap(FP16Optimizer.build_optimizer)  # without what the plug-in changes on a CPU

    def build(kind: str, params: list[nn.Parameter]):
        cfg = OmegaConf.structured(FairseqConfig)
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, enum_to_str=True))
        cfg.optimizer = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(FairseqAdamConfig)))
        cfg.optimizer.update({"_name": "adam", "lr": [0.1], "use_old_adam": True})
        cfg.common.fp16_no_flatten_grads, cfg.common.bf16 = "no flat" in kind, "bf16" in kind
        if kind == "float32":
            return build_optimizer(cfg.optimizer, params)
        if "memory" in kind:
            return MemoryEfficientFP16Optimizer.build_optimizer(cfg, params)
        return build_flat(cfg, params)

    return build


KINDS = {
    "float32": torch.float32,
    "fp16": torch.float16,
    "fp16, no flat copies": torch.float16,
    "bf16": torch.bfloat16,
    "memory-efficient fp16": torch.float16,
    "memory-efficient bf16": torch.bfloat16,
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_have_norm_1_and_keep_it_in_the_next_step(optimizer, kind):
    """The next step starts from these rows: with a gradient of zero it changes nothing. Nothing else is changed."""
    params = parameters(KINDS[kind])
    before = [p.detach().clone() for p in params]
    built = optimizer(kind, params)
    assert getattr(built, "has_flat_params", False) is (kind == "fp16")
    normalize_rows([params[1]], built)
    copied = not kind.startswith(("float32", "memory"))
    master = master_weight(params[1], built)
    assert (master.data_ptr() != params[1].data_ptr()) is copied
    assert master.dtype == (torch.float32 if copied else KINDS[kind])
    expected = before[1].float() / before[1].float().norm(dim=1, keepdim=True)
    assert_close(master, expected.to(master.dtype)) if copied else assert_close(
        master.float(), expected, rtol=0, atol=4e-3
    )
    assert torch.equal(params[1], expected.to(KINDS[kind])) or kind == "float32"
    assert all(torch.equal(params[i], before[i]) for i in (0, 2))
    rows = params[1].detach().clone()
    for p in params:
        p.grad = torch.zeros_like(p)
    built._needs_sync = True
    built.step()
    assert torch.equal(params[1], rows) and all(torch.equal(params[i], before[i]) for i in (0, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_the_optimiser_are_those_of_the_tensor(optimizer, kind):
    """After a step with gradients, the tensor rounded to the parameter's precision is the parameter."""
    params = parameters(KINDS[kind])
    built = optimizer(kind, params)
    for p in params:
        p.grad = torch.ones_like(p)
    built._needs_sync = True
    before = [p.detach().clone() for p in params]
    built.step()
    for p, old in zip(params, before):
        assert torch.equal(master_weight(p, built).to(p.dtype), p) and not torch.equal(p, old)


@pytest.mark.parametrize("kind", ["fp16", "fp16, no flat copies"])
def test_a_parameter_that_the_optimiser_does_not_move(optimizer, kind):
    with pytest.raises(ValueError, match="the optimiser does not move this parameter"):
        master_weight(nn.Parameter(torch.ones(2, 2).half()), optimizer(kind, parameters(torch.float16)))


def test_a_row_of_zeros_stays(optimizer):
    params = parameters(torch.float32)
    params[1].data[2] = 0
    normalize_rows([params[1]], optimizer("float32", params))
    assert params[1].norm(dim=1).tolist() == pytest.approx([1, 1, 0, 1])

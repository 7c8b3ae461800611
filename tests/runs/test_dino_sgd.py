"""DINO's SGD against a plain loop, also behind the loss scale of fp16; parameters that are not trained yet."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import build_optimizer
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.fp16_optimizer import FP16Optimizer
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.runs.dino_sgd import DinoSgdConfig, keep_parameters_separate
from dinosr_plugin.runs.master_weights import drop_gradients

LR, MOMENTUM, DECAY, LIMIT = 0.1, 0.9, 0.01, 0.5
SHAPES = (4, 3), (4,), (2, 3, 2), ()


def config(optimizer=DinoSgdConfig, name: str = "dino_sgd", **fields):
    """fairseq's whole config, with this optimiser."""
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(FairseqConfig), enum_to_str=True))
    cfg.optimizer = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(optimizer)))
    cfg.optimizer.update({"_name": name, "lr": [LR], **fields})
    return cfg


SETTINGS = {"momentum": MOMENTUM, "weight_decay": DECAY, "clip_each": LIMIT}


def values(seed: int, scale: float = 1.0) -> list[Tensor]:
    """Of norms above and below the limit, with few digits, so that half precision has them all."""
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randint(-8, 9, shape, generator=generator) / 64 * 2**i for i, shape in enumerate(SHAPES)]


class PlainSgd:
    """One parameter after the other: clip, decay, momentum, step."""

    def __init__(self, parameters: list[Tensor]):
        self.parameters = [p.double() for p in parameters]
        self.buffers: list[Tensor | None] = [None] * len(parameters)
        self.clipped = 0

    def step(self, gradients: list[Tensor | None]) -> None:
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            gradient = gradient.double()
            factor = LIMIT / (gradient.square().sum().sqrt() + 1e-6)
            if factor < 1:
                gradient, self.clipped = factor * gradient, self.clipped + 1
            if self.parameters[i].dim() > 1:
                gradient = gradient + DECAY * self.parameters[i]
            before = self.buffers[i]
            self.buffers[i] = gradient if before is None else MOMENTUM * before + gradient
            self.parameters[i] = self.parameters[i] - LR * self.buffers[i]


@pytest.mark.parametrize("resumed", [False, True])
def test_updates_equal_those_of_a_plain_loop(resumed):
    params = [nn.Parameter(value) for value in values(0)]
    plain, optimizer = PlainSgd([p.detach() for p in params]), build_optimizer(config(**SETTINGS).optimizer, params)
    for number in range(5):
        gradients = values(1 + number)
        if number == 1:
            gradients[2] = None
        for p, gradient in zip(params, gradients):
            p.grad = None if gradient is None else gradient.clone()
        optimizer.step()
        plain.step(gradients)
        if resumed and number == 2:
            saved = optimizer.state_dict()
            optimizer = build_optimizer(config(**SETTINGS).optimizer, params)
            optimizer.load_state_dict(saved)
    assert 0 < plain.clipped < 5 * len(params) - 1  # some are clipped and some are not
    for p, expected in zip(params, plain.parameters):
        assert_close(p.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_without_a_limit_it_is_torchs():
    params, theirs = ([nn.Parameter(value) for value in values(0)] for _ in range(2))
    optimizer = build_optimizer(config(momentum=MOMENTUM, weight_decay=DECAY, clip_each=0).optimizer, params)
    vectors = {"params": [theirs[1], theirs[3]], "weight_decay": 0.0}
    reference = torch.optim.SGD([{"params": [theirs[0], theirs[2]]}, vectors], LR, MOMENTUM, weight_decay=DECAY)
    for number in range(3):
        for p, other, gradient in zip(params, theirs, values(1 + number, scale=100.0)):
            p.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    assert all(torch.equal(p, other) for p, other in zip(params, theirs))


def half_precision(params: list[nn.Parameter], cfg, scale: float = 1024.0) -> FP16Optimizer:
    cfg.common.update({"fp16": True, "fp16_init_scale": scale, "fp16_scale_window": 1000})
    optimizer = FP16Optimizer.build_optimizer(cfg, params)
    optimizer.zero_grad()
    return optimizer


def scaled_update(optimizer: FP16Optimizer, params: list[nn.Parameter], batches: list[list[Tensor]]) -> None:
    """As fairseq's trainer: gradients of the scaled loss add up over micro-batches and are divided by their number."""
    optimizer.zero_grad()
    for gradients in batches:
        optimizer.backward(sum((p * g.to(p.dtype)).sum() for p, g in zip(params, gradients)))
    optimizer.multiply_grads(1 / len(batches))
    optimizer.clip_grad_norm(0.0)
    optimizer.step()


def test_the_limit_applies_to_the_gradient_without_the_loss_scale():
    """Two micro-batches; the float32 copies move as in float32."""
    params = [nn.Parameter(value.half()) for value in values(0)]
    plain, optimizer = PlainSgd([p.detach() for p in params]), half_precision(params, config(**SETTINGS))
    for number in range(4):
        batches = [values(2 * number + 1), values(2 * number + 2)]
        scaled_update(optimizer, params, batches)
        plain.step([(one + other) / 2 for one, other in zip(*batches)])
    assert 0 < plain.clipped < 4 * len(params)
    for copy, expected in zip(optimizer.fp32_params, plain.parameters, strict=True):
        assert_close(copy.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_an_overflow_changes_nothing():
    params = [nn.Parameter(value.half()) for value in values(0)]
    optimizer = half_precision(params, config(**SETTINGS), scale=2.0**20)
    before = [p.detach().clone() for p in params]
    with pytest.raises(OverflowError):
        scaled_update(optimizer, params, [values(1)])
    assert all(torch.equal(p, old) for p, old in zip(params, before)) and not optimizer.state_dict()["state"]


@pytest.mark.parametrize("name, separate", [("dino_sgd", True), ("adam", False)])
def test_float32_copies_are_separate(monkeypatch, name, separate):
    """On a GPU fairseq joins them otherwise; the config of the run stays as it is."""
    received = []
    fake = SimpleNamespace(build_optimizer=lambda cfg, params: received.append(cfg.common.fp16_no_flatten_grads))
    monkeypatch.setattr("fairseq.optim.fp16_optimizer.FP16Optimizer", fake)
    keep_parameters_separate()
    cfg = config(name=name)
    fake.build_optimizer(cfg, [])
    assert received == [separate] and cfg.common.fp16_no_flatten_grads is False


@pytest.mark.parametrize("half", [False, True])
def test_a_parameter_whose_gradient_is_dropped_stays_with_its_momentum(half):
    params = [nn.Parameter(value.half() if half else value) for value in values(0)]
    cfg = config(**SETTINGS)
    optimizer = half_precision(params, cfg) if half else build_optimizer(cfg.optimizer, params)
    plain = PlainSgd([p.detach() for p in params])
    for number in range(4):
        gradients: list[Tensor | None] = values(1 + number)
        optimizer.zero_grad()
        optimizer.backward(sum((p * g.to(p.dtype)).sum() for p, g in zip(params, gradients)))
        optimizer.clip_grad_norm(0.0)
        if number in (0, 2):
            drop_gradients([params[0]], optimizer)
            gradients[0] = None
        optimizer.step()
        plain.step(gradients)
    copies = optimizer.fp32_params if half else params
    for copy, p, expected in zip(copies, params, plain.parameters, strict=True):
        assert_close(copy.detach().double(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(copy.to(p.dtype), p)


def test_one_vector_of_copies_is_refused(monkeypatch):
    """That of fairseq's Adam on a GPU."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    params = [nn.Parameter(value.half()) for value in values(0)]
    build = inspect.unwrap(FP16Optimizer.build_optimizer)
    optimizer = build(config(FairseqAdamConfig, "adam", use_old_adam=True), params)
    assert optimizer.has_flat_params
    with pytest.raises(UserError, match="^common.fp16_no_flatten_grads=False: .* set common.fp16_no_flatten_grads=Tr"):
        drop_gradients([params[0]], optimizer)

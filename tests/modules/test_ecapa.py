"""ECAPA-TDNN: published number of parameters, a plain implementation, gradients, names of the parameters."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dinosr_plugin.modules.ecapa import EcapaTdnn

SIZES = dict(
    n_mels=7, channels=(8, 8, 8, 12), kernels=(5, 3, 3, 1), dilations=(1, 2, 3, 1), res2net_scale=4, se_width=3,
    attention_width=5, embedding_dim=6,
)  # fmt: skip


def encoder(training: bool = False) -> EcapaTdnn:
    """A small one in which no normalisation is the identity."""
    torch.manual_seed(0)
    model = EcapaTdnn(**SIZES)
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model.train(training)


def frames(rows: int = 3, length: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 7, length, generator=torch.Generator().manual_seed(seed))


class Plain:
    """The small encoder in eval mode, layer by layer, from its state dict."""

    def __init__(self, state: dict[str, torch.Tensor]):
        self.state = state

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_relu_norm("first", x, 5, 1)
        blocks = []
        for number, dilation in ((0, 2), (1, 3)):
            x = self.block(f"blocks.{number}", x, dilation)
            blocks.append(x)
        pooled = self.pooled(self.conv_relu_norm("last", torch.cat(blocks, 1), 1, 1))
        return self.linear("embedding", self.norm("norm", pooled))

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, D), also with the weight of a convolution of width 1."""
        return x @ self.state[f"{name}.weight"].flatten(1).T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean, variance, weight, bias = (
            self.state[f"{name}.{part}"].view(1, -1, *[1] * (x.dim() - 2))
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def conv_relu_norm(self, name: str, x: torch.Tensor, kernel: int, dilation: int) -> torch.Tensor:
        weight, side = self.state[f"{name}.conv.weight"], dilation * (kernel // 2)
        length = x.size(2)
        places = torch.arange(-side, length + side).abs()
        padded = x[:, :, torch.minimum(places, 2 * (length - 1) - places)]  # reflected at both ends
        y = sum(
            torch.einsum("dc,bcf->bdf", weight[:, :, k], padded[:, :, k * dilation : k * dilation + length])
            for k in range(kernel)
        )
        return self.norm(f"{name}.norm", (y + self.state[f"{name}.conv.bias"].unsqueeze(1)).clamp(min=0))

    def block(self, name: str, x: torch.Tensor, dilation: int) -> torch.Tensor:
        y = self.conv_relu_norm(f"{name}.before", x, 1, 1)
        a, b, c, d = y[:, 0:2], y[:, 2:4], y[:, 4:6], y[:, 6:8]
        b = self.conv_relu_norm(f"{name}.res2net.groups.0", b, 3, dilation)
        c = self.conv_relu_norm(f"{name}.res2net.groups.1", c + b, 3, dilation)
        d = self.conv_relu_norm(f"{name}.res2net.groups.2", d + c, 3, dilation)
        y = self.conv_relu_norm(f"{name}.after", torch.cat([a, b, c, d], 1), 1, 1)
        squeezed = self.linear(f"{name}.excitation.squeeze", y.mean(2)).clamp(min=0)
        return y * self.linear(f"{name}.excitation.excite", squeezed).sigmoid().unsqueeze(2) + x

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = x.mean(2, keepdim=True).expand_as(x), x.std(2, correction=0, keepdim=True).expand_as(x)
        below = torch.cat([x, mean, deviation], 1).transpose(1, 2)  # (B, F, 3 C)
        hidden = self.linear("pooling.hidden", below).clamp(min=0).transpose(1, 2)  # (B, A, F)
        hidden = self.norm("pooling.norm", hidden).tanh().transpose(1, 2)
        weights = self.linear("pooling.scores", hidden).softmax(1).transpose(1, 2)  # (B, C, F)
        mean = (weights * x).sum(2)
        return torch.cat([mean, ((weights * x.square()).sum(2) - mean.square()).clamp(min=1e-12).sqrt()], 1)


def test_number_of_parameters():
    """That of SpeechBrain's ECAPA_TDNN with these sizes (lin_neurons=512; 20,767,552 with its default of 192)."""
    with torch.device("meta"):
        assert sum(p.numel() for p in EcapaTdnn().parameters()) == 22_733_952
        assert sum(p.numel() for p in EcapaTdnn(embedding_dim=192).parameters()) == 20_767_552


def test_it_equals_a_plain_implementation():
    model = encoder()
    found = model(frames())
    assert found.shape == (3, 6)
    assert_close(found, Plain(model.state_dict())(frames()), rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(rows=st.integers(2, 5), length=st.integers(7, 40), seed=st.integers(0, 999))
def test_an_embedding_does_not_depend_on_the_batch(rows, length, seed):
    model, x = encoder(), frames(rows, length, seed)
    together = model(x)
    assert_close(model(x.flip(0)).flip(0), together, rtol=1e-4, atol=1e-5)
    assert_close(torch.cat([model(row) for row in x.split(1)]), together, rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_finite_gradient():
    model = encoder(training=True)
    model(frames(4)).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


def test_it_learns_to_tell_two_voices_apart():
    """Two spectra in noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8) % 2
    x = torch.randn(8, 7, 20, generator=generator)
    x[labels == 1, :3] += 1.0
    model = encoder(training=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(x)[:, :2], labels).backward()
        optimizer.step()
    assert F.cross_entropy(model(x)[:, :2], labels) < 0.05


def test_bfloat16_autocast_is_close_to_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder()(frames())
    assert F.cosine_similarity(found.float(), encoder()(frames())).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_close_to_float32(dtype):
    found = encoder().to(dtype)(frames().to(dtype))
    assert found.dtype == dtype
    assert F.cosine_similarity(found.float(), encoder()(frames())).min() > 0.99


def test_names_of_the_parameters():
    """Checkpoints have them."""
    layers = {"first", "last"}
    for block in ("blocks.0", "blocks.1"):
        layers |= {f"{block}.{layer}" for layer in ("before", "after", *(f"res2net.groups.{i}" for i in range(3)))}
    pairs = {f"{layer}.{part}" for layer in layers for part in ("conv", "norm")} | {"embedding", "norm"}
    pairs |= {f"pooling.{part}" for part in ("hidden", "norm", "scores")}
    pairs |= {f"blocks.{i}.excitation.{part}" for i in range(2) for part in ("squeeze", "excite")}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    expected = {f"{pair}.{part}" for pair in pairs for part in ("weight", "bias")}
    expected |= {f"{pair}.{part}" for pair in pairs if pair.endswith("norm") for part in buffers}
    assert set(encoder().state_dict()) == expected


def test_it_is_saved_and_loaded(tmp_path):
    trained = encoder(training=True)
    trained(frames())
    torch.save(trained.state_dict(), tmp_path / "encoder.pt")
    other = EcapaTdnn(**SIZES)
    other.load_state_dict(torch.load(tmp_path / "encoder.pt", weights_only=True))
    assert torch.equal(other.eval()(frames()), trained.eval()(frames()))


@pytest.mark.parametrize(
    "sizes",
    [
        dict(kernels=(5, 3, 3)),
        dict(dilations=(1, 2, 3, 4, 1)),
        dict(channels=(8, 8, 16, 12)),
        dict(channels=(8, 12), kernels=(5, 1), dilations=(1, 1)),
        dict(res2net_scale=3),
    ],
)
def test_sizes_that_do_not_fit_together(sizes):
    with pytest.raises(ValueError):
        EcapaTdnn(**SIZES | sizes)

"""DINO's projection head: sizes, a plain implementation, precision."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dinosr_plugin.modules.dino_head import DinoHead


def head(training: bool = False, **sizes) -> DinoHead:
    torch.manual_seed(0)
    module = DinoHead(**dict(dim=5, hidden=(8, 7, 9), bottleneck=4, n_outputs=11) | sizes)
    for name, tensor in module.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bias")):
            tensor.uniform_(0.2, 1.5)
    return module.train(training)


def embeddings(rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))


def plain(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """In eval mode."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"mlp.{name}.weight"].T + state[f"mlp.{name}.bias"]

    for layer, norm in (("0", "1"), ("3", "4")):
        x = linear(layer, x)
        x = (x - state[f"mlp.{norm}.running_mean"]) / (state[f"mlp.{norm}.running_var"] + 1e-5).sqrt()
        x = x * state[f"mlp.{norm}.weight"] + state[f"mlp.{norm}.bias"]
        x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    x = linear("7", linear("6", x))
    directions = state["last_layer.weight"]
    return (x / x.norm(dim=1, keepdim=True)) @ (directions / directions.norm(dim=1, keepdim=True)).T


def test_number_of_parameters_with_the_default_sizes():
    with torch.device("meta"):
        found = sum(p.numel() for p in DinoHead().parameters())
    mlp = (512 + 1 + 2) * 2048 + (2048 + 1 + 2) * 2048 + (2048 + 1) * 8192  # weights, biases, batch norm
    assert found == mlp + (8192 + 1) * 256 + 256 * 65536


def test_it_equals_a_plain_implementation():
    module = head()
    assert_close(module(embeddings()), plain(module.state_dict(), embeddings()), rtol=1e-4, atol=1e-5)


def test_outputs_are_cosines_whatever_the_norm_of_the_last_layer():
    module = head()
    expected = module(embeddings())
    assert expected.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        module.last_layer.weight.mul_(torch.rand(11, 1) * 9 + 1)
    assert_close(module(embeddings()), expected)


def test_a_row_does_not_depend_on_the_batch_in_eval_mode():
    module = head()
    together = module(embeddings())
    assert_close(torch.cat([module(row) for row in embeddings().split(1)]), together, rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_finite_gradient():
    module = head(training=True)
    F.cross_entropy(module(embeddings()) / 0.1, torch.arange(6)).backward()
    for name, p in module.named_parameters():
        assert p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_the_norm_and_the_last_layer_are_float32_under_autocast():
    module = head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(embeddings())
        hidden = module.mlp(embeddings())
    assert hidden.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert_close(found, F.normalize(hidden.float()) @ F.normalize(module.last_layer.weight).T)


@pytest.mark.parametrize("hidden", [(9,), (8, 9), (8, 7, 6, 9)])
def test_any_number_of_hidden_layers(hidden):
    module = head(hidden=hidden)
    widths = [layer.out_features for layer in module.mlp if isinstance(layer, torch.nn.Linear)]
    assert widths == [*hidden, 4]
    assert sum(isinstance(layer, torch.nn.BatchNorm1d) for layer in module.mlp) == len(hidden) - 1
    assert module(embeddings()).shape == (6, 11)


def test_names_of_the_parameters_and_saving(tmp_path):
    module = head(training=True)
    module(embeddings())
    norms = {f"mlp.{i}.{part}" for i in (1, 4) for part in ("running_mean", "running_var", "num_batches_tracked")}
    expected = {f"mlp.{i}.{part}" for i in (0, 1, 3, 4, 6, 7) for part in ("weight", "bias")} | norms
    assert set(module.state_dict()) == expected | {"last_layer.weight"}
    torch.save(module.state_dict(), tmp_path / "head.pt")
    other = head()
    other.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    assert torch.equal(other(embeddings()), module.eval()(embeddings()))

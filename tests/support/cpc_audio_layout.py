"""Checkpoints in the layout of CPC_audio, made of plain torch modules with its names, and the outputs of such a model.

They stand in for published checkpoints, which the tests do not download.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = 16
SHAPES = [(10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1)]


class ChannelNorm(nn.Module):
    """CPC_audio's channel norm: x (B, C, T), over C; parameters are (1, C, 1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(1, channels, 1)), nn.Parameter(torch.randn(1, channels, 1))

    def forward(self, x):
        variance, mean = torch.var_mean(x, 1, keepdim=True)  # unbiased
        return (x - mean) / (variance + 1e-5).sqrt() * self.weight + self.bias


NORMS = {
    "channel": ChannelNorm,
    "batch": nn.BatchNorm1d,
    "instance": lambda n: nn.InstanceNorm1d(n, affine=True),
    "none": lambda n: nn.Identity(),
}


def reference(
    norm: str = "channel", recurrent=nn.LSTM, layers: int = 2, width: int = CHANNELS, seed: int = 0
) -> nn.ModuleDict:
    torch.manual_seed(seed)
    encoder = nn.ModuleDict()
    for i, shape in enumerate(SHAPES):
        encoder[f"conv{i}"] = nn.Conv1d(CHANNELS if i else 1, CHANNELS, *shape)
        encoder[f"batchNorm{i}"] = NORMS[norm](CHANNELS)
        for value in encoder[f"batchNorm{i}"].state_dict().values():
            value.copy_(1 + torch.rand_like(value.float()))
    context = nn.ModuleDict({"baseNet": recurrent(CHANNELS, width, num_layers=layers, batch_first=True)})
    return nn.ModuleDict({"gEncoder": encoder, "gAR": context}).eval()


@torch.no_grad()
def encode(model: nn.ModuleDict, wave: torch.Tensor):
    """(T,) -> z (F, C), c (F, D)."""
    x = wave.view(1, 1, -1)
    for i in range(5):
        x = F.relu(model["gEncoder"][f"batchNorm{i}"](model["gEncoder"][f"conv{i}"](x)))
    return x[0].T, model["gAR"]["baseNet"](x.transpose(1, 2))[0][0]


def linear_predictors(width: int = CHANNELS, steps: int = 12) -> dict:
    return {f"wPrediction.predictors.{k}.weight": torch.randn(CHANNELS, width) for k in range(steps)}


def transformer_predictors(anchors: int, heads: int = 8, feed_forward: int = 8 * CHANNELS, steps: int = 12) -> dict:
    state = {}
    for k in range(steps):
        at = f"wPrediction.predictors.{k}.0."
        shapes = {f"multihead.W{letter}.weight": (CHANNELS, CHANNELS) for letter in "okqv"} | {
            "multihead.Att.Krelpos": (CHANNELS // heads, anchors)
        }
        shapes |= {
            f"{norm}.{part}": (CHANNELS,) for norm in ("ln_multihead", "ln_ffnetwork") for part in ("weight", "bias")
        }
        shapes |= {"ffnetwork.lin1.weight": (feed_forward, CHANNELS), "ffnetwork.lin1.bias": (feed_forward,)}
        shapes |= {"ffnetwork.lin2.weight": (CHANNELS, feed_forward), "ffnetwork.lin2.bias": (CHANNELS,)}
        state |= {at + name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
        state |= {
            at + "multihead.Att.z": torch.zeros(1, anchors, 1),
            at + "multihead.Att.mask": torch.full((1, anchors, anchors), -torch.inf).triu(1),
        }
    return state


def transformer_prediction(state: dict, k: int, c: torch.Tensor) -> torch.Tensor:
    """c (W, D) -> (W, D): post-LN, 8 heads.

    The scores of positions are moved into place as published: a column of zeros is added, then the matrix is viewed
    with rows of another length.
    """
    get = lambda name: state[f"wPrediction.predictors.{k}.0.{name}"]
    W = len(c)
    q, key, value = (
        F.linear(c, get(f"multihead.W{letter}.weight")).view(W, 8, -1).transpose(0, 1) for letter in "qkv"
    )  # (H, W, D/H)
    positions = F.pad(q @ get("multihead.Att.Krelpos"), (1, 0)).view(8, W + 1, W)[:, 1:]
    scores = (q @ key.transpose(1, 2) + positions) / q.size(-1) ** 0.5 + get("multihead.Att.mask")
    y = F.linear((scores.softmax(-1) @ value).transpose(0, 1).reshape(W, -1), get("multihead.Wo.weight"))
    y = F.layer_norm(c + y, c.shape[1:], get("ln_multihead.weight"), get("ln_multihead.bias"))
    hidden = F.relu(F.linear(y, get("ffnetwork.lin1.weight"), get("ffnetwork.lin1.bias")))
    y = y + F.linear(hidden, get("ffnetwork.lin2.weight"), get("ffnetwork.lin2.bias"))
    return F.layer_norm(y, c.shape[1:], get("ln_ffnetwork.weight"), get("ln_ffnetwork.bias"))


def save(folder: Path, model, criterion: dict, args: dict | None = {}, prefix: str = "", **more) -> Path:  # noqa: B006  (never changed)
    """Writes a checkpoint as CPC_audio's training does, and the options in a file next to it; returns the former."""
    weights = model if isinstance(model, dict) else model.state_dict()
    shared = lambda state: {prefix + name: value for name, value in state.items()}
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))]).state_dict()
    path = folder / "checkpoint_30.pt"
    torch.save(
        {"gEncoder": shared(weights), "cpcCriterion": shared(criterion), "optimizer": optimizer, "best": None, **more},
        path,
    )
    if args is not None:
        (folder / "checkpoint_args.json").write_text(
            json.dumps({"hiddenEncoder": 999, "nLevelsGRU": 99, "cpc_mode": None, "negativeSamplingExt": 64, **args})
        )
    return path

"""DINO's projection head (Caron et al. 2021, arXiv 2104.14294, section 3 and appendix C)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .synced_batch_norm import SyncedBatchNorm1d


class DinoHead(nn.Module):
    """Embeddings (B, dim) -> cosines (B, n_outputs) float32 to learned directions; softmax turns them into targets.

    Linear layers with batch norm and GELU between them (none after the last two); norm 1; and a linear layer whose
    rows are normalised, that is, with weight normalisation of gain 1. The norm and the last layer are computed in
    float32 in any precision of the model. The default sizes are those of SSRL's first stage (arXiv 2401.01473).

    Args:
        dim: of the embeddings.
        hidden: widths of the hidden layers. The last one has neither batch norm nor GELU.
        bottleneck: width before the last layer.
        n_outputs: rows of the last layer, whose weight is ``last_layer.weight``.
    """

    def __init__(
        self,
        dim: int = 512,
        hidden: Sequence[int] = (2048, 2048, 8192),
        bottleneck: int = 256,
        n_outputs: int = 65536,
    ):
        super().__init__()
        *normed, last = hidden
        layers: list[nn.Module] = []
        for width, out in pairwise([dim, *normed]):
            layers += [nn.Linear(width, out), SyncedBatchNorm1d(out), nn.GELU()]
        layers += [nn.Linear(normed[-1] if normed else dim, last), nn.Linear(last, bottleneck)]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(*layers)
        self.last_layer = nn.Linear(bottleneck, n_outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(F.normalize(x.float()), F.normalize(self.last_layer.weight.float()))

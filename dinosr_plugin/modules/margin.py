"""Additive angular margin softmax, the classifier of speakers (ArcFace: Deng et al. 2019, arXiv 1801.07698)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_SINE_SQUARED = 1e-12  # the gradient of the square root is infinite at 0


class AamSoftmax(nn.Module):
    """Logits of K classes: ``scale`` times the cosine between an embedding and the weight row of each class.

    At the labelled class the angle t is made larger by the margin m, so that the class has to win by it: cos(t + m),
    and cos(t) - m sin(pi - m) where t + m exceeds pi (where cos(t) <= cos(pi - m)). The norms of the rows have no
    influence. Computed in float32 in any precision of the model.

    Args:
        dim: D, of the embeddings.
        n_classes: K.
        scale: s.
        margin: m in radians, from 0 to pi / 2.
    """

    def __init__(self, dim: int, n_classes: int, scale: float = 32.0, margin: float = 0.2):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_classes, dim)))

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, removed: Tensor | None = None) -> Tensor:
        """Logits (B, K) float32.

        Args:
            embeddings: (B, D) of any norm.
            labels: (B,) int64; None: no margin.
            removed: (K,) bool, classes whose logits are -inf, so that their probability and gradient are exactly 0.
                The cross-entropy of a label among them is infinite.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight.float()))  # (B, K)
        if labels is not None:
            labels = labels.unsqueeze(1)  # (B, 1)
            cosine = cosine.scatter(1, labels, self.with_margin(cosine.gather(1, labels)))
        logits = self.scale * cosine
        return logits if removed is None else logits.masked_fill(removed, float("-inf"))

    def with_margin(self, cosine: Tensor) -> Tensor:
        """cos(t) -> cos(t + m), and its continuation for t + m > pi."""
        sine = (1 - cosine.square()).clamp(min=MIN_SINE_SQUARED).sqrt()
        rotated = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine <= -math.cos(self.margin)
        return torch.where(beyond, cosine - self.margin * math.sin(self.margin), rotated)

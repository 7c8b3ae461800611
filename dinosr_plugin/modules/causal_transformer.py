"""One causal Transformer layer with learned relative positions, post-LN: the predictor of CPC_audio."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalTransformerLayer(nn.Module):
    """(B, W, D) -> (B, W, D); frame t attends to frames 0 .. t.

    Args:
        width: D.
        heads: attention heads; D is a multiple of them.
        feed_forward: width of the feed-forward block.
        dropout: of attention weights and inside the feed-forward block.
        positions: the largest W. Each distance 0 .. positions - 1 to an earlier frame has an embedding, which all heads
            share.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, positions: int):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        bound = (width // heads) ** -0.5
        self.distances = nn.Parameter(torch.empty(positions, width // heads).uniform_(-bound, bound))
        self.attention_norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attend(x))
        hidden = F.dropout(F.relu(self.expand(x)), self.dropout, self.training)
        return self.feed_forward_norm(x + self.contract(hidden))

    def attend(self, x: Tensor) -> Tensor:
        """(B, W, D) -> (B, W, D)."""
        B, W, D = x.shape
        query, key, value = (
            project(x).view(B, W, self.heads, -1).transpose(1, 2) for project in (self.query, self.key, self.value)
        )  # (B, H, W, D/H)
        time = torch.arange(W, device=x.device)
        distance = time.unsqueeze(1) - time  # (W, W): from frame t back to frame s
        by_distance = query @ self.distances[:W].T / (D // self.heads) ** 0.5  # (B, H, W, distance)
        bias = by_distance.gather(-1, distance.clamp(min=0).expand(B, self.heads, W, W))
        bias = bias.masked_fill(distance < 0, float("-inf"))  # (B, H, W, W)
        attended = F.scaled_dot_product_attention(query, key, value, bias, self.dropout if self.training else 0.0)
        return self.out(attended.transpose(1, 2).reshape(B, W, D))  # (B, H, W, D/H) -> (B, W, D)

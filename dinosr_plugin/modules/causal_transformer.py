"""One causal Transformer layer with learned relative positions, post-LN: the predictor of CPC_audio."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalTransformerLayer(nn.Module):
    """(B, W, D) -> (B, W, D); frame t sees frames 0 .. t.

    Args:
        width: D.
        heads: attention heads; D is a multiple of them.
        feed_forward: width of the feed-forward block.
        dropout: of attention weights and inside the feed-forward block.
        positions: the longest W; a frame so far back or nearer has its own embedding, shared by all heads.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, positions: int):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        size = (width // heads) ** -0.5
        self.distances = nn.Parameter(
            torch.empty(positions, width // heads).uniform_(-size, size)
        )  # row d: d frames back
        self.attention_norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.attend(x))
        hidden = F.dropout(F.relu(self.expand(x)), self.dropout, self.training)
        return self.feed_forward_norm(x + self.contract(hidden))

    def attend(self, x: Tensor) -> Tensor:
        B, W, D = x.shape
        query, key, value = (
            project(x).view(B, W, self.heads, -1).transpose(1, 2) for project in (self.query, self.key, self.value)
        )  # (B, H, W, D/H)
        back = torch.arange(W, device=x.device).unsqueeze(1) - torch.arange(
            W, device=x.device
        )  # (W, W): from frame t to frame s
        by_distance = query @ self.distances[:W].T / (D // self.heads) ** 0.5  # (B, H, W, distance)
        bias = by_distance.gather(-1, back.clamp(min=0).expand(B, self.heads, W, W)).masked_fill(
            back < 0, float("-inf")
        )
        attended = F.scaled_dot_product_attention(query, key, value, bias, self.dropout if self.training else 0.0)
        return self.out(attended.transpose(1, 2).reshape(B, W, D))

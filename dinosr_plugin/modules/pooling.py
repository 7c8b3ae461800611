"""Attentive statistics: from frames to one vector for each utterance."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .synced_batch_norm import SyncedBatchNorm1d

MIN_VARIANCE = 1e-12  # the gradient of the square root is infinite at 0


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation of each channel over time, weighted by attention (Okabe et al. 2018, 1803.10963).

    Each channel has its own weights, as in ECAPA-TDNN (Desplanques et al. 2020, arXiv 2005.07143, section 3.1). They
    and the statistics are float32 in any precision of the model.

    Args:
        channels: C.
        attention_width: width of the attention's hidden layer.
        global_context: the attention also sees the plain mean and standard deviation of the utterance.
    """

    def __init__(self, channels: int, attention_width: int = 128, global_context: bool = True):
        super().__init__()
        self.channels, self.global_context = channels, global_context
        self.hidden = nn.Conv1d(channels * (3 if global_context else 1), attention_width, 1)
        self.norm = SyncedBatchNorm1d(attention_width)
        self.scores = nn.Conv1d(attention_width, channels, 1)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (B, C, F), valid (B, F) bool or None: all frames -> (B, 2 C) float32, means and then deviations.

        Other frames have no influence, whatever their values. Every row needs one valid frame at least.
        """
        if valid is not None:
            x = x.masked_fill(~valid.unsqueeze(1), 0)
        hidden = self.norm(F.relu(self.see(x, valid)), valid)
        scores = self.scores(hidden.tanh()).float()  # (B, C, F)
        if valid is not None:
            scores = scores.masked_fill(~valid.unsqueeze(1), float("-inf"))
        return statistics(x.float(), scores.softmax(2))

    def see(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The first layer of the attention: (B, C, F) -> (B, attention_width, F)."""
        if not self.global_context:
            return self.hidden(x)
        if valid is None:
            uniform = x.new_ones(len(x), 1, x.size(2), dtype=torch.float32)
        else:
            uniform = valid.unsqueeze(1).float()  # (B, 1, F)
        context = statistics(x.float(), uniform / uniform.sum(2, keepdim=True))  # (B, 2 C)
        # as if the context stood below every frame, without copying it
        of_frame, of_context = self.hidden.weight.split([self.channels, 2 * self.channels], dim=1)
        shared = F.linear(context.to(of_context.dtype), of_context.squeeze(2))  # (B, attention_width)
        return F.conv1d(x, of_frame, self.hidden.bias) + shared.unsqueeze(2)


def statistics(x: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean and standard deviation over time: x (B, C, F), weights (B, C or 1, F) -> (B, 2 C).

    The weights of a channel sum to 1.
    """
    mean = (weights * x).sum(2)
    variance = (weights * (x - mean.unsqueeze(2)).square()).sum(2)
    return torch.cat([mean, variance.clamp(min=MIN_VARIANCE).sqrt()], dim=1)

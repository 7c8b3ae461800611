"""Online codebooks: centroids that are exponential moving averages of the frames assigned to them (DinoSR section 3.2)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Codebooks(nn.Module):
    """K independent codebooks of V codewords in D dimensions, one for each target layer of the teacher.

    A codeword is kept as the moving sum of its frames and their moving count; centroid = sum / count. Both are float32
    whatever the precision of the model. Assigning collects statistics only; ``step_`` applies them, once an update, so
    that several forward passes (gradient accumulation) and several ranks give what one large batch would.

    Buffers: ``sums`` (K, V, D), ``counts`` (K, V).
    """

    def __init__(self, n_codebooks: int, codebook_size: int, dim: int):
        super().__init__()
        sums = torch.randn(n_codebooks, codebook_size, dim)
        # instance norm over the V axis, for each dimension: the scale of the instance-normalised targets
        sums = F.instance_norm(sums.transpose(1, 2)).transpose(1, 2).contiguous()
        self.register_buffer("sums", sums, persistent=False)
        self.register_buffer("counts", torch.ones(n_codebooks, codebook_size), persistent=False)
        self.pending = None  # (K, V, D + 1): sums and counts of the frames seen since the last step

    def _apply(self, fn, recurse=True):
        # follow the model's device, never its dtype: half precision would freeze a moving average
        return super()._apply(lambda t: t.to(fn(t).device), recurse)

    def centroids(self) -> Tensor:
        """(K, V, D) float32."""
        return self.sums / self.counts.unsqueeze(-1)

    @torch.no_grad()
    def assign(self, frames: Tensor) -> Tensor:
        """Nearest centroid in squared Euclidean distance: frames (K, N, D) -> codes (K, N) int64."""
        centroids = self.centroids()
        # |x - c|^2 without |x|^2, which is the same for every c
        distance = torch.baddbmm(centroids.pow(2).sum(-1).unsqueeze(1), frames.float(), centroids.transpose(1, 2), alpha=-2)
        return distance.argmin(-1)

    @torch.no_grad()
    def collect(self, frames: Tensor, codes: Tensor):
        """Add frames (K, N, D) and their codes (K, N) to the statistics of this update."""
        K, V, D = self.sums.shape
        offset = torch.arange(K, device=codes.device).unsqueeze(1) * V
        ones = frames.new_ones(K, frames.size(1), 1, dtype=torch.float32)
        rows = torch.cat([frames.float(), ones], dim=-1).view(-1, D + 1)  # (K * N, D + 1)
        if self.pending is None:
            self.pending = rows.new_zeros(K, V, D + 1)
        self.pending.view(K * V, D + 1).index_add_(0, (codes + offset).view(-1), rows)

    @torch.no_grad()
    def step_(self, decay: float):
        """Move the codewords that received frames; the others keep sum and count bit for bit.

        One collective over all ranks for all codebooks. Does nothing if no frame was collected.
        """
        if self.pending is None:
            return
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self.pending)
        new_sums, new_counts = self.pending[..., :-1], self.pending[..., -1]
        used = new_counts > 0
        self.counts.copy_(torch.where(used, decay * self.counts + (1 - decay) * new_counts, self.counts))
        self.sums.copy_(torch.where(used.unsqueeze(-1), decay * self.sums + (1 - decay) * new_sums, self.sums))
        self.pending = None

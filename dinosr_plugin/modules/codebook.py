"""Online codebooks: each centroid is an exponential moving average of its frames (DinoSR section 3.2)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Codebooks(nn.Module):
    """K independent codebooks of V codewords in D dimensions, one for each target layer of the teacher.

    A codeword is stored as the moving sum of its frames and their moving count; centroid = sum / count. Both are
    float32 in any precision of the model. ``collect`` only collects statistics; ``step_`` applies them, once for each
    update, so that several forward passes (gradient accumulation) and several ranks give the result of one large batch.

    Buffers: ``sums`` (K, V, D), ``counts`` (K, V), and ``idle`` (K, V), the updates since a codeword last received a
    frame.

    Args:
        revive_after: a codeword that received no frame for this many updates moves to a random frame; 0: never, as in
            the paper.
    """

    sums: Tensor
    counts: Tensor
    idle: Tensor

    def __init__(self, n_codebooks: int, codebook_size: int, dim: int, revive_after: int = 0):
        super().__init__()
        self.revive_after = revive_after
        sums = torch.randn(n_codebooks, codebook_size, dim)
        # normalised over V for each dimension, which gives them the scale of the instance-normalised targets
        sums = F.instance_norm(sums.transpose(1, 2)).transpose(1, 2).contiguous()  # (K, D, V), then (K, V, D)
        self.register_buffer("sums", sums, persistent=False)
        self.register_buffer("counts", torch.ones(n_codebooks, codebook_size), persistent=False)
        self.register_buffer("idle", torch.zeros(n_codebooks, codebook_size), persistent=False)
        # (K, V, D + 1): sums and counts of the frames since the last step
        self.pending: Tensor | None = None
        # (K, V, D + 1): frames since the last step that dead codewords may move to, and ones
        self.spare: Tensor | None = None

    def _apply(self, fn, recurse=True):
        # follow the model's device, but not its dtype: in half precision a moving average would not move
        return super()._apply(lambda t: t.to(fn(t).device), recurse)

    def centroids(self) -> Tensor:
        """(K, V, D) float32."""
        return self.sums / self.counts.unsqueeze(-1)

    @torch.no_grad()
    def assign(self, frames: Tensor) -> Tensor:
        """Nearest centroid in squared Euclidean distance: frames (K, N, D) -> codes (K, N) int64."""
        centroids = self.centroids()
        # |x - c|^2 without the term |x|^2, which is the same for every c
        with torch.autocast(frames.device.type, enabled=False):
            distance = torch.baddbmm(
                centroids.pow(2).sum(-1).unsqueeze(1), frames.float(), centroids.transpose(1, 2), alpha=-2
            )
        return distance.argmin(-1)

    @torch.no_grad()
    def start_from_(self, frames: Tensor, iterations: int = 10):
        """Set all codewords by k-means on frames (K, N, D), started from random frames; all ranks use those of rank 0.

        A codeword that loses all its frames restarts from another random frame.
        """
        self.sums.copy_(random_frames(frames, self.sums.size(1)))
        self.counts.fill_(1)
        for _ in range(iterations):
            self.collect(frames, self.assign(frames))
            assert self.pending is not None  # just collected
            self._move(self.pending, decay=0.0)
            self._replace(self.pending[..., -1] == 0, random_frames(frames, self.sums.size(1)))
            self.forget_()
        if distributed():
            dist.broadcast(self.sums, src=0)
            dist.broadcast(self.counts, src=0)

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
        if self.revive_after and self.spare is None and frames.size(1):
            self.spare = random_frames(torch.cat([frames.float(), ones], dim=-1), V)

    def forget_(self):
        """Drop the statistics collected since the last step."""
        self.pending = self.spare = None

    @torch.no_grad()
    def step_(self, decay: float):
        """Move the codewords that received frames; the others keep their exact sum and count unless they are revived.

        One collective over all ranks for all codebooks. Does nothing if no frame was collected.
        """
        if self.pending is None:
            return
        pending, spare = self.pending, self.spare
        self.forget_()
        if distributed():
            pending, spare = self._over_ranks(pending, spare)
        self._move(pending, decay)
        used = pending[..., -1] > 0
        self.idle.copy_(torch.where(used, 0.0, self.idle + 1))
        if self.revive_after and spare is not None:
            self._revive(spare)

    def _over_ranks(self, pending: Tensor, spare: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The sum of the statistics, and the spare frames of rank 0 (zeros if it has none), in one collective."""
        if not self.revive_after:
            dist.all_reduce(pending)
            return pending, None
        both = torch.stack([pending, torch.zeros_like(pending) if spare is None or dist.get_rank() else spare])
        dist.all_reduce(both)
        return both[0], both[1]

    def _move(self, statistics: Tensor, decay: float):
        new_sums, new_counts = statistics[..., :-1], statistics[..., -1]
        used = new_counts > 0
        self.counts.copy_(torch.where(used, decay * self.counts + (1 - decay) * new_counts, self.counts))
        self.sums.copy_(torch.where(used.unsqueeze(-1), decay * self.sums + (1 - decay) * new_sums, self.sums))

    def _revive(self, spare: Tensor):
        dead = (self.idle >= self.revive_after) & (spare[..., -1] > 0)
        self._replace(dead, spare[..., :-1])
        self.idle.masked_fill_(dead, 0.0)

    def _replace(self, which: Tensor, frames: Tensor):
        """Set the codewords selected by ``which`` (K, V) bool to frames (K, V, D), with a count of 1."""
        self.sums.copy_(torch.where(which.unsqueeze(-1), frames, self.sums))
        self.counts.masked_fill_(which, 1.0)


def distributed() -> bool:
    """Whether there are several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def random_frames(frames: Tensor, n: int) -> Tensor:
    """n random frames for each codebook: (K, N, D) -> (K, n, D) float32; without repetition if N >= n."""
    K, N, D = frames.shape
    order = torch.rand(K, max(N, n)).argsort(1)[:, :n].remainder(N).to(frames.device)
    return frames.float().gather(1, order.unsqueeze(-1).expand(K, n, D))

"""What is kept of the frames of several representations in one pass: moments, and a sample."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .moments import Moments

SAMPLES, SAMPLE_FRAMES = 5, 2000  # of measures that compare frames with each other
SEED = 0  # of the sample


class FrameSample:
    """Random frames in up to ``SAMPLES`` disjoint samples of ``SAMPLE_FRAMES``; of fewer frames one sample with all.

    Args:
        total: number of frames that will be added.
    """

    def __init__(self, names: Sequence[str], total: int, frames: int = SAMPLE_FRAMES):
        self.count = max(1, min(SAMPLES, total // frames))
        chosen = np.random.default_rng(SEED).permutation(total)[: self.count * frames]
        self.sample_of = np.full(total, -1)  # (total,): the sample that a frame belongs to
        self.sample_of[chosen] = np.arange(len(chosen)) % self.count
        self.seen = 0
        self.parts: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in range(self.count)] for name in names}

    def add(self, frames: Mapping[str, Tensor], group: int = 0) -> None:
        """Add the same frames of all representations, (n, D) each, in the order of the groups."""
        n = len(next(iter(frames.values())))
        sample_of = self.sample_of[self.seen : self.seen + n]
        self.seen += n
        for sample in range(self.count):
            rows = torch.from_numpy(np.flatnonzero(sample_of == sample))
            for name, of_source in frames.items():
                self.parts[name][sample].append(of_source[rows.to(of_source.device)].cpu().numpy())

    def frames(self, name: str, sample: int) -> np.ndarray:
        """(n, D) float64."""
        return np.concatenate(self.parts[name][sample]).astype(np.float64)


class Statistics:
    """Those that the measures need: ``moments``, ``sample``; None for the other.

    Args:
        needed: their names.
        widths: representation -> D.
        pairs: to be compared.
        total: number of frames that will be added, at most.
        groups: number of groups of frames, G.
        device: where frames are compared.
    """

    def __init__(
        self,
        needed: Sequence[str],
        widths: Mapping[str, int],
        pairs: Sequence[tuple[str, str]],
        total: int,
        groups: int = 1,
        device: str | torch.device = "cpu",
    ):
        self.moments = Moments(widths, pairs, groups, device) if "moments" in needed else None
        self.sample = FrameSample(list(widths), total) if "sample" in needed else None
        self.device, self.groups, self.n = device, groups, 0

    def add(self, frames: Mapping[str, np.ndarray], group: int = 0) -> None:
        """Add the same frames of all representations, (n, D) float32 each, to a group; groups in ascending order."""
        on_device = {name: torch.from_numpy(of_source).to(self.device) for name, of_source in frames.items()}
        self.n += len(next(iter(frames.values())))
        for kept in (self.moments, self.sample):
            if kept is not None:
                kept.add(on_device, group)

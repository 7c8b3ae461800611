"""Which label of a label file belongs to which frame of a crop."""

import torch
from torch import Tensor

SAMPLE_RATE = 16_000


def labels_of_frames(labels: Tensor, starts: Tensor, rate: int, hop: int, n_frames: int) -> Tensor:
    """The label whose beginning is nearest to the frame's, the later one of two; where labels end before the audio, the last one.

    Frame t of a crop begins at sample start + hop * t of its utterance, label i at i * 16000 / rate: they are half a label apart at most,
    wherever the crop was cut.

    Args:
        labels: (S, B, L) int64, S sets of labels of whole utterances, padded with -1; at least one label an utterance.
        starts: (B,) int64, first sample of each crop.
        rate: labels a second.
        hop: samples from one frame to the next.
        n_frames: F.

    Returns: (S, B, F) int64.
    """
    samples = starts.unsqueeze(1) + hop * torch.arange(n_frames, device=starts.device)  # (B, F)
    nearest = (2 * samples * rate + SAMPLE_RATE) // (
        2 * SAMPLE_RATE
    )  # rounded in whole numbers: no float stands between two labels
    last = (labels >= 0).sum(-1, keepdim=True) - 1  # (S, B, 1)
    return labels.gather(-1, torch.minimum(nearest, last))

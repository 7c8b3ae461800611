"""Which label of a label file belongs to which frame of a crop."""

import torch
from torch import Tensor

from .frame_grid import SAMPLE_RATE


def labels_of_frames(labels: Tensor, starts: Tensor, rate: int, hop: int, n_frames: int) -> Tensor:
    """The label whose start is nearest to that of the frame; of two at the same distance, the later one.

    If the labels end before the audio, the last one is repeated. Frame t of a crop starts at sample start + hop * t of
    its utterance, label i at i * 16000 / rate: they are at most half a label apart, wherever the crop was cut.

    Args:
        labels: (S, B, L) int64, S sets of labels of whole utterances, padded with -1; at least one label for each
            utterance.
        starts: (B,) int64, first sample of each crop.
        rate: labels per second.
        hop: samples between the starts of two frames.
        n_frames: F.

    Returns: (S, B, F) int64.
    """
    samples = starts.unsqueeze(1) + hop * torch.arange(n_frames, device=starts.device)  # (B, F)
    # rounded with integers, because a float could be rounded to the wrong side of a tie
    nearest = (2 * samples * rate + SAMPLE_RATE) // (2 * SAMPLE_RATE)
    last = (labels >= 0).sum(-1, keepdim=True) - 1  # (S, B, 1)
    return labels.gather(-1, torch.minimum(nearest, last))

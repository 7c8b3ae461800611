"""Recordings of any length through a model: from the disk in chunks, normalised as a whole, in the memory of a minute.

The frames of the whole recording are kept: an hour at 50 frames per second and width 768 takes 550 MB a layer.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoints.chunks import read_in_chunks
from ..checkpoints.readers import FrameReader, Frames, Layer
from ..data.audio import SAMPLE_RATE, AudioError, require_match
from ..data.conversion import MonoFile, mean_and_variance
from .batches import Utterance, unusable


def read_long(
    reader: FrameReader, utterance: Utterance, layers: Sequence[Layer], code_sets: Sequence[str] = ()
) -> Frames:
    """Layers and codes of one utterance, in chunks (``checkpoints.chunks``).

    If the model expects normalised recordings, mean and variance are those of the whole recording, in float64.

    Raises:
        UserError: as ``batches.load_checked_wave``.
    """
    bar = tqdm(total=utterance.samples / SAMPLE_RATE, desc=utterance.name, unit="s", leave=False, disable=None)
    try:
        with bar, MonoFile(utterance.path) as file:
            require_match(file.file, utterance.samples, SAMPLE_RATE)
            mean, variance = mean_and_variance(file)

            def wave(start: int, end: int) -> Tensor:
                part = torch.from_numpy(file.read(start, end))
                # with the epsilon of layer_norm, which ``prepare`` uses
                return (part - mean) / math.sqrt(variance + 1e-5) if reader.normalize else part

            return read_in_chunks(reader, utterance.samples, wave, layers, code_sets, bar.update)
    except AudioError as error:
        raise unusable(utterance, error) from error

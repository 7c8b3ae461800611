"""Recordings that are too long for a model to read as a whole, in overlapping chunks.

The model reads each chunk with speech on either side, and only the frames in the middle are kept: every frame of the
recording once. A frame whose layer sees no more than ``CONTEXT`` seconds on either side is the same, within rounding,
as if the model had read the whole recording. The others differ: those of Transformer and recurrent layers, and of
models that normalise over the time that they read (log-Mel front ends, ``extractor_mode=default``, DinoSR's targets).

Chunks are as long as utterances: a model that was trained on utterances gives features that are closer to those of the
separate utterances than those from one pass over the whole recording. examples/quickstart/README.md has figures.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..modules.frame_grid import SAMPLE_RATE, chunks
from .readers import FrameReader, Frames, Layer

MAX_MINUTES = 10.0  # of a recording read as a whole: attention takes time with its square, convolutions gigabytes
CHUNK = 20.0  # seconds kept of a chunk, at most
CONTEXT = 2.0  # seconds of context that a chunk has on either side


def is_long(samples: int, max_minutes: float = MAX_MINUTES) -> bool:
    """Whether a recording at 16 kHz is longer than ``max_minutes``."""
    return samples > max_minutes * 60 * SAMPLE_RATE


def read_in_chunks(
    reader: FrameReader,
    samples: int,
    wave: Callable[[int, int], Tensor],
    layers: Sequence[Layer],
    code_sets: Sequence[str] = (),
    advance: Callable[[float], object] = lambda seconds: None,
) -> Frames:
    """As ``FrameReader.read`` of one recording of so many samples.

    Args:
        wave: (start, end) -> these samples, as ``prepare`` would return them for the whole recording.
        advance: receives the seconds of sound that are done.

    Raises:
        UserError: NaN and infinity.
    """
    frames, rate = reader.frames(samples), reader.rate
    x = [torch.empty(frames, reader.width_of(layer)) for layer in layers]
    codes = {name: torch.empty(reader.code_sets[name].count, frames, dtype=torch.int64) for name in code_sets}
    for first, start, stop, last in chunks(frames, round(CHUNK * rate), round(CONTEXT * rate)):
        begin, end = reader.grid.span(first, last)
        (part,) = reader.read([wave(begin, samples if last == frames else end)], layers, code_sets)
        kept = slice(start - first, stop - first)
        for whole, of_part in zip(x, part.layers, strict=True):
            whole[start:stop] = of_part[kept]
        for name, of_set in codes.items():
            of_set[:, start:stop] = part.codes[name][:, kept]
        advance((stop - start) / rate)
    return Frames(x, codes)

"""Where frames lie in time: the one formula for their number, their rate and their centres."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # `data` and `units` use this file without importing torch
    from torch import Tensor

SAMPLE_RATE = 16_000  # Hz


class FrameGrid(NamedTuple):
    """Frames of a front end without padding: frame i covers samples ``[hop * i, hop * i + field)`` at 16 kHz.

    ``field``: samples that a frame covers, the shortest sound with a frame; ``hop``: samples between frames.
    """

    field: int
    hop: int

    @classmethod
    def of_convolutions(cls, layers: Iterable[tuple[int, int, int]]) -> "FrameGrid":
        """Of stacked convolutions (channels, kernel, stride), bottom layer first."""
        field, hop = 1, 1
        for _, kernel, stride in layers:
            field += (kernel - 1) * hop
            hop *= stride
        return cls(field, hop)

    def count(self, samples: int) -> int:
        """Number of frames of so many samples; 0 if there are too few for one."""
        return max(0, (samples - self.field) // self.hop + 1)

    def counts(self, samples: "Tensor") -> "Tensor":
        """``count`` of each element: int64 in and out, in any shape, on any device."""
        return ((samples - self.field) // self.hop + 1).clamp(min=0)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """(first sample, end) of the samples that frames ``first`` to ``last``, which is excluded, cover."""
        return first * self.hop, (last - 1) * self.hop + self.field

    @property
    def rate(self) -> float:
        """Frames per second."""
        return SAMPLE_RATE / self.hop

    @property
    def first_centre(self) -> float:
        """Time of the centre of frame 0, in seconds; that of frame i is ``first_centre + i / rate``."""
        return self.field / 2 / SAMPLE_RATE


TRUNK = FrameGrid(field=400, hop=320)
"""wav2vec 2.0's convolutions, and every model with the same frames: 50 Hz, centre of frame 0 at 12.5 ms."""
CPC = FrameGrid(field=159, hop=160)
"""CPC's padded convolutions: 100 Hz, centre of frame 0 at 4.97 ms, the middle of samples 0 to 158."""
MEL = FrameGrid(field=400, hop=160)
"""Single log-Mel frames: 25 ms every 10 ms, 100 Hz, centre of frame 0 at 12.5 ms."""


def chunks(frames: int, longest: int, context: int) -> Iterator[tuple[int, int, int, int]]:
    """Divide ``frames`` into the fewest equal chunks of at most ``longest`` frames.

    Yields (first frame with context, first frame kept, end of the kept frames, end with context).
    """
    count = -(-frames // longest)  # 0 for no frames
    for start, stop in pairwise(frames * n // max(1, count) for n in range(count + 1)):
        yield max(0, start - context), start, stop, min(frames, stop + context)

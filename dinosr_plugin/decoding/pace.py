"""The real-time factor of decoding: processing time divided by the duration of the speech."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Pace:
    """Measures the real-time factor, from the moment this object is created. All times in seconds.

    sound: total duration of the recordings that are done.
    parts: time spent on each part of the work; parts that run in parallel overlap.
    """

    sound: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the time spent in the ``with`` block to a part of the work."""
        start = time.perf_counter()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - start

    def summary(self) -> str:
        """Such as "1.2 h of speech in 95 s: real-time factor 0.022 (network 0.015, search 0.007)".

        Requires ``sound`` > 0.
        """
        total = time.perf_counter() - self.start
        parts = ", ".join(f"{part} {seconds / self.sound:.3f}" for part, seconds in self.parts.items())
        durations = f"{format_seconds(self.sound)} of speech in {format_seconds(total)}"
        return f"{durations}: real-time factor {total / self.sound:.3f} ({parts})"


def format_seconds(seconds: float) -> str:
    """A duration with two or three digits: 9.4 s, 95 s, 59.0 min, 1.2 h."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"

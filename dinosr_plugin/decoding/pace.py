"""The real-time factor of decoding: how long it takes, as a part of how long the speech is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Pace:
    """How fast it goes from the moment this is made; all in seconds.

    sound: what the recordings that are done last together.
    parts: time that each part of the work took; parts that run side by side overlap.
    """

    sound: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Counts the time of what stands under it for a part of the work."""
        began = time.perf_counter()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - began

    def summary(self) -> str:
        """As in "1.2 h of speech in 95 s: real-time factor 0.022 (network 0.015, search 0.007)"; there must have been sound."""
        total = time.perf_counter() - self.began
        parts = ", ".join(f"{part} {seconds / self.sound:.3f}" for part, seconds in self.parts.items())
        return f"{span(self.sound)} of speech in {span(total)}: real-time factor {total / self.sound:.3f} ({parts})"


def span(seconds: float) -> str:
    """A time with two or three digits: 9.4 s, 95 s, 59.0 min, 1.2 h."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"

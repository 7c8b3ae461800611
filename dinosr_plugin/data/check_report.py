"""What `dinosr check` has found."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .audio import SAMPLE_RATE


class NumberedRow(NamedTuple):
    """One row of a manifest, with its line number."""

    line: int  # in the manifest, from 1
    path: str
    samples: int


@dataclass
class Report:
    """The result of ``check_manifest``. Only ``problems`` prevent a training; ``notes`` are for information."""

    manifest: Path
    rows: int = 0  # including malformed ones
    samples: list[int] = field(default_factory=list)  # of the well-formed rows
    speakers: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines to print."""
        lines = [f"manifest  {self.manifest}", f"rows      {self.rows}"]
        if self.samples:
            seconds = [samples / SAMPLE_RATE for samples in self.samples]
            lines.append(f"hours     {sum(seconds) / 3600:.2f}")
            lines.append(
                f"seconds   {min(seconds):.2f} shortest, {median(seconds):.2f} median, {max(seconds):.2f} longest"
            )
        lines.append(f"speakers  {self.speakers}")
        lines.append(f"problems  {len(self.problems) or 'none'}")
        return "\n".join(lines)

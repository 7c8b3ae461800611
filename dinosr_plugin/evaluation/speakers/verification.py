"""EER and minDCF of scored trials, with intervals: ``dinosr speaker eval``."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..measures.verification import (
    CONFIDENCE,
    Rates,
    ScoredTrials,
    bootstrap,
    equal_error_threshold,
    figures_of,
)
from ..table import Column, format_table
from .scores import Scored
from .trials import units_of

COLUMNS = (
    Column("figure", ""),
    Column("value", "value"),
    Column("interval", f"{CONFIDENCE:.0%} interval"),
)


@dataclass(frozen=True)
class Verification:
    """Figures of a scored trial list.

    Attributes:
        figures: ``eer``, a share, and ``min_dcf_0.01``, ``min_dcf_0.05``.
        intervals: the same keys -> (low, high); empty without samples of both kinds of trials.
        threshold: score at the EER.
        targets, nontargets: numbers of trials.
        resampled: ``speakers`` or ``recordings``, as ``trials.units_of``; ``units``: their number.
        resamples: number of samples that the intervals are computed from.
    """

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    threshold: float
    targets: int
    nontargets: int
    resampled: str
    units: int
    resamples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[dict[str, str | None]]:
        """A row of text for each figure, by the keys of ``COLUMNS``."""
        rows: list[dict[str, str | None]] = []
        for name, value in self.figures.items():
            percent = name == "eer"
            bounds = [shown(bound, percent) for bound in self.intervals.get(name, ())]
            title = "EER (%)" if percent else f"minDCF({name.removeprefix('min_dcf_')})"
            rows.append({"figure": title, "value": shown(value, percent), "interval": " to ".join(bounds) or None})
        return rows

    def describe(self) -> str:
        """The numbers of trials, the threshold, and what the intervals come from."""
        return (
            f"{self.targets} target and {self.nontargets} nontarget trials; score at the EER: {self.threshold:.4g}; "
            f"intervals: {self.resamples} samples of {self.units} {self.resampled}"
        )

    def table(self) -> str:
        return f"{format_table(self.rows(), COLUMNS)}\n{self.describe()}"


def shown(value: float, percent: bool) -> str:
    return f"{100 * value:.2f}" if percent else f"{value:.3f}"


def verify(scored: Scored, resamples: int, seed: int, what: str | Path) -> tuple[Verification, Rates]:
    """Raises UserError, which begins with ``what``, for trials of one kind only."""
    same = np.array([trial.same for trial in scored.trials])
    if same.all() or not same.any():
        kind, other = ("target", "nontarget") if same.all() else ("nontarget", "target")
        raise UserError(
            f"{what}: contains {kind} trials only, and error rates require {other} trials, too; add lines that begin "
            f"with {int(not same.all())}"
        )
    trials = ScoredTrials(scored.scores, same)
    rates = trials.rates()
    assert rates is not None
    resampled, first, second = units_of(scored.trials)
    names, numbers = np.unique(first + second, return_inverse=True)
    intervals = bootstrap(trials, numbers[: len(first)], numbers[len(first) :], resamples, seed)
    figures = Verification(
        figures=figures_of(rates),
        intervals=intervals.bounds,
        threshold=equal_error_threshold(rates),
        targets=int(same.sum()),
        nontargets=int((~same).sum()),
        resampled=resampled,
        units=len(names),
        resamples=intervals.resamples,
    )
    return figures, rates

"""Unit quality as a measure of the engine."""

from collections.abc import Sequence
from typing import Any

from ...measuring import Source
from ...speech import Speech
from ...table import Column
from .units import LAGS, UnitCounts, count_units, pnmi_by_lag

COLUMNS = (
    Column("n_codes", "size", "d"),
    Column("active", "active", "d"),
    Column("perplexity", "perplexity", ".1f"),
    Column("phone_purity", "phone purity", ".3f"),
    Column("cluster_purity", "cluster purity", ".3f"),
    Column("pnmi", "PNMI", ".3f"),
    Column("speaker_pnmi", "speaker PNMI", ".3f"),
    Column("bit_rate", "bit/s", ".0f"),
    Column("run_bit_rate", "runs bit/s", ".0f"),
    Column("unit_ms", "unit ms", ".0f"),
    Column("phone_ms", "phone ms", ".0f"),
    Column("frames", "frames", "d"),
)


class UnitQualityMeasure:
    """``UnitQuality`` of a source's units. ``alignment``: one of ``units.ALIGNMENTS``."""

    columns: Sequence[Column] = COLUMNS

    def __init__(self, alignment: str = "centres"):
        self.alignment = alignment

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        return self.count(source, speech).figures().as_dict()

    def count(self, source: Source, speech: Speech) -> UnitCounts:
        """The counts behind the figures. Raises UserError for a source without units, and as ``count_units``."""
        place = (source.rate, source.first_centre)
        return count_units(
            source.require_units(), speech.phones, speech.speakers, *place, source.n_codes, self.alignment
        )


class LagMeasure:
    """PNMI over lags of -40 to +40 ms, and the lag of its peak: units may follow the sound late or early."""

    columns: Sequence[Column] = (
        *(Column(f"pnmi_{lag:+d}ms", f"{lag:+d} ms", ".3f") for lag in LAGS),
        Column("peak_lag_ms", "peak at ms", "+d"),
    )

    def __init__(self, alignment: str = "centres"):
        self.alignment = alignment

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        place = (source.rate, source.first_centre)
        by_lag = pnmi_by_lag(source.require_units(), speech.require_phones(), *place, self.alignment)
        figures: dict[str, Any] = {f"pnmi_{lag:+d}ms": value for lag, value in by_lag.items()}
        return {**figures, "peak_lag_ms": max(by_lag, key=lambda lag: by_lag[lag])}

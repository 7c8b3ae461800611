"""ABX as a measure of the engine."""

from collections.abc import Sequence
from typing import Any

from ...measuring import Source
from ...speech import Speech
from ...table import Column
from .errors import MAX_GROUP, MAX_SPEAKERS, abx
from .items import Item
from .score import AbxResult

COLUMNS = (
    Column("abx_within", "ABX within %", ".2f"),
    Column("abx_across", "across %", ".2f"),
    Column("unit_abx_within", "of units within %", ".2f"),
    Column("unit_abx_across", "across %", ".2f"),
)


class AbxMeasure:
    """ABX errors of a source's features, by their angle, and of its units, by their equality.

    Errors of features and of units cannot be compared with each other.

    Args:
        items: what is compared.
        max_group, max_speakers, seed, skip_missing, last_frame: as ``errors.abx``.
        content: identifies items that do not follow from the alignment, for tables that are kept on the disk.
    """

    columns: Sequence[Column] = COLUMNS

    def __init__(
        self,
        items: Sequence[Item],
        max_group: int | None = MAX_GROUP,
        max_speakers: int | None = MAX_SPEAKERS,
        seed: int = 0,
        skip_missing: bool = False,
        last_frame: str = "drop",
        content: str = "",
    ):
        self.items, self.content = items, content
        self.options: dict[str, Any] = {"max_group": max_group, "max_speakers": max_speakers, "seed": seed}
        self.options |= {"skip_missing": skip_missing, "last_frame": last_frame}

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        figures: dict[str, Any] = dict.fromkeys(column.key for column in self.columns)
        if source.features is not None:
            figures |= prefixed("abx", self.of_features(source))
        if source.units is not None:
            figures |= prefixed("unit_abx", self.of_units(source))
        return figures

    def of_features(self, source: Source) -> AbxResult:
        return abx(source.require_features(), self.items, source.rate, "angular", **self.options)

    def of_units(self, source: Source) -> AbxResult:
        return abx(source.require_units(), self.items, source.rate, source.unit_distance, **self.options)


def prefixed(prefix: str, result: AbxResult) -> dict[str, float | None]:
    errors = result.as_dict()
    return {f"{prefix}_{condition}": errors[condition] for condition in ("within", "across")}

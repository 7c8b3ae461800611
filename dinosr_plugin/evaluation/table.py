"""Plain aligned tables for the terminal."""

from collections.abc import Mapping, Sequence

QUALITY_COLUMNS = [  # for rows of {"name": ..., **UnitQuality.as_dict()}
    ("name", "units of", ""),
    ("n_codes", "size", "d"),
    ("active", "active", "d"),
    ("perplexity", "perplexity", ".1f"),
    ("phone_purity", "phone purity", ".3f"),
    ("cluster_purity", "cluster purity", ".3f"),
    ("pnmi", "PNMI", ".3f"),
    ("speaker_pnmi", "speaker PNMI", ".3f"),
    ("bit_rate", "bit/s", ".0f"),
    ("run_bit_rate", "runs bit/s", ".0f"),
    ("unit_ms", "unit ms", ".0f"),
    ("phone_ms", "phone ms", ".0f"),
    ("frames", "frames", "d"),
]
ABX_COLUMNS = [
    ("abx_within", "ABX within %", ".2f"),
    ("abx_across", "across %", ".2f"),
    ("unit_abx_within", "of units within %", ".2f"),
    ("unit_abx_across", "across %", ".2f"),
]


def format_table(rows: Sequence[Mapping], columns: Sequence[tuple[str, str, str]]) -> str:
    """Rows as lines of aligned columns under a header and a rule; numbers to the right, text to the left.

    Args:
        rows: one mapping a row; a key that is missing or None prints as ``-``.
        columns: (key, header, format specification as after the colon of an f-string) in order.
    """
    cells = [[_cell(row.get(key), spec) for key, _, spec in columns] for row in rows]
    headers = [header for _, header, _ in columns]
    widths = [max(map(len, column)) for column in zip(headers, *cells)]
    left = [all(isinstance(row.get(key), str | None) for row in rows) for key, _, _ in columns]
    lines = [headers, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(line, widths, left)).rstrip()
        for line in lines
    )


def _cell(value, spec: str) -> str:
    return "-" if value is None else format(value, spec)

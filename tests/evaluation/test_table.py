"""Aligned text."""

from dinosr_plugin.evaluation.table import QUALITY_COLUMNS, format_table


def test_columns_are_aligned():
    rows = [{"name": "MFCC", "pnmi": 0.3491}, {"name": "codebook 0", "pnmi": None}, {"name": None, "pnmi": 10.5}]
    assert format_table(rows, [("name", "codes of", ""), ("pnmi", "PNMI", ".2f")]).splitlines() == [
        "codes of     PNMI",
        "----------  -----",
        "MFCC         0.35",
        "codebook 0      -",
        "-           10.50",
    ]


def test_no_rows_leave_a_header():
    header, rule = format_table([], QUALITY_COLUMNS).splitlines()
    assert " ".join(header.split()) == (
        "units of size active perplexity phone purity cluster purity PNMI speaker PNMI bit/s runs bit/s unit ms phone ms frames"
    )
    assert set(rule) == {"-", " "}

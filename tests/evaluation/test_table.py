"""Text tables with aligned columns, and rows that are stored."""

import json

import pytest

from dinosr_plugin.evaluation.measures.quality.measure import COLUMNS
from dinosr_plugin.evaluation.table import RowTable, best_row, format_table


def test_columns_are_aligned():
    rows = [{"name": "MFCC", "pnmi": 0.3491}, {"name": "codebook 0", "pnmi": None}, {"name": None, "pnmi": 10.5}]
    assert format_table(rows, [("name", "codes of", ""), ("pnmi", "PNMI", ".2f")]).splitlines() == [
        "codes of     PNMI",
        "----------  -----",
        "MFCC         0.35",
        "codebook 0      -",
        "-           10.50",
    ]


def test_a_table_without_rows_has_a_header():
    header, rule = format_table([], COLUMNS).splitlines()
    assert " ".join(header.split()) == (
        "size active perplexity phone purity cluster purity PNMI speaker PNMI bit/s runs bit/s unit ms phone ms frames"
    )
    assert set(rule) == {"-", " "}


def test_stored_rows_are_used_for_the_same_digest_only(tmp_path):
    path = tmp_path / "rows.json"
    RowTable(path, "one").add("a", {"pnmi": 0.5})
    again = RowTable(path, "one")
    assert again.get("a") == {"pnmi": 0.5} and again.get("b") is None
    again.add("b", {"pnmi": 0.25})
    assert set(json.loads(path.read_text())["rows"]) == {"a", "b"}
    assert RowTable(path, "other").rows == {} and RowTable(tmp_path / "absent.json", "one").rows == {}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"rows": {}}', "null", '{"digest": "one", "rows": [1]}', '{"digest": "one", "rows": {"a": 1}}'],
)
def test_a_damaged_file_is_ignored(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    table = RowTable(tmp_path / "rows.json", "one")
    assert table.rows == {} and table.add("a", {}) == {} and RowTable(tmp_path / "rows.json", "one").rows == {"a": {}}


def test_rows_without_a_file():
    table = RowTable()
    assert table.add("a", {"x": 1}) == table.get("a") == {"x": 1}


def test_the_best_row_of_some_kinds():
    values = [("a", 0.5), ("b", 0.9), ("a", None), ("a", 0.7), ("c", 0.7), ("c", 0.1)]
    rows = [{"kind": kind, "x": value, "number": i} for i, (kind, value) in enumerate(values)]
    assert best_row(rows, ["a", "c"], "x")["number"] == 3  # the first of equals
    assert best_row(rows, ["a", "c"], "x", min)["number"] == 5
    assert best_row(rows, ["d"], "x") is None and best_row(rows, ["a"], "y") is None

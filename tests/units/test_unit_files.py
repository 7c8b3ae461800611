"""What unit files and the files beside them may claim."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.units.unit_files import MAX_UNITS, UnitInfo, read_info, read_labelled_units, read_units


def test_the_largest_unit(tmp_path):
    (tmp_path / "a.units").write_text(f"a\t0 {MAX_UNITS - 1}\nb\t\n")
    units = read_units(tmp_path / "a.units")
    assert units["a"].tolist() == [0, MAX_UNITS - 1] and units["b"].dtype == np.int64 and len(units["b"]) == 0


@pytest.mark.parametrize(
    "unit", [str(MAX_UNITS), "100000000", "9" * 30, "9" * 5000, "-1", "+1", "1_0", "1.0", "²", "٣"]
)
def test_ids_that_no_codebook_has(unit, tmp_path):
    (tmp_path / "a.units").write_text(f"a\t0 {unit} 1\n", encoding="utf-8")
    for read in (read_units, lambda path: read_labelled_units(path, None)):
        with pytest.raises(UserError, match="a.units line 1: .* is not a unit id, a whole number from 0 to 131071"):
            read(tmp_path / "a.units")


@pytest.mark.parametrize(
    "field, value",
    [
        ("rate", "50"), ("rate", 0), ("rate", -1), ("rate", 1e-300), ("rate", 1e300), ("rate", float("nan")),
        ("rate", True), ("first_centre", None), ("first_centre", 1e300), ("first_centre", float("inf")),
        ("size", 0), ("size", 10**12), ("size", "2"), ("size", 2.5), ("other", 1),
    ],
)  # fmt: skip
def test_an_impossible_field_is_named(field, value, tmp_path):
    (tmp_path / "a.units.json").write_text(json.dumps({**asdict(UnitInfo(50.0, 0.0125, 100)), field: value}))
    with pytest.raises(UserError, match=f"a.units.json: (field )?{field} is .*; remove it and give --rate"):
        read_info(tmp_path / "a.units")


def test_valid_fields_are_read(tmp_path):
    for info in (UnitInfo(50.0, 0.0125, 100), UnitInfo(None, 0.0), UnitInfo(12.5, -0.02, MAX_UNITS)):
        (tmp_path / "a.units.json").write_text(json.dumps(asdict(info)))
        assert read_info(tmp_path / "a.units") == info
    assert read_info(tmp_path / "b.units") is None

"""examples/dinosr/side_by_side.py: the table of figures that are written by hand."""

import json
import sys

import pytest

from dinosr_plugin.errors import UserError
from support.paths import EXAMPLES

sys.path.insert(0, str(EXAMPLES / "dinosr"))
import side_by_side  # noqa: E402


def write(folder, **pnmi) -> str:
    """quality.json with a row for every name: kind and index joined by an underscore."""
    rows = [{"name": "untrained layer 0", "kind": "untrained", "index": 0, "pnmi": 0.9, "abx_within": None}]
    for name, value in pnmi.items():
        kind, _, index = name.partition("_")
        rows.append({"name": name, "kind": kind, "index": int(index) if index else None, "pnmi": value})
        rows[-1] |= {"abx_within": None, "abx_across": 20 * value if kind == "layer" else None}
    folder.mkdir()
    (folder / "quality.json").write_text(json.dumps({"rows": rows}))
    return str(folder)


def test_table(tmp_path, capsys):
    first = write(tmp_path / "a", mfcc=0.35, layer_0=0.3814, teacher_1=0.4, head_0=0.41)
    second = write(tmp_path / "b", mfcc=0.35, layer_0=0.3822, teacher_1=0.3999, head_1=0.39)
    side_by_side.main([f"DinoSR={first}", f"SpidR={second}"])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header == (
        "| units of | PNMI: DinoSR | PNMI: SpidR | ABX of features, across (%): DinoSR | "
        "ABX of features, across (%): SpidR |"
    )
    assert rule == "| --- | --- | --- | --- | --- |"
    assert rows == [
        "| k-means on MFCC | .350 | .350 | - | - |",
        "| k-means on layer 0 | .381 | **.382** | **7.63** | 7.64 |",
        "| teacher, codebook 1 | .400 | .400 | - | - |",
        "| student's head 0 | .410 | - | - | - |",
        "| student's head 1 | - | .390 | - | - |",
    ]


def test_the_figures_of_the_page():
    """The file that is on the page: with itself, nothing is better."""
    rows = side_by_side.read_rows(EXAMPLES / "dinosr")
    lines = side_by_side.table({"one": rows, "other": rows})
    assert len(lines) == 2 + 1 + 5 + 4 + 4 and "*" not in "".join(lines)


@pytest.mark.parametrize("arguments", [[], ["x"], ["=x"], ["x="], ["DinoSR=missing"]])
def test_bad_arguments(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dinosr quality CHECKPOINT"):
        side_by_side.main(arguments)


@pytest.mark.parametrize("content", ["[]", "{}", '{"rows": [1]}', '{"rows": [{"name": "a"}]}', "x"])
def test_other_files(content, tmp_path):
    (tmp_path / "quality.json").write_text(content)
    with pytest.raises(UserError, match="quality.json: .*give the folder that"):
        side_by_side.read_rows(tmp_path)

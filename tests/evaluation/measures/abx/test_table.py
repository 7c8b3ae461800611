"""Several feature folders and unit files in one table; the command ``dinosr abx``."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from dinosr_plugin import cli
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.abx import measure as measure_module
from dinosr_plugin.evaluation.measures.abx.errors import abx
from dinosr_plugin.evaluation.measures.abx.items import Item, read_items, write_items
from dinosr_plugin.evaluation.measures.abx.table import COLUMNS, measure_abx, open_sources, write_abx
from dinosr_plugin.units.store import FeatureFolder, FeatureWriter
from dinosr_plugin.units.unit_files import write_units

RATE = 50.0
PHONES = [("SIL", "K", phone, "T", "SIL") for phone in ("AE", "IH", "AE", "IH", "AE", "EH")]
"""Of every utterance; each lasts 0.1 s."""
SPEAKERS = ("anna", "berta", "clara")


def write_features(folder, features: dict):
    names, lengths, width = (
        list(features),
        [len(array) for array in features.values()],
        next(iter(features.values())).shape[1],
    )
    with FeatureWriter(folder, RATE, 0.0125, width, "float32", {"kind": "test"}, names, lengths) as writer:
        for row, name in enumerate(names):
            writer.add(row, features[name])
        writer.close()


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """some.phones.tsv, some.tsv, two layers in all/, and units, of four utterances of each of three speakers."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = [f"{speaker}{i}" for speaker in SPEAKERS for i in range(4)]
    phones = [phone for word in PHONES for phone in word]
    rows = [f"{name}\t{i / 10:.1f}\t{(i + 1) / 10:.1f}\t{phone}" for name in names for i, phone in enumerate(phones)]
    (tmp_path / "some.phones.tsv").write_text("\n".join(["utt\tstart\tend\tphone", *rows]) + "\n")
    (tmp_path / "some.tsv").write_text(
        "\n".join(["/sound", *(f"{name[:-1]}/{name}.wav\t48000" for name in names)]) + "\n"
    )
    for layer, width in ((0, 3), (1, 5)):
        write_features(
            tmp_path / "all" / f"layer_{layer}",
            {name: rng.normal(size=(150, width)).astype(np.float32) for name in names},
        )
    write_units(tmp_path / "some.units", ((name, rng.integers(0, 4, 150)) for name in names))
    return tmp_path


def dinosr_abx(*arguments: str) -> int:
    return cli.main(["abx", *arguments])


def words(text: str) -> list:
    return [line.split() for line in text.splitlines()]


def test_layers_and_units_in_one_table(corpus, capsys):
    common = ["all", "some.units", "--rate", "50", "--phones", "some.phones.tsv", "--manifest", "some.tsv"]
    assert dinosr_abx(*common, "--write-items", "some.item", "--out", "out", "--no-sampling") == 0
    items = read_items("some.item")
    assert {(item.previous, item.following) for item in items} == {("K", "T")} and len(items) == 12 * 6
    out = capsys.readouterr().out
    assert "some.item: 72 items of 3 speakers\n" in out
    expected = [
        abx(FeatureFolder(corpus / "all/layer_0"), items, RATE, "angular", max_group=None, max_speakers=None),
        abx(FeatureFolder(corpus / "all/layer_1"), items, RATE, "angular", max_group=None, max_speakers=None),
    ]
    rows = {row[0]: row[1:] for row in words(out) if row}
    for name, result in zip(("all/layer_0", "all/layer_1"), expected):
        assert rows[name] == [
            "angular",
            "50",
            f"{result.within.error:.2f}",
            f"{result.across.error:.2f}",
            "72",
            "0",
            "0",
        ]
    assert rows["some.units"][0] == "onehot"

    figures = json.loads((corpus / "out/abx.json").read_text())
    assert (figures["items"], figures["speakers"], figures["max_group"], figures["seed"]) == (
        "some.phones.tsv",
        3,
        None,
        0,
    )
    assert [row["name"] for row in figures["rows"]] == ["all/layer_0", "all/layer_1", "some.units"]
    assert figures["rows"][1]["across"] == expected[1].across.error
    pairs = figures["rows"][1]["tables"]["across"]["pairs"]
    assert np.mean([pair["error"] for pair in pairs]) == pytest.approx(expected[1].across.error)

    with open(corpus / "out/abx_pairs.tsv") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    mine = [float(line["error"]) for line in lines if (line["name"], line["condition"]) == ("all/layer_1", "across")]
    assert mine == [pair["error"] for pair in pairs]
    with open(corpus / "out/abx_speakers.tsv") as file:
        assert {line["speaker"] for line in csv.DictReader(file, delimiter="\t")} == set(SPEAKERS)
    with open(corpus / "out/abx.tsv") as file:
        assert [float(line["within"]) for line in csv.DictReader(file, delimiter="\t")] == [
            row["within"] for row in figures["rows"]
        ]
    assert sorted(path.name for path in (corpus / "out").iterdir()) == [
        "abx.json",
        "abx.tsv",
        "abx_pairs.tsv",
        "abx_rows.json",
        "abx_speakers.tsv",
    ]


def test_the_edit_distance_applies_to_units_only(corpus):
    write_items("some.item", [Item("anna0", 0, 1, "AE", "K", "T", "anna")])
    sources = open_sources([corpus / "all/layer_0", corpus / "some.units"], 50, "edit")
    assert [(source.units is None, source.unit_distance, source.rate) for source in sources] == [
        (True, "onehot", 50),
        (False, "edit", 50),
    ]
    assert open_sources([corpus / "some.units"], 25)[0].unit_distance == "onehot"


def test_a_folder_of_several_sources_is_expanded(corpus):
    (corpus / "units").mkdir()
    for k in (1, 0):
        write_units(corpus / "units" / f"codebook_{k}.units", [("anna0", np.arange(k + 1))])
    names = [
        Path(source.name).name
        for source in open_sources([corpus / "units", corpus / "all", corpus / "all/layer_1"], 50)
    ]
    assert names == ["codebook_0.units", "codebook_1.units", "layer_0", "layer_1", "layer_1"]


def test_labels_without_names_are_matched_to_the_rows_of_a_manifest(corpus):
    named = open_sources([corpus / "some.units"], 50)[0].units
    rows = [line.split("\t")[0] for line in (corpus / "some.tsv").read_text().splitlines()[1:]]
    (corpus / "some.km").write_text("".join(" ".join(map(str, named[Path(row).stem])) + "\n" for row in rows))
    (source,) = open_sources([corpus / "some.km"], 50, tsv=corpus / "some.tsv")
    assert source.units.keys() == named.keys() and all((source.units[utt] == named[utt]).all() for utt in named)


def test_writing_items_without_features(corpus, capsys):
    common = ["--phones", "some.phones.tsv", "--manifest", "some.tsv", "--write-items", "new/some.item"]
    assert dinosr_abx(*common, "--span", "phone", "--min-count", "5") == 0
    # per speaker, AE occurs 12 times, IH 8 times, EH 4 times
    assert capsys.readouterr().out == "new/some.item: 60 items of 3 speakers\n"
    assert {item.phone for item in read_items("new/some.item")} == {"AE", "IH"}
    assert {round(item.offset - item.onset, 6) for item in read_items("new/some.item")} == {0.1}
    assert dinosr_abx(*common, "--silence", "ae", "sil") == 0
    assert {item.phone for item in read_items("new/some.item")} == {"IH", "EH"}


def test_tables_of_speakers_and_pairs(corpus, capsys):
    assert dinosr_abx("all/layer_0", "--phones", "some.phones.tsv", "--manifest", "some.tsv", "--tables") == 0
    out = capsys.readouterr().out
    assert "all/layer_0, within speakers\n" in out and "all/layer_0, across speakers\n" in out
    assert ["berta"] in [row[:1] for row in words(out)] and ["AE", "IH"] in [row[:2] for row in words(out)]


def test_one_speaker_gives_a_note(corpus, capsys):
    (corpus / "flat.tsv").write_text("/sound\n" + "\n".join(f"anna{i}.wav\t48000" for i in range(4)) + "\n")
    assert dinosr_abx("all/layer_0", "--phones", "some.phones.tsv", "--manifest", "flat.tsv") == 0
    captured = capsys.readouterr()
    assert words(captured.out)[2][4] == "-"
    assert "note: flat.tsv: contains only one speaker, unknown; no error across speakers\n" in captured.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "FEATURES: required without --write-items; give a folder written by `dinosr features`"),
        (["absent"], "absent: no such folder or file"),
        (["some.units"], "some.units: --rate HZ is required"),
        (["all", "--rate", "50"], "--rate and --distance are for unit files"),
        (["all", "--distance", "edit"], "--rate and --distance are for unit files"),
        (["some.phones.tsv", "--rate", "50"], "some.phones.tsv line 1: .* is not a unit id"),
        (["nothing"], "nothing: contains no features"),
        (
            ["some.units", "--rate", "25"],
            r"some.units: all 72 items are in the first 48% of their features at 25 Hz; give the right rate "
            r"\(about 52 Hz\?\)",
        ),
        (
            ["some.units", "--rate", "100"],
            r"some.units: 36 of 72 items start past the end of their features at 100 Hz; give the right rate",
        ),
        (
            ["all", "--min-count", "100"],
            "some.phones.tsv: none of 72 triphones in 12 utterances can be compared.* or a lower --min-count",
        ),
        (["all", "--manifest", "other.tsv"], "some.phones.tsv: none of its utterances .* is in the manifest"),
        (["broken"], "broken: anna0: NaN or infinity in frame 7 of its features"),
    ],
)
def test_bad_input(corpus, capsys, arguments, message):
    (corpus / "nothing").mkdir()
    (corpus / "other.tsv").write_text("/sound\nanna/other.wav\t48000\n")
    write_features(corpus / "broken", dict(FeatureFolder(corpus / "all/layer_0")))
    with open(corpus / "broken/features_1_of_1.npy", "r+b") as file:
        np.lib.format.read_magic(file), np.lib.format.read_array_header_1_0(file)
        file.seek(7 * 3 * 4, 1)
        file.write(np.float32("nan").tobytes())
    manifest = [] if "--manifest" in arguments else ["--manifest", "some.tsv"]
    assert dinosr_abx(*arguments, "--phones", "some.phones.tsv", *manifest) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error


def test_options_for_making_items_are_rejected_with_an_item_file(corpus, capsys):
    write_items("some.item", [Item("anna0", 0, 1, "AE", "K", "T", "anna")])
    for option in (["--min-count", "2"], ["--manifest", "some.tsv"], ["--write-items", "x.item"]):
        assert dinosr_abx("all", "--items", "some.item", *option) == 1
        assert "omit them with --items" in capsys.readouterr().err


def test_a_manifest_names_the_utterances_of_km_files_with_an_item_file(corpus, capsys):
    named = open_sources([corpus / "some.units"], 50)[0].units
    rows = [line.split("\t")[0] for line in (corpus / "some.tsv").read_text().splitlines()[1:]]
    (corpus / "some.km").write_text("".join(" ".join(map(str, named[Path(row).stem])) + "\n" for row in rows))
    common = ["--phones", "some.phones.tsv", "--manifest", "some.tsv"]
    assert dinosr_abx("some.km", "--rate", "50", *common, "--write-items", "some.item") == 0
    _, *from_phones = capsys.readouterr().out.splitlines()
    assert dinosr_abx("some.km", "--rate", "50", "--items", "some.item", "--manifest", "some.tsv") == 0
    assert capsys.readouterr().out.splitlines() == from_phones


def test_a_source_that_fails_is_named(corpus):
    items = [Item("other", 0, 1, "AE", "K", "T", "anna")]
    with pytest.raises(UserError, match="layer_0: 1 of 1 utterances of the items have no features"):
        measure_abx(open_sources([corpus / "all/layer_0"]), items)


def test_an_interrupted_table_resumes(corpus, capsys, monkeypatch):
    """Rows with the same items, options and features are not measured again; others are."""
    common = ["--phones", "some.phones.tsv", "--manifest", "some.tsv", "--out", "out"]
    assert dinosr_abx("all/layer_0", *common) == 0
    first, measured = capsys.readouterr().out, []
    monkeypatch.setattr(
        measure_module, "abx", lambda features, *rest, **more: measured.append(1) or abx(features, *rest, **more)
    )
    assert dinosr_abx("all/layer_0", *common) == 0 and measured == []
    assert capsys.readouterr().out == first
    assert dinosr_abx("all", *common) == 0 and measured == [1]
    assert dinosr_abx("all/layer_0", *common, "--seed", "1") == 0 and measured == [1, 1]


def test_the_last_frame(corpus, capsys):
    """If kept, each item has one more frame; the default is the published rule."""
    common = ["all/layer_0", "--phones", "some.phones.tsv", "--manifest", "some.tsv"]
    outputs = []
    for more in ([], ["--last-frame", "drop"], ["--last-frame", "keep"]):
        assert dinosr_abx(*common, *more) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_names_cannot_add_fields_to_the_tables(tmp_path):
    row = {**dict.fromkeys([column.key for column in COLUMNS], None), "name": "a\tb\x1b\n"}
    errors = [{"speaker": "c\td", "error": 1.5}]
    tables = {"within": {"speakers": errors, "pairs": errors}}
    write_abx(tmp_path, [{**row, "tables": tables}], {})
    header, line = (tmp_path / "abx.tsv").read_text().splitlines()
    assert line.split("\t")[0] == "a\\tb\\x1b\\n" and line.count("\t") == header.count("\t")
    assert "c\\td\t1.5" in (tmp_path / "abx_speakers.tsv").read_text()

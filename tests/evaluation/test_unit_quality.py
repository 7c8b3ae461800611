"""Quality of unit files: which files are read, their utterances, and files that do not match the alignment."""

import json
import re

import numpy as np
import pytest

from dinosr_plugin import cli
from dinosr_plugin.checkpoints.file import is_torch_file
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.sources import short_names
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.evaluation.unit_quality import unit_files
from dinosr_plugin.units.codes import dedup
from dinosr_plugin.units.unit_files import UnitInfo, read_labelled_units, write_units
from support.textgrids import long_textgrid

UTTERANCES = {"7-1-0000": ["AA", "B", "AA", "SIL"], "7-1-0001": ["B", "SIL"], "8-1-0000": ["SIL", "AA", "B"]}
IDS = {"AA": 0, "B": 1, "SIL": 3}
SPAN = 0.1  # seconds per phone: 5 units at 50 Hz


@pytest.fixture
def data(tmp_path):
    """all.phones.tsv, all.tsv, and all.units with a unit for each phone."""
    rows = [
        f"{utt}\t{i * SPAN:.1f}\t{(i + 1) * SPAN:.1f}\t{phone}"
        for utt, phones in UTTERANCES.items()
        for i, phone in enumerate(phones)
    ]
    (tmp_path / "all.phones.tsv").write_text("\n".join(["utt\tstart\tend\tphone", *rows]) + "\n")
    (tmp_path / "all.tsv").write_text(
        "\n".join(
            [str(tmp_path), *(f"speaker{utt[0]}/{utt}.wav\t{1600 * len(phones)}" for utt, phones in UTTERANCES.items())]
        )
        + "\n"
    )
    write_units(tmp_path / "all.units", perfect().items())
    return tmp_path


def perfect() -> dict:
    return {utt: np.repeat([IDS[phone] for phone in phones], 5) for utt, phones in UTTERANCES.items()}


def quality(data, *arguments) -> int:
    return cli.main(["quality", *map(str, arguments), "--phones", str(data / "all.phones.tsv")])


def error_of(data, capsys, *arguments) -> str:
    assert quality(data, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


# ---- files -----------------------------------------------------------------------------------------------------------


def test_checkpoints_are_recognised_by_content(tmp_path):
    for name, content, expected in (
        ("a.units", b"PK\3\4", True),
        ("b.pt", b"PK-1\t1 2", False),
        ("c.pt", b"\x80\x02", True),
        ("d.km", b"", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert is_torch_file(tmp_path / name) == expected
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert is_torch_file(tmp_path / "pointer.pt")  # which ``read_checkpoint`` names
    assert not is_torch_file(tmp_path)
    with pytest.raises(UserError, match="gone: no such file"):
        is_torch_file(tmp_path / "gone")


def test_files_of_a_folder_are_in_numerical_order(tmp_path):
    for name in (
        "codebook_10.units",
        "codebook_2.units",
        "codebook_1.units",
        "dev.km",
        "dict.km.txt",
        "codebook_0.txt",
    ):
        (tmp_path / name).touch()
    assert [file.name for file in unit_files(tmp_path)] == [
        "codebook_1.units",
        "codebook_2.units",
        "codebook_10.units",
        "dev.km",
    ]
    assert unit_files(tmp_path / "dev.km") == [tmp_path / "dev.km"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none: contains no .units or .km file"):
        unit_files(tmp_path / "none")


def test_short_names_in_the_table(tmp_path):
    assert short_names([tmp_path / "a/x.units", tmp_path / "a/y.km"]) == ["x", "y"]
    assert short_names([tmp_path / "a/x.units", tmp_path / "b/x.units"]) == [
        str(tmp_path / "a/x.units"),
        str(tmp_path / "b/x.units"),
    ]


def test_files_without_names_of_utterances(data):
    (data / "all.km").write_text("".join(" ".join(map(str, ids)) + "\n" for ids in perfect().values()))
    units = read_labelled_units(data / "all.km", data / "all.tsv")
    assert list(units) == list(UTTERANCES)
    for utt, ids in perfect().items():
        np.testing.assert_array_equal(units[utt], ids)
    with pytest.raises(UserError, match="all.km: unit ids without names of utterances; give --manifest"):
        read_labelled_units(data / "all.km", None)
    (data / "all.km").write_text("1 2\n3 4\n")
    with pytest.raises(UserError, match="all.km: 2 lines, but .*all.tsv has 3 rows"):
        read_labelled_units(data / "all.km", data / "all.tsv")
    (data / "all.km").write_text("1 2\n3 4\n5 x\n")
    with pytest.raises(UserError, match="all.km line 3: 'x' is not a unit id"):
        read_labelled_units(data / "all.km", data / "all.tsv")


# ---- dinosr quality --------------------------------------------------------------------------------------------------


def test_files_and_folders_in_one_table(data, capsys):
    (data / "more").mkdir()
    write_units(data / "more/codebook_0.units", ((utt, ids * 0) for utt, ids in perfect().items()))
    (data / "more/all2.km").write_text("".join(" ".join(map(str, ids)) + "\n" for ids in perfect().values()))
    assert quality(data, data / "all.units", data / "more", "--manifest", data / "all.tsv", "--out", data / "out") == 0
    captured = capsys.readouterr()
    header, _, *rows, json_path, png_path = captured.out.splitlines()
    assert "PNMI" in header and [row.split()[0] for row in rows] == ["all", "all2", "codebook_0"] and captured.err == ""
    rows = json.loads((data / "out/quality.json").read_text())["rows"]
    assert [json_path, png_path] == [str(data / "out/quality.json"), str(data / "out/code_by_phone.png")]
    assert (data / "out/code_by_phone.png").read_bytes()[1:4] == b"PNG"
    assert rows[0]["pnmi"] == rows[0]["phone_purity"] == pytest.approx(1, abs=1e-6)
    assert (rows[0]["n_codes"], rows[0]["active"], rows[0]["frames"]) == (4, 3, 45) and rows[0]["unit_ms"] == rows[0][
        "phone_ms"
    ] == pytest.approx(100)
    assert {**rows[1], "name": ""} == {**rows[0], "name": ""}
    assert (rows[2]["pnmi"], rows[2]["bit_rate"], rows[2]["speaker_pnmi"]) == pytest.approx((0, 0, 0), abs=1e-6)


def test_speakers_from_the_manifest_or_from_names_or_unknown(data, capsys):
    """With units that identify the speaker."""
    write_units(data / "speaker.units", ((utt, np.full(len(ids), int(utt[0]))) for utt, ids in perfect().items()))
    figures = []
    for more in ([], ["--manifest", data / "all.tsv"]):
        assert quality(data, data / "speaker.units", "--out", data / "out", *more) == 0
        figures.append(json.loads((data / "out/quality.json").read_text())["rows"][0]["speaker_pnmi"])
    assert figures == pytest.approx([1, 1], abs=1e-6)
    for name in ("speaker.units", "all.phones.tsv"):
        (data / name).write_text((data / name).read_text().replace("7-1-0001", "seven"))
    capsys.readouterr()
    assert quality(data, data / "speaker.units") == 0
    captured = capsys.readouterr()
    assert (
        captured.err.startswith("note: ") and "give --manifest" in captured.err and "speaker PNMI" not in captured.out
    )
    assert "all.tsv: 1 of 3 utterances are not in it (seven)" in error_of(
        data, capsys, data / "speaker.units", "--manifest", data / "all.tsv"
    )


def test_units_of_another_corpus(data, capsys):
    write_units(data / "other.units", [("9-9-9999", np.zeros(5, int))])
    assert "none of its 1 utterances (9-9-9999, ...) is in" in error_of(
        data, capsys, data / "other.units", "--skip-missing"
    )


def test_utterances_missing_on_both_sides(data, capsys):
    units = perfect()
    units["8-1-0005"] = units.pop("8-1-0000")
    write_units(data / "some.units", units.items())
    message = error_of(data, capsys, data / "some.units")
    assert "1 of 3 utterances have no alignment in" in message and "(8-1-0005)" in message
    assert (
        f"1 of 3 utterances of {data / 'all.phones.tsv'} have no units (8-1-0000)" in message
        and "--skip-missing" in message
    )
    assert quality(data, data / "some.units", "--skip-missing") == 0
    captured = capsys.readouterr()
    assert captured.err.count("note: ") == 2 and captured.out.splitlines()[-1].split()[-1] == "30"  # frames


def test_a_manifest_selects_a_part_of_the_alignment(data, capsys):
    rows = (data / "all.tsv").read_text().splitlines()
    (data / "part.tsv").write_text("\n".join(rows[:-1]) + "\n")
    units = perfect()
    units.pop("8-1-0000")
    write_units(data / "part.units", units.items())
    assert quality(data, data / "part.units", "--manifest", data / "part.tsv") == 0
    assert capsys.readouterr().err == ""
    assert "1 of 3 utterances of" in error_of(data, capsys, data / "part.units", "--manifest", data / "all.tsv")


@pytest.mark.parametrize(
    "change, rate, message",
    [
        (lambda ids: ids, 100, "45 units for the 0.9 s in .* are 50.0 per second, not 100 .--rate.; try --rate 50"),
        (lambda ids: np.repeat(ids, 2), None, "are 100.0 per second, not 50 .--rate.; try --rate 100"),
        (lambda ids: np.repeat(ids, 7), None, "are 350.0 per second, .*not a usual rate .deduplicated units have none"),
        (dedup, None, "are 10.0 per second, .*these are deduplicated, which have no rate"),
    ],
)
def test_units_with_an_unexpected_rate(data, capsys, change, rate, message):
    write_units(data / "odd.units", ((utt, change(ids)) for utt, ids in perfect().items()))
    assert re.search(message, error_of(data, capsys, data / "odd.units", *(["--rate", rate] if rate else [])))
    if rate is None and "try --rate 100" in message:
        assert quality(data, data / "odd.units", "--rate", 100) == 0


def test_other_invalid_input(data, capsys):
    (data / "empty.units").touch()
    (data / "zip.units").write_bytes(b"PK\3\4")
    (data / "binary.units").write_bytes(b"\xff\xfe\0\0")
    write_units(data / "silent.units", ((utt, ids[:0]) for utt, ids in perfect().items()))
    assert "empty.units: no units in it" in error_of(data, capsys, data / "empty.units")
    assert "binary.units line 1: contains a null character, not UTF-8" in error_of(data, capsys, data / "binary.units")
    assert "no frames to measure" in error_of(data, capsys, data / "silent.units")
    assert "all.units: not a checkpoint, but" in error_of(data, capsys, data / "zip.units", data / "all.units")
    assert "--train: only used with checkpoints" in error_of(
        data, capsys, data / "all.units", "--train", data / "all.tsv"
    )
    assert "--rate: only used with unit files" in error_of(data, capsys, data / "zip.units", "--rate", 50)
    assert "--manifest: required for checkpoints" in error_of(data, capsys, data / "zip.units")
    assert "--train is required with --abx" in error_of(
        data, capsys, data / "zip.units", "--manifest", data / "all.tsv", "--abx"
    )


# ---- without phones --------------------------------------------------------------------------------------------------

OF_PHONES = {"phone_purity", "cluster_purity", "pnmi", "phone_ms"}


def test_without_phones_all_other_figures_are_the_same(data, capsys):
    """Figures about phones are None in quality.json, and have no column."""
    arguments = ["quality", str(data / "all.units"), "--manifest", str(data / "all.tsv"), "--out", str(data / "out")]
    assert quality(data, *arguments[1:]) == 0
    (known,) = json.loads((data / "out/quality.json").read_text())["rows"]
    (data / "out/code_by_phone.png").unlink()
    capsys.readouterr()
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    (row,) = json.loads((data / "out/quality.json").read_text())["rows"]
    assert row == {key: None if key in OF_PHONES else value for key, value in known.items()}
    header, _, line, path = captured.out.splitlines()
    assert re.split("  +", header) == [
        "units of", "size", "active", "perplexity", "speaker PNMI", "bit/s", "runs bit/s", "unit ms", "frames",
    ]  # fmt: skip
    assert "-" not in line and path == str(data / "out/quality.json") and captured.err == ""
    assert not (data / "out/code_by_phone.png").exists()


def test_without_phones_units_must_match_the_durations_in_the_manifest(data, capsys):
    def error(*arguments) -> str:
        assert cli.main(["quality", *map(str, arguments)]) == 1
        return capsys.readouterr().err

    with_manifest = (data / "all.units", "--manifest", data / "all.tsv")
    assert (
        "45 units for the 0.9 s in" in (message := error(*with_manifest, "--rate", 100)) and "try --rate 50" in message
    )
    write_units(data / "other.units", [("9-9-9999", np.zeros(5, int))])
    assert "give the manifest of the same corpus" in error(data / "other.units", "--manifest", data / "all.tsv")
    (data / "empty.tsv").write_text("/\n")
    assert "empty.tsv: empty manifest" in error(data / "all.units", "--manifest", data / "empty.tsv")
    write_units(data / "more.units", {**perfect(), "7-1-0009": np.zeros(5, int)}.items())
    message = error(data / "more.units", "--manifest", data / "all.tsv")
    assert "1 of 4 utterances have no row in" in message and "--skip-missing" in message
    assert cli.main(["quality", str(data / "more.units"), "--manifest", str(data / "all.tsv"), "--skip-missing"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "45"  # frames
    assert cli.main(["quality", str(data / "other.units")]) == 0  # without manifest nothing says how long they are


def test_measures_that_require_phones(data, capsys):
    (data / "zip.pt").write_bytes(b"PK\3\4")
    checkpoint = [data / "zip.pt", "--manifest", data / "all.tsv"]
    for arguments, message in (
        ([data / "all.units", "--lags"], "--phones is required with --lags"),
        ([data / "all.units", "--alignment", "published"], "--alignment published: compares units with phones"),
        ([data / "all.units", "--items", "some.item"], "--items: only used with checkpoints"),
        ([*checkpoint, "--items", "some.item"], "--train is required with --items"),
        ([*checkpoint, "--train", data / "all.tsv", "--abx"], "--phones is required with --abx"),
    ):
        assert cli.main(["quality", *map(str, arguments)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_phones_from_textgrids(data):
    """The same figures as from the table."""
    from_table = figures_of(data, data / "all.units")
    for utt, phones in UTTERANCES.items():
        tier = [(i * SPAN, (i + 1) * SPAN, "" if phone == "SIL" else phone) for i, phone in enumerate(phones)]
        (data / "grids" / utt[0]).mkdir(parents=True, exist_ok=True)
        (data / f"grids/{utt[0]}/{utt}.TextGrid").write_text(long_textgrid({"phones": tier}, len(phones) * SPAN))
    arguments = ["--phones", str(data / "grids"), "--out", str(data / "out")]
    assert cli.main(["quality", str(data / "all.units"), *arguments]) == 0
    assert json.loads((data / "out/quality.json").read_text())["rows"][0] == from_table


# ---- manifests -------------------------------------------------------------------------------------------------------


def test_skip_missing_leaves_out_utterances_without_alignment(data):
    phones = PhoneAlignment.read(data / "all.phones.tsv")
    manifest = data / "more.tsv"
    manifest.write_text((data / "all.tsv").read_text() + "speaker9/9-1-0000.wav\t1600\n")
    with pytest.raises(UserError, match="1 of 4 utterances have no alignment"):
        Speech.read(manifest, phones)
    speech, notes = Speech.read(manifest, phones, skip_missing=True)
    assert speech.names == list(UTTERANCES) and set(speech.speakers.values()) == {"speaker7", "speaker8", "speaker9"}
    assert notes == [f"{manifest}: 1 of 4 utterances have no alignment in {phones.path} (9-1-0000); left out"]
    manifest.write_text(f"{data}\nspeaker9/9-1-0000.wav\t1600\n")
    with pytest.raises(UserError, match="1 of 1 utterances have no alignment"):
        Speech.read(manifest, phones, skip_missing=True)


# ---- alignment in time -----------------------------------------------------------------------------------------------


def figures_of(data, *arguments) -> dict:
    assert quality(data, *arguments, "--out", data / "out") == 0
    return json.loads((data / "out/quality.json").read_text())["rows"][0]


def at_100_hz(delay_ms: int = 0) -> dict:
    """Unit i is that of the phone at 10 i + 5 ms - ``delay_ms``."""
    units = {utt: np.repeat([IDS[phone] for phone in phones], 10) for utt, phones in UTTERANCES.items()}
    late = delay_ms // 10
    return {utt: np.concatenate([ids[:1].repeat(late), ids])[: len(ids)] for utt, ids in units.items()}


def test_units_at_100_hz_are_aligned_by_their_centres(data):
    """The first unit at 100 Hz is centred at 5 ms, not at 12.5 ms: then perfect units have a PNMI of 1."""
    write_units(data / "fine.units", at_100_hz().items())
    assert figures_of(data, data / "fine.units", "--rate", 100)["pnmi"] == pytest.approx(1, abs=1e-6)
    assert figures_of(data, data / "fine.units", "--rate", 100, "--first-centre", 0.0125)["pnmi"] < 0.9


def test_the_rate_is_read_from_the_info_file(data, capsys):
    write_units(data / "fine.units", at_100_hz().items(), info=UnitInfo(100.0, 0.004, 4))
    row = figures_of(data, data / "fine.units")
    assert row["pnmi"] == pytest.approx(1, abs=1e-6) and row["frames"] == 90
    write_units(data / "runs.units", ((utt, dedup(ids)) for utt, ids in perfect().items()), info=UnitInfo(None, 0.01))
    assert quality(data, data / "runs.units") == 1
    assert "each run of units is written once, so they have no rate" in capsys.readouterr().err


def test_the_published_alignment(data):
    """Unit i at 50 Hz is compared with labels 2 i and 2 i + 1 of 10 ms; here counted in a loop."""
    rng = np.random.default_rng(0)
    units = {utt: rng.integers(0, 5, len(ids)) for utt, ids in perfect().items()}
    write_units(data / "random.units", units.items())
    row = figures_of(data, data / "random.units", "--alignment", "published")
    labels = {utt: np.repeat(phones, 10) for utt, phones in UTTERANCES.items()}
    joint = np.zeros((3, 5))
    for utt, ids in units.items():
        for i, label in enumerate(labels[utt]):
            joint[["AA", "B", "SIL"].index(label), ids[i // 2]] += 1
    joint /= joint.sum()
    outer = joint.sum(1, keepdims=True) * joint.sum(0)
    information = (joint[joint > 0] * np.log(joint[joint > 0] / outer[joint > 0])).sum()
    entropy = -(joint.sum(1) * np.log(joint.sum(1))).sum()
    assert row["frames"] == 90 and row["pnmi"] == pytest.approx(information / entropy, abs=1e-6)
    by_centre = figures_of(data, data / "random.units")
    for name in ("bit_rate", "run_bit_rate", "unit_ms"):  # repeated units carry no more bits
        assert row[name] == pytest.approx(by_centre[name], rel=0.01)
    write_units(data / "doubled.units", ((utt, ids.repeat(2)) for utt, ids in units.items()))
    again = figures_of(data, data / "doubled.units", "--alignment", "published", "--rate", 100)
    assert again["pnmi"] == row["pnmi"] and again["phone_purity"] == row["phone_purity"]


@pytest.mark.parametrize("delay_ms", [0, 20, 40])
def test_lags_reveal_a_delay(data, capsys, delay_ms):
    """Delayed units have their peak at a negative lag."""
    write_units(data / "late.units", at_100_hz(delay_ms).items())
    row = figures_of(data, data / "late.units", "--rate", 100, "--lags")
    assert row["peak_lag_ms"] == -delay_ms and row[f"pnmi_{-delay_ms:+d}ms"] == pytest.approx(1, abs=1e-6)
    assert sum(key.startswith("pnmi_") for key in row) == 9
    assert "peak at ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    "n, arguments, message",
    [
        (4, ["--rate", "40", "--alignment", "published"], "40 units per second do not divide 100"),
        (5, ["--rate", "60"], "are 50.0 per second, not 60"),
    ],
)
def test_invalid_rates(data, capsys, n, arguments, message):
    """``n``: units in a phone of 100 ms."""
    write_units(data / "odd.units", ((utt, np.zeros(n * len(phones), int)) for utt, phones in UTTERANCES.items()))
    assert quality(data, data / "odd.units", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_size_of_the_codebook_is_read_from_the_json_file(data, capsys):
    """It includes units that do not occur."""
    write_units(data / "sized.units", perfect().items(), info=UnitInfo(50, 0.01, size=9))
    assert figures_of(data, data / "sized.units")["n_codes"] == 9
    write_units(data / "small.units", perfect().items(), info=UnitInfo(50, 0.01, size=1))
    assert quality(data, data / "small.units") == 1
    assert "says that there are 1 units; make both again" in capsys.readouterr().err

"""`dinosr check` and `validate_manifest`: an intact corpus passes, and every kind of damage is reported."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from dinosr_plugin.cli import main
from dinosr_plugin.data.check import check_manifest
from dinosr_plugin.data.validation import validate_manifest
from dinosr_plugin.errors import UserError

TEXTS = ["ONE", "TWO TWO", "THREE", "FOUR"]


@pytest.fixture
def tsv(tmp_path) -> Path:
    """A manifest with labels of four files in LibriSpeech's layout, two speakers; 4800, 5800, 6800, 7800 samples."""
    names = [f"1-2-000{n}" if n < 2 else f"3-4-000{n}" for n in range(4)]
    for number, name in enumerate(names):
        folder = tmp_path / "corpus/train" / name[0] / name[2]
        folder.mkdir(parents=True, exist_ok=True)
        sf.write(folder / f"{name}.flac", np.random.default_rng(number).normal(0, 0.1, 4800 + 1000 * number), 16000)
        with open(folder / f"{name[:3]}.trans.txt", "a") as file:
            file.write(f"{name} {TEXTS[number]}\n")
    assert main(["manifest", "librispeech", str(tmp_path / "corpus"), "--out", str(tmp_path)]) == 0
    return tmp_path / "train.tsv"


def edit(path: Path, change) -> None:
    """Rewrite a text file as ``change(lines)``."""
    path.write_text("\n".join(change(path.read_text().split("\n")[:-1])) + "\n")


def swapped(lines: list[str]) -> list[str]:
    return [lines[1], lines[0], *lines[2:]]


def audio(tsv: Path, number: int) -> Path:
    root, *rows = tsv.read_text().split("\n")
    return Path(root) / rows[number].split("\t")[0]


# ---- dinosr check ----------------------------------------------------------------------------------------------------


def test_a_good_manifest(tsv, capsys):
    capsys.readouterr()
    assert main(["check", str(tsv)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"manifest  {tsv}",
        "rows      4",
        "hours     0.00",
        "seconds   0.30 shortest, 0.39 median, 0.49 longest",
        "speakers  2",
        "problems  none",
    ]
    report = check_manifest(tsv)
    assert (report.problems, report.notes, report.samples, report.rows) == ([], [], [4800, 5800, 6800, 7800], 4)


def test_everything_at_once(tsv, capsys):
    """One fault of each kind; a single report lists them all."""
    first, second, third, fourth = (audio(tsv, number) for number in range(4))
    sf.write(first, np.zeros(4800), 16000)
    second.write_bytes(second.read_bytes()[:-9])
    sf.write(third, np.ones((3000, 2)) * 0.1, 8000)
    fourth.unlink()
    edit(tsv, lambda lines: [*lines, "no tab", "\t", "a.wav\tmany", "b.wav\t0", "x/1-2-0000.flac\t4800"])
    edit(tsv.with_suffix(".ltr"), lambda lines: ["O N ? |", "", *lines[2:]])
    tsv.with_suffix(".km").write_text("1 2 3\n")
    capsys.readouterr()
    assert main(["check", str(tsv)]) == 1
    printed = capsys.readouterr().out
    for expected in (
        "1-2-0000.flac: silent: every sample is zero",
        "1-2-0001.flac: unreadable or truncated",
        "3-4-0002.flac: 8000 Hz, 2 channel(s)",
        "3-4-0002.flac: 3000 samples, but 6800 on line 4",
        "3-4-0003.flac: no such file",
        "train.tsv line 6: 1 field(s)",
        "train.tsv line 7: 1 field(s)",
        "train.tsv line 8: the number of samples is 'many'",
        "train.tsv line 9: the number of samples is '0'",
        "x/1-2-0000.flac: same utterance id as 1/2/1-2-0000.flac",
        "x/1-2-0000.flac: no such file",
        "train.ltr: 4 lines for 9 rows",
        "train.ltr: 1 empty line(s), the first is line 2",
        "train.ltr: symbol '?' is not in dict.ltr.txt (1 line(s), the first is line 1)",
        "train.wrd: 4 lines for 9 rows",
        "train.km: 1 lines for 9 rows",
    ):
        assert printed.count(expected) == 1, expected
    assert printed.count("problem: ") == 16 and "problems  16" in printed


def test_names_that_the_system_refuses_are_problems(tsv):
    edit(tsv, lambda lines: [*lines, "x" * 5000 + "/a.wav\t16000", "y" * 300 + ".wav\t16000"])
    problems = check_manifest(tsv).problems
    assert sum("name too long" in problem for problem in problems) == 2


def test_a_wav_file_whose_header_was_never_completed_is_noted(tsv):
    path = audio(tsv, 2)
    sf.write(path, np.full(6800, 0.1), 16000, format="WAV")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = bytes(4)
    path.write_bytes(data)
    report = check_manifest(tsv)
    assert not report.problems
    assert report.notes == ["1 file(s) have a header without a length; all samples in them are used: 3/4/3-4-0002.flac"]


def replace_audio(sound: np.ndarray, **options):
    return lambda tsv: sf.write(audio(tsv, 2), sound, 16000, format="WAV", **options)


def corrupt_the_middle(tsv: Path) -> None:
    data = bytearray(audio(tsv, 3).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    audio(tsv, 3).write_bytes(data)


FAULTS = {
    "root": (lambda tsv: shutil.move(tsv.parent / "corpus", tsv.parent / "moved"), "its root folder"),
    "all files elsewhere": (
        lambda tsv: edit(tsv, lambda lines: [str(tsv.parent), *lines[1:]]),
        "none of the 4 files exists under",
    ),
    "no rows": (lambda tsv: edit(tsv, lambda lines: lines[:1]), "train.tsv: empty manifest"),
    "zero bytes": (lambda tsv: audio(tsv, 1).write_bytes(b""), "1-2-0001.flac: zero bytes long"),
    "text": (lambda tsv: audio(tsv, 1).write_text("words " * 99), "1-2-0001.flac: unreadable"),
    "damage": (corrupt_the_middle, "3-4-0003.flac: unreadable or truncated"),
    "nan": (replace_audio(np.array([0.1, np.nan]), subtype="FLOAT"), "3-4-0002.flac: contains NaN or infinite"),
    "infinity": (replace_audio(np.array([0.1, np.inf]), subtype="FLOAT"), "3-4-0002.flac: contains NaN or infinite"),
    "order of both labels": (
        lambda tsv: [edit(tsv.with_suffix(suffix), swapped) for suffix in (".ltr", ".wrd")],
        "train.wrd and the *.trans.txt files next to the audio disagree on 2 row(s), "
        "the first is line 1: 'TWO TWO' and 'ONE'",
    ),
    "order of letters": (
        lambda tsv: edit(tsv.with_suffix(".ltr"), swapped),
        "train.ltr and train.wrd disagree on 2 row(s), the first is line 1",
    ),
    "order, letters only": (
        lambda tsv: (tsv.with_suffix(".wrd").unlink(), edit(tsv.with_suffix(".ltr"), swapped)),
        "train.ltr and the *.trans.txt files next to the audio disagree on 2 row(s)",
    ),
    "no dictionary": (lambda tsv: (tsv.parent / "dict.ltr.txt").unlink(), "dict.ltr.txt: no such file"),
    "bad dictionary": (lambda tsv: (tsv.parent / "dict.ltr.txt").write_text("A\n"), "dict.ltr.txt line 1"),
    "phone outside its dictionary": (
        lambda tsv: (
            tsv.with_suffix(".phn").write_text("A\nB\nA\nA\n"),
            (tsv.parent / "dict.phn.txt").write_text("A 3\n"),
        ),
        "train.phn: symbol 'B' is not in dict.phn.txt",
    ),
    "empty unit line": (
        lambda tsv: tsv.with_suffix(".km").write_text("1\n\n2\n3\n"),
        "train.km: 1 empty line(s), the first is line 2",
    ),
    "units of other audio": (
        lambda tsv: tsv.with_suffix(".km").write_text("".join("1 " * n + "\n" for n in (15, 18, 10, 24))),
        "train.km: units and audio of 1 row(s) differ by more than 0.1 s at 50 units per second, "
        "the first is line 3: 10 units for 0.42 s",
    ),
    "labels that are not text": (
        lambda tsv: tsv.with_suffix(".wrd").write_bytes(b"\xff\n" * 4),
        "train.wrd: not UTF-8",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault(tsv, fault):
    breaks, expected = FAULTS[fault]
    breaks(tsv)
    problems = check_manifest(tsv).problems
    assert any(expected in problem for problem in problems), problems
    assert all("\n" not in problem and ";" in problem for problem in problems)  # one line each, with a remedy


def test_a_moved_root_is_one_problem_and_labels_are_still_checked(tsv):
    shutil.move(tsv.parent / "corpus", tsv.parent / "moved")
    edit(tsv.with_suffix(".wrd"), lambda lines: lines[:3])
    problems = check_manifest(tsv).problems
    assert len(problems) == 2 and "train.wrd: 3 lines for 4 rows" in problems[0] and "dinosr manifest" in problems[1]


def test_sizes(tsv):
    assert check_manifest(tsv, min_sample_size=4800, max_sample_size=7800).notes == []
    report = check_manifest(tsv, min_sample_size=5801, max_sample_size=6799)
    assert report.problems == []
    assert [note.split(" files ")[0] for note in report.notes] == ["2 of 4", "2 of 4"]
    assert "shorter" in report.notes[0] and "longer" in report.notes[1]
    assert "every file is shorter than min_sample_size=7801" in check_manifest(tsv, min_sample_size=7801).problems[0]


def test_units_at_50_and_100_per_second_pass(tsv):
    for rate in (50, 100):
        tsv.with_suffix(".km").write_text("".join("1 " * ((4800 + 1000 * n) * rate // 16000) + "\n" for n in range(4)))
        assert check_manifest(tsv).problems == []


def test_a_missing_manifest_is_an_error(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.tsv")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/none.tsv: no such file; make it with `dinosr manifest`\n"


def test_the_number_of_workers_does_not_change_the_report(tsv):
    audio(tsv, 0).unlink()
    audio(tsv, 2).write_bytes(b"")
    assert check_manifest(tsv, workers=1) == check_manifest(tsv, workers=4)


def test_real_speech(librispeech_mini, tmp_path):
    main(["manifest", "librispeech", str(librispeech_mini), "--out", str(tmp_path), "--parts", "dev"])
    assert check_manifest(tmp_path / "dev.tsv").problems == []
    edit(tmp_path / "dev.wrd", swapped)
    edit(tmp_path / "dev.ltr", swapped)
    assert "disagree on 2 row(s)" in check_manifest(tmp_path / "dev.tsv").problems[0]


# ---- validate_manifest -----------------------------------------------------------------------------------------------


def test_validate_accepts_what_manifest_writes(tsv):
    validate_manifest(tsv, "ltr", 7800)
    validate_manifest(tsv, None, None)
    for path in Path(tsv.parent / "corpus").rglob("*.flac"):
        path.unlink()  # no audio file is opened
    validate_manifest(tsv, "ltr", 1)


def add_row(row: str):
    return lambda tsv: edit(tsv, lambda lines: [*lines, row])


INVALID = {
    "missing": (lambda tsv: tsv.unlink(), "train.tsv: no such file.*dinosr manifest"),
    "a folder": (lambda tsv: (tsv.unlink(), tsv.mkdir()), "train.tsv: is a folder"),
    "root": (
        lambda tsv: shutil.move(tsv.parent / "corpus", tsv.parent / "moved"),
        "root folder .*corpus/train does not exist; .*dinosr manifest.*first line",
    ),
    "no line": (lambda tsv: tsv.write_text(""), "empty manifest"),
    "no row": (lambda tsv: edit(tsv, lambda lines: lines[:1]), "empty manifest"),
    "blank row": (add_row(""), r"train.tsv line 6: 1 field\(s\)"),
    "spaces for tab": (add_row("a.wav 16000"), "train.tsv line 6"),
    "negative": (add_row("a.wav\t-5"), "train.tsv line 6: .*'-5'"),
    "10^30 samples": (
        add_row("a.wav\t1" + "0" * 30),
        "train.tsv line 6: .* must be an integer from 1 to 1099511627776",
    ),
    "2^41 samples": (add_row(f"a.wav\t{1 << 41}"), "train.tsv line 6: the number of samples is '2199023255552'"),
    "superscript": (add_row("a.wav\t1²"), "train.tsv line 6: the number of samples is '1²'"),
    "null character": (add_row("a\0b.wav\t16000"), "train.tsv line 6: contains a null character"),
    "count ²": (
        lambda tsv: edit(tsv.parent / "dict.ltr.txt", lambda lines: [*lines, "é ²"]),
        "dict.ltr.txt line .*: 'é ²' is not `symbol count`",
    ),
    "count of 30 digits": (
        lambda tsv: edit(tsv.parent / "dict.ltr.txt", lambda lines: [*lines, "é " + "9" * 30]),
        "dict.ltr.txt line .* is not `symbol count`",
    ),
    "three fields": (add_row("a.wav\t5\t6"), "train.tsv line 6: 3 field"),
    "duplicate": (add_row("x/1-2-0001.wav\t5"), "line 6: duplicate utterance id 1-2-0001, already on line 3"),
    "same row twice": (
        lambda tsv: edit(tsv, lambda lines: [*lines, lines[1]]),
        "line 6: duplicate utterance id 1-2-0000, already on line 2",
    ),
    "too short": (
        lambda tsv: edit(tsv, lambda lines: [lines[0], *(line.split("\t")[0] + "\t799" for line in lines[1:])]),
        r"min_sample_size=800 \(0.05 s\)",
    ),
    "no labels": (lambda tsv: tsv.with_suffix(".ltr").unlink(), "train.ltr: no such file"),
    "few labels": (
        lambda tsv: edit(tsv.with_suffix(".ltr"), lambda lines: lines[:-1]),
        "train.ltr: 3 lines for the 4 rows",
    ),
    "many labels": (
        lambda tsv: edit(tsv.with_suffix(".ltr"), lambda lines: lines + lines[:1]),
        "train.ltr: 5 lines for the 4 rows",
    ),
    "no dictionary": (lambda tsv: (tsv.parent / "dict.ltr.txt").unlink(), "dict.ltr.txt: no such file"),
    "symbol": (
        lambda tsv: edit(tsv.with_suffix(".ltr"), lambda lines: [*lines[:2], "T H Ü |", lines[3]]),
        "train.ltr line 3: symbol 'Ü' is not in .*dict.ltr.txt",
    ),
}


@pytest.mark.parametrize("fault", INVALID)
def test_validate_describes_the_fault_in_one_line(tsv, fault):
    breaks, expected = INVALID[fault]
    breaks(tsv)
    with pytest.raises(UserError, match=expected) as caught:
        validate_manifest(tsv, "ltr", 800)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_validate_is_not_misled_by_equal_hashes(tsv, monkeypatch):
    """Duplicates are searched by hash first; the ids themselves are compared only if two hashes are equal."""
    monkeypatch.setattr("dinosr_plugin.data.validation.hash", lambda name: 7, raising=False)
    validate_manifest(tsv, None, None)
    edit(tsv, lambda lines: [*lines, lines[2]])
    with pytest.raises(UserError, match="line 6: duplicate utterance id 1-2-0001, already on line 3"):
        validate_manifest(tsv, None, None)

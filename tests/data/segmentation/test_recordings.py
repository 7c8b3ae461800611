"""`dinosr segment`: files of segments, their names and their times; files that cannot be used."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin.cli import main as dinosr
from dinosr_plugin.data.manifest import read_manifest, speaker_of
from dinosr_plugin.data.segmentation import recordings

RATE = 16000


def bursts(*seconds: float, rate: int = RATE, gap: float = 1.0) -> np.ndarray:
    """Noise of these durations, as loud as speech, in silence: a second before, ``gap`` between, a second after."""
    rng, parts = np.random.default_rng(0), [np.zeros(rate)]
    for number, length in enumerate(seconds):
        parts += [np.zeros(int(gap * rate))] * (number > 0) + [rng.normal(0, 0.1, int(length * rate))]
    return np.concatenate([*parts, np.zeros(rate)]).clip(-0.9, 0.9)


def write(path: Path, wave: np.ndarray, rate: int = RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **options)
    return path


def segment(out: Path, *paths: Path, **options) -> list[list[str]]:
    """Rows of the table of segments of these recordings."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert dinosr(["segment", *map(str, paths), "--out", str(out), "--method", "energy", *words]) == 0
    header, *rows = (out / "segments.tsv").read_text().splitlines()
    assert header == "segment\tsource\tstart\tend"
    return [row.split("\t") for row in rows]


def refused(capsys, out: Path, *paths: Path, options: tuple[str, ...] = ("--method", "energy")) -> str:
    """The error; nothing is left behind."""
    assert dinosr(["segment", *map(str, paths), "--out", str(out), *options]) == 1
    assert not out.exists() and not list(out.parent.glob(f".{out.name}*"))
    return capsys.readouterr().err


def test_the_table_says_where_in_the_recording_each_segment_is(tmp_path):
    source = write(tmp_path / "in/interview.wav", bursts(3, 2, 4))
    rows = segment(tmp_path / "out", source)
    wave, _ = soundfile.read(source, dtype="int16")
    assert [row[1] for row in rows] == [str(source)] * 3
    for (name, _, start, end), (begin, stop) in zip(rows, [(1, 4), (5, 7), (8, 12)], strict=True):
        assert begin - 0.15 < float(start) <= begin and stop <= float(end) < stop + 0.15
        assert name == f"interview-{int(float(start) * 100):07d}-{int(float(end) * 100):07d}"
        found, rate = soundfile.read(tmp_path / f"out/interview/{name}.flac", dtype="int16")
        assert rate == RATE and soundfile.info(tmp_path / f"out/interview/{name}.flac").format == "FLAC"
        np.testing.assert_array_equal(found, wave[round(float(start) * RATE) : round(float(end) * RATE)])


def test_what_is_read_at_a_time_changes_nothing(tmp_path, monkeypatch):
    source = write(tmp_path / "in/a.flac", bursts(3, 2, 4, rate=22050), 22050)
    whole = segment(tmp_path / "whole", source)
    monkeypatch.setattr(recordings, "BLOCK", 10 * 512)
    assert segment(tmp_path / "blocks", source) == whole


def test_the_segments_become_a_manifest_with_the_same_speakers(tmp_path, capsys):
    for path in ("anna/one.wav", "anna/two.wav", "ben/may/one.wav", "ben/three.ogg"):
        write(tmp_path / "in" / path, bursts(2, 3))
    rows = segment(tmp_path / "out", tmp_path / "in")
    assert dinosr(["manifest", "folder", str(tmp_path / "out"), "--out", str(tmp_path), "--valid-share", "0"]) == 0
    listed = [row.path for row in read_manifest(tmp_path / "train.tsv").utterances]
    assert sorted(Path(path).stem for path in listed) == sorted(row[0] for row in rows) and len(rows) == 8
    folders = {str(Path(path).parent): speaker_of(path) for path in listed}
    expected = {"anna/one": "anna", "anna/two": "anna", "ben/may/one": "ben", "ben/three": "ben"}
    assert folders == expected
    assert {row[0].split("-0")[0] for row in rows} == {"anna-one", "two", "ben-may-one", "three"}
    printed = capsys.readouterr().out
    assert "4 recording(s), 0.5 minutes, of which 63% are speech" in printed
    assert "8 segment(s), 0.4 minutes: 2." in printed


@pytest.mark.parametrize("rate, channels", [(8000, 1), (44100, 2)])
def test_other_formats_become_16_khz_mono(tmp_path, rate, channels):
    wave = bursts(3, 2, rate=rate)
    source = write(tmp_path / "in/a.wav", np.repeat(wave[:, None], channels, axis=1), rate)
    rows = segment(tmp_path / "out", source)
    found, found_rate = soundfile.read(tmp_path / f"out/a/{rows[1][0]}.flac")
    assert found_rate == RATE and found.ndim == 1 and len(rows) == 2
    assert len(found) == round((float(rows[1][3]) - float(rows[1][2])) * RATE)
    assert 0.05 < found.std() < 0.11


def test_channels_that_cancel_each_other_are_not_averaged(tmp_path, capsys):
    wave = bursts(3, 2)
    source = write(tmp_path / "in/a.wav", np.stack([wave, -wave], axis=1))
    rows = segment(tmp_path / "out", source)
    assert "have channels that cancel each other; only the loudest channel is used" in capsys.readouterr().err
    mono = write(tmp_path / "mono/a.wav", wave)
    assert [row[2:] for row in rows] == [row[2:] for row in segment(tmp_path / "out2", mono)]
    found, expected = (soundfile.read(tmp_path / f"{out}/a/{rows[1][0]}.flac")[0] for out in ("out", "out2"))
    np.testing.assert_array_equal(found, expected)


def test_names_that_occur_in_several_folders_are_unique(tmp_path):
    for path in ("in/a/x.wav", "in/b/x.wav", "in/a-x.wav"):
        write(tmp_path / path, bursts(3))
    rows = segment(tmp_path / "out", tmp_path / "in")
    assert [row[0].rsplit("-", 2)[0] for row in rows] == ["a-x", "a--x", "b--x"]


def test_floats_above_full_scale_are_scaled_down(tmp_path, capsys):
    source = write(tmp_path / "in/a.wav", 20 * bursts(3), subtype="FLOAT")
    ((name, *_),) = segment(tmp_path / "out", source)
    found, _ = soundfile.read(tmp_path / f"out/a/{name}.flac")
    assert 0.99 < np.abs(found).max() <= 1 and np.mean(np.abs(found) > 0.99) < 0.01
    assert (
        f"1 recording(s) are louder than full scale; their segments are scaled down: {source}"
        in capsys.readouterr().err
    )


def test_long_speech_is_cut_and_short_speech_is_left_out(tmp_path, capsys):
    source = write(tmp_path / "in/a.wav", bursts(13, 0.5))
    rows = segment(tmp_path / "out", source, max_seconds=5)
    assert len(rows) == 4 and all(float(end) - float(start) <= 5 for _, _, start, end in rows)
    assert [row[3] for row in rows[:-1]] == [row[2] for row in rows[1:]]  # nothing is lost or doubled
    printed = capsys.readouterr().out
    assert "3 cut(s) within speech" in printed and "1 segment(s), 0.7 s, are shorter than --min-seconds" in printed
    assert len(segment(tmp_path / "more", source, max_seconds=5, min_seconds=0.5)) == 5
    assert len(segment(tmp_path / "joined", source, min_pause=2)) == 1


def test_a_recording_without_speech_is_named(tmp_path, capsys):
    write(tmp_path / "in/a.wav", bursts(3)), write(tmp_path / "in/b.wav", np.zeros(RATE))
    segment(tmp_path / "out", tmp_path / "in")
    assert f"1 recording(s) have no segment: {tmp_path}/in/b.wav" in capsys.readouterr().err
    assert "no segment of speech; lower --min-seconds" in refused(capsys, tmp_path / "no", tmp_path / "in/b.wav")


def test_files_that_cannot_be_used_are_listed_and_nothing_is_written(tmp_path, capsys):
    good, nan = write(tmp_path / "in/a.wav", bursts(3)), np.full(RATE, np.nan)
    write(tmp_path / "in/nan.wav", nan, subtype="FLOAT")
    assert "nan.wav: contains NaN or infinite samples" in refused(capsys, tmp_path / "out", tmp_path / "in")
    (tmp_path / "in/text.wav").write_text("not sound")
    (tmp_path / "in/empty.flac").touch()
    error = refused(capsys, tmp_path / "out", tmp_path / "in")
    assert "2 problem(s)" in error and "text.wav: unreadable" in error and "empty.flac: zero bytes" in error
    assert "gone.wav: no such file; check the name" in refused(capsys, tmp_path / "out", good, tmp_path / "gone.wav")
    other = write(tmp_path / "other/a.flac", bursts(3))
    assert f"{other}: same name as {good}; rename" in refused(capsys, tmp_path / "out", good, other)
    assert f"overlaps {tmp_path}/in; give a new folder" in refused(capsys, tmp_path / "in/out", tmp_path / "in")
    write(tmp_path / "odd/a\tb.wav", bursts(3))
    assert "contains a tab or a line break" in refused(capsys, tmp_path / "out", tmp_path / "odd")


@pytest.mark.parametrize(
    "options, message",
    [
        ("--max-seconds 1", "--max-seconds 1: must be between 2 and 3600"),
        ("--min-pause 0.01", "--min-pause 0.01: must be between 0.15 and 60"),
        ("--min-seconds 11", "--min-seconds 11: must be at most half of --max-seconds 20"),
        ("--min-pause 3 --max-seconds 5", "--min-pause 3: must be at most half of --max-seconds 5"),
    ],
)
def test_impossible_durations(tmp_path, capsys, options, message):
    source = write(tmp_path / "in/a.wav", bursts(3))
    assert re.search(re.escape(message), refused(capsys, tmp_path / "out", source, options=tuple(options.split())))

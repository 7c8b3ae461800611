"""The speakers' ranges of F0: measured once, kept in a table, or read from one."""

import logging
import multiprocessing
import time

import numpy as np
import pytest

from dinosr_plugin.data import audio
from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.perturbation import f0, praat
from dinosr_plugin.data.perturbation.f0 import EVERYONE, Range, is_low, range_of, ranges_of, read_table
from dinosr_plugin.errors import UserError
from support.voices import RATE, voice, write_voices

SPEAKERS = {"anna": 210.0, "ben": 110.0}


@pytest.fixture
def data(tmp_path) -> SpeechDataset:
    return dataset(write_voices(tmp_path / "data", SPEAKERS, lengths=(RATE, 8000)))


def dataset(folder, split: str = "train", **options) -> SpeechDataset:
    return SpeechDataset(str(folder / f"{split}.tsv"), RATE, **options)


# ---- measuring -------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """Replaces Praat by a function of the waveform."""

    def replace(function) -> None:
        monkeypatch.setattr(praat, "measure_f0", lambda wave, limits: np.float32(function(wave)))

    return replace


def test_floor_and_ceiling_follow_from_the_quartiles(measured):
    """0.75 times the first, 1.5 times the third, of all waveforms together."""
    measured(lambda wave: np.linspace(*wave, 101))
    assert range_of([np.array([160, 240])]) == Range(0.75 * 180, 1.5 * 220)
    assert range_of([np.array([160, 200]), np.array([200, 240])]) == pytest.approx(
        Range(0.75 * 180, 1.5 * 220), abs=0.2
    )


def test_floor_and_ceiling_stay_within_the_range_for_everyone(measured):
    measured(lambda wave: np.full(60, wave[0]))
    assert range_of([np.array([80])]) == Range(75.0, 120.0)
    assert range_of([np.array([450])]) == Range(337.5, 500.0)
    assert EVERYONE == (75, 500)


def test_a_speaker_without_enough_voiced_frames_has_the_range_for_everyone(measured):
    measured(lambda wave: np.full(49, 200.0))
    assert range_of([np.zeros(1)]) == range_of([]) == EVERYONE


def test_praat_measures():
    pytest.importorskip("parselmouth")
    silence, short = np.zeros(RATE, np.float32), np.ones(10, np.float32)
    floor, ceiling = range_of([silence, voice(200.0), short])
    assert floor == pytest.approx(150, rel=0.01) and ceiling == pytest.approx(300, rel=0.01)


def test_up_to_30_s_of_a_speaker_are_read_in_the_manifests_order(tmp_path):
    folder = write_voices(tmp_path, {"anna": 200.0}, lengths=[10 * RATE, 15 * RATE, 20 * RATE, RATE])
    found = list(f0.first_seconds(dataset(folder), [0, 1, 2, 3]))
    assert [len(wave) / RATE for wave in found] == [10, 15, 5]


# ---- low and high voices ---------------------------------------------------------------------------------------------


def test_the_ranges_for_men_and_women_are_those_of_low_and_high_voices():
    assert is_low(75, 250) and is_low(60, 400) and not is_low(100, 400) and not is_low(*EVERYONE)


@pytest.mark.parametrize("median, low", [(100, True), (140, True), (180, False), (250, False)])
def test_a_measured_range_is_low_if_the_median_is(measured, median, low):
    measured(lambda wave: np.linspace(0.85 * median, 1.15 * median, 101))
    assert is_low(*range_of([np.zeros(1)])) is low


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_is_read(tmp_path):
    (tmp_path / "table").write_text("anna\t100\t400\nben b\t 75.5 \t2.5e2\n")
    assert read_table(tmp_path / "table") == {"anna": (100, 400), "ben b": (75.5, 250)}


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "empty; a line is speaker<TAB>floor<TAB>ceiling"),
        ("anna 100 400\n", r"line 1: 1 field\(s\) instead of three"),
        ("anna\t100\t400\nben\t75\n", r"line 2: 2 field\(s\) instead of three"),
        ("\t100\t400\n", r"line 1: 3 field\(s\)"),
        ("anna\t100\thigh\n", "line 1: floor and ceiling must be numbers"),
        ("anna\t100\t400\nanna\t90\t300\n", "line 2: speaker 'anna' occurs twice"),
        ("anna\t400\t100\n", "line 1: floor 400 and ceiling 100: the floor must be below the ceiling"),
        ("anna\tnan\t400\n", "line 1: floor nan and ceiling 400"),
        ("anna\t10\t400\n", "between 20 and 2000 Hz"),
        ("anna\t100\tinf\n", "between 20 and 2000 Hz"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(tmp_path, data, content, message):
    (tmp_path / "table").write_text(content)
    with pytest.raises(UserError, match=f"task.f0_ranges={tmp_path}/table.*{message}") as refused:
        ranges_of(data, str(tmp_path / "table"), tmp_path, by_praat=True)
    assert "\n" not in str(refused.value)


def test_a_table_that_is_missing_is_refused(tmp_path, data):
    with pytest.raises(UserError, match="table: no such file; .*task.f0_ranges=null"):
        ranges_of(data, str(tmp_path / "table"), tmp_path, by_praat=True)


def test_speakers_who_are_not_in_the_table_have_one_range_and_are_named_once(tmp_path, data, caplog):
    (tmp_path / "table").write_text("anna\t120\t350\n")
    found = ranges_of(data, str(tmp_path / "table"), tmp_path, by_praat=True)
    assert found.dtype == np.float32 and found.tolist() == [[120, 350], [120, 350], [75, 500], [75, 500]]
    assert caplog.messages == ["no range of F0 for 1 speaker(s) (ben): F0 between 75 and 500 Hz for them"]


def test_without_speakers_all_have_one_range_and_nothing_is_measured(tmp_path, caplog, monkeypatch):
    write_voices(tmp_path, {"": 200.0}, lengths=(RATE, RATE))
    monkeypatch.setattr(f0, "measure", None)
    found = ranges_of(dataset(tmp_path), None, tmp_path / "run", by_praat=True)
    assert found.tolist() == [[75, 500]] * 2 and not (tmp_path / "run").exists()
    assert caplog.messages == ["2 utterance(s) are in no speaker's folder: F0 between 75 and 500 Hz for them"]


def test_without_praat_nothing_is_measured(tmp_path, data, monkeypatch):
    monkeypatch.setattr(f0, "measure", None)
    assert ranges_of(data, None, tmp_path / "run", by_praat=False).tolist() == [[75, 500]] * 4
    assert not (tmp_path / "run").exists()


def test_what_was_measured_is_kept_and_read_again(tmp_path, data, monkeypatch, caplog):
    pytest.importorskip("parselmouth")
    caplog.set_level(logging.INFO)
    found = ranges_of(data, None, tmp_path / "run", by_praat=True)
    assert "measuring F0 of 2 speaker(s)" in caplog.text
    for (floor, ceiling), median in zip(found, (210, 210, 110, 110)):
        assert floor == pytest.approx(max(75, 0.75 * median), rel=0.1) and ceiling == pytest.approx(
            1.5 * median, rel=0.1
        )
    table = tmp_path / "run/f0_ranges.tsv"
    assert read_table(table).keys() == SPEAKERS.keys() and sorted(tmp_path.glob("run/*")) == [table]
    assert praat._process is None  # ended: workers start their own
    monkeypatch.setattr(f0, "measure", None)
    assert np.array_equal(ranges_of(data, None, tmp_path / "run", by_praat=True), found)


def test_only_new_speakers_are_measured(tmp_path, data, monkeypatch):
    """Those of a validation split, which is loaded first or later."""
    asked = []
    monkeypatch.setattr(
        f0, "measure", lambda data, rows: asked.append(dict(rows)) or ((one, Range(80, 300)) for one in rows)
    )
    ranges_of(data, None, tmp_path / "run", by_praat=True)
    write_voices(tmp_path / "data", {"ben": 110.0, "cara": 220.0}, "valid")
    ranges_of(dataset(tmp_path / "data", "valid"), None, tmp_path / "run", by_praat=True)
    assert asked == [{"anna": [0, 1], "ben": [2, 3]}, {"cara": [1]}]
    lines = (tmp_path / "run/f0_ranges.tsv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        *(f"# measured from {tmp_path}/data/{split}.tsv" for split in ("train", "valid")),
        *(f"{speaker}\t80\t300" for speaker in ("anna", "ben", "cara")),
    ]


def test_speakers_of_a_manifest_that_has_changed_are_measured_again(tmp_path, data, monkeypatch):
    measured = [Range(80, 300), Range(90, 310), Range(100, 320)]
    waiting = iter(measured)
    monkeypatch.setattr(f0, "measure", lambda data, rows: dict.fromkeys(rows, next(waiting)).items())
    ranges_of(data, None, tmp_path / "run", by_praat=True)
    write_voices(tmp_path / "data", {"cara": 220.0}, "valid")
    ranges_of(dataset(tmp_path / "data", "valid"), None, tmp_path / "run", by_praat=True)
    write_voices(tmp_path / "data", SPEAKERS, lengths=(RATE, 9000))
    ranges_of(dataset(tmp_path / "data"), None, tmp_path / "run", by_praat=True)
    table = tmp_path / "run/f0_ranges.tsv"
    assert read_table(table) == {"anna": measured[2], "ben": measured[2], "cara": measured[1]}
    assert [line.split(",")[0].rsplit("/")[-1] for line in f0.read_comments(table)] == ["valid.tsv", "train.tsv"]


# ---- files that cannot be read ---------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path, data, monkeypatch):
    """``data`` without the first file of each speaker."""
    monkeypatch.setattr(audio, "WAITS", ())
    monkeypatch.setattr(praat, "measure_f0", lambda wave, limits: np.full(60, 200.0, np.float32))
    for speaker in SPEAKERS:
        (tmp_path / f"data/{speaker}/train-{speaker}-0.flac").write_bytes(b"not audio")
    return tmp_path / "data"


def test_a_file_that_cannot_be_read_ends_the_measurement_as_it_ends_a_training(tmp_path, damaged):
    with pytest.raises(UserError, match="anna/train-anna-0.flac: .*`dinosr check .*train.tsv` lists all such files"):
        ranges_of(dataset(damaged), None, tmp_path / "run", by_praat=True)
    assert not list(tmp_path.glob("run/*"))


def test_files_that_are_skipped_are_named_in_the_log_and_in_the_table(tmp_path, damaged, caplog):
    """They count as the bad files of a training, and the table can be given as ``task.f0_ranges``."""
    utterances = dataset(damaged, skip_bad_audio=True)
    found = ranges_of(utterances, None, tmp_path / "run", by_praat=True)
    assert utterances.bad.tolist() == [True, False] * 2 and found.tolist() == [[150, 300]] * 4
    table = tmp_path / "run/f0_ranges.tsv"
    names = "2 file(s) cannot be read and are left out (anna/train-anna-0.flac, ben/train-ben-0.flac)"
    warning = f"F0 of speakers: {names}; repair the files and remove {table} to measure again"
    assert [message for message in caplog.messages if not message.startswith("skipped ")] == [warning]
    assert len(caplog.messages) == 3
    (comment,) = f0.read_comments(table)
    assert comment.startswith(f"# measured from {damaged}/train.tsv, utterances ") and comment.endswith(f": {names}")
    assert ranges_of(utterances, str(table), tmp_path, by_praat=True).tolist() == found.tolist()
    with pytest.raises(UserError, match="task.max_bad_files=1: 2 files cannot be used"):
        ranges_of(dataset(damaged, skip_bad_audio=True, max_bad_files=1), None, tmp_path / "other", by_praat=True)


def test_what_was_measured_before_the_run_was_stopped_is_kept(tmp_path, data, monkeypatch):
    def stopped(data, rows):
        yield "anna", Range(150, 320)
        raise KeyboardInterrupt

    monkeypatch.setattr(f0, "SAVE_EVERY", 0)
    monkeypatch.setattr(f0, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        ranges_of(data, None, tmp_path / "run", by_praat=True)
    monkeypatch.setattr(f0, "measure", lambda data, rows: [(one, Range(80, 300)) for one in rows])
    assert ranges_of(data, None, tmp_path / "run", by_praat=True).tolist() == [[150, 320]] * 2 + [[80, 300]] * 2


def test_one_rank_measures_and_the_others_wait(tmp_path, data, monkeypatch):
    def slowly(data, rows):
        (tmp_path / f"measured{time.monotonic_ns()}").touch()
        time.sleep(0.5)
        return dict.fromkeys(rows, Range(80, 300)).items()

    monkeypatch.setattr(f0, "measure", slowly)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        results = pool.starmap(ranges_of, [(data, None, tmp_path / "run", True)] * 2, chunksize=1)
    assert len(list(tmp_path.glob("measured*"))) == 1
    assert all(result.tolist() == [[80, 300]] * 4 for result in results)


def test_a_missing_package_is_named_before_anything_is_measured(tmp_path, data, monkeypatch):
    monkeypatch.setattr(praat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="parselmouth is missing"):
        ranges_of(data, None, tmp_path / "run", by_praat=True)
    assert not list(tmp_path.glob("run/*"))

"""Random parts of random recordings: which one and where depends on the generator only; bad recordings."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin.data.audio import AudioError
from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.recordings import OtherUtterances, Recordings
from dinosr_plugin.errors import UserError
from support.recordings import white_noise, write_recordings

LENGTHS = (1000, 8000, 30000)


@pytest.fixture(autouse=True)
def do_not_wait(monkeypatch):
    monkeypatch.setattr("dinosr_plugin.data.audio.WAITS", (0, 0))


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """Every sample occurs once, so that the place of a part can be found."""
    return [white_noise(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, waves) -> Path:
    return write_recordings(tmp_path_factory.mktemp("recordings"), waves)


def place_of(part: np.ndarray, waves: list[np.ndarray]) -> tuple[int, int]:
    """The recording that a part comes from, and its first sample."""
    for number, wave in enumerate(waves):
        for start in np.flatnonzero(wave == part[0]):
            if np.array_equal(np.resize(np.roll(wave, -start), len(part)), part):
                return number, int(start)
    raise AssertionError("not a part of a recording")


@pytest.mark.parametrize("length", [1, 300, 1000, 2500, 40000])
def test_every_recording_is_used_at_different_places(manifest, waves, length):
    recordings = Recordings.read(manifest)
    places = [place_of(recordings(np.random.default_rng(seed), length), waves) for seed in range(60)]
    assert {number for number, _ in places} == {0, 1, 2} and len(set(places)) > 30
    for number, start in places:
        assert start + length <= LENGTHS[number] or length > LENGTHS[number]


@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 2500])
def test_a_short_recording_is_repeated(manifest, waves, length):
    recordings = Recordings.read(manifest)
    for place in (0.0, 0.5, 0.9999):
        part = recordings.part(0, place, length)
        start = int(place * (1001 - length if length <= 1000 else 1000))
        np.testing.assert_array_equal(part, [waves[0][(start + n) % 1000] for n in range(length)])


@pytest.mark.parametrize("longest", [1, 1000, 20000])
def test_the_beginning_of_a_recording(manifest, waves, longest):
    recordings, seen = Recordings.read(manifest), set()
    for seed in range(20):
        found = recordings.beginning(np.random.default_rng(seed), longest)
        number, start = place_of(found, waves)
        assert start == 0 and len(found) == min(longest, LENGTHS[number])
        seen.add(number)
    assert seen == {0, 1, 2}


def test_babble_is_never_the_utterance_itself(manifest, waves):
    others = OtherUtterances(SpeechDataset(str(manifest), 16000))
    for utterance in range(3):
        found = [place_of(others(np.random.default_rng(seed), 500, utterance), waves)[0] for seed in range(40)]
        assert {*found} == {0, 1, 2} - {utterance} and min(map(found.count, {*found})) > 5


def test_one_utterance_has_no_others(tmp_path):
    files = SpeechDataset(str(write_recordings(tmp_path, [white_noise()])), 16000)
    with pytest.raises(UserError, match="noise.tsv: has one utterance.*; set task.babble to a manifest of speech"):
        OtherUtterances(files)


def test_rows_that_are_too_short_to_be_utterances_are_no_babble(manifest, waves):
    """Numbers are those of the dataset, not lines of the manifest."""
    others = OtherUtterances(SpeechDataset(str(manifest), 16000, min_sample_size=5000))
    assert {place_of(others(np.random.default_rng(seed), 500, 1), waves)[0] for seed in range(10)} == {1}


# ---- bad recordings --------------------------------------------------------------------------------------------------


def test_an_empty_manifest_is_named(tmp_path):
    (tmp_path / "empty.tsv").write_text(f"{tmp_path}\n")
    with pytest.raises(UserError, match="empty.tsv: empty manifest"):
        Recordings.read(tmp_path / "empty.tsv")


def test_a_recording_that_is_damaged_later_is_named(tmp_path):
    recordings = Recordings.read(write_recordings(tmp_path, [white_noise(), white_noise()]))
    soundfile.write(tmp_path / "1.wav", np.stack([white_noise()] * 2, axis=1), 16000)
    with pytest.raises(UserError, match="1.wav: 16000 Hz, 2 channel.*`dinosr check .*noise.tsv` lists all such files"):
        for seed in range(20):
            recordings(np.random.default_rng(seed), 100)


def test_the_next_recording_takes_the_place_of_a_bad_one(tmp_path, waves):
    """But the utterance itself never does."""
    manifest = write_recordings(tmp_path, waves)
    (tmp_path / "1.wav").unlink()
    recordings = Recordings.read(manifest, skip_bad_audio=True)
    for _ in range(2):
        assert [place_of(recordings.part(number, 0.3, 500), waves)[0] for number in range(3)] == [0, 2, 2]
    others = OtherUtterances(SpeechDataset(str(manifest), 16000, skip_bad_audio=True))
    assert {place_of(others(np.random.default_rng(seed), 500, 2), waves)[0] for seed in range(10)} == {0}
    (tmp_path / "0.wav").unlink()
    with pytest.raises(UserError, match="none of its recordings can be used; `dinosr check .*noise.tsv` lists"):
        others(np.random.default_rng(0), 500, 2)


def test_processes_count_bad_recordings_together(tmp_path, caplog):
    """Each once: a process that skips one and another that skips a second one have skipped two."""
    recordings = Recordings.read(write_recordings(tmp_path, [white_noise()] * 3), True, max_bad_files=1)
    refuse = recordings.files.refuse
    worker = multiprocessing.get_context("fork").Process(target=refuse, args=(0, AudioError("damaged")))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    refuse(0, AudioError("damaged"))
    assert not caplog.messages  # the other process has logged it
    with pytest.raises(UserError, match="task.max_bad_files=1: 2 files cannot be used"):
        refuse(1, AudioError("damaged"))

"""Energy and F0 over time, on the same frames for every model."""

import numpy as np
import pytest
import soundfile

from dinosr_plugin.data.acoustic import ENERGY, log_energy
from dinosr_plugin.data.perturbation import praat
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.probing import tracks
from dinosr_plugin.evaluation.measures.probing.labels import MISSING
from dinosr_plugin.evaluation.measures.probing.tracks import Tracks, log_f0
from dinosr_plugin.units.batches import Utterance
from support.voices import RATE, voice


@pytest.fixture
def speech(tmp_path) -> list[Utterance]:
    """A low and a high voice, each between silences of 0.3 s."""
    found = []
    for name, f0 in (("low", 110.0), ("high", 220.0)):
        wave = np.concatenate([np.zeros(4800), voice(f0, samples=16000), np.zeros(4800)])
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE)
        found.append(Utterance(name, tmp_path / f"{name}.wav", len(wave)))
    return found


SPEAKERS = {"low": "a", "high": "b"}


def test_f0_is_that_of_the_voice_and_nothing_in_silence(speech, tmp_path):
    pytest.importorskip("parselmouth")
    measured = Tracks("f0", speech, SPEAKERS, tmp_path / "f0")
    centres = ENERGY.first_centre + np.arange(ENERGY.count(speech[0].samples)) / ENERGY.rate
    for name, f0 in (("low", 110.0), ("high", 220.0)):
        track = measured[name][:, 0]
        assert len(track) == len(centres)
        assert (track[(centres < 0.25) | (centres > 1.35)] == np.float32(MISSING)).all()
        inside = track[(centres > 0.35) & (centres < 1.25)]
        assert (inside != np.float32(MISSING)).mean() > 0.95
        assert np.exp(np.median(inside)) == pytest.approx(f0, rel=0.01)


def test_f0_follows_the_voice_over_time(tmp_path):
    """A voice that rises evenly: the value at a time is that of the voice there, to within a frame of Praat."""
    pytest.importorskip("parselmouth")
    seconds = np.arange(2 * RATE) / RATE
    track = log_f0(voice(120 + 40 * seconds, samples=2 * RATE))
    centres = ENERGY.first_centre + np.arange(len(track)) / ENERGY.rate
    inside = (centres > 0.2) & (centres < 1.8)
    np.testing.assert_allclose(np.exp(track[inside]), 120 + 40 * centres[inside], rtol=0.02)


def test_a_sound_without_voice_has_no_f0():
    pytest.importorskip("parselmouth")
    assert (log_f0(np.zeros(400, np.float32)) == np.float32(MISSING)).all()  # too short for Praat


def test_energy_is_that_of_the_sound_and_kept(speech, tmp_path, monkeypatch):
    measured = Tracks("energy", speech, SPEAKERS, tmp_path / "energy")
    wave, _ = soundfile.read(speech[0].path, dtype="float32")
    np.testing.assert_array_equal(measured["low"][:, 0], log_energy(wave))
    monkeypatch.setattr(tracks, "load_checked_wave", lambda *_: pytest.fail("measured again"))
    assert len(Tracks("energy", speech, SPEAKERS, tmp_path / "energy")["high"])


def test_without_parselmouth_f0_is_one_line(speech, tmp_path, monkeypatch):
    monkeypatch.setattr(praat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="parselmouth is missing.*pip install"):
        Tracks("f0", speech, SPEAKERS, tmp_path / "f0")["low"]

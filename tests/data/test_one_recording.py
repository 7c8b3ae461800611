"""A recording in place of a manifest."""

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from dinosr_plugin.data.manifest import read_manifest
from dinosr_plugin.data.one_recording import as_manifest
from dinosr_plugin.errors import UserError

WAVE = np.sin(np.arange(16000) / 20) / 2


def test_a_manifest_is_not_changed(tmp_path):
    with as_manifest(tmp_path / "train.tsv") as manifest:
        assert manifest == tmp_path / "train.tsv"


def test_a_recording_at_16_khz_is_read_where_it_is(tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE, 16000)
    with as_manifest(tmp_path / "a.wav") as manifest:
        split = read_manifest(manifest)
    assert split.root == tmp_path and [(row.path, row.samples) for row in split.utterances] == [("a.wav", 16000)]
    assert not manifest.exists()


def test_other_recordings_are_converted(tmp_path):
    stereo = np.stack([resample_poly(WAVE, 441, 160)] * 2, axis=1)
    soundfile.write(tmp_path / "a.WAV", stereo, 44100, format="WAV")
    with as_manifest(tmp_path / "a.WAV") as manifest:
        [row] = read_manifest(manifest).utterances
        copy, rate = soundfile.read(manifest.parent / row.path)
    assert rate == 16000 and len(copy) == row.samples == 16000
    assert np.abs(copy[200:-200] - WAVE[200:-200]).max() < 1e-3


def test_bad_recordings(tmp_path):
    (tmp_path / "text.mp3").write_text("no sound")
    (tmp_path / "tab\t.wav").touch()
    for name, message in {
        "text.mp3": "text.mp3: ",
        "none.wav": "none.wav: no such file; check the name",
        "tab\t.wav": "the name contains a tab",
        "x.m4a": "x.m4a: no such file",
    }.items():
        with pytest.raises(UserError, match=message), as_manifest(tmp_path / name):
            pass

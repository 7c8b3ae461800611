"""Reading part of an audio file gives the same samples as reading all of it.

Headers, damage and conversion are tested with the tools that use them.
"""

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.data.audio import AudioError, parts_are_exact, read_part

SAMPLES = 50_000
CODECS = [
    (format, subtype)
    for format in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "W64")
    for subtype in soundfile.available_subtypes(format)
]


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    rng = np.random.default_rng(0)
    return 0.2 * np.sin(np.cumsum(rng.uniform(0.05, 0.3, SAMPLES))) * rng.uniform(0.5, 1, SAMPLES)


@pytest.fixture(scope="module")
def flac(sound, tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.flac"
    soundfile.write(path, sound, 16000)
    return path, soundfile.read(path, dtype="float32")[0]


@given(start=st.integers(0, SAMPLES - 1), length=st.integers(1, SAMPLES))
def test_any_part(flac, start, length):
    path, whole = flac
    length = min(length, SAMPLES - start)
    assert np.array_equal(read_part(path, SAMPLES, start, length), whole[start : start + length])


@pytest.mark.parametrize("format, subtype", CODECS, ids="-".join)
def test_exact_codecs_are_exact(sound, tmp_path, format, subtype):
    path = tmp_path / "sound"
    try:
        soundfile.write(path, sound, 16000, format=format, subtype=subtype)
        whole, _ = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        pytest.skip(f"libsndfile cannot write it: {error}")
    assert parts_are_exact(path) == subtype.startswith(("PCM_", "FLOAT", "DOUBLE"))
    if parts_are_exact(path):
        for start in np.random.default_rng(1).integers(0, SAMPLES - 9000, 20):
            assert np.array_equal(read_part(path, SAMPLES, int(start), 9000), whole[start : start + 9000])


def test_unreadable_parts(flac, tmp_path):
    path, _ = flac
    with pytest.raises(AudioError, match="16000 Hz, 1 channel.* instead of 8000 Hz"):
        read_part(path, SAMPLES, 0, 10, 8000)
    assert not parts_are_exact(tmp_path / "none.wav") and parts_are_exact(path)
    with pytest.raises(AudioError, match="50000 samples, but 50001 in the manifest"):
        read_part(path, SAMPLES + 1, 0, 10)
    with pytest.raises(AudioError, match="its end cannot be read"):
        read_part(path, SAMPLES, SAMPLES - 5, 10)
    with pytest.raises(AudioError, match="no such file"):
        read_part(tmp_path / "none.wav", 10, 0, 10)

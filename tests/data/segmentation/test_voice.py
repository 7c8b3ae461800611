"""Windows of speech: Silero VAD in blocks of any size, the energy, and which of them is used."""

import sys
from importlib import util

import numpy as np
import pytest

from dinosr_plugin.data.segmentation import voice
from dinosr_plugin.data.segmentation.voice import LOWEST, WINDOW, Energy, Silero, choose_detector, levels, model_file
from dinosr_plugin.errors import UserError

needs_silero = pytest.mark.skipif(
    not (util.find_spec("onnxruntime") and model_file()), reason="silero-vad or onnxruntime is not installed"
)
RNG = np.random.default_rng(0)


def noise(windows: int, level: float) -> np.ndarray:
    """(windows, 512) float32: white noise of this level in dB."""
    return (10 ** (level / 20) * RNG.normal(size=(windows, WINDOW))).astype(np.float32)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """(n, 512) float32: a second of silence, a sentence by eSpeak, a second of silence."""
    pytest.importorskip("espeakng_loader")
    from scipy.signal import resample_poly

    from dinosr_plugin.data.synth.espeak import SAMPLE_RATE, Espeak

    with Espeak("en-us") as espeak:
        wave, _ = espeak.speak("the north wind and the sun were disputing which was the stronger")
    wave = resample_poly(wave / 32768, 16000, SAMPLE_RATE).astype(np.float32)
    wave = np.pad(wave, (16000, 16000 + -len(wave) % WINDOW))
    return wave[: len(wave) // WINDOW * WINDOW].reshape(-1, WINDOW)


# ---- Silero VAD ------------------------------------------------------------------------------------------------------


@needs_silero
def test_silero_finds_speech_in_silence_and_none_in_noise(speech):
    silero = Silero()
    found = silero.speech(silero.scores(speech)[0])
    second = 16000 // WINDOW
    assert not found[: second - 2].any() and not found[-second // 2 :].any()
    assert found[second + 4 : -second - 8].mean() > 0.9
    assert not silero.speech(silero.scores(noise(200, -30))[0]).any()


@needs_silero
@pytest.mark.parametrize("sizes", [[1, 2, 50], [7], [64, 1]])
def test_blocks_of_any_size_give_the_same_probabilities(speech, sizes):
    silero = Silero()
    whole, _ = silero.scores(speech)
    parts, state, start = [], None, 0
    while start < len(speech):
        size = sizes[len(parts) % len(sizes)]
        of_part, state = silero.scores(speech[start : start + size], state)
        parts.append(of_part)
        start += size
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


@needs_silero
def test_the_probabilities_are_those_of_sileros_streaming_model(speech):
    """The other network of the wheel, a window at a time, as ``silero_vad.utils_vad.OnnxWrapper`` runs it."""
    import onnxruntime

    streaming = onnxruntime.InferenceSession(model_file().with_name("silero_vad.onnx"))
    state, context, expected = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for window in speech:
        inputs = {"input": np.concatenate([context, window])[None], "state": state, "sr": np.array(16000)}
        probability, state = streaming.run(None, inputs)
        context = window[-64:]
        expected.append(probability[0, 0])
    np.testing.assert_allclose(Silero().scores(speech)[0], expected, atol=1e-5)


@needs_silero
def test_the_package_of_silero_is_not_imported(speech):
    Silero().scores(speech[:4])
    assert "silero_vad" not in sys.modules


def test_speech_ends_below_a_lower_probability_than_it_begins():
    scores = np.array([0.1, 0.4, 0.6, 0.4, 0.36, 0.3, 0.4, 0.4, 0.1, 0.5])
    assert Silero.speech(None, scores).tolist() == [bool(int(one)) for one in "0111100001"]


# ---- energy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [-90, -60, -40])
def test_energy_finds_what_is_louder_than_the_background(background):
    windows = np.concatenate([noise(50, background), noise(50, -20), noise(50, background), noise(50, -25)])
    found = Energy().speech(Energy().scores(windows)[0])
    assert found.tolist() == np.repeat([False, True, False, True], 50).tolist()


@pytest.mark.parametrize("windows", [noise(300, -40), np.zeros((300, WINDOW), np.float32), np.zeros((0, WINDOW))])
def test_energy_finds_no_speech_in_an_even_background(windows):
    assert not Energy().speech(Energy().scores(windows)[0]).any()


def test_levels_are_decibels_without_the_offset():
    wave = np.sin(2 * np.pi * np.arange(WINDOW) * 10 / WINDOW)[None]  # power 1/2
    np.testing.assert_allclose(levels(0.1 * wave + 0.3), 10 * np.log10(0.005), atol=1e-4)
    assert levels(np.zeros((1, WINDOW))) == 10 * np.log10(LOWEST)


# ---- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["silero_vad", "onnxruntime"])
def test_without_silero_the_energy_is_used_and_silero_is_refused(missing, monkeypatch):
    find = util.find_spec
    monkeypatch.setattr(voice.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    monkeypatch.setitem(sys.modules, missing, None)
    assert choose_detector(None).name == "energy"
    with pytest.raises(UserError, match=r'--method silero: .* not installed; pip install "dinosr-plugin\[segment\]"'):
        choose_detector("silero")


@needs_silero
def test_silero_is_the_default_where_it_is_installed():
    assert choose_detector(None).name == "silero"

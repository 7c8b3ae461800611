"""Log-Mel frames of speaker encoders: torchaudio's formulas written out in NumPy; loudness, precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from dinosr_plugin.modules.speaker_mel import SpeakerMel, htk_filters


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """White noise in which the slow parts of speech are imitated by a loudness that changes with time."""
    wave = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return wave * (0.15 + 0.1 * torch.sin(torch.arange(shape[-1]) / 2000))


def filters_by_loops(n_mels: int) -> np.ndarray:
    top = 2595 * np.log10(1 + 8000 / 700)
    corners = [700 * (10 ** (top * i / (n_mels + 1) / 2595) - 1) for i in range(n_mels + 2)]
    filters = np.zeros((257, n_mels))
    for m in range(n_mels):
        low, peak, high = corners[m : m + 3]
        for k in range(257):
            hertz = k * 16000 / 512
            if low < hertz <= peak:
                filters[k, m] = (hertz - low) / (peak - low)
            elif peak < hertz < high:
                filters[k, m] = (high - hertz) / (high - peak)
    return filters


def mel_by_loops(wave: np.ndarray) -> np.ndarray:
    """One waveform (T,) -> (80, F), float64, frame by frame."""
    wave = np.array([wave[0], *(wave[t] - 0.97 * wave[t - 1] for t in range(1, len(wave)))])
    padded = np.pad(wave, 256, mode="reflect")
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)  # periodic, in the middle of the 512 samples
    filters = filters_by_loops(80)
    frames = []
    for i in range(1 + len(wave) // 160):
        spectrum = np.fft.rfft(padded[160 * i : 160 * i + 512] * window)
        frames.append(np.log(np.abs(spectrum) ** 2 @ filters + 1e-6))
    mel = np.array(frames).T
    return (mel - mel.mean(1, keepdims=True)) / np.sqrt(mel.var(1, keepdims=True) + 1e-5)


def test_filters_are_triangles_in_hertz():
    assert_close(htk_filters(80), torch.from_numpy(filters_by_loops(80)).float(), rtol=0, atol=1e-6)
    assert (htk_filters(80).sum(0) > 0).all()


def test_it_equals_the_formulas_written_out():
    waves = noise(2, 8123)
    expected = np.stack([mel_by_loops(wave.double().numpy()) for wave in waves])
    assert_close(SpeakerMel()(waves), torch.from_numpy(expected).float(), rtol=0, atol=1e-3)


@settings(max_examples=30)
@given(samples=st.integers(257, 3000), rows=st.integers(1, 3), n_mels=st.sampled_from([40, 80]))
def test_as_many_frames_as_hops_and_one(samples, rows, n_mels):
    assert SpeakerMel(n_mels)(noise(rows, samples)).shape == (rows, n_mels, 1 + samples // 160)


def test_mean_0_and_variance_1_in_each_filter():
    mel = SpeakerMel()(noise(2, 16000))
    assert mel.mean(2).abs().max() < 1e-4
    assert_close(mel.var(2, correction=0), torch.ones(2, 80), rtol=0, atol=1e-3)


def test_all_filters_together_have_mean_0_and_variance_1():
    waves = noise(2, 16000)
    mel = SpeakerMel(per_filter=False)(waves)
    assert_close(mel.mean((1, 2)), torch.zeros(2), rtol=0, atol=1e-4)
    assert_close(mel.var((1, 2), correction=0), torch.ones(2), rtol=0, atol=1e-3)
    assert mel.mean(2).std() > 0.1  # the average spectrum is there
    each = mel - mel.mean(2, keepdim=True)
    assert_close(SpeakerMel()(waves), each / each.square().mean(2, keepdim=True).sqrt(), rtol=1e-3, atol=1e-3)


def test_loudness_has_no_influence():
    """Apart from the small number that is added before the logarithm."""
    wave = 100 * noise(1, 16000)
    assert_close(SpeakerMel()(3 * wave), SpeakerMel()(wave), rtol=0, atol=0.02)


def test_a_row_does_not_depend_on_the_batch():
    waves = noise(4, 5000)
    together = SpeakerMel()(waves)
    for row in range(4):
        assert_close(together[row], SpeakerMel()(waves[row : row + 1])[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("wave", [torch.zeros(1, 4000), torch.ones(1, 4000), torch.zeros(1, 257)])
def test_silence_is_finite(wave):
    assert SpeakerMel()(wave).isfinite().all()


def test_no_gradient_and_nothing_to_save():
    mel = SpeakerMel()
    assert not mel(noise(1, 1000).requires_grad_()).requires_grad
    assert not list(mel.parameters()) and not mel.state_dict()


def test_float32_in_any_precision_of_the_model():
    waves = noise(2, 4000)
    expected = SpeakerMel()(waves)
    mel = SpeakerMel().half()
    assert mel.filters.dtype == mel.window.dtype == torch.float32
    assert torch.equal(mel(waves), expected)
    assert mel(waves.half()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mel(waves), expected)

"""The log-Mel front end: as many frames as the convolutional one, and no influence of padding."""

import kaldi_native_fbank as knf
import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel
from torch.testing import assert_close

from dinosr_plugin.modules.frame_grid import MEL
from dinosr_plugin.modules.log_mel import LogMel, mel_filters


def n_frames(samples: int) -> int:
    return max(0, 1 + (samples - 400) // 320)


def features(*waves: torch.Tensor) -> torch.Tensor:
    """The features (B, dim, F) of a batch padded with zeros, as collated by fairseq."""
    source = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    sizes = torch.tensor([n_frames(len(wave)) for wave in waves]).unsqueeze(1)
    return LogMel()(source, torch.arange(n_frames(source.size(1))) >= sizes)


def speechlike(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise and chirps whose spectrum and loudness change over time, with variance 1."""
    generator = torch.Generator().manual_seed(seed)
    n = int(seconds * 16000)
    time = torch.arange(n) / 16000
    wave = torch.randn(n, generator=generator) * (1.1 + torch.sin(2 * torch.pi * 3 * time))
    for start, end in ((150, 300), (700, 500), (2500, 1500)):
        wave += 4 * torch.sin(2 * torch.pi * (start * time + (end - start) / (2 * seconds) * time**2))
    return (wave - wave.mean()) / wave.std()


def test_as_many_frames_as_the_convolutions():
    layers = [(1, 10, 5)] + [(1, 3, 2)] * 4 + [(1, 2, 2)] * 2  # kernels and strides of wav2vec 2.0 and DinoSR
    convolutions = ConvFeatureExtractionModel(layers, mode="layer_norm")
    for samples in (400, 401, 719, 720, 721, 1039, 1040, 5000, 15999, 16000, 16080, 31999):
        wave = torch.randn(samples)
        assert features(wave).shape == (1, 160, convolutions(wave.unsqueeze(0)).size(2)), samples


def test_features_do_not_depend_on_padding_or_the_batch():
    waves = [speechlike(seconds, seed) for seed, seconds in enumerate((1.0, 0.53, 1.7, 0.031))]
    together = features(*waves)
    for row, wave in enumerate(waves):
        alone = features(wave)[0]
        assert_close(together[row, :, : alone.size(1)], alone, rtol=0, atol=1e-5)
        assert (together[row, :, alone.size(1) :] == 0).all()


def test_mean_0_and_variance_1_in_each_bin():
    x = features(speechlike(2.0))[0]
    assert x.mean(1).abs().max() < 1e-4
    assert (x.var(1, unbiased=False) - 1).abs().max() < 1e-3


def kaldi(wave: torch.Tensor, stacked: int = 2) -> torch.Tensor:
    """(dim, F) from kaldi_native_fbank, stacked in pairs or single, and normalised."""
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = 16000
    options.frame_opts.dither = 0.0
    options.frame_opts.preemph_coeff = 0.0
    options.frame_opts.window_type = "povey"
    options.mel_opts.num_bins = 80
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16000, wave.tolist())
    fbank.input_finished()
    frames = torch.stack([torch.from_numpy(fbank.get_frame(i).copy()) for i in range(fbank.num_frames_ready)])
    x = frames[: len(frames) // stacked * stacked].view(-1, stacked * 80).T
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, unbiased=False)


def test_agrees_with_kaldi():
    for seed in range(3):
        wave = speechlike(2.0, seed)
        theirs = kaldi(wave)
        ours = features(wave)[0, :, : theirs.size(1)]
        assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.99
        assert (ours - theirs).abs().mean() < 0.05


def test_single_frames_agree_with_kaldi():
    """... in number, place and value; stacked, they are the frames of 20 ms."""
    wave = speechlike(2.0)
    theirs = kaldi(wave, stacked=1)
    assert theirs.shape == (80, MEL.count(len(wave)))
    ours = LogMel(stacked=1)(wave[None], torch.zeros(1, theirs.size(1), dtype=torch.bool))[0]
    assert (ours - theirs).abs().mean() < 0.05 and LogMel(stacked=1).dim == 80
    stacked = LogMel()(wave[None], torch.zeros(1, 99, dtype=torch.bool))[0].unflatten(0, (2, 80))  # (2, 80, F)
    first, second = ours[:, :198].unflatten(1, (99, 2)).unbind(-1)  # (80, F) each
    for single, pair in ((first, stacked[0]), (second, stacked[1])):
        assert_close(
            torch.corrcoef(torch.stack([single.flatten(), pair.flatten()]))[0, 1], torch.tensor(1.0), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("samples", [400, 559, 560, 16000, 16079])
def test_single_frames_do_not_depend_on_padding(samples):
    wave = speechlike(1.1)
    source = torch.stack([wave, torch.nn.functional.pad(wave[:samples], (0, len(wave) - samples))])
    sizes = torch.tensor([[MEL.count(len(wave))], [MEL.count(samples)]])
    together = LogMel(stacked=1)(source, torch.arange(int(sizes.max())) >= sizes)
    alone = LogMel(stacked=1)(wave[None, :samples], torch.zeros(1, int(sizes[1]), dtype=torch.bool))
    assert_close(together[1:, :, : alone.size(2)], alone, rtol=0, atol=1e-4)
    assert (together[1, :, alone.size(2) :] == 0).all()


def test_a_tone_is_in_its_bin():
    """1000 Hz is 1000 mel; bin centres are equally spaced in mel from 20 to 8000 Hz."""
    filters = mel_filters(80)
    assert filters.shape == (257, 80) and (filters >= 0).all()
    low, high = 1127 * torch.log1p(torch.tensor([20.0, 8000.0]) / 700)
    expected = round(((1127 * torch.log1p(torch.tensor(1000.0) / 700) - low) / (high - low) * 81 - 1).item())
    assert filters[int(1000 / 16000 * 512)].argmax() == expected


@pytest.mark.parametrize(
    "wave", [torch.zeros(8000), torch.ones(8000), torch.cat([torch.zeros(4000), torch.randn(4000)]), torch.zeros(400)]
)
def test_silence_is_finite(wave):
    assert features(wave).isfinite().all()


def test_float32_in_any_precision_of_the_model():
    mel = LogMel().half()
    wave = speechlike(1.0).unsqueeze(0)
    padding = torch.zeros(1, n_frames(16000), dtype=torch.bool)
    expected = LogMel()(wave, padding)
    assert (
        mel.filters.dtype == mel.window.dtype == torch.float32 and not list(mel.parameters()) and not mel.state_dict()
    )
    assert torch.equal(mel(wave, padding), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mel(wave, padding), expected)

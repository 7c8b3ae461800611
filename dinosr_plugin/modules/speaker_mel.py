"""Log-Mel frames for speaker encoders, as torchaudio's ``MelSpectrogram`` computes them, normalised."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .instance_norm import instance_norm

SAMPLE_RATE, WINDOW, HOP, N_FFT = 16000, 400, 160, 512  # 25 ms every 10 ms
PRE_EMPHASIS = 0.97
FLOOR = 1e-6  # added to the energies before the logarithm


def htk_filters(n_mels: int) -> Tensor:
    """Triangular filters (N_FFT // 2 + 1, n_mels) from 0 Hz to half the sample rate, each with a peak of 1.

    The corners are equally spaced on HTK's Mel scale, 2595 log10(1 + f / 700); between them the sides are straight
    lines in Hz, as in torchaudio. (Kaldi's, in ``log_mel``, are straight in Mel.)
    """
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700, dtype=torch.float64))
    corners = 700 * (10 ** (torch.linspace(0, float(top), n_mels + 2, dtype=torch.float64) / 2595) - 1)  # Hz
    hertz = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64).unsqueeze(1)  # (bins, 1)
    width = corners.diff()
    rising = (hertz - corners[:-2]) / width[:-1]
    falling = (corners[2:] - hertz) / width[1:]
    return torch.minimum(rising, falling).clamp(min=0).float()


class SpeakerMel(nn.Module):
    """Waveforms (B, T) at 16 kHz -> (B, n_mels, F) float32, F = 1 + T // 160.

    Pre-emphasis y[t] = x[t] - 0.97 x[t - 1], y[0] = x[0]; power spectrum of 25 ms windows (periodic Hann, centred on
    sample 160 i, the waveform reflected at both ends); Mel filters from 0 to 8000 Hz; log(energy + 1e-6); mean 0 and
    variance 1. These are torchaudio's defaults with SSRL's sizes (arXiv 2401.01473).

    All waveforms of a batch have the same length, more than 256 samples. There are no parameters and no gradient; it is
    computed in float32 in any precision of the model.

    Args:
        per_filter: mean 0 and variance 1 of each filter over the utterance, as in SSRL, which removes the channel and
            the average spectrum of the voice; False: of all filters together, which removes the loudness only.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int = 80, per_filter: bool = True):
        super().__init__()
        self.per_filter = per_filter
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", htk_filters(n_mels), persistent=False)

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda t: t.to(fn(t).device), recurse)

    @torch.no_grad()
    def forward(self, source: Tensor) -> Tensor:
        source = source.float()
        source = torch.cat([source[:, :1], source[:, 1:] - PRE_EMPHASIS * source[:, :-1]], dim=1)
        with torch.autocast(source.device.type, enabled=False):
            spectrum = torch.stft(source, N_FFT, HOP, WINDOW, self.window, return_complex=True)  # (B, bins, F)
            power = spectrum.real.square() + spectrum.imag.square()
            energy = power.transpose(1, 2) @ self.filters  # (B, F, n_mels)
        frames = (energy + FLOOR).log()
        if self.per_filter:
            return instance_norm(frames, None).transpose(1, 2)
        return F.layer_norm(frames, frames.shape[1:]).transpose(1, 2)

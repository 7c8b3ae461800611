"""The cheap front end: log-Mel frames from the waveform.

Stacked Mel frames as input of masked prediction: BEST-RQ (Chiu et al. 2022), NEST (Huang et al. 2024). Single frames as
input and target of autoregressive prediction: APC (Chung et al. 2019, arXiv 1904.03240).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW, HOP, N_FFT = 400, 160, 512  # samples at 16 kHz: 25 ms, 10 ms


def mel_filters(n_mels: int, sample_rate: int = 16000, low: float = 20.0) -> Tensor:
    """Triangular filters (N_FFT // 2 + 1, n_mels), equally spaced on the Mel scale (O'Shaughnessy).

    They cover the range from ``low`` Hz to half the sample rate.
    """

    def mel(hertz):
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    edges = torch.linspace(mel(low), mel(sample_rate / 2), n_mels + 2)
    hertz = torch.arange(N_FFT // 2 + 1) * sample_rate / N_FFT
    bins = 1127.0 * torch.log1p(hertz / 700.0).unsqueeze(1)  # (bins, 1)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


class LogMel(nn.Module):
    """Log-Mel energies of 25 ms every 10 ms; ``stacked`` neighbours become one frame.

    Each bin has mean 0 and variance 1 over an utterance. It has no parameters and is computed in float32 in any
    precision of the model.

    With 2 stacked, frame i covers samples [320 i, 320 i + 560); there are ``1 + (samples - 400) // 320`` frames, as
    many as the convolutional extractor computes, and they have the places of its frames (``frame_grid.TRUNK``). With 1,
    frame i covers samples [160 i, 160 i + 400) (``frame_grid.MEL``).
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int = 80, stacked: int = 2):
        super().__init__()
        self.stacked, self.dim = stacked, stacked * n_mels
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False).pow(0.85), persistent=False)
        self.register_buffer("filters", mel_filters(n_mels), persistent=False)

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda t: t.to(fn(t).device), recurse)

    @torch.no_grad()
    def forward(self, source: Tensor, padding: Tensor) -> Tensor:
        """source (B, T) float, padding (B, F) bool -> (B, dim, F) float32.

        Padded frames are 0 and are excluded from the statistics.
        """
        x = self.energies(source, padding.size(1))
        valid = (~padding).unsqueeze(-1)
        n = valid.sum(1, keepdim=True).clamp(min=1)
        mean = (x * valid).sum(1, keepdim=True) / n
        variance = ((x - mean).pow(2) * valid).sum(1, keepdim=True) / n
        return ((x - mean) * torch.rsqrt(variance + 1e-5) * valid).transpose(1, 2)  # (B, dim, F)

    def energies(self, source: Tensor, n_frames: int) -> Tensor:
        """source (B, T) float -> (B, n_frames, dim) float32, not normalised."""
        source = F.pad(source.float(), (0, (self.stacked - 1) * HOP))  # the rest of the last frame may exceed the end
        frames = source.unfold(1, WINDOW, HOP)  # (B, stacked * F or more, WINDOW)
        frames = frames - frames.mean(-1, keepdim=True)
        spectrum = torch.fft.rfft(frames * self.window, N_FFT).abs().pow(2)
        with torch.autocast(source.device.type, enabled=False):
            mel = (spectrum @ self.filters).clamp(min=1e-5).log()
        return mel[:, : self.stacked * n_frames].reshape(len(source), n_frames, self.dim)  # neighbours are stacked

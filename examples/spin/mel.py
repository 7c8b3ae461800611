"""Log-Mel spectrograms of recordings, one above the other: python examples/spin/mel.py OUT.png WAV [WAV ...]"""

import sys
from pathlib import Path

import soundfile
import torch

from dinosr_plugin.evaluation.plots.style import figure, save
from dinosr_plugin.modules.log_mel import HOP, N_FFT, WINDOW, mel_filters

SECONDS, N_MELS, DECIBELS = 10, 80, 50


def log_mel(path: str) -> torch.Tensor:
    """The first ten seconds of a recording at 16 kHz -> (80, F), dB below the loudest bin."""
    wave = torch.from_numpy(soundfile.read(path, dtype="float32", frames=SECONDS * 16000)[0])
    spectrum = torch.stft(wave, N_FFT, HOP, WINDOW, torch.hann_window(WINDOW), return_complex=True).abs().pow(2)
    mel = mel_filters(N_MELS).t() @ spectrum  # (80, F)
    return 10 * (mel / mel.max()).clamp(min=10 ** (-DECIBELS / 10)).log10()


def main(out: str, *paths: str) -> None:
    drawn = figure(width=7, height=0.8 + 1.3 * len(paths))
    for axes, path in zip(drawn.subplots(len(paths), squeeze=False, sharex=True).flat, paths):
        image = log_mel(path)
        axes.imshow(
            image, origin="lower", aspect="auto", cmap="magma", extent=(0, image.size(1) * HOP / 16000, 0, N_MELS)
        )
        axes.set_title(Path(path).stem, fontsize=11)
        axes.set_ylabel("Mel bin")
    axes.set_xlabel("seconds")
    print(save(drawn, out))


if __name__ == "__main__":
    main(*sys.argv[1:])

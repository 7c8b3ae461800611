"""Another voice for one file, and an account of what was changed: ``dinosr perturb``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...files import kind_of, output, require_file, write_bytes
from ..audio import SAMPLE_RATE, AudioError
from ..conversion import encode_sound, read_whole_at_16k, to_pcm
from .equalizer import CENTRES, draw_bands, equalize
from .f0 import Range, range_of
from .praat import PraatFailed, close
from .voice import PRAAT, Fixed, Shift, change, draw, draw_seed

MAX_MINUTES = 30.0  # of a file, which is changed as a whole


@dataclass(frozen=True)
class Account:
    """What was done to a file.

    ``f0``: the range in which F0 was looked for, with Praat. ``unchanged``: why the voice is not changed, or None.
    ``bands``: gains in dB and quality factors of the equaliser, (10,) each, or None.
    """

    samples: int
    by: str
    voice: Shift | Fixed
    f0: Range | None
    unchanged: str | None
    bands: tuple[np.ndarray, np.ndarray] | None

    def lines(self) -> list[str]:
        lines = [f"{self.samples / SAMPLE_RATE:.2f} s at 16 kHz"]
        if self.f0 is not None:
            lines.append(f"range of F0: {self.f0.floor:g} to {self.f0.ceiling:g} Hz")
        lines.append(f"voice ({self.by}): {describe(self.voice, self.by)}")
        if self.bands is not None:
            bands = zip(CENTRES, *self.bands)
            lines.append("equaliser: " + ", ".join(f"{f:.0f} Hz {g:+.1f} dB (Q {q:.1f})" for f, g, q in bands))
        return lines


def describe(voice: Shift | Fixed, by: str) -> str:
    if by != PRAAT:
        return f"all frequencies x {voice.formant:.3f}"
    if isinstance(voice, Shift):
        median = f"median F0 x {voice.pitch:.3f}"
    else:
        median = f"median F0 {voice.median:g} Hz" if voice.median else "median F0 as before"
    return f"formants x {voice.formant:.3f}, {median}, range of F0 x {voice.spread:.3f}"


def perturb_file(
    source: Path, target: Path, by: str, voice: Fixed | None = None, seed: int = 0, equalizer: bool = True
) -> Account:
    """Write ``source`` with another voice, as 16 kHz mono: FLAC if the name of ``target`` says so, otherwise WAV.

    Args:
        by: ``praat`` or ``resample``.
        voice: exactly this change, and no equaliser; None: a random one.
        seed: of a random change.
        equalizer: of a random change, with the equaliser.

    Raises:
        UserError: a file cannot be read or written, ``target`` exists, or parselmouth is not installed; or Praat cannot
            change the voice and ``voice`` is given. With a random change the file is then equalised only.
    """
    if kind_of(target) == "file":
        raise UserError(f"{target}: already exists; give another name, or remove it first")
    require_file(source, "give a recording")
    try:
        wave = read_whole_at_16k(source, MAX_MINUTES)
    except AudioError as error:
        raise UserError(f"{source}: {error}") from error
    rng = np.random.default_rng(seed)
    chosen = voice or draw(rng)
    praat_seed = draw_seed(rng)
    bands = draw_bands(rng) if voice is None and equalizer else None
    f0, unchanged, changed = None, None, wave
    try:
        if by == PRAAT:
            f0 = range_of([wave])
        changed = change(wave, chosen, f0 or (0.0, 0.0), by, praat_seed)
    except PraatFailed as error:
        if voice is not None:
            raise UserError(f"{source}: its voice cannot be changed ({error}); give a recording of speech") from error
        unchanged = str(error)
    finally:
        close()
    if bands is not None:
        changed = equalize(changed, *bands)
    kind = "flac" if target.suffix.lower() == ".flac" else "wav"
    with output(target, "OUT") as unfinished:
        write_bytes(unfinished, encode_sound(to_pcm(changed), kind))
    return Account(len(wave), by, chosen, f0, unchanged, bands)

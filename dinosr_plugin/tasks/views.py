"""Views of a split's utterances, from the settings of a task."""

import logging
from pathlib import Path
from typing import Any

from ..data.chains import change_voices, make_views
from ..data.dataset import SpeechDataset
from ..data.noise import Noise
from ..data.perturbation.f0 import ranges_of
from ..data.perturbation.praat import require_parselmouth
from ..data.perturbation.voice import PRAAT, Voice
from ..data.recordings import Recordings
from ..data.views import ViewDataset

logger = logging.getLogger(__name__)


def view_dataset(cfg: Any, utterances: SpeechDataset, normalize: bool, training: bool) -> ViewDataset:
    """The views that ``task.views`` names, of utterances that are not normalised.

    Args:
        cfg: has the fields of ``config.ViewConfig``, and ``seed``.
        normalize: normalise each view.
        training: random changes; otherwise fixed ones.

    Raises:
        UserError: a package is missing, ``task.f0_ranges`` is wrong, or the recordings of ``task.noise`` cannot be
            used.
    """
    by_praat = str(cfg.perturb_by) == PRAAT
    if change_voices(cfg.views) and by_praat:
        require_parselmouth()

    def voice() -> Voice:
        ranges = ranges_of(utterances, cfg.f0_ranges, cfg.save_dir, by_praat)
        logger.info(f"{utterances.manifest_path}: voices are changed by task.perturb_by={cfg.perturb_by}")
        return Voice(ranges, str(cfg.perturb_by), training, utterances.name)

    def noise() -> Noise:
        recordings = Recordings.read(Path(cfg.noise), utterances.skip_bad_audio, utterances.max_bad_files)
        return Noise(recordings, *cfg.noise_snr)

    views = make_views(cfg.views, voice, noise, training)
    return ViewDataset(utterances, views, cfg.seed, normalize, moving=training)

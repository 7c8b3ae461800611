"""Views of a split's utterances, from the settings of a task."""

import logging
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..data.augmentation.augment import Augment, coloured_noise
from ..data.augmentation.rooms import LONGEST, simulated_response
from ..data.chains import change_voices, find_crops, make_views
from ..data.dataset import SpeechDataset
from ..data.noise import Noise
from ..data.perturbation.f0 import ranges_of
from ..data.perturbation.praat import require_parselmouth
from ..data.perturbation.voice import PRAAT, Voice
from ..data.recordings import OtherUtterances, Recordings
from ..data.views import ViewDataset

logger = logging.getLogger(__name__)


def view_dataset(cfg: Any, utterances: SpeechDataset, normalize: bool, training: bool) -> ViewDataset:
    """The views that ``task.views`` names, of utterances that are not normalised.

    Args:
        cfg: has the fields of ``config.ViewConfig``, and ``seed``.
        normalize: normalise each view.
        training: random changes; otherwise fixed ones.

    Raises:
        UserError: a package is missing, ``task.f0_ranges`` is wrong, or recordings that are to be added cannot be used.
    """
    by_praat = str(cfg.perturb_by) == PRAAT
    if change_voices(cfg.views) and by_praat:
        require_parselmouth()

    def voice() -> Voice:
        ranges = ranges_of(utterances, cfg.f0_ranges, cfg.save_dir, by_praat)
        logger.info(f"{utterances.manifest_path}: voices are changed by task.perturb_by={cfg.perturb_by}")
        return Voice(ranges, str(cfg.perturb_by), training, utterances.name)

    @cache
    def recordings(field: str) -> Recordings:
        return Recordings.read(Path(cfg[field]), utterances.skip_bad_audio, utterances.max_bad_files)

    def noise() -> Noise:
        return Noise(recordings("noise"), *cfg.noise_snr)

    def augment() -> Augment:
        return make_augment(cfg, utterances, recordings)

    views = make_views(cfg.views, voice, noise, augment, training)
    log_repeated(cfg.views, utterances)
    return ViewDataset(utterances, views, cfg.seed, normalize, moving=training)


def make_augment(cfg: Any, utterances: SpeechDataset, recordings: Callable[[str], Recordings]) -> Augment:
    """The augmentation with the manifests of ``config.AugmentConfig``, and other sources in place of missing ones.

    ``recordings``: from the name of a field, which is not empty, to the recordings of its manifest.
    """
    noise = recordings("noise") if cfg.noise else coloured_noise
    music = recordings("music") if cfg.music else noise
    babble = recordings("babble") if cfg.babble else OtherUtterances(utterances)
    rooms = partial(recordings("rooms").beginning, longest=LONGEST) if cfg.rooms else simulated_response
    logger.info(
        f"{utterances.manifest_path}: augment takes noise from {cfg.noise or 'coloured noise, generated'}; music from "
        f"{cfg.music or 'the noise, because task.music is not given'}; babble from "
        f"{cfg.babble or 'the other utterances'}; room responses from {cfg.rooms or 'a simulation'}"
    )
    return Augment(noise, music, babble, rooms, tuple(cfg.augment_shares), *cfg.augment_snr)


def log_repeated(views: str, utterances: SpeechDataset) -> None:
    """Log how many utterances are shorter than each of the crops."""
    for name, samples in find_crops(views).items():
        count = int((utterances.sizes < samples).sum())
        if count:
            logger.info(
                f"{utterances.manifest_path}: {count} of {len(utterances)} utterances are shorter than {name} and are "
                "repeated to its length"
            )

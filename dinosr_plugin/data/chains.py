"""The chains of transforms that ``task.views`` names: ``clean/perturb`` are two views, each a chain joined by ``+``."""

import re
from collections.abc import Callable

import numpy as np

from ..errors import UserError
from .audio import SAMPLE_RATE
from .augmentation.augment import peak
from .crops import Crop
from .perturbation.equalizer import Equalizer
from .views import Transform

CLEAN, CROP = "clean", "crop"
VOICE, EQUALIZER, PERTURB, NOISE = "voice", "equalizer", "perturb", "noise"
AUGMENT, PEAK = "augment", "peak"
NAMES = (VOICE, EQUALIZER, PERTURB, NOISE, AUGMENT, PEAK)
LONGEST_CROP = 600  # s


def clip(wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
    """Limit samples to -1 to 1."""
    return np.clip(wave, -1, 1)


def parse_views(text: str) -> list[list[str]]:
    """``clean/crop2+augment`` -> [[], ["crop2", "augment"]].

    Raises UserError for a name that is not known, and for a crop without a length or behind another transform.
    """
    views = [[name.strip() for name in view.split("+")] for view in text.split("/")]
    for view in views:
        for place, name in enumerate(view):
            if name.startswith(CROP):
                require_crop(text, name, place)
            elif name not in NAMES and (name != CLEAN or len(view) > 1):
                names = ", ".join([CLEAN, f"{CROP}2 (seconds)", *NAMES])
                raise UserError(
                    f"task.views={text}: {name!r} is not a transform; give a chain of {names}, joined by +, for each "
                    "view, separated by /"
                )
    return [[name for name in view if name != CLEAN] for view in views]


def require_crop(text: str, name: str, place: int) -> None:
    """Raise UserError unless this transform of ``task.views`` is a crop with a length, and the first of its chain."""
    number = name.removeprefix(CROP)
    if not re.fullmatch(r"\d+(\.\d+)?", number, re.ASCII) or not 0 < float(number) <= LONGEST_CROP:
        raise UserError(
            f"task.views={text}: {name!r}: give the seconds of the crop, above 0 and at most {LONGEST_CROP}, such as "
            "crop2 or crop2.5"
        )
    if place > 0:
        raise UserError(f"task.views={text}: {name} must be the first of its chain, such as {name}+augment")


def crop_samples(name: str) -> int:
    """``crop2.5`` -> 40000, for a name that ``parse_views`` has returned."""
    return max(1, round(float(name.removeprefix(CROP)) * SAMPLE_RATE))


def find_crops(text: str) -> dict[str, int]:
    """The crops among the transforms that ``task.views`` names -> their samples."""
    return {name: crop_samples(name) for view in parse_views(text) for name in view if name.startswith(CROP)}


def contain(text: str, *names: str) -> bool:
    """Whether one of the views that ``task.views`` names has one of these transforms."""
    return any({*names} & {*view} for view in parse_views(text))


def change_voices(text: str) -> bool:
    """Whether one of the views that ``task.views`` names has another voice."""
    return contain(text, VOICE, PERTURB)


def make_views(
    text: str,
    voice: Callable[[], Transform],
    noise: Callable[[], Transform],
    augment: Callable[[], Transform],
    training: bool = True,
) -> list[list[Transform]]:
    """The transforms of each view that ``task.views`` names.

    Args:
        voice, noise, augment: make the transforms that change voices, add noise and augment. Each is called once, and
            only if a view has it.
        training: with the equaliser, which other splits do not have.
    """
    changed = [voice()] if change_voices(text) else []
    equalizer = [Equalizer()] if training else []
    chains = {
        VOICE: [*changed, clip],
        EQUALIZER: [*equalizer, clip],
        PERTURB: [*changed, *equalizer, clip],
        NOISE: [noise()] if contain(text, NOISE) else [],
        AUGMENT: [augment()] if contain(text, AUGMENT) else [],
        PEAK: [peak],
        **{name: [Crop(samples)] for name, samples in find_crops(text).items()},
    }
    return [[transform for name in view for transform in chains[name]] for view in parse_views(text)]

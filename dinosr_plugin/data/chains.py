"""The chains of transforms that ``task.views`` names: ``clean/perturb`` are two views, each a chain joined by ``+``."""

from collections.abc import Callable

import numpy as np

from ..errors import UserError
from .perturbation.equalizer import Equalizer
from .views import Transform

CLEAN = "clean"
VOICE, EQUALIZER, PERTURB, NOISE = "voice", "equalizer", "perturb", "noise"
NAMES = (VOICE, EQUALIZER, PERTURB, NOISE)


def clip(wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
    """Limit samples to -1 to 1."""
    return np.clip(wave, -1, 1)


def parse_views(text: str) -> list[list[str]]:
    """``clean/voice+equalizer`` -> [[], ["voice", "equalizer"]]. Raises UserError for a name that is not known."""
    views = [[name.strip() for name in view.split("+")] for view in text.split("/")]
    for view in views:
        for name in view:
            if name not in NAMES and (name != CLEAN or len(view) > 1):
                names = ", ".join([CLEAN, *NAMES])
                raise UserError(
                    f"task.views={text}: {name!r} is not a transform; give a chain of {names}, joined by +, for each "
                    "view, separated by /"
                )
    return [[name for name in view if name != CLEAN] for view in views]


def change_voices(text: str) -> bool:
    """Whether one of the views that ``task.views`` names has another voice."""
    return any({VOICE, PERTURB} & set(view) for view in parse_views(text))


def contain_noise(text: str) -> bool:
    """Whether one of the views that ``task.views`` names has noise."""
    return any(NOISE in view for view in parse_views(text))


def make_views(
    text: str, voice: Callable[[], Transform], noise: Callable[[], Transform], training: bool = True
) -> list[list[Transform]]:
    """The transforms of each view that ``task.views`` names.

    Args:
        voice: makes the transform that changes voices; called once, and only if a view has it.
        noise: makes the transform that adds noise; called once, and only if a view has it.
        training: with the equaliser, which other splits do not have.
    """
    changed = [voice()] if change_voices(text) else []
    equalizer = [Equalizer()] if training else []
    chains = {
        VOICE: [*changed, clip],
        EQUALIZER: [*equalizer, clip],
        PERTURB: [*changed, *equalizer, clip],
        NOISE: [noise()] if contain_noise(text) else [],
    }
    return [[transform for name in view for transform in chains[name]] for view in parse_views(text)]

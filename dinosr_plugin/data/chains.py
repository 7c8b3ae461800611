"""The chains of transforms that ``task.views`` names: ``clean/perturb`` are two views, each a chain joined by ``+``."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import UserError
from .perturbation.equalizer import Equalizer
from .views import Transform

CLEAN = "clean"


def clip(wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
    """Limit samples to -1 to 1."""
    return np.clip(wave, -1, 1)


def transforms() -> Mapping[str, Callable[[], Sequence[Transform]]]:
    """Name -> a function that makes its transforms, in order of application."""
    return {"equalizer": lambda: [Equalizer(), clip]}


def parse_views(text: str) -> list[list[str]]:
    """``clean/noise+perturb`` -> [[], ["noise", "perturb"]]. Raises UserError for a name that is not known."""
    known = transforms()
    views = [[name.strip() for name in view.split("+")] for view in text.split("/")]
    for view in views:
        for name in view:
            if name not in known and (name != CLEAN or len(view) > 1):
                names = ", ".join([CLEAN, *known])
                raise UserError(
                    f"task.views={text}: {name!r} is not a transform; give a chain of {names}, joined by +, for each "
                    "view, separated by /"
                )
    return [[name for name in view if name != CLEAN] for view in views]


def make_views(text: str) -> list[list[Transform]]:
    """The transforms of each view that ``task.views`` names."""
    made = {name: make() for name, make in transforms().items() if any(name in view for view in parse_views(text))}
    return [[transform for name in view for transform in made[name]] for view in parse_views(text)]

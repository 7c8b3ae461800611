"""Two related representations of random frames, and their moments."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dinosr_plugin.evaluation.measures.similarity.moments import Moments, PairMoments


def sheet_data() -> tuple[np.ndarray, np.ndarray]:
    """X (500, 6) with mean 3, and Y (500, 4), a linear map of it with noise: their similarities were computed
    independently."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6))
    w = rng.normal(size=(6, 4))
    y = x @ w + 0.5 * rng.normal(size=(500, 4))
    return x + 3, y


def demo_data() -> tuple[np.ndarray, np.ndarray]:
    """The data of the demonstration of google-research/representation_similarity, (100, 10) each."""
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    return x, rng.randn(100, 10) + x


def moments_of(parts: Sequence[Mapping[str, np.ndarray]], pairs=(("x", "y"),)) -> Moments:
    """Of frames in groups, a part each."""
    moments = Moments({name: array.shape[1] for name, array in parts[0].items()}, pairs, len(parts))
    for group, part in enumerate(parts):
        moments.add({name: torch.from_numpy(array) for name, array in part.items()}, group)
    return moments


def pair_of(x: np.ndarray, y: np.ndarray, chunk: int = 50) -> PairMoments:
    """Moments of two arrays (n, D) whose frames are added in chunks."""
    moments = Moments({"x": x.shape[1], "y": y.shape[1]}, [("x", "y")])
    for first in range(0, len(x), chunk):
        part = slice(first, first + chunk)
        moments.add({"x": torch.from_numpy(x[part]), "y": torch.from_numpy(y[part])})
    return moments.total().pair("x", "y")

"""What one pass keeps: a random sample of frames, and only what is needed."""

import numpy as np
import torch

from dinosr_plugin.evaluation.measures.similarity.statistics import FrameSample, Statistics
from support.similarity import sheet_data

X, Y = sheet_data()
FRAMES = {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}


def part(first: int, last: int) -> dict[str, torch.Tensor]:
    return {name: frames[first:last] for name, frames in FRAMES.items()}


def test_samples_are_disjoint_random_frames_whatever_the_parts():
    sample, other = FrameSample(["x", "y"], 500, frames=80), FrameSample(["x", "y"], 500, frames=80)
    sample.add(part(0, 500))
    for first in range(0, 500, 130):
        other.add(part(first, first + 130))
    assert sample.count == 5
    rows = [{row.tobytes() for row in sample.frames("x", i)} for i in range(5)]
    assert all(len(of_sample) == 80 for of_sample in rows) and len(set().union(*rows)) == 400
    for i in range(5):
        np.testing.assert_array_equal(other.frames("y", i), sample.frames("y", i))


def test_few_frames_are_all_in_one_sample():
    sample = FrameSample(["x", "y"], 500)
    sample.add(part(0, 500))
    assert sample.count == 1
    np.testing.assert_array_equal(sample.frames("x", 0), X)


def test_only_what_is_needed_is_kept():
    statistics = Statistics(["sample"], {"x": 6, "y": 4}, [("x", "y")], 500)
    assert statistics.moments is None and statistics.sample is not None

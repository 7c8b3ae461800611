"""What one pass keeps: HSICs of batches, and a random sample of frames."""

import numpy as np
import pytest
import torch

from dinosr_plugin.evaluation.measures.similarity.kernels import batch_hsics
from dinosr_plugin.evaluation.measures.similarity.statistics import BatchHsics, FrameSample, Statistics
from support.similarity import moments_of, sheet_data

X, Y = sheet_data()
FRAMES = {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}


def part(first: int, last: int) -> dict[str, torch.Tensor]:
    return {name: frames[first:last] for name, frames in FRAMES.items()}


def test_the_published_value_of_batches_of_50_in_order():
    batches = BatchHsics(["x", "y"], batch=50)
    for first in range(0, 500, 50):
        batches.add(part(first, first + 50))
    assert batches.cka("x", "y") == pytest.approx(0.5591667, abs=6e-8)
    assert batches.cka("x", "x") == pytest.approx(1) and batches.cka("y", "x") == batches.cka("x", "y")


def test_one_batch_of_all_frames_is_the_unbiased_cka():
    from dinosr_plugin.evaluation.measures.similarity.linear import hsic_unbiased

    kernels = np.stack([X @ X.T, Y @ Y.T])
    pair = moments_of([{"x": X, "y": Y}]).total().pair("x", "y")
    assert batch_hsics(kernels)[0, 1] == pytest.approx(hsic_unbiased(pair), rel=1e-9)


def test_neighbours_are_dealt_to_different_batches():
    dealt, in_order = BatchHsics(["x", "y"], batch=50), BatchHsics(["x", "y"], batch=50)
    dealt.add(part(0, 500))
    for first in range(10):
        in_order.add({name: frames[first::10] for name, frames in FRAMES.items()})
    np.testing.assert_allclose(dealt.sums, in_order.sums)


def test_fewer_than_four_frames_are_ignored():
    batches = BatchHsics(["x", "y"])
    batches.add(part(0, 3))
    assert not batches.sums.any()


def test_groups_of_batches_are_weighted():
    batches = BatchHsics(["x", "y"], groups=2)
    batches.add(part(0, 200), 0)
    batches.add(part(200, 500), 1)
    alone = BatchHsics(["x", "y"])
    alone.add(part(200, 500))
    assert batches.cka("x", "y", np.array([0, 3])) == pytest.approx(alone.cka("x", "y"))


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
    assert statistics.moments is None and statistics.batches is None and statistics.sample is not None

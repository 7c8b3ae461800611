"""The place of frames in time: number, rate and centres."""

import pytest
import torch

from dinosr_plugin.modules.frame_grid import CPC, MEL, TRUNK, FrameGrid

WAV2VEC2 = [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2


@pytest.mark.parametrize("samples, frames", [(0, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16000, 49)])
def test_number_of_trunk_frames(samples, frames):
    assert TRUNK.count(samples) == frames


@pytest.mark.parametrize("layers", [WAV2VEC2, [(8, 10, 5), (8, 8, 4), (8, 4, 2)], [(8, 3, 7)]])
def test_stacked_convolutions_have_as_many_frames_as_one_grid(layers):
    grid, counts = FrameGrid.of_convolutions(layers), torch.arange(3000)
    expected = counts
    for _, kernel, stride in layers:
        expected = torch.div(expected - kernel, stride, rounding_mode="floor") + 1
    assert torch.equal(grid.counts(counts), expected.clamp(min=0)) and grid.counts(counts).dtype == torch.int64
    assert [grid.count(samples) for samples in range(3000)] == expected.clamp(min=0).tolist()


def test_rates_and_centres():
    assert FrameGrid.of_convolutions(WAV2VEC2) == TRUNK
    assert (TRUNK.rate, TRUNK.first_centre) == (50, 0.0125)
    assert (CPC.rate, CPC.first_centre) == (100, 159 / 2 / 16_000)
    assert (MEL.rate, MEL.first_centre) == (100, 0.0125)

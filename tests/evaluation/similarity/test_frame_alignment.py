"""Frames of several rates on common frames."""

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.similarity.frame_alignment import Timing, averages, coarsest, on_common_frames
from dinosr_plugin.modules.frame_grid import CPC, MEL, TRUNK

TIMING = {name: Timing(grid.rate, grid.first_centre) for name, grid in dict(trunk=TRUNK, cpc=CPC, mel=MEL).items()}


def ramp(timing: Timing, frames: int) -> np.ndarray:
    """(frames, 1) float32: the time of each centre in seconds."""
    return (timing.first_centre + np.arange(frames) / timing.rate).astype(np.float32)[:, None]


def test_the_lowest_rate_is_common():
    assert coarsest([TIMING["cpc"], TIMING["trunk"], TIMING["mel"]]) == TIMING["trunk"]


@pytest.mark.parametrize("name", ["cpc", "mel"])
def test_a_linear_course_over_time_has_its_value_at_the_centre_of_each_common_frame(name):
    common = TIMING["trunk"]
    means, covered = averages(ramp(TIMING[name], 200), TIMING[name], common, 99)
    inside = covered > 0.999
    assert inside.sum() >= 98
    np.testing.assert_allclose(means[inside], ramp(common, 99)[inside], atol=1e-5)


def test_two_short_frames_that_fill_a_long_one_are_averaged():
    fast, slow = Timing(100, 0.005), Timing(50, 0.010)
    frames = np.arange(12, dtype=np.float32).reshape(6, 2)
    means, covered = averages(frames, fast, slow, 3)
    np.testing.assert_allclose(means, frames.reshape(3, 2, 2).mean(1))
    np.testing.assert_allclose(covered, 1)


def test_frames_of_the_same_rate_and_other_centres_are_interpolated():
    first, second = on_common_frames(
        [ramp(TIMING["mel"], 50), ramp(TIMING["cpc"], 50)], [TIMING["mel"], TIMING["cpc"]], "u"
    )
    np.testing.assert_allclose(second[1:-1], first[1:-1], atol=1e-5)


def test_equal_frames_are_not_changed():
    frames = [np.random.default_rng(i).normal(size=(9 + i, 3)).astype(np.float32) for i in range(2)]
    for before, after in zip(frames, on_common_frames(frames, [TIMING["trunk"]] * 2, "u")):
        np.testing.assert_array_equal(after, before[:9])


def test_all_have_the_same_frames_in_the_end():
    samples = 31_234
    arrays = [ramp(TIMING[name], grid.count(samples)) for name, grid in dict(trunk=TRUNK, cpc=CPC, mel=MEL).items()]
    aligned = on_common_frames(arrays, [TIMING[name] for name in ("trunk", "cpc", "mel")], "u")
    assert len({len(array) for array in aligned}) == 1 and len(aligned[0]) >= TRUNK.count(samples) - 1
    for array in aligned[1:]:
        np.testing.assert_allclose(array[1:-1], aligned[0][1:-1], atol=1e-5)


def test_other_durations_are_refused():
    with pytest.raises(UserError, match=r"utt-7: lasts 1\.\d+ s in one representation and 1\.\d+ s in another"):
        on_common_frames([ramp(TIMING["trunk"], 60), ramp(TIMING["trunk"], 80)], [TIMING["trunk"]] * 2, "utt-7")

"""From windows of speech to segments: what is kept, what is left out, and where long speech is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.data.segmentation.cutting import MARGIN, SHORTEST_PAUSE, SHORTEST_SPEECH, Rules, cut, speech_runs

RULES = Rules(min_pause=16, min_length=30, max_length=200)
MARKS = {"s": True, ".": False}


def windows(*runs: tuple[str, int]) -> np.ndarray:
    return np.concatenate([np.full(length, MARKS[mark]) for mark, length in runs])


def segments(*runs: tuple[str, int], levels: np.ndarray | None = None, rules: Rules = RULES):
    speech = windows(*runs)
    return cut(speech, np.zeros(len(speech)) if levels is None else levels, rules)


def test_a_pause_ends_a_segment_and_is_left_out_except_for_its_margins():
    done = segments((".", 10), ("s", 40), (".", 20), ("s", 50), (".", 10))
    assert done.segments == [(10 - MARGIN, 50 + MARGIN), (70 - MARGIN, 120 + MARGIN)]
    assert done.too_short == [] and done.within_speech == 0


def test_a_shorter_pause_stays_inside():
    assert segments(("s", 40), (".", 15), ("s", 40)).segments == [(0, 95)]


def test_speech_at_both_ends_has_no_margin_outside_of_the_recording():
    assert segments(("s", 40), (".", 16), ("s", 40)).segments == [(0, 43), (53, 96)]


def test_short_segments_are_left_out_and_listed():
    done = segments(("s", 40), (".", 30), ("s", 12), (".", 30), ("s", 40))
    assert done.segments == [(0, 43), (109, 152)] and done.too_short == [(67, 85)]


@pytest.mark.parametrize("length, kept", [(SHORTEST_SPEECH - 1, False), (SHORTEST_SPEECH, True)])
def test_a_click_is_not_speech(length, kept):
    assert bool(speech_runs(windows((".", 20), ("s", length), (".", 20)))) == kept


def test_the_closure_of_a_plosive_is_not_a_pause():
    assert speech_runs(windows(("s", 6), (".", SHORTEST_PAUSE - 1), ("s", 6))) == [(0, 15)]


def test_long_speech_is_cut_at_its_longest_pause_in_the_second_half():
    done = segments(("s", 30), (".", 14), ("s", 86), (".", 6), ("s", 20), (".", 8), ("s", 86))
    assert done.segments == [(0, 156 + MARGIN), (164 - MARGIN, 250)] and done.within_speech == 0


def test_margins_share_a_short_pause():
    done = segments(("s", 150), (".", 4), ("s", 150))
    assert done.segments == [(0, 152), (152, 304)] and done.within_speech == 0


def test_speech_without_a_pause_is_cut_at_its_quietest_point_and_counted():
    levels = np.zeros(300)
    levels[148:153] = -20.0
    levels[40:60] = -40.0  # too early: the segment would be short
    done = segments(("s", 300), levels=levels)
    assert done.segments == [(0, 150), (150, 300)] and done.within_speech == 1


def test_no_speech_gives_no_segment():
    assert cut(np.zeros(100, dtype=bool), np.zeros(100), RULES) == ([], [], 0)
    assert cut(np.zeros(0, dtype=bool), np.zeros(0), RULES) == ([], [], 0)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60)), max_size=8), st.integers(0, 3))
def test_of_any_speech_every_window_is_in_one_segment(runs, seed):
    """Except for clicks and what is listed as too short; no segment is too long, and none begins or ends in speech
    unless that is counted."""
    speech = windows(*[part for length, pause in runs for part in (("s", length), (".", pause))], (".", 0))
    done = cut(speech, np.random.default_rng(seed).normal(size=len(speech)), RULES)
    spans = sorted(done.segments + done.too_short)
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:]))
    assert all(RULES.min_length <= stop - start <= RULES.max_length for start, stop in done.segments)
    kept = np.zeros(len(speech), dtype=int)
    for start, stop in spans:
        kept[start:stop] += 1
    for start, stop in speech_runs(speech):
        assert (kept[start:stop][speech[start:stop]] == 1).all()
    inside = [
        stop for _, stop in spans[:-1] if stop in {start for start, _ in spans} and speech[stop - 1] and speech[stop]
    ]
    assert len(inside) <= done.within_speech

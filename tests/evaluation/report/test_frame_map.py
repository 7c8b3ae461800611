"""The frames of the map are balanced, and the projection is reproducible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.evaluation.report import frame_map as module
from dinosr_plugin.evaluation.report.frame_map import balanced, choose, project
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.units.batches import Utterance


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_groups_are_balanced_as_far_as_possible(groups, max_count, seed):
    groups = np.array(groups)
    chosen = balanced(groups, max_count, np.random.default_rng(seed))
    assert len(chosen) == min(max_count, len(groups)) and (np.diff(chosen) > 0).all()
    drawn, available = ({name: int((part == name).sum()) for name in set(groups)} for part in (groups[chosen], groups))
    for name in drawn:  # a smaller group is drawn completely, or is one short in the last turn
        assert drawn[name] >= max(drawn.values()) - 1 or drawn[name] == available[name]


def test_every_frame_can_be_drawn():
    rng = np.random.default_rng(0)
    seen = {int(i) for _ in range(200) for i in balanced(np.repeat(["a", "b"], 10), 4, rng)}
    assert seen == set(range(20))


def test_speakers_with_the_most_speech_up_to_a_limit(monkeypatch):
    utterances = [Utterance(f"u{n}", None, 100 + n) for n in range(30)]
    speakers = {utterance.name: f"s{n % 10}" for n, utterance in enumerate(utterances)}
    speech = Speech(None, speakers, utterances)
    names = choose(speech, np.random.default_rng(0))
    assert {speakers[name] for name in names} == {f"s{n}" for n in range(3, 10)} and len(names) == 21
    monkeypatch.setattr(module, "MAX_SAMPLES", 500)
    assert len(choose(speech, np.random.default_rng(0))) in (3, 4)
    monkeypatch.setattr(module, "MAX_SAMPLES", 1)
    assert len(choose(speech, np.random.default_rng(0))) == 1


def test_neighbours_stay_neighbours_and_the_map_is_reproducible():
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.normal(0, 1, (40, 60)), rng.normal(20, 1, (40, 60))])
    points = project(frames, 0)
    assert points.shape == (80, 2)
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2) + 1e9 * np.eye(80)
    assert ((apart.argmin(axis=1) < 40) == (np.arange(80) < 40)).all()
    np.testing.assert_array_equal(points, project(frames, 0))


@pytest.mark.parametrize("n", [5, 12])
def test_a_map_of_few_frames(n):
    assert project(np.random.default_rng(0).normal(size=(n, 3)), 0).shape == (n, 2)

"""Which frames stand on the map, and that they stand where they did last time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.evaluation.report import frame_map as module
from dinosr_plugin.evaluation.report.frame_map import balanced, choose, project
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.units.batches import Utterance


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_equal_parts_as_far_as_there_are_any(groups, most, seed):
    groups = np.array(groups)
    chosen = balanced(groups, most, np.random.default_rng(seed))
    assert len(chosen) == min(most, len(groups)) and (np.diff(chosen) > 0).all()
    taken, there = ({name: int((own == name).sum()) for name in set(groups)} for own in (groups[chosen], groups))
    for name in taken:  # who has less than another has given all, or comes one short in the last turn
        assert taken[name] >= max(taken.values()) - 1 or taken[name] == there[name]


def test_every_frame_has_its_chance():
    rng = np.random.default_rng(0)
    seen = {int(i) for _ in range(200) for i in balanced(np.repeat(["a", "b"], 10), 4, rng)}
    assert seen == set(range(20))


def test_the_speakers_with_the_most_speech_and_not_too_much_of_it(monkeypatch):
    utterances = [Utterance(f"u{n}", None, 100 + n) for n in range(30)]
    speakers = {utterance.name: f"s{n % 10}" for n, utterance in enumerate(utterances)}
    speech = Speech(None, speakers, utterances)
    names = choose(speech, np.random.default_rng(0))
    assert {speakers[name] for name in names} == {f"s{n}" for n in range(3, 10)} and len(names) == 21
    monkeypatch.setattr(module, "SOUND", 500)
    assert len(choose(speech, np.random.default_rng(0))) in (3, 4)
    monkeypatch.setattr(module, "SOUND", 1)
    assert len(choose(speech, np.random.default_rng(0))) == 1


def test_neighbours_stay_neighbours_and_the_map_repeats_itself():
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.normal(0, 1, (40, 60)), rng.normal(20, 1, (40, 60))])
    points = project(frames, 0)
    assert points.shape == (80, 2)
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2) + 1e9 * np.eye(80)
    assert ((apart.argmin(axis=1) < 40) == (np.arange(80) < 40)).all()
    np.testing.assert_array_equal(points, project(frames, 0))


@pytest.mark.parametrize("n", [5, 12])
def test_few_frames(n):
    assert project(np.random.default_rng(0).normal(size=(n, 3)), 0).shape == (n, 2)

"""The transforms that ``task.views`` names."""

import numpy as np
import pytest

from dinosr_plugin.data.chains import clip, make_views, parse_views
from dinosr_plugin.data.perturbation.equalizer import Equalizer
from dinosr_plugin.errors import UserError


def test_views_and_their_chains():
    assert parse_views("clean/equalizer") == [[], ["equalizer"]]
    assert parse_views(" equalizer + equalizer / clean ") == [["equalizer", "equalizer"], []]
    assert parse_views("equalizer") == [["equalizer"]]


@pytest.mark.parametrize(
    "text, name",
    [("clean/echo", "echo"), ("", ""), ("clean/", ""), ("equalizer+/clean", ""), ("clean+equalizer", "clean")],
)
def test_names_that_are_not_known(text, name):
    with pytest.raises(UserError, match="^task.views=") as error:
        parse_views(text)
    assert f"{name!r} is not a transform; give a chain of clean, " in str(error.value)


def test_the_equaliser_is_followed_by_a_limit():
    clean, equalized = make_views("clean/equalizer")
    assert clean == [] and isinstance(equalized[0], Equalizer) and equalized[1:] == [clip]
    wave = np.array([-3, -0.5, 0.25, 1.5], np.float32)
    wave.flags.writeable = False
    assert clip(wave, np.random.default_rng(0)).tolist() == [-1, -0.5, 0.25, 1]

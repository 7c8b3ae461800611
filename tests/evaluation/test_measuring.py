"""Sources and speech that lack what a measure requires."""

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.abx.measure import AbxMeasure
from dinosr_plugin.evaluation.measures.quality.measure import LagMeasure, UnitQualityMeasure
from dinosr_plugin.evaluation.measuring import Source, figures_of
from dinosr_plugin.evaluation.speech import Speech

SPEECH = Speech(None, speakers=None)


@pytest.mark.parametrize("measure", [UnitQualityMeasure(), LagMeasure()])
def test_units_are_required(measure):
    source = Source("mfcc", 50, 0.0125, features={"a": np.zeros((3, 2))})
    with pytest.raises(UserError, match="^mfcc: contains features only, but units are required; "):
        figures_of(source, SPEECH, [measure])


def test_features_are_required():
    source = Source("codebook 0", 50, 0.0125, units={"a": np.zeros(3, int)})
    with pytest.raises(UserError, match="^contains units only, but features are required; "):
        AbxMeasure([]).of_features(source)


def test_speakers_are_required():
    assert Speech(None, {"a": "1272"}).speaker("a") == "1272"
    with pytest.raises(UserError, match="^a: its speaker is not known; "):
        SPEECH.speaker("a")

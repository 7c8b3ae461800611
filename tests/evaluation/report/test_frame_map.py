"""Which speakers and utterances the map of frames shows."""

import numpy as np

from dinosr_plugin.evaluation.report import frame_map as module
from dinosr_plugin.evaluation.report.frame_map import choose
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.units.batches import Utterance


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

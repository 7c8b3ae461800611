"""The speaker probe: equal to an independent computation, at chance on noise, 1 where speakers are separable."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures import speaker
from dinosr_plugin.evaluation.measures.speaker import (
    FOLDS,
    PENALTIES,
    SpeakerProbe,
    fold_numbers,
    probe_accuracy,
    require_probe,
)
from dinosr_plugin.evaluation.measuring import Source
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.units.batches import Utterance


def speech_of(counts: dict[str, int]) -> Speech:
    """So many utterances of each speaker, the speakers in turn."""
    names = [(f"{who}-{n}", who) for n in range(max(counts.values())) for who in counts if n < counts[who]]
    utterances = [Utterance(name, Path(f"{name}.wav"), 16000) for name, _ in names]
    return Speech(None, dict(names), utterances, Path("some.tsv"))


def features_of(speech: Speech, shift: float, width: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Three to nine frames of noise for each utterance, moved by ``shift`` times a vector of the speaker."""
    rng = np.random.default_rng(seed)
    voices = {who: rng.normal(size=width) for who in sorted(set(speech.speakers.values()))}
    return {
        utt: (rng.normal(size=(rng.integers(3, 10), width)) + shift * voices[speech.speaker(utt)]).astype(np.float32)
        for utt in speech.names
    }


def figures_of(speech: Speech, features=None, units=None, n_codes: int | None = None) -> dict:
    return SpeakerProbe()(Source("x", 50, 0.0125, features, units, n_codes), speech)


# ---- against an independent computation ------------------------------------------------------------------------------


def predicted(x: np.ndarray, labels: np.ndarray, C: float, new: np.ndarray) -> np.ndarray:
    """Softmax regression by scipy's BFGS: C * cross-entropy + |W|^2 / 2, without a penalty on the biases."""
    names, targets = np.unique(labels, return_inverse=True)
    mean, scale = x.mean(0), x.std(0)
    x, new = ((part - mean) / scale for part in (x, new))
    D, K = x.shape[1], len(names)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        W, b = parameters[: D * K].reshape(D, K), parameters[D * K :]
        log_p = log_softmax(x @ W + b, axis=1)  # (N, K)
        errors = np.exp(log_p) - np.eye(K)[targets]
        gradient = np.concatenate([(C * x.T @ errors + W).ravel(), C * errors.sum(0)])
        return -C * log_p[np.arange(len(x)), targets].sum() + (W**2).sum() / 2, gradient

    found = minimize(loss, np.zeros(D * K + K), jac=True, method="BFGS", options={"gtol": 1e-7}).x
    return names[(new @ found[: D * K].reshape(D, K) + found[D * K :]).argmax(1)]


def test_accuracy_equals_that_of_nested_loops_over_another_optimiser():
    speech = speech_of({"a": 6, "b": 7, "c": 5})
    x = np.stack([frames.mean(0) for frames in features_of(speech, 0.8, width=3).values()]).astype(np.float64)
    labels, folds = np.array(list(speech.speakers.values())), fold_numbers(speech.speakers)
    right, chosen = [], []
    for fold in range(FOLDS):
        train = folds != fold
        inner = [
            np.mean(
                [
                    (predicted(x[train & (folds != other)], labels[train & (folds != other)], C, x[folds == other])
                    == labels[folds == other]).mean()
                    for other in range(FOLDS)
                    if other != fold
                ]
            )
            for C in PENALTIES
        ]  # fmt: skip
        chosen.append(PENALTIES[int(np.argmax(inner))])
        right += list(predicted(x[train], labels[train], chosen[-1], x[folds == fold]) == labels[folds == fold])
    assert len(set(chosen)) > 1 and 0.4 < np.mean(right) < 1  # not a trivial case
    assert probe_accuracy(x, labels, folds) == pytest.approx(np.mean(right))


# ---- known answers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_penalties(monkeypatch):
    monkeypatch.setattr(speaker, "PENALTIES", (0.01, 1.0))


def test_chance_on_noise_and_one_on_separable_speakers(two_penalties):
    speech = speech_of({f"s{n:02}": 25 for n in range(8)})
    noise, separable = (figures_of(speech, features_of(speech, shift, width=16)) for shift in (0, 20))
    assert abs(noise["speaker_accuracy"] - 1 / 8) < 3 * np.sqrt(1 / 8 * 7 / 8 / 200)
    assert separable["speaker_accuracy"] == 1
    about = {"speaker_chance": 1 / 8, "probed_speakers": 8, "probed_utterances": 200, "unit_speaker_accuracy": None}
    assert about.items() <= noise.items() and set(noise) == {column.key for column in SpeakerProbe.columns}


def test_units_are_compared_by_their_shares_in_an_utterance(two_penalties):
    speech = speech_of({"a": 5, "b": 5})
    rng = np.random.default_rng(0)
    units = {utt: rng.integers(0, 4, 50) + 2 * (utt[0] == "b") for utt in speech.names}
    longer = {utt: np.tile(ids, 1 + place) for place, (utt, ids) in enumerate(units.items())}
    figures = figures_of(speech, units=units, n_codes=8)
    assert (figures["unit_speaker_accuracy"], figures["speaker_accuracy"]) == (1, None)
    assert figures_of(speech, units=longer) == figures  # unused codes and the length do not matter


def test_features_whose_means_are_zero_are_not_probed():
    """MFCC and log-Mel: rounding errors, and the last frame where it counts twice, would be all there is."""
    speech = speech_of({"a": 5, "b": 5})
    centred = {utt: frames - frames.mean(0) for utt, frames in features_of(speech, 1).items()}
    assert SpeakerProbe()(Source("MFCC", 50, 0.0125, centred, centred=True), speech)["speaker_accuracy"] is None


def test_the_order_of_utterances_does_not_matter(two_penalties):
    speech = speech_of({"a": 9, "b": 12, "c": 7})
    features = features_of(speech, 0.3)
    mixed = list(speech.utterances)
    np.random.default_rng(1).shuffle(mixed)
    other = dataclasses.replace(speech, utterances=mixed, speakers=dict(reversed(speech.speakers.items())))
    assert other.names != speech.names
    assert figures_of(other, dict(reversed(features.items()))) == figures_of(speech, features)


def test_features_are_standardised_and_constant_dimensions_do_not_matter(two_penalties):
    speech = speech_of({"a": 9, "b": 12, "c": 7})
    features = features_of(speech, 0.3)
    scaled = {utt: np.pad(1000 * x + 5, ((0, 0), (0, 1)), constant_values=3) for utt, x in features.items()}
    assert figures_of(speech, scaled) == figures_of(speech, features)


def test_folds_share_every_speaker_and_depend_on_the_names_alone():
    speakers = speech_of({"a": 10, "b": 3, "c": 12}).speakers
    folds = dict(zip(speakers, fold_numbers(speakers)))
    counts = {who: np.bincount([folds[utt] for utt in folds if utt[0] == who], minlength=5).tolist() for who in "abc"}
    assert counts == {"a": [2, 2, 2, 2, 2], "b": [1, 1, 1, 0, 0], "c": [3, 3, 2, 2, 2]}
    only_b = {utt: who for utt, who in speakers.items() if who == "b"}
    assert fold_numbers(only_b).tolist() == [folds[utt] for utt in only_b] == [2, 0, 1]  # by `sha256sum`


# ---- what cannot be probed -------------------------------------------------------------------------------------------


def test_speakers_with_few_utterances_are_left_out(two_penalties):
    speech = speech_of({"a": 4, "b": 2, "c": 3, "d": 1})
    figures = figures_of(speech, features_of(speech, 1))
    assert (figures["probed_speakers"], figures["probed_utterances"]) == (2, 7)
    assert figures["speaker_chance"] == pytest.approx(4 / 7)


def test_inputs_that_cannot_be_probed(monkeypatch):
    few = (
        "^some.tsv: the speaker probe requires at least two speakers with 3 utterances each; give a manifest with more"
    )
    for counts in ({"a": 40}, {"a": 40, "b": 2}):
        with pytest.raises(UserError, match=few):
            require_probe(speech_of(counts))
    with pytest.raises(UserError, match="its speaker is not known"):
        require_probe(dataclasses.replace(speech_of({"a": 3, "b": 3}), speakers=None))
    find = importlib.util.find_spec
    monkeypatch.setattr(speaker.importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    with pytest.raises(UserError, match="--speakers: requires the package scikit-learn: pip install scikit-learn"):
        require_probe(speech_of({"a": 3, "b": 3}))

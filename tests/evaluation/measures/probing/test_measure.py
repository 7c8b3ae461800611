"""Probes as measures: scores, controls and intervals of features in which the labels are known to be."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.probing.labels import Examples, Labels, Place, UtteranceLabels
from dinosr_plugin.evaluation.measures.probing.measure import (
    ProbeMeasure,
    SpeakerMeasure,
    TrainingSpeech,
    require_other_speakers,
    spans,
)
from dinosr_plugin.evaluation.measuring import Source
from dinosr_plugin.evaluation.speech import Speech
from dinosr_plugin.units.batches import Utterance

FRAMES, WIDTH, CLASSES = 60, 5, 4


class KnownLabels(Labels):
    """Classes of frames that are given; or numbers."""

    def __init__(self, of: dict[str, np.ndarray], classes=None):
        self.of, self.classes = of, classes

    def examples(self, utt: str, place: Place) -> Examples:
        return Examples.of_frames(self.of[utt], np.ones(place.n, dtype=bool))


def names_of(part: str, speakers: int, each: int = 4) -> dict[str, str]:
    """Utterance -> speaker."""
    return {f"{part}{speaker}-{n}": f"{part}{speaker}" for speaker in range(speakers) for n in range(each)}


TRAIN, TEST = names_of("a", 6), names_of("b", 5)
SPEECH = Speech(None, TEST, [Utterance(utt, Path(utt), 1) for utt in TEST], Path("test.tsv"))


def drawn(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features of normal noise, (FRAMES, WIDTH) of each utterance, and classes: the largest of the first dimensions."""
    rng = np.random.default_rng(seed)
    features = {utt: rng.normal(size=(FRAMES, WIDTH)).astype(np.float32) for utt in {**TRAIN, **TEST}}
    return features, {utt: frames[:, :CLASSES].argmax(axis=1) for utt, frames in features.items()}


def source_of(features, rate: float = 50.0) -> Source:
    return Source("layer", rate, 0.0125, features, training=features)


def measured(labels: Labels, features, frames: int = 10_000, task: str = "phone") -> dict:
    return ProbeMeasure(task, labels, TrainingSpeech(TRAIN), frames)(source_of(features), SPEECH)


def test_classes_that_are_in_the_features_are_found_and_shuffled_ones_are_not():
    features, classes = drawn()
    figures = measured(KnownLabels(classes, [*"ABCD"]), features)
    assert figures["phone"] > 0.95 and figures["phone_low"] > 0.9
    assert figures["phone_low"] <= figures["phone"] <= figures["phone_high"]
    assert figures["phone_control"] == pytest.approx(0.25, abs=0.12)
    assert figures["phone_selectivity"] == pytest.approx(figures["phone"] - figures["phone_control"])
    counts = np.bincount(np.concatenate([classes[utt] for utt in TEST]))
    assert figures["phone_majority"] == counts.max() / counts.sum()
    assert figures["phone_train"] == len(TRAIN) * FRAMES and figures["phone_test"] == len(TEST) * FRAMES


def test_numbers_have_r2_and_no_majority():
    features, _ = drawn()
    numbers = {utt: frames.astype(np.float64).sum(axis=1) for utt, frames in features.items()}
    figures = measured(KnownLabels(numbers), features, task="f0")
    assert figures["f0"] > 0.999 and abs(figures["f0_control"]) < 0.05 and figures["f0_majority"] is None
    noise = {utt: np.random.default_rng(i).normal(size=FRAMES) for i, utt in enumerate(features)}
    assert abs(measured(KnownLabels(noise), features, task="f0")["f0"]) < 0.05


def test_at_most_so_many_examples_are_fitted_on_and_the_same_ones_for_every_layer():
    features, classes = drawn()
    probe = ProbeMeasure("phone", KnownLabels(classes, [*"ABCD"]), TrainingSpeech(TRAIN), frames=100)
    x, labels, kept = probe.training_examples(source_of(features))
    other, same, _ = probe.training_examples(source_of({utt: 2 * frames for utt, frames in features.items()}))
    assert x.shape == (1, 100, WIDTH) and len(labels) == 100 and 50 < kept < 100
    np.testing.assert_array_equal(2 * x, other)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_array_equal(x[0, :, :CLASSES].argmax(axis=1), labels)  # examples have their own labels


def test_the_penalty_is_chosen_on_other_speakers_or_on_other_utterances_if_there_are_few():
    training = TrainingSpeech(TRAIN)
    assert training.by_speaker and training.held_out == {
        utt for utt in TRAIN if TRAIN[utt] == TRAIN[min(training.held_out)]
    }
    few = TrainingSpeech(names_of("a", 4))
    assert (
        not few.by_speaker and len(few.held_out) == 3 and {one[:2] for one in few.held_out} <= {"a0", "a1", "a2", "a3"}
    )


def test_utterances_are_means_of_their_frames():
    """The mean of a dimension says who speaks; single frames hardly do."""
    features, _ = drawn()
    sex = {utt: "FM"[int(speaker[1]) % 2] for utt, speaker in {**TRAIN, **TEST}.items()}
    shifted = {utt: frames + (sex[utt] == "M") * np.float32(0.5) for utt, frames in features.items()}
    figures = measured(UtteranceLabels(sex, ["F", "M"]), shifted, task="gender")
    assert figures["gender"] > 0.9 and figures["gender_train"] == len(TRAIN) and figures["gender_test"] == len(TEST)


def test_spans_are_means():
    frames = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(spans(frames, np.array([0, 2]), np.array([2, 6])), [[1, 2], [7, 8]])
    np.testing.assert_array_equal(spans(frames, np.array([3]), np.array([4])), [[6, 7]])
    layers = np.stack([frames, 10 * frames], axis=1)  # (n, L, D)
    np.testing.assert_array_equal(spans(layers, np.array([0]), np.array([2])), [[[1, 2], [10, 20]]])


def test_layers_together_have_weights():
    features, classes = drawn()
    noise, _ = drawn(1)
    stacked = {utt: np.stack([noise[utt], features[utt]], axis=1) for utt in features}  # (n, 2, D)
    figures = measured(KnownLabels(classes, [*"ABCD"]), stacked)
    alone = measured(KnownLabels(classes, [*"ABCD"]), features)
    assert figures["phone_weights"][1] > 0.9 and figures["phone"] == pytest.approx(alone["phone"], abs=0.03)
    assert alone["phone_weights"] is None


@pytest.mark.parametrize("layers", [False, True])
def test_the_speaker_is_found_on_other_utterances(layers):
    pytest.importorskip("sklearn")
    features, _ = drawn()
    voices = {speaker: np.random.default_rng(i).normal(0, 1, WIDTH) for i, speaker in enumerate(set(TEST.values()))}
    spoken = {utt: features[utt] + voices[speaker] for utt, speaker in TEST.items()}
    if layers:
        spoken = {utt: np.stack([features[utt], frames], axis=1) for utt, frames in spoken.items()}
    figures = SpeakerMeasure()(source_of(spoken), SPEECH)
    assert figures["speaker"] > 0.9 and figures["speaker_control"] < 0.5
    assert figures["speaker_majority"] == 0.2 and figures["speaker_test"] == len(TEST)
    assert figures["speaker_weights"] is None if not layers else figures["speaker_weights"][1] > 0.8
    assert SpeakerMeasure()(source_of(spoken), SPEECH) == figures  # nothing is random


def test_without_controls_all_other_figures_are_the_same():
    pytest.importorskip("sklearn")
    features, classes = drawn()
    labels = KnownLabels(classes, [*"ABCD"])
    phone = partial(ProbeMeasure, "phone", labels, TrainingSpeech(TRAIN), 100)
    for task, make in (("phone", phone), ("speaker", SpeakerMeasure)):
        with_controls, without = (make(controls=controls)(source_of(features), SPEECH) for controls in (True, False))
        absent = {f"{task}_control": None, f"{task}_selectivity": None}
        assert without == {**with_controls, **absent} and with_controls[f"{task}_control"] is not None


def test_nan_is_one_line():
    features, classes = drawn()
    features["a2-1"][3, 2] = np.nan
    with pytest.raises(UserError, match="a2-1: NaN or infinity in its features; check"):
        measured(KnownLabels(classes, [*"ABCD"]), features)


def test_too_little_is_one_line():
    features, classes = drawn()
    with pytest.raises(
        UserError, match="--task phone: 1 training examples of 1 label.* too few; give a larger --train"
    ):
        measured(KnownLabels(classes, [*"ABCD"]), features, frames=1)


def test_other_speakers_are_required():
    require_other_speakers(TRAIN, SPEECH, "train.tsv", "phone")
    with pytest.raises(UserError, match=r"test.tsv: 1 of its 5 speakers \(b0\) are in train.tsv too, but --task phone"):
        require_other_speakers({**TRAIN, "x": "b0"}, SPEECH, "train.tsv", "phone")

"""The pass over the sound, and the figures of all pairs: against plain formulas, for any order and size of parts."""

import numpy as np
import pytest

from dinosr_plugin.data.acoustic import log_mel, mfcc
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.similarity import kernels, linear
from dinosr_plugin.evaluation.measures.similarity.linear import best_matches, cka, cka_unbiased, linreg
from dinosr_plugin.evaluation.measures.similarity.measure import MEASURES
from dinosr_plugin.evaluation.similarity import pairs
from dinosr_plugin.evaluation.similarity.frame_alignment import Timing
from dinosr_plugin.evaluation.similarity.pairs import Plan, measure_similarity
from dinosr_plugin.evaluation.similarity.representations import Representation, Sound, Supplier, read_together
from dinosr_plugin.units.batches import Utterance, read_utterances
from support.recordings import white_noise, write_recordings
from support.similarity import pair_of

NAMES = ["mfcc", "fbank"]
TIMING = Timing(50, 0.0125)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> list[Utterance]:
    """Six recordings of noise."""
    folder = tmp_path_factory.mktemp("speech")
    waves = [white_noise(24000 + 1500 * i, seed=i) * np.linspace(0.1, 1, 24000 + 1500 * i) for i in range(6)]
    return read_utterances(write_recordings(folder, [wave.astype(np.float32) for wave in waves]))


@pytest.fixture
def sound() -> list[Supplier]:
    return [Sound("mfcc", "mfcc"), Sound("fbank", "fbank")]


def waves_of(speech) -> list[np.ndarray]:
    from dinosr_plugin.units.batches import load_checked_wave

    return [load_checked_wave(one) for one in speech]


def frames_of(speech) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate([make(wave) for wave in waves_of(speech)]).astype(float) for make in (mfcc, log_mel))


class Vectors(Supplier):
    """Representations that are computed from random frames of every utterance, as many as MFCC has."""

    def __init__(self, name="vectors", width=5, model="made", change=lambda frames: frames, timing=TIMING):
        self.change = change
        self.representations = [Representation(name, model, "made up", width, timing)]

    def read(self, utterances, waves):
        width = self.representations[0].width
        found = []
        for one in utterances:
            rng = np.random.default_rng(one.samples)
            frames = rng.normal(size=(1 + (one.samples - 400) // 320, width)).astype(np.float32)
            found.append([self.change(frames)])
        return found


def test_figures_are_those_of_all_frames_together(speech, sound):
    similarity = measure_similarity(sound, speech, Plan(NAMES, NAMES, list(MEASURES)))
    x, y = frames_of(speech)
    assert similarity.n == len(x) and similarity.every == 1
    pair = pair_of(x, y)
    assert similarity.values["cka"][0, 1] == pytest.approx(cka(pair), abs=1e-9)
    assert similarity.values["cka_unbiased"][1, 0] == pytest.approx(cka_unbiased(pair), abs=1e-9)
    assert similarity.values["linreg"][0, 1] == pytest.approx(linreg(pair), abs=1e-7)
    assert similarity.values["linreg"][1, 0] == pytest.approx(linreg(pair.turned), abs=1e-7)
    for name, values in similarity.values.items():
        assert values[0, 0] == values[1, 1] == 1, name
        assert np.isfinite(values).all(), name
        if MEASURES[name].symmetric:
            assert values[0, 1] == values[1, 0], name


def test_every_measure_has_the_figure_of_its_function(speech, sound):
    similarity = measure_similarity(sound, speech, Plan(["mfcc"], ["fbank"], list(MEASURES)))
    x, y = frames_of(speech)
    for name, values in similarity.values.items():
        plain = getattr(linear, name)(pair_of(x, y)) if hasattr(linear, name) else getattr(kernels, name)(x, y)
        assert values[0, 0] == pytest.approx(plain, abs=1e-6), name


def test_the_size_of_parts_changes_nothing(speech, sound, monkeypatch):
    plan = Plan(NAMES, NAMES, ["cka", "cka_unbiased", "pwcca", "rsa"])
    whole = measure_similarity(sound, speech, plan)
    monkeypatch.setattr(pairs, "CHUNK", 10)
    monkeypatch.setattr("dinosr_plugin.evaluation.similarity.representations.BATCH_SAMPLES", 50_000)
    for name, values in measure_similarity(sound, speech, plan).values.items():
        np.testing.assert_allclose(values, whole.values[name], atol=1e-9)


def test_means_of_utterances(speech):
    suppliers = [Vectors("a"), Vectors("b", 3)]
    similarity = measure_similarity(suppliers, speech, Plan(["a"], ["b"], ["cka"], "utterances"))
    x, y = (
        np.stack([one.read([utterance], [])[0][0].mean(0) for utterance in speech]).astype(float) for one in suppliers
    )
    assert similarity.n == 6 and similarity.values["cka"].shape == (1, 1)
    assert similarity.values["cka"][0, 0] == pytest.approx(cka(pair_of(x, y)), abs=1e-6)


def test_every_kth_frame(speech, sound):
    similarity = measure_similarity(sound, speech, Plan(NAMES, NAMES, ["cka"], max_frames=100))
    parts = [[make(wave)[:: similarity.every] for make in (mfcc, log_mel)] for wave in waves_of(speech)]
    x, y = (np.concatenate([part[i] for part in parts]).astype(float) for i in range(2))
    assert similarity.every > 1 and similarity.n == len(x) <= 106  # a part of a frame in each utterance
    assert similarity.values["cka"][0, 1] == pytest.approx(cka(pair_of(x, y)), abs=1e-9)
    assert any("one frame in" in note for note in similarity.notes)


def test_an_interval_contains_the_value_and_is_the_same_again(speech):
    mixed = lambda frames: frames[:, :3] + np.abs(frames[:, 2:])
    suppliers = [Vectors("a"), Vectors("b", 5, change=mixed)]
    suppliers[1].representations = [suppliers[1].representations[0]._replace(width=3)]
    suppliers[1].read = lambda utterances, waves: [[mixed(one[0])] for one in suppliers[0].read(utterances, waves)]
    plan = Plan(["a"], ["b"], ["cka", "cka_unbiased", "mean_cca"], bootstrap=40)
    first, again = (measure_similarity(suppliers, speech, plan) for _ in range(2))
    without = measure_similarity(suppliers, speech, Plan(["a"], ["b"], ["cka", "mean_cca"]))
    for name in plan.measures:
        low, value, high = (figures[name][0, 0] for figures in (first.low, first.values, first.high))
        assert low < value < high and high - low < 0.3, name
        assert (low, high) == (again.low[name][0, 0], again.high[name][0, 0])
    for name in ("cka", "mean_cca"):
        assert first.values[name][0, 0] == pytest.approx(without.values[name][0, 0], abs=1e-9)


def test_neurons_over_models(speech):
    suppliers = [
        Vectors("a"),
        Vectors("b", model="second"),
        Vectors("c", model="third", change=lambda x: x[:, ::-1] ** 3),
    ]
    similarity = measure_similarity(suppliers, speech, Plan(list("abc"), list("abc"), ["maxcorr"]))
    a, b, c = (
        np.concatenate([one.read([utterance], [])[0][0] for utterance in speech]).astype(float) for one in suppliers
    )
    scores = np.stack([best_matches(pair_of(a, other)) for other in (b, c)])
    assert similarity.over_models["a"]["max"] == pytest.approx(scores.max(0).mean(), abs=1e-6)
    assert similarity.over_models["a"]["min"] == pytest.approx(scores.min(0).mean(), abs=1e-6)


def test_utterances_are_read_in_the_order_that_is_asked_for(speech, sound):
    rows = [4, 0, 5, 2]
    read = list(read_together(sound, speech, rows))
    assert [one.row for one in read] == rows
    np.testing.assert_array_equal(read[1].arrays["mfcc"], mfcc(waves_of(speech)[0]))


# ---- what is refused and noted ---------------------------------------------------------------------------------------


def refused(suppliers, speech, plan) -> str:
    with pytest.raises(UserError) as error:
        measure_similarity(suppliers, speech, plan)
    return str(error.value)


def test_constant_dimensions_are_counted(speech):
    dead = Vectors("a", change=lambda frames: frames * np.array([1, 0, 1, 1, 1], np.float32))
    similarity = measure_similarity([dead, Vectors("b", 3)], speech, Plan(["a"], ["b"]))
    assert similarity.dead == {"a": 1, "b": 0}
    assert "a: 1 of 5 dimensions are constant; left out" in similarity.notes
    nothing = Vectors("a", change=np.zeros_like)
    assert refused([nothing, Vectors("b")], speech, Plan(["a"], ["b"])).startswith(
        "a: all of its 5 dimensions are const"
    )


def test_few_frames_are_noted(speech):
    similarity = measure_similarity([Vectors("a", 40), Vectors("b")], speech, Plan(["a"], ["b"], ["cka_unbiased"]))
    assert any("use cka_unbiased" in note for note in similarity.notes)
    assert not measure_similarity([Vectors("a"), Vectors("b")], speech, Plan(["a"], ["b"])).notes


@pytest.mark.parametrize(
    ("suppliers", "plan", "message"),
    [
        ([Vectors("a"), Vectors("b")], Plan(["a"], ["b"], ["svca"]), "--measure svca: unknown; choose from cka, "),
        ([Vectors("a", timing=None), Vectors("b")], Plan(["a"], ["b"]), "a: has one vector for each recording"),
        ([Sound("mfcc", "mfcc"), Vectors("b")], Plan(["mfcc"], ["b"], level="utterances"), "mfcc: with --level utter"),
        ([Vectors("a", 40_000), Vectors("b")], Plan(["a"], ["b"]), "1 pairs of up to 40000 dimensions take 13 GB"),
    ],
)
def test_what_cannot_be_measured_is_refused(suppliers, plan, message, speech):
    assert refused(suppliers, speech, plan).startswith(message)


def test_nan_is_refused_with_the_utterance(speech):
    broken = Vectors("a", change=lambda frames: np.where(np.arange(5) == 2, np.nan, frames))
    assert refused([broken, Vectors("b")], speech, Plan(["a"], ["b"])).startswith(
        f"a: NaN or infinity in the features of {speech[0].name}"
    )


def test_another_length_is_refused_with_the_utterance(speech):
    short = Vectors("a", change=lambda frames: frames[: len(frames) // 2])
    assert refused([short, Vectors("b")], speech, Plan(["a"], ["b"])).startswith(f"{speech[0].name}: lasts ")


def test_frames_of_unknown_places_are_compared_at_their_own_rate_only(speech):
    old = Vectors("old", timing=Timing(50, 0.01))
    old.representations = [old.representations[0]._replace(timed=False)]
    assert refused([old, Vectors("b")], speech, Plan(["old"], ["b"])).startswith("old: does not say where its frames")
    same = Vectors("b", timing=Timing(50, 0.01))
    assert measure_similarity([old, same], speech, Plan(["old"], ["b"])).n


def test_a_single_utterance_has_no_interval(speech):
    message = refused([Vectors("a"), Vectors("b")], speech[:1], Plan(["a"], ["b"], bootstrap=5))
    assert message.startswith("--bootstrap: requires at least 2 utterances")

"""The transform: what is drawn, what a split that is not trained gets, and what happens if Praat fails."""

import copy
import logging
import multiprocessing
import pickle

import numpy as np
import pytest

from dinosr_plugin.data.chains import make_views
from dinosr_plugin.data.perturbation import praat, voice
from dinosr_plugin.data.perturbation.equalizer import draw_bands, equalize
from dinosr_plugin.data.perturbation.f0 import EVERYONE
from dinosr_plugin.data.perturbation.resample import shift_all
from dinosr_plugin.data.perturbation.voice import DOWNWARDS, UPWARDS, Fixed, Shift, Voice, change, draw, draw_seed
from support.voices import RATE, spectrum
from support.voices import voice as synthetic

pytest.importorskip("parselmouth")

LOW, HIGH = (75.0, 250.0), (100.0, 400.0)  # those of LibriSpeech's men and women
RANGES = np.float32([LOW, HIGH])
FAILING = {
    "silence": np.zeros(RATE, np.float32),
    "noise": np.random.default_rng(0).normal(0, 0.4, RATE).astype(np.float32),
    "0.03 s": synthetic(200.0, samples=480),
    "one sample": np.ones(1, np.float32),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_ratios_are_uniform_in_their_ranges_and_half_of_them_inverted():
    drawn = np.array([draw(rng(seed)) for seed in range(2000)])  # (2000, 3)
    for ratios, highest in zip(drawn.T, (1.4, 2.0, 1.5)):
        raised = ratios > 1
        assert abs(raised.mean() - 0.5) < 0.05  # 4.5 standard deviations
        for part in (ratios[raised], 1 / ratios[~raised]):
            assert 1 <= part.min() < 1.01 and highest - 0.01 < part.max() <= highest
            counts, _ = np.histogram(part, bins=4, range=(1, highest))
            assert (abs(counts / len(part) - 0.25) < 0.07).all()
    assert (abs(np.corrcoef(drawn.T) - np.eye(3)) < 0.1).all()  # independent of each other, the inversions included


def test_a_random_change_is_the_one_that_is_drawn():
    wave = synthetic(150.0)
    drawn, seed = draw(generator := rng(3)), draw_seed(generator)
    assert np.array_equal(Voice(RANGES)(wave, rng(3), 1), praat.shift_voice(wave, HIGH, *drawn, seed)[: len(wave)])


@pytest.mark.parametrize("by", ["praat", "resample"])
def test_what_is_drawn_for_the_equaliser_does_not_depend_on_the_voice(by):
    """Not on whether Praat fails, either: what it draws is drawn before."""
    generators = [rng(1), rng(1)]
    for wave, generator in zip((synthetic(150.0), FAILING["silence"]), generators):
        Voice(RANGES, by)(wave, generator, 0)
    assert generators[0].random() == generators[1].random()


# ---- splits that are not trained -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row, fixed", [(0, UPWARDS), (1, DOWNWARDS)])
def test_the_fixed_change_makes_a_low_voice_high_and_a_high_one_low(row, fixed):
    assert [*UPWARDS, *DOWNWARDS] == [1.2, 300.0, 1.2, 0.8, 100.0, 0.8]
    wave = synthetic((120.0, 210.0)[row])
    changed = Voice(RANGES, training=False)(wave, rng(0), row)
    assert np.array_equal(changed, Voice(RANGES, training=False)(wave, rng(1), row))
    assert np.array_equal(changed, change(wave, fixed, (LOW, HIGH)[row], "praat"))
    assert not np.array_equal(changed, Voice(RANGES)(wave, rng(0), row))


def test_without_a_known_range_every_other_voice_counts_as_low():
    """As with ``resample`` and no table; otherwise all of a validation split would be moved in one direction."""
    wave, unknown = synthetic(150.0), Voice(np.float32([EVERYONE] * 4), "resample", training=False)
    for row in range(4):
        assert np.array_equal(unknown(wave, rng(), row), shift_all(wave, (1.2, 0.8)[row % 2]))


def test_views_of_other_splits_have_no_equaliser():
    wave = synthetic(120.0)
    training, other = (
        make_views("clean/perturb/equalizer", lambda: Voice(RANGES, "resample"), pytest.fail, pytest.fail, training)
        for training in (True, False)
    )
    assert [len(view) for view in training] == [0, 3, 2] and [len(view) for view in other] == [0, 2, 1]
    assert np.array_equal(other[2][0](wave, rng(), 0), wave)


# ---- the change itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["praat", "resample"])
@pytest.mark.parametrize("seed", range(4))
def test_length_and_type_are_kept_and_the_chain_stays_within_1(by, seed):
    (chain,) = make_views("perturb", lambda: Voice(RANGES, by), pytest.fail, pytest.fail)
    wave = 2.4 * synthetic(150.0, samples=RATE + 37 * seed)
    wave.flags.writeable = False
    generator, changed = rng(seed), wave
    for transform in chain:
        changed = transform(changed, generator, 0)
    assert changed.shape == wave.shape and changed.dtype == np.float32 and np.abs(changed).max() <= 1
    assert np.abs(changed - np.clip(wave, -1, 1)).max() > 0.05


def test_the_chain_is_voice_then_equaliser_then_clipping():
    wave, generator = synthetic(150.0), rng(4)
    (chain,) = make_views("perturb", lambda: Voice(RANGES), pytest.fail, pytest.fail)
    expected = Voice(RANGES)(wave, generator, 0)
    expected = np.clip(equalize(expected, *draw_bands(generator)), -1, 1)
    found, generator = wave, rng(4)
    for transform in chain:
        found = transform(found, generator, 0)
    assert np.array_equal(found, expected)


def test_resampling_uses_the_ratio_of_the_formants():
    wave = synthetic(120.0)
    for by_hand in (Shift(1.3, 0.5, 2.0), Fixed(1.3, 300.0, 2.0)):
        assert np.array_equal(change(wave, by_hand, LOW, "resample"), shift_all(wave, 1.3))
    assert spectrum(change(wave, Shift(1.3, 1.0, 1.0), LOW, "resample"))[140:172].argmax() + 140 == 156


def test_it_can_be_copied_to_another_process():
    wave = synthetic(150.0)
    transform = Voice(RANGES)
    expected = transform(wave, rng(2), 1)  # its process is not copied
    for copied in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert np.array_equal(copied(wave, rng(2), 1), expected)


# ---- if Praat fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAILING)
def test_a_sound_without_a_voice_is_equalised_and_clipped_only(kind, caplog):
    wave, generator = FAILING[kind], rng(1)
    draw(generator), draw_seed(generator)
    expected = np.clip(equalize(wave, *draw_bands(generator)), -1, 1)
    (chain,) = make_views("perturb", lambda: Voice(RANGES, name="a/{}.flac".format), pytest.fail, pytest.fail)
    found, generator = wave, rng(1)
    for transform in chain:
        found = transform(found, generator, 0)
    assert np.array_equal(found, expected)
    assert caplog.messages[0].startswith("the voice of a/0.flac is not changed: ") and len(caplog.messages) == 1


def test_a_sound_on_which_praat_loops_is_equalised_and_clipped_only(worker_that, monkeypatch, caplog):
    monkeypatch.setattr(praat, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(praat, "CPU_SHARE", 0.0)
    worker_that("sum(iter(int, 1))")
    wave = synthetic(150.0)
    assert Voice(RANGES)(wave, rng(), 0) is wave
    assert (
        "the voice of utterance 0 is not changed: Praat took more than 0.2 s of processor time (1 of 1 utt"
        in caplog.text
    )


def fail(*args):
    raise praat.PraatFailed("no voiced frame")


def test_the_log_says_of_how_many_utterances_the_voice_is_not_changed(monkeypatch, caplog):
    """The first, second, fourth ... of them; another crop of the same utterance does not count again."""
    transform = Voice(np.tile(RANGES[:1], (300, 1)), name="{}.wav".format)
    for row in range(50):
        transform(synthetic(150.0, samples=4000), rng(row), row)
    monkeypatch.setattr(voice.praat, "shift_voice", fail)
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            for row in range(100, 120):
                transform(FAILING["silence"], rng(epoch), row)
    assert [message.split()[3] for message in caplog.messages] == [f"{100 + n}.wav" for n in (0, 1, 3, 7, 15)]
    assert caplog.messages[-1].endswith("is not changed: no voiced frame (16 of 66 utterances so far)")
    assert transform.unchanged.sum() == 20 and transform.seen.sum() == 70


def test_loader_workers_count_unchanged_voices_together(monkeypatch, caplog):
    monkeypatch.setattr(voice.praat, "shift_voice", fail)
    transform = Voice(np.tile(RANGES[:1], (10, 1)))
    fork = multiprocessing.get_context("fork")
    for rows in (range(3), range(2, 6)):
        worker = fork.Process(target=lambda rows=rows: [transform(FAILING["silence"], rng(), row) for row in rows])
        worker.start()
        worker.join(60)
        assert worker.exitcode == 0
    transform(FAILING["silence"], rng(), 9)
    assert caplog.messages == ["the voice of utterance 9 is not changed: no voiced frame (7 of 7 utterances so far)"]


def test_resampling_changes_every_sound(caplog):
    for wave in FAILING.values():
        changed = Voice(RANGES, "resample")(wave, rng(), 0)
        assert changed.shape == wave.shape and np.isfinite(changed).all()
    assert not caplog.messages

"""Figures of units: known values for a few frames, and properties of any units."""

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.quality.units import count_units, mean_phone_ms
from dinosr_plugin.evaluation.phones import PhoneAlignment

FIGURES = {"active", "perplexity", "phone_purity", "cluster_purity", "pnmi", "n_codes", "frames"}
FIGURES |= {"speaker_pnmi", "bit_rate", "run_bit_rate", "unit_ms", "phone_ms"}


def alignment(**segments) -> PhoneAlignment:
    """utterance = [(phone, start, end) in ms ...]"""
    names = tuple(sorted({phone for parts in segments.values() for phone, *_ in parts}))
    rows = {
        utt: (np.array([start * 1000 for _, start, _ in parts]), np.array([names.index(phone) for phone, *_ in parts]))
        for utt, parts in segments.items()
    }
    ends = {utt: np.array([end * 1000 for *_, end in parts]) for utt, parts in segments.items()}
    return PhoneAlignment(Path("a.phones.tsv"), names, rows, ends)


# frames of 20 ms with centres at 12.5, 32.5 ...: five frames of AA in one, five of B in two
PHONES = alignment(one=[("AA", 0, 100)], two=[("B", 0, 100)])
GOLDEN = {"one": np.array([0, 0, 0, 0, 1]), "two": np.array([0, 1, 1, 1, 2])}  # the counts [[4, 1, 0], [1, 3, 1]]


def test_known_figures():
    counts = count_units(GOLDEN, PHONES, {"one": "anna", "two": "ben"}, rate=50.0, first_centre=0.0125)
    np.testing.assert_array_equal(counts.by_phone, [[4, 1, 0], [1, 3, 1]])
    np.testing.assert_array_equal(counts.by_speaker, [[4, 1, 0], [1, 3, 1]])  # each speaker says one phone
    np.testing.assert_array_equal(counts.runs, [2, 2, 1])
    figures = counts.figures().as_dict()
    assert set(figures) == FIGURES and json.loads(json.dumps(figures)) == figures
    assert figures["pnmi"] == figures["speaker_pnmi"] == pytest.approx(0.31453, abs=1e-5)
    assert (figures["phone_purity"], figures["cluster_purity"]) == pytest.approx((0.8, 0.7))
    entropy = -(0.5 * np.log2(0.5) + 0.4 * np.log2(0.4) + 0.1 * np.log2(0.1))
    assert figures["bit_rate"] == pytest.approx(50 * entropy)
    run_entropy = -(2 * 0.4 * np.log2(0.4) + 0.2 * np.log2(0.2))
    assert figures["run_bit_rate"] == pytest.approx(5 / 0.2 * run_entropy)  # 5 runs in 10 frames of 20 ms
    assert figures["unit_ms"] == pytest.approx(40) and figures["phone_ms"] == pytest.approx(100)


def test_runs_end_with_their_utterance():
    counts = count_units({"one": np.array([3, 3]), "two": np.array([3])}, PHONES, None, rate=50.0, first_centre=0.0125)
    assert counts.runs.tolist() == [0, 0, 0, 2]


def test_speaker_information():
    no_speakers, one_speaker = (
        count_units(GOLDEN, PHONES, speakers, 50.0, 0.0125).figures().speaker_pnmi
        for speakers in (None, {"one": "anna", "two": "anna"})
    )
    assert no_speakers is None and one_speaker is None
    different = count_units(
        {"one": np.array([0, 1]), "two": np.array([2, 2])}, PHONES, {"one": "anna", "two": "ben"}, 50.0, 0.0125
    )
    assert different.figures().speaker_pnmi == pytest.approx(1, abs=1e-6)


def test_number_of_codes():
    assert count_units(GOLDEN, PHONES, None, 50.0, 0.0125).figures().quality.n_codes == 3
    assert count_units(iter(GOLDEN.items()), PHONES, None, 50.0, 0.0125, n_codes=64).figures().quality.n_codes == 64
    with pytest.raises(ValueError, match="outside"):
        count_units(GOLDEN, PHONES, None, 50.0, 0.0125, n_codes=2)


def test_frames_at_another_rate_are_aligned_at_their_centres():
    phones = alignment(one=[("AA", 0, 60), ("B", 60, 200)])
    # centres at 12.5, 52.5, 92.5 ms ...
    counts = count_units({"one": np.arange(5)}, phones, None, rate=25.0, first_centre=0.0125)
    np.testing.assert_array_equal(counts.by_phone, [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    assert counts.figures().bit_rate == pytest.approx(25 * np.log2(5))


def test_mean_length_of_phones():
    phones = alignment(
        one=[("AA", 0, 30), ("AA", 30, 90), ("B", 90, 100)],  # adjacent segments of one phone are merged
        two=[("B", 10, 20), ("B", 40, 50)],  # segments with a gap between them are not
        other=[("AA", 0, 1000)],
    )
    assert mean_phone_ms(phones, ["one"]) == pytest.approx(50)
    assert mean_phone_ms(phones, ["one", "two"]) == pytest.approx(120 / 4)
    assert np.isnan(mean_phone_ms(phones, []))


def test_missing_alignments_and_frames():
    with pytest.raises(UserError, match="1 of 2 utterances have no alignment .stranger"):
        count_units({"one": GOLDEN["one"], "stranger": GOLDEN["one"]}, PHONES, None, 50.0, 0.0125)
    with pytest.raises(UserError, match="no frame"):
        count_units({"one": np.zeros(0, int)}, PHONES, None, 50.0, 0.0125).figures()


def test_without_phones():
    """What is counted is the same; figures about phones are None."""
    speakers = {"one": "anna", "two": "ben"}
    known, counts = (count_units(GOLDEN, phones, speakers, 50.0, 0.0125, 4) for phones in (PHONES, None))
    assert counts.by_phone is None and counts.frames.tolist() == known.frames.tolist() == [5, 4, 1, 0]
    of_phones = {"phone_purity", "cluster_purity", "pnmi", "phone_ms"}
    figures = {key: None if key in of_phones else value for key, value in known.figures().as_dict().items()}
    assert counts.figures().as_dict() == figures
    with pytest.raises(UserError, match="no frame"):
        count_units({"one": np.zeros(0, int)}, None, None, 50.0, 0.0125).figures()
    with pytest.raises(ValueError, match="outside"):
        count_units(GOLDEN, None, None, 50.0, 0.0125, n_codes=2)


sequences = st.lists(st.integers(0, 4), min_size=1, max_size=30)


@given(sequences, sequences)
def test_properties_of_any_units(one, two):
    figures = count_units(
        {"one": np.array(one), "two": np.array(two)}, PHONES, {"one": "anna", "two": "ben"}, 50.0, 0.0125
    ).figures()
    runs = [unit for sequence in (one, two) for unit, _ in groupby(sequence)]
    seconds = (len(one) + len(two)) / 50
    shares = np.array([runs.count(unit) for unit in set(runs)]) / len(runs)
    assert figures.unit_ms == pytest.approx(1000 * seconds / len(runs))
    assert figures.run_bit_rate == pytest.approx(-(shares * np.log2(shares)).sum() * len(runs) / seconds)
    assert figures.bit_rate == pytest.approx(50 * np.log2(figures.quality.perplexity), abs=1e-6)
    assert figures.bit_rate >= 0 and figures.run_bit_rate >= 0 and 0 <= figures.speaker_pnmi <= 1

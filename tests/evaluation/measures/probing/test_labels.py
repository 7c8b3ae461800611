"""What probes predict: which frames have which label."""

from pathlib import Path

import numpy as np
import pytest

from dinosr_plugin.data.acoustic import ENERGY
from dinosr_plugin.evaluation.measures.probing.labels import (
    MISSING,
    PhoneLabels,
    Place,
    PositionLabels,
    TrackLabels,
    UtteranceLabels,
    WordLabels,
)
from dinosr_plugin.evaluation.phones import PhoneAlignment

PLACE = Place(10, 50.0, 0.0125)  # centres at 12.5, 32.5, ..., 192.5 ms


def alignment(path: Path, column: str, *rows: str) -> PhoneAlignment:
    path.write_text("\n".join([f"utt\tstart\tend\t{column}", *("\t".join(row.split()) for row in rows)]) + "\n")
    return PhoneAlignment.read(path, column=column)


def test_frames_have_the_phone_at_their_centre_and_others_are_left_out(tmp_path):
    phones = alignment(tmp_path / "p.tsv", "phone", "u 0 0.05 A", "u 0.05 0.09 B", "u 0.09 0.2 C")
    examples = PhoneLabels(phones, ["A", "C"]).examples("u", PLACE)
    assert examples.starts.tolist() == [0, 1, 4, 5, 6, 7, 8, 9] and examples.labels.tolist() == [0, 0, *[1] * 6]
    assert (examples.stops == examples.starts + 1).all()


def test_words_have_the_frames_whose_centres_they_contain_or_the_nearest_one(tmp_path):
    words = alignment(
        tmp_path / "w.tsv",
        "word",
        "u 0 0.05 ONE",
        "u 0.05 0.06 A",
        "u 0.08 0.15 OTHER",
        "u 0.19 0.5 ONE",
        "u 0.6 0.7 A",
    )
    examples = WordLabels(words, ["A", "ONE"]).examples("u", PLACE)
    # ONE: 12.5 and 32.5 ms; A: nothing in it, 52.5 ms is nearest to 55; ONE: 192.5 ms, the last frame; A: past the end
    assert list(zip(*(values.tolist() for values in examples))) == [(0, 2, 1), (2, 3, 0), (9, 10, 1)]


@pytest.mark.parametrize("place", [PLACE, Place(20, 100.0, 0.00497)])
def test_tracks_give_the_number_nearest_to_the_centre(place):
    track = np.arange(20, dtype=np.float32)[:, None]  # centres at 12.5, 22.5, ... ms
    track[5] = MISSING
    examples = TrackLabels({"u": track}, ENERGY).examples("u", place)
    nearest = [int(np.abs(0.0125 + np.arange(20) / 100 - centre).argmin()) for centre in place.centres]
    assert examples.labels.tolist() == [float(i) for i in nearest if i != 5]
    assert len(examples.starts) == place.n - nearest.count(5)


def test_the_position_goes_from_0_to_1():
    examples = PositionLabels().examples("u", PLACE)
    assert examples.labels.tolist() == [i / 9 for i in range(10)] and examples.starts.tolist() == list(range(10))
    assert PositionLabels().examples("u", Place(1, 50.0, 0.0125)).labels.tolist() == [0]


def test_an_utterance_has_one_label_for_all_its_frames():
    examples = UtteranceLabels({"u": "M", "v": "F"}, ["F", "M"]).examples("u", PLACE)
    assert [values.tolist() for values in examples] == [[0], [10], [1]]

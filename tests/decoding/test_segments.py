"""Segments for the searches: cut at the longest pause, each frame once; no word is doubled, lost, merged or moved at a
cut.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.decoding import BestPathDecoder, SearchOptions, build_decoder, transcribe
from dinosr_plugin.decoding.recogniser import Recogniser
from dinosr_plugin.decoding.segments import Pause, cut_at_pauses, decode_segments, pauses
from dinosr_plugin.decoding.transcribe import decode
from dinosr_plugin.decoding.words import words_of
from dinosr_plugin.modules.frame_grid import TRUNK
from support.decoding import dictionary_of, needs_flashlight
from support.small_arpa import write_arpa

LETTERS = dictionary_of("|ABC")
PIECES = dictionary_of(["\u2581A", "B", "\u2581C"])
PHONES = dictionary_of("ABC")
RECOGNISER = Recogniser(None, LETTERS, blank=0, normalize=False, grid=TRUNK)


def path_of(text: str, dictionary=LETTERS) -> np.ndarray:
    """One symbol per frame; a space is the blank, a lower-case letter a piece that begins a word."""
    names = {" ": "<s>", "a": "\u2581A", "c": "\u2581C"}
    return np.array([dictionary.index(names.get(symbol, symbol)) for symbol in text], dtype=np.int64)


def table_of(text: str, certainty: float) -> torch.Tensor:
    """(F, V) log-probabilities whose best path is ``text``; the rest is shared by the other letters and the blank.

    Not quite equally: of hypotheses with the same score the searches drop now this one, now that one.
    """
    table = torch.full((len(text), len(LETTERS)), -math.inf)
    uneven = torch.rand(len(text), 5, generator=torch.Generator().manual_seed(0))
    table[:, [0, 4, 5, 6, 7]] = math.log((1 - certainty) / 4) + 0.1 * uneven
    table[torch.arange(len(text)), torch.from_numpy(path_of(text))] = math.log(certainty)
    return table


# ---- where to cut ----------------------------------------------------------------------------------------------------


def test_pauses():
    assert pauses(path_of(" A B | |  C"), LETTERS, 0) == [
        Pause(0, 1, False, 0),
        Pause(2, 3, False, 2),
        Pause(4, 10, True, 8),
    ]
    assert pauses(path_of("a  B c ", PIECES), PIECES, 0) == [
        Pause(1, 3, False, 1),
        Pause(4, 5, True, 4),
        Pause(6, 7, True, 6),
    ]
    assert pauses(path_of("A  B", PHONES), PHONES, 0) == [Pause(1, 3, True, 1)]
    assert pauses(path_of(""), LETTERS, 0) == []


@pytest.mark.parametrize(
    "text, cut",
    [
        ("AA|   AA|AAAAAAA", 5),  # the longer pause, in the middle of its allowed part
        ("AAAAA|   |A|AAAA", 10),  # not before the last |
        ("AAAA      A|AAAA", 12),  # between words rather than in the longest silence
        ("AAAA AA   AAAAAA", 8),  # no pause between words: in the longest silence
        ("AAAAAAAAAAAAAAAA", 12),  # no silence: at the limit
        ("A|              ", 8),  # a pause that extends beyond the limit
        ("AAAA|AAAAAAAAAA|", 5),
    ],
)
def test_where_to_cut(text, cut):
    assert cut_at_pauses(path_of(text), LETTERS, 0, 4, 12)[0] == (0, cut)


@given(text=st.text("AAAB |", max_size=200), shortest=st.integers(1, 20), more=st.integers(0, 20))
def test_every_frame_once_and_no_word_cut(text, shortest, more):
    path, longest = path_of(text), shortest + more
    pieces = cut_at_pauses(path, LETTERS, 0, shortest, longest)
    assert pieces[0][0] == 0 and pieces[-1][1] == len(path) and all(a[1] == b[0] for a, b in pairwise(pieces))
    assert (
        all(shortest <= stop - start <= longest for start, stop in pieces[:-1])
        and pieces[-1][1] - pieces[-1][0] <= longest
    )
    found = pauses(path, LETTERS, 0)
    for start, cut in pieces[:-1]:
        near = [pause for pause in found if pause.start <= start + longest and pause.stop >= start + shortest]
        best = [
            pause for pause in near if pause.between_words
        ] or near  # if there is a pause between words, the cut is in one
        assert not best or any(pause.start <= cut <= pause.stop for pause in best)


def test_short_recordings_are_not_cut():
    assert cut_at_pauses(path_of("A|A|"), LETTERS, 0, 2, 4) == [(0, 4)]
    assert cut_at_pauses(path_of(""), LETTERS, 0, 2, 4) == [(0, 0)]


# ---- words at cuts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def make_decoder(tmp_path):
    def make(name: str, words=("AB", "CA", "B", "ABC"), lm_weight=0.0):
        (tmp_path / "words.wrd").write_text(" ".join(words))
        lm = write_arpa(
            tmp_path / "lm.arpa",
            words if name == "lexicon" else "|ABC",
            favourite=words[0] if name == "lexicon" else "A",
        )
        options = {"lexicon": str(tmp_path / "words.wrd")} if name == "lexicon" else {}
        return build_decoder(name, LETTERS, 0, SearchOptions(beam=50, lm=lm, lm_weight=lm_weight, **options))

    return make


@pytest.fixture
def cut(monkeypatch):
    """Cut after 1 to 2 seconds."""
    monkeypatch.setattr(transcribe, "MIN_SEGMENT", 1.0)
    monkeypatch.setattr(transcribe, "MAX_SEGMENT", 2.0)


SPOKEN = [["AB", "CA", "B", "ABC"][n * n % 7 % 4] for n in range(60)]
TEXT = "".join(f"{'  '.join(word)} |{' ' * (n % 7)}" for n, word in enumerate(SPOKEN))


@needs_flashlight
@pytest.mark.parametrize("name", ["beam", "lexicon"])
@pytest.mark.parametrize("certainty", [0.8, 0.9, 0.99])
def test_cuts_in_pauses_do_not_change_the_words(make_decoder, cut, name, certainty):
    """Words, times and confidences equal those of the whole recording, also with a small language model weight."""
    table = table_of(TEXT, certainty)
    assert len(cut_at_pauses(table.argmax(1).numpy(), LETTERS, 0, 50, 100)) >= 6
    for lm_weight in (0.0, 0.1):
        decoder = make_decoder(name, lm_weight=lm_weight)
        ((whole, *_),) = decoder.decode(table[None], torch.tensor([len(table)]))
        words = decode(RECOGNISER, decoder, table.clone())
        assert words == words_of(whole, RECOGNISER) and [word.word for word in words] == SPOKEN


def test_best_path_is_not_cut(cut):
    table = table_of(TEXT, 0.6)
    ((whole,),) = BestPathDecoder(0).decode(table[None], torch.tensor([len(table)]))
    assert decode(RECOGNISER, BestPathDecoder(0), table) == words_of(whole, RECOGNISER)


@needs_flashlight
@pytest.mark.parametrize("name", ["beam", "lexicon"])
def test_a_word_ends_at_a_cut(make_decoder, name):
    """Also if the cut is before the |: the lexicon search would drop the word, the beam search merge it with the
    next.
    """
    table, decoder = table_of("A B      |  CA |", 0.99), make_decoder(name)
    table[:9, LETTERS.index("|")] = -math.inf
    for end in range(4, 10):
        found = decode_segments(decoder, table, [(0, end), (end, len(table))], LETTERS, 0)
        words = [word for start, one in found for word in words_of(one, RECOGNISER, start)]
        assert [(word.word, word.start, word.end) for word in words] == [("AB", 0, 0.06), ("CA", 0.24, 0.28)]
    ((alone, *_),) = decoder.decode(table[None, :6], torch.tensor([6]))
    assert [word.word for word in words_of(alone, RECOGNISER)] == ([] if name == "lexicon" else ["AB"])


@needs_flashlight
@pytest.mark.parametrize("name", ["beam", "lexicon"])
def test_silence_and_speech_without_pauses(make_decoder, cut, name):
    decoder = make_decoder(name)
    assert decode(RECOGNISER, decoder, table_of(" " * 1000, 0.99)) == []
    assert decode(RECOGNISER, decoder, torch.zeros(0, len(LETTERS))) == []
    text = "A  B  |  " + "C  " * 300 + "|  A  B  |"
    words = [word.word for word in decode(RECOGNISER, decoder, table_of(text, 0.99))]
    assert words[0] == words[-1] == "AB"  # the part in between is not a word


@needs_flashlight
@settings(max_examples=15, deadline=None)
@given(
    words=st.lists(st.sampled_from(["AB", "CA", "B", "ABC"]), max_size=40),
    gap=st.integers(0, 30),
    seed=st.integers(0, 99),
)
def test_no_word_is_doubled_or_lost(words, gap, seed):
    """For all pauses and the cuts that result from them."""
    rng = np.random.default_rng(seed)
    text = "".join(f"{'  '.join(word)} |{' ' * rng.integers(0, gap + 1)}" for word in words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcribe, "MIN_SEGMENT", 0.3)
        patch.setattr(transcribe, "MAX_SEGMENT", 0.6)  # the longest word and its | are 9 frames, 0.18 s
        decoder = build_decoder("beam", LETTERS, 0, SearchOptions(beam=20))
        assert [word.word for word in decode(RECOGNISER, decoder, table_of(text, 0.95))] == words

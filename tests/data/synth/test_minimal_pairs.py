"""Non-words are pronounceable and not words; ungrammatical sentences break the rule of their type."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from dinosr_plugin.data.synth import espeak, grammar, minimal_pairs
from dinosr_plugin.data.synth.minimal_pairs import broken, pronounced, sentence_pairs, word_pairs

SEED = 5


def sentences(seed: int):
    rng = random.Random(seed)
    while True:
        yield grammar.sentence(rng)


@pytest.fixture(scope="module")
def words() -> list:
    return word_pairs(60, SEED)


def test_non_words(words):
    vowels = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}
    with espeak.Espeak("en-us") as talker:
        vocabulary = {pronounced(talker, word) for word in grammar.VOCABULARY}
        for pair in words:
            assert pronounced(talker, pair.word) == pair.phones and pronounced(talker, pair.non_word) == pair.non_phones
            assert pair.word in grammar.VOCABULARY and pair.non_word not in grammar.VOCABULARY
    neighbours = {pair for phones in vocabulary for pair in pairwise(("", *phones, ""))}
    for pair in words:
        changed = [(old, new) for old, new in zip(pair.phones, pair.non_phones, strict=True) if old != new]
        assert 1 <= len(changed) <= 2 and all((old in vowels) == (new in vowels) for old, new in changed)
        assert pair.non_phones not in vocabulary and neighbours.issuperset(pairwise(("", *pair.non_phones, "")))
    assert len(words) == len({pair.word for pair in words}) == len({pair.non_phones for pair in words}) == 60
    assert min(pair.frequency for pair in words) >= 5


def test_the_same_seed_gives_the_same_words(words):
    assert word_pairs(10, SEED) == words[:10]
    assert [pair.word for pair in word_pairs(10, SEED + 1)] != [pair.word for pair in words[:10]]


def test_unpronounceable_spellings():
    with espeak.Espeak("en-us") as talker:
        assert pronounced(talker, "garden") == ("G", "AA", "R", "D", "AH", "N")
        assert all(isinstance(pronounced(talker, text), tuple) for text in ("gxrdvn", "tmzr", "q"))


def test_sentence_pairs():
    pairs = sentence_pairs(81, sentences(SEED))
    assert pairs == sentence_pairs(81, sentences(SEED)) and pairs == sorted(
        pairs, key=lambda pair: (pair.type, pair.subtype)
    )
    counts = Counter((pair.type, pair.subtype) for pair in pairs)
    assert len(counts) == 8 and sorted(counts.values()) == [10] * 7 + [11]
    for pair in pairs:
        right, wrong = pair.sentence.split(), pair.non_sentence.split()
        if pair.type == "word order":
            assert right != wrong and sorted(right) == sorted(wrong)
        else:
            ((old, new),) = [(old, new) for old, new in zip(right, wrong, strict=True) if old != new]
            tables = {
                "plural": minimal_pairs._SINGULAR,
                "singular": minimal_pairs._PLURAL,
                "after a modal": minimal_pairs._PAST,
            }
            assert {old, new} == {"was", "were"} if pair.subtype == "there" else new == tables[pair.subtype][old]


@pytest.mark.parametrize(
    "subtype, right, wrong",
    [
        ("there", "there was a dog here", "there were a dog here"),
        ("there", "there were two dogs here", "there was two dogs here"),
        ("plural", "he saw ten teeth", "he saw ten tooth"),
        ("singular", "this child ran", "this children ran"),
        ("after a modal", "could he see it or would see it", "could he see it or would saw it"),
        ("adjective", "he saw the red dog", "he saw the dog red"),
        ("article", "one dog ran", "dog one ran"),
        ("preposition", "he sat in the house", "he sat the in house"),
        ("modal", "she would see the dog", "she see would the dog"),
        ("modal", "she saw the dog", None),
    ],
)
def test_rules(subtype, right, wrong):
    (rule,) = [rule for rule in minimal_pairs._RULES if rule.subtype == subtype]
    assert broken(right.split(), rule) == (wrong and wrong.split())


def test_the_classes_of_rules_are_not_empty_and_in_the_vocabulary():
    for rule in minimal_pairs._RULES:
        assert all(words and words <= set(grammar.VOCABULARY) for words in rule.classes), rule.subtype
        assert (rule.order is None) != (rule.replacement is None)
        if rule.replacement:
            assert rule.classes[-1] <= set(rule.replacement)

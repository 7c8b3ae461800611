"""Minimal pairs for spoken language models: words and non-words, and sentences and ungrammatical sentences.

Both use the closed vocabulary and the small grammar of ``grammar.py``, so that a model can learn them from a corpus of
``dinosr synth``.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from . import espeak, grammar

Phones = tuple[str, ...]

_ACCENT = "en-us"
_COUNTED_SENTENCES = 2000  # about 90 minutes of speech, in which word frequencies are counted
_MIN_PHONES = 3
_SPELLINGS = 200  # maximum number of spellings that are tried for a word

_VOWEL_LETTERS, _CONSONANT_LETTERS = "aeiou", "bcdfghjklmnprstvwxz"
_VOWELS = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}

# ---- non-words -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordPair:
    """A word of the vocabulary, and a spelling that eSpeak pronounces with one or two different phones."""

    word: str
    non_word: str
    phones: Phones
    non_phones: Phones
    frequency: int  # of the word, in ``_COUNTED_SENTENCES`` sentences of the grammar


def word_pairs(count: int, seed: int) -> list[WordPair]:
    """``count`` pairs of different words, or fewer if the vocabulary is exhausted. The same seed gives the same pairs.

    A non-word has as many phones as its word, has vowels in the same positions, contains only pairs of adjacent phones
    that occur in words, and is not pronounced like any word. It is therefore pronounceable, and differs from words only
    in the sequence of its phones.
    """
    rng = random.Random(f"{seed}/words")
    frequencies = Counter(word for _ in range(_COUNTED_SENTENCES) for word in grammar.sentence(rng).split())
    words = sorted(word for word in grammar.VOCABULARY if word.isalpha())
    rng.shuffle(words)
    pairs: list[WordPair] = []
    with espeak.Espeak(_ACCENT) as talker:
        lexicon = {word: pronounced(talker, word) for word in sorted(words)}
        taken = set(lexicon.values())
        neighbours = {pair for phones in taken for pair in pairwise(("", *phones, ""))}
        for word in words:
            if len(pairs) == count:
                break
            result = non_word(talker, word, lexicon[word], taken, neighbours, random.Random(f"{seed}/non-word/{word}"))
            if result:
                spelling, phones = result
                taken.add(phones)
                pairs.append(WordPair(word, spelling, lexicon[word], phones, frequencies[word]))
    return pairs


def pronounced(talker: espeak.Espeak, text: str) -> Phones:
    """The phones of ``text``; empty if eSpeak uses a sound that English words do not have.

    An example is a glottal stop for an unpronounceable sequence of letters.
    """
    wave, segments = talker.speak(text)
    try:
        return tuple(phone.name for phone in espeak.phones(segments, wave, _ACCENT) if phone.name != "SIL")
    except KeyError:
        return ()


def non_word(
    talker: espeak.Espeak,
    word: str,
    phones: Phones,
    taken: set[Phones],
    neighbours: set[tuple[str, str]],
    rng: random.Random,
) -> tuple[str, Phones] | None:
    """A spelling and its phones, or None if no spelling that was tried meets the conditions of ``word_pairs``."""
    if len(phones) < _MIN_PHONES:
        return None
    for _ in range(_SPELLINGS):
        spelling = respelt(word, rng)
        new_phones = pronounced(talker, spelling)
        if new_phones in taken or len(new_phones) != len(phones):
            continue
        changed = [(old, new) for old, new in zip(phones, new_phones) if old != new]
        keeps_vowels = all((old in _VOWELS) == (new in _VOWELS) for old, new in changed)
        if len(changed) <= 2 and keeps_vowels and neighbours.issuperset(pairwise(("", *new_phones, ""))):
            return spelling, new_phones
    return None


def respelt(word: str, rng: random.Random) -> str:
    """Replaces one letter by a random one of the same kind, vowel or consonant."""
    letters = list(word)
    place = rng.randrange(len(letters))
    letters[place] = rng.choice(_VOWEL_LETTERS if letters[place] in _VOWEL_LETTERS else _CONSONANT_LETTERS)
    return "".join(letters)


# ---- sentences that break a rule -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SentencePair:
    """A sentence of the grammar, and one that breaks a rule."""

    type: str
    subtype: str
    sentence: str
    non_sentence: str


_SINGULAR = {
    "dogs": "dog",
    "boxes": "box",
    "birds": "bird",
    "boys": "boy",
    "children": "child",
    "toys": "toy",
    "keys": "key",
    "teeth": "tooth",
}
_SINGULAR |= {"oranges": "orange", "shoes": "shoe", "chairs": "chair"}
_PLURAL = {one: many for many, one in _SINGULAR.items()}
_WAS = {"was": "were", "were": "was"}
_PAST = {"see": "saw", "find": "found", "bring": "brought", "make": "made", "catch": "caught"}


@dataclass(frozen=True)
class Rule:
    """A grammatical rule: which sequence of words it applies to, and how to break it."""

    type: str
    subtype: str
    classes: tuple[frozenset[str], ...]  # the rule applies to adjacent words, one from each of these sets
    order: tuple[int, ...] | None = None  # broken by this order of the words
    replacement: Mapping[str, str] | None = None  # broken by replacing the last word


def _class(*rules: str) -> frozenset[str]:
    return frozenset().union(*map(grammar.word_class, rules))


_MODAL = frozenset({"would", "could", "should", "will", "can", "must", "can't", "won't", "didn't"})
_THE, _ONE = frozenset({"the"}), frozenset({"this", "that", "one", "another"})
_NOUN, _COLOUR = _class("NOUN"), _class("LOOK")
_RULES = (
    Rule("agreement", "there", (frozenset({"there"}), frozenset(_WAS)), replacement=_WAS),
    Rule("agreement", "plural", (_class("COUNT"), frozenset(_SINGULAR)), replacement=_SINGULAR),
    Rule("agreement", "singular", (_ONE, frozenset(_PLURAL)), replacement=_PLURAL),
    Rule("verb form", "after a modal", (_MODAL, frozenset(_PAST)), replacement=_PAST),
    Rule("word order", "adjective", (_class("ARTICLE"), _COLOUR, _NOUN), order=(0, 2, 1)),
    Rule("word order", "article", (_class("ARTICLE"), _NOUN), order=(1, 0)),
    Rule("word order", "preposition", (_class("WHERE"), _THE, _class("SPOT")), order=(1, 0, 2)),
    Rule("word order", "modal", (_class("PERSON", "NAME"), _MODAL, _class("DO")), order=(0, 2, 1)),
)


def broken(words: list[str], rule: Rule) -> list[str] | None:
    """The sentence with the rule broken where it first applies; None if it does not apply."""
    size = len(rule.classes)
    for start in range(len(words) - size + 1):
        here = words[start : start + size]
        if all(word in allowed for word, allowed in zip(here, rule.classes)):
            wrong = [here[i] for i in rule.order] if rule.order else [*here[:-1], rule.replacement[here[-1]]]
            return [*words[:start], *wrong, *words[start + size :]]
    return None


def sentence_pairs(count: int, texts: Iterator[str]) -> list[SentencePair]:
    """``count`` pairs from an endless stream of the grammar's sentences, each used at most once.

    The numbers of pairs of two rules differ by at most one.
    """
    missing = [count // len(_RULES) + (number < count % len(_RULES)) for number in range(len(_RULES))]
    pairs: list[SentencePair] = []
    while any(missing):
        words = next(texts).split()
        options = [
            (missing[number], number, wrong)
            for number, rule in enumerate(_RULES)
            if missing[number] and (wrong := broken(words, rule))
        ]
        if options:
            _, number, wrong = max(options)
            missing[number] -= 1
            pairs.append(SentencePair(_RULES[number].type, _RULES[number].subtype, " ".join(words), " ".join(wrong)))
    return sorted(pairs, key=lambda pair: (pair.type, pair.subtype))

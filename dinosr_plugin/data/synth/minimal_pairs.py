"""Words beside non-words, and sentences beside sentences that break a rule: what a model that knows words and grammar tells apart.

Both come from the closed vocabulary and the small grammar of ``grammar.py``, so that a corpus of ``dinosr synth`` teaches what is asked here.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from . import espeak, grammar

Phones = tuple[str, ...]

_ACCENT = "en-us"
_COUNTED_SENTENCES = 2000  # about 90 minutes of speech; what the frequencies of words are counted in
_LEAST_PHONES = 3
_SPELLINGS = 200  # tried for a word

_VOWEL_LETTERS, _CONSONANT_LETTERS = "aeiou", "bcdfghjklmnprstvwxz"
_VOWELS = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}

# ---- non-words --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordPair:
    """A word of the vocabulary, and a spelling that eSpeak says with one or two other phones."""

    word: str
    non_word: str
    phones: Phones
    non_phones: Phones
    frequency: int  # of the word, in ``_COUNTED_SENTENCES`` sentences of the grammar


def word_pairs(count: int, seed: int) -> list[WordPair]:
    """At most ``count`` pairs, each of another word; fewer where the vocabulary gives no more. The same seed gives the same pairs.

    A non-word has as many phones as its word, vowels where that has vowels, no two neighbours that stand side by side in no word, and the
    pronunciation of no word: it can be said, and nothing but which phones follow which others in words tells it from one.
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
            if found := non_word(
                talker, word, lexicon[word], taken, neighbours, random.Random(f"{seed}/non-word/{word}")
            ):
                taken.add(found[1])
                pairs.append(WordPair(word, found[0], lexicon[word], found[1], frequencies[word]))
    return pairs


def pronounced(talker: espeak.Espeak, text: str) -> Phones:
    """Empty where eSpeak says something that English words do not have, such as a glottal stop for letters that nobody can say."""
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
    """A spelling and its phones, or None where no spelling that was tried will do."""
    if len(phones) < _LEAST_PHONES:
        return None
    for _ in range(_SPELLINGS):
        spelling = respelt(word, rng)
        said = pronounced(talker, spelling)
        if said in taken or len(said) != len(phones):
            continue
        changed = [(old, new) for old, new in zip(phones, said) if old != new]
        keeps_vowels = all((old in _VOWELS) == (new in _VOWELS) for old, new in changed)
        if len(changed) <= 2 and keeps_vowels and neighbours.issuperset(pairwise(("", *said, ""))):
            return spelling, said
    return None


def respelt(word: str, rng: random.Random) -> str:
    """One letter for another of its kind, vowel or consonant."""
    letters = list(word)
    place = rng.randrange(len(letters))
    letters[place] = rng.choice(_VOWEL_LETTERS if letters[place] in _VOWEL_LETTERS else _CONSONANT_LETTERS)
    return "".join(letters)


# ---- sentences that break a rule --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SentencePair:
    """A sentence of the grammar, and one that is not."""

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
_PAST = {"see": "saw", "find": "found", "bring": "brought", "make": "made", "catch": "caught"}


@dataclass(frozen=True)
class Rule:
    """Where words of these classes follow one another, each class a set of words: what breaks the rule."""

    type: str
    subtype: str
    classes: tuple[frozenset[str], ...]
    order: tuple[int, ...] | None = None  # the same words in this order
    instead: Mapping[str, str] | None = None  # the last word replaced


def _class(*rules: str) -> frozenset[str]:
    return frozenset().union(*map(grammar.word_class, rules))


_MODAL = frozenset({"would", "could", "should", "will", "can", "must", "can't", "won't", "didn't"})
_THE, _ONE = frozenset({"the"}), frozenset({"this", "that", "one", "another"})
_NOUN, _COLOUR = _class("NOUN"), _class("LOOK")
_RULES = (
    Rule(
        "agreement", "there", (frozenset({"there"}), frozenset({"was", "were"})), instead={"was": "were", "were": "was"}
    ),
    Rule("agreement", "plural", (_class("COUNT"), frozenset(_SINGULAR)), instead=_SINGULAR),
    Rule("agreement", "singular", (_ONE, frozenset(_PLURAL)), instead=_PLURAL),
    Rule("verb form", "after a modal", (_MODAL, frozenset(_PAST)), instead=_PAST),
    Rule("word order", "adjective", (_class("ARTICLE"), _COLOUR, _NOUN), order=(0, 2, 1)),
    Rule("word order", "article", (_class("ARTICLE"), _NOUN), order=(1, 0)),
    Rule("word order", "preposition", (_class("WHERE"), _THE, _class("SPOT")), order=(1, 0, 2)),
    Rule("word order", "modal", (_class("PERSON", "NAME"), _MODAL, _class("DO")), order=(0, 2, 1)),
)


def broken(words: list[str], rule: Rule) -> list[str] | None:
    """The sentence with the rule broken where it first applies; None where it does not."""
    size = len(rule.classes)
    for start in range(len(words) - size + 1):
        here = words[start : start + size]
        if all(word in allowed for word, allowed in zip(here, rule.classes)):
            wrong = [here[place] for place in rule.order] if rule.order else [*here[:-1], rule.instead[here[-1]]]
            return [*words[:start], *wrong, *words[start + size :]]
    return None


def sentence_pairs(count: int, texts: Iterator[str]) -> list[SentencePair]:
    """``count`` pairs, of each rule as many as of the others (but one), from an endless stream of the grammar's sentences, each taken once."""
    missing = [count // len(_RULES) + (place < count % len(_RULES)) for place in range(len(_RULES))]
    pairs: list[SentencePair] = []
    while any(missing):
        words = next(texts).split()
        options = [
            (missing[place], place, wrong)
            for place, rule in enumerate(_RULES)
            if missing[place] and (wrong := broken(words, rule))
        ]
        if options:
            _, place, wrong = max(options)
            missing[place] -= 1
            pairs.append(SentencePair(_RULES[place].type, _RULES[place].subtype, " ".join(words), " ".join(wrong)))
    return sorted(pairs, key=lambda pair: (pair.type, pair.subtype))

"""What `dinosr check` says about transcripts: symbols that a recogniser would have to learn, but cannot hear."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..errors import first_few
from .manifest import WORD_END
from .text_normalization import INVISIBLE, LOST, MARKS, WITHIN_WORDS, TextNormalization, pattern

RARE = 5  # occurrences in the dictionary; symbols with fewer are rare
ENOUGH = 20_000  # symbols in the dictionary; with fewer any letter can be rare
SHOWN = 5  # symbols that a note names
NORMALIZE = "`dinosr manifest ... --text-normalize`"


@dataclass(frozen=True)
class Texts:
    """The words of a manifest: the name of their file, its lines, and how often each symbol occurs in them."""

    name: str
    lines: list[str]
    counts: Counter

    def first(self, symbol: str) -> int:
        """The first line with a symbol."""
        return next(number for number, line in enumerate(self.lines, start=1) if symbol in line)


def text_notes(name: str, lines: list[str], normalized: bool, dictionary: Mapping[str, int]) -> Iterator[str]:
    """One note for each kind of symbol that should be looked at.

    Args:
        name: of the file, for the notes.
        lines: words.
        normalized: whether the words were normalised: then only rare symbols are noted, all others are intended.
        dictionary: symbol -> count, of letters.
    """
    counts: Counter = Counter()
    for line in lines:
        counts.update(line)
    del counts[" "]
    texts = Texts(name, lines, counts)
    if not normalized:
        yield from punctuation_notes(texts)
        yield from invisible_notes(texts)
        yield from digit_notes(texts)
        yield from case_notes(texts)
        yield from form_notes(texts)
    yield from rare_notes(texts, dictionary)


def punctuation_notes(texts: Texts) -> Iterator[str]:
    if found := {
        one: n for one, n in texts.counts.most_common() if pattern(MARKS).match(one) and one not in WITHIN_WORDS
    }:
        line = min(map(texts.first, found))
        what = f"{texts.name}: punctuation or symbols, the first on line {line}: {first_few(counted(found), SHOWN)}"
        yield f"{what}; a model would have to learn them as letters: {NORMALIZE} removes them"


def invisible_notes(texts: Texts) -> Iterator[str]:
    if LOST in texts.counts:
        what = f"{texts.name}: U+FFFD ({texts.counts[LOST]}, line {texts.first(LOST)})"
        yield f"{what} stands for letters that a wrong encoding has lost: restore them; {NORMALIZE} lists the files"
    if found := [one for one in sorted(texts.counts) if pattern(INVISIBLE).match(one)]:
        named = first_few([f"U+{ord(one):04X} ({texts.counts[one]}, line {texts.first(one)})" for one in found])
        yield f"{texts.name}: characters that one does not see: {named}; {NORMALIZE} removes them"


def digit_notes(texts: Texts) -> Iterator[str]:
    digit = TextNormalization().digit
    lines = [number for number, line in enumerate(texts.lines, start=1) if digit.search(line)]
    if lines:
        what = f"{texts.name}: digits on {len(lines)} line(s), the first is line {lines[0]}"
        yield f"{what}; they do not say what is spoken: write words, for which {NORMALIZE} lists the files"


def case_notes(texts: Texts) -> Iterator[str]:
    both = [one for one in texts.counts if one != one.lower() and one.lower() in texts.counts]
    if both:
        both.sort(key=lambda one: -texts.counts[one])
        upper, lower = both[0], both[0].lower()
        what = f"{upper!r} ({texts.counts[upper]}) and {lower!r} ({texts.counts[lower]})"
        yield (
            f"{texts.name}: {len(both)} letter(s) in upper and lower case, such as {what}; they sound the same: "
            f"{NORMALIZE} makes one letter of them"
        )


def form_notes(texts: Texts) -> Iterator[str]:
    """Letters that are one character in some places, and a letter with a combining mark in others."""
    spellings: dict[str, Counter] = defaultdict(Counter)  # composed -> spelling -> number
    for word, number in Counter(word for line in texts.lines if not line.isascii() for word in line.split()).items():
        if not word.isascii():
            for letter in pattern(r"\X").findall(word):
                spellings[unicodedata.normalize("NFC", letter)][letter] += number
    mixed = {letter: forms for letter, forms in spellings.items() if len(forms) > 1}
    if mixed:
        letter, forms = max(mixed.items(), key=lambda item: min(item[1].values()))
        named = [f"{' '.join(f'U+{ord(one):04X}' for one in form)} ({n})" for form, n in forms.most_common()]
        rare = forms.most_common()[-1][0]
        yield (
            f"{texts.name}: {len(mixed)} letter(s) in several Unicode forms, such as {letter!r} as {', '.join(named)}, "
            f"the latter first on line {texts.first(rare)}; they look the same: {NORMALIZE} makes one letter of them"
        )


def rare_notes(texts: Texts, dictionary: Mapping[str, int]) -> Iterator[str]:
    if sum(dictionary.values()) < ENOUGH:
        return
    rare = [one for one in texts.counts if one != WORD_END and dictionary.get(one, RARE) < RARE]
    if rare:
        rarest = sorted(rare, key=lambda one: dictionary[one])[: SHOWN + 1]
        named = first_few([f"{one!r} ({dictionary[one]}, line {texts.first(one)})" for one in rarest], SHOWN)
        yield (
            f"{texts.name}: {len(rare)} rare symbol(s), with fewer than {RARE} occurrences in the dictionary: {named}; "
            f"a model cannot learn them: correct them, or replace them with {NORMALIZE} --text-replace"
        )


def counted(numbers: Mapping[str, int]) -> list[str]:
    return [f"{one!r} ({number})" for one, number in numbers.items()]

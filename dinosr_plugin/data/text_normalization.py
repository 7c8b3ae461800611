"""Normalising transcripts: what ``dinosr manifest --text-normalize`` and ``dinosr normalize`` do to a text.

In this order, until nothing changes any more, so that a normalised text stays as it is:

1. ``form``: a Unicode form. Full-width and presentation forms, and ligatures such as U+FB01, become ordinary letters.
2. Invisible characters are removed, except for U+200C, U+200D and U+180E, which are part of a spelling. All kinds of
   white space become single spaces.
3. ``replace``: the user's replacements, upper and lower case apart; the longest one first. Digits are replaced only
   where they are a whole number.
4. ``case``.
5. ``punctuation``: marks and symbols become spaces, so that no words are joined. These stay:

   - an apostrophe between two letters, which becomes ``'`` however it was typed;
   - Catalan's and Hebrew's marks between two letters (U+00B7, U+05F3, U+05F4);
   - tone letters and other modifier letters, and the characters in ``letters``.

   Armenian's marks above a vowel are removed without a space. Combining marks without a letter, and words without a
   letter or digit, are removed.

Letters, modifier letters (U+02BC, U+A78C), combining marks and vowel signs are never removed. With ``digits: refuse``
a text with digits cannot be used; superscript and subscript digits, which write tones, do not count as digits.

text_normalization.json    the fields of ``TextNormalization``, beside the dictionary of the texts
"""

import json
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..files import is_folder, kind_of, read_record
from .manifest import WORD_END, shorten, words_fault

NAME = "text_normalization.json"
REMEDY = f"remove it and run `dinosr manifest ... --text-normalize` again, or give a {NAME} that it has written"
CHOICES = {
    "form": ("NFC", "NFD", "NFKC", "NFKD"),
    "case": ("lower", "upper", "keep"),
    "punctuation": ("remove", "keep"),
    "digits": ("refuse", "keep"),
}
STEPS = ("Unicode form", "invisible", "replaced", "case", "apostrophe", "punctuation", "no letter")  # their names
MAX_REPLACEMENTS, MAX_REPLACEMENT = 1_000, 100  # number of replacements, and characters of each
MAX_PASSES, MAX_GROWTH = 20, 100  # replacements that need more never come to an end

APOSTROPHES = "'\u2018\u2019\u201b\u2032`\u00b4"  # typed as apostrophes; U+02BC and the like are letters
WITHIN_WORDS = "'\u00b7\u2027\u05f3\u05f4"
ABOVE_VOWELS = "\u055a\u055b\u055c\u055e\u055f"  # Armenian
JOINERS = "\u200c\u200d\u180e"
SCRIPT_DIGITS = "\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089"
LOST = "\ufffd"  # where a program could not read a letter
LETTERS = rf"\p{{L}}\p{{N}}\p{{Co}}\p{{Cn}}{LOST}"  # and digits; Co: of older fonts; Cn: of newer versions of Unicode
TONES = r"[\p{Sk}&&[\u02c2-\u02ff\ua700-\ua7ff\uab5b\uab6a\uab6b]]"  # also other modifiers that Unicode calls symbols
MARKS = rf"[[\p{{P}}\p{{S}}]--{TONES}--[{LOST}]]"  # punctuation and symbols
INVISIBLE = rf"[[\p{{Cf}}\p{{Z}}\p{{Cc}}]--[\x20{JOINERS}]]"
SHOWN_FORMS = "[\ufb00-\ufdfd\ufe10-\ufefe\uff01-\uffee]"  # presentation, half-width and full-width forms; ligatures


class Step(NamedTuple):
    """``apply`` changes a text. For reports: ``found`` matches what may change, and ``new`` is what that becomes."""

    name: str
    apply: Callable[[str], str]
    found: Any  # a pattern
    new: Callable[[str], str]


@dataclass(frozen=True)
class TextNormalization:
    """How texts are normalised; see the top of this file.

    Raises:
        ValueError: a field has an impossible value. The message begins with the field's name.
    """

    form: str = "NFC"
    case: str = "lower"
    punctuation: str = "remove"
    letters: str = ""  # punctuation marks, symbols or digits that are letters of the language
    digits: str = "refuse"
    replace: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: is {shorten(getattr(self, name))!r}, not one of {', '.join(choices)}")
        if wrong := [one for one in self.letters if one in WORD_END or one.isspace() or is_surrogate(one)]:
            raise ValueError(f"letters: {wrong[0]!r} cannot be a letter, because it separates words; leave it out")
        check_replacements(self)

    # -- texts ---------------------------------------------------------------------------------------------------------

    def apply(self, text: str, record: Callable[[str, str, str, str], None] | None = None) -> str:
        """The normalised text. ``apply`` of the result is the result.

        Args:
            record: is called with the step's name, what it has changed, what that became, and the word around it.

        Raises:
            UserError: the replacements never come to an end.
        """
        before, longest = text, MAX_GROWTH * (len(text) + MAX_REPLACEMENT)
        for _ in range(MAX_PASSES):
            done = self.apply_once(text, record)
            if done == text:
                return done
            text = done
            if len(text) > longest:
                break
        raise UserError(f"{shorten(before)!r}: the replacements never come to an end; correct --text-replace")

    def apply_once(self, text: str, record: Callable[[str, str, str, str], None] | None = None) -> str:
        for step in self.steps:
            done = step.apply(text)
            if record and done != text:
                for match in step.found.finditer(text):
                    if (new := step.new(match[0])) != match[0]:
                        record(step.name, match[0], new, word_around(text, match.start(), match.end()))
            text = done
        return " ".join(text.split())

    def fault_of(self, text: str) -> str | None:
        """Why a text cannot be used when it is normalised, or None."""
        try:
            return self.fault(self.apply(text))
        except UserError as error:
            return str(error)

    def fault(self, text: str) -> str | None:
        """Why a normalised text cannot be used, or None."""
        if LOST in text:
            return "U+FFFD in its transcript stands for a letter that a wrong encoding has lost; restore the letter"
        if self.digits == "refuse" and (found := self.digit.search(text)):
            advice = "write it in words, replace it with --text-replace, or use --text-digits keep"
            return f"digit {found[0]!r} in its transcript ({word_around(text, *found.span())!r}); {advice}"
        if not text:
            return "its transcript has no words when it is normalised; add the words, or remove both files"
        return words_fault(text)

    def describe(self) -> str:
        """``NFC, lower case, punctuation removed, digits refused``, say."""
        parts = [self.form, f"{self.case} case" if self.case != "keep" else "case kept"]
        parts.append("punctuation removed" if self.punctuation == "remove" else "punctuation kept")
        parts[-1] += f" except {' '.join(self.letters)}" if self.letters and self.punctuation == "remove" else ""
        parts.append("digits refused" if self.digits == "refuse" else "digits kept")
        return ", ".join(parts) + (f", {len(self.replace)} replacement(s)" if self.replace else "")

    def difference(self, other: "TextNormalization") -> str:
        """The first field that differs: ``case is upper, not lower``; "" if none does."""
        for name in (one.name for one in fields(self)):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return (
                    f"{name} differs" if name == "replace" else f"{name} is {ours or 'empty'}, not {theirs or 'empty'}"
                )
        return ""

    def file_lines(self) -> list[str]:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).split("\n")

    # -- steps ---------------------------------------------------------------------------------------------------------

    @cached_property
    def steps(self) -> list[Step]:
        steps = [
            Step("Unicode form", self.to_form, pattern(r"\X"), self.to_form),
            substitution("invisible", INVISIBLE, INVISIBLE, visible),
        ]
        if self.replace:
            firsts = characters({old[0] for old in self.replace})
            steps.append(substitution("replaced", rf"[{firsts}]", alternatives(self.replace), self.replace.__getitem__))
        if self.case == "lower":
            steps.append(Step("case", str.lower, pattern(r"\p{Changes_When_Lowercased}"), str.lower))
        if self.case == "upper":
            steps.append(Step("case", str.upper, pattern(r"\p{Changes_When_Uppercased}"), str.upper))
        return steps + (self.punctuation_steps() if self.punctuation == "remove" else [])

    def punctuation_steps(self) -> list[Step]:
        letters = characters(self.letters)
        after = rf"[{LETTERS}{letters}{TONES}]"
        before = rf"[{LETTERS}{letters}{TONES}\p{{M}}{JOINERS}]"
        typed = characters(one for one in APOSTROPHES if one not in self.letters)
        apostrophe = rf"[{typed}]" if "'" in self.letters else rf"(?<={before})[{typed}](?={after})"
        marks = rf"[{MARKS}--[{letters}]]" if letters else MARKS
        return [
            *([substitution("apostrophe", rf"[{typed}]", apostrophe, lambda found: "'")] if typed else []),
            substitution(
                "punctuation",
                marks,
                rf"(?!(?<={before})[{WITHIN_WORDS}](?={after})){marks}[\p{{M}}{JOINERS}]*",
                lambda found: "" if found[0] in ABOVE_VOWELS else " ",
            ),
            substitution(
                "no letter",
                rf"[^{LETTERS}\s]",
                rf"(?<!\S)[\p{{M}}{JOINERS}]+|[\u200c\u180e]+(?!\S)|(?<!\S)[^{LETTERS}\s]+(?!\S)",
                lambda found: "",
            ),
        ]

    def to_form(self, text: str) -> str:
        if text.isascii():
            return text
        text = pattern(SHOWN_FORMS).sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
        return unicodedata.normalize(self.form, text)

    def to_case(self, text: str) -> str:
        return text if self.case == "keep" else getattr(text, self.case)()

    @cached_property
    def digit(self) -> Any:
        """The pattern of a digit that is not a letter."""
        return pattern(rf"[\p{{N}}--[{SCRIPT_DIGITS}{characters(self.letters)}]]")


# ---- patterns --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def pattern(text: str) -> Any:
    """A pattern of the package ``regex``, which knows Unicode's properties and differences of sets."""
    import regex  # takes 20 ms, which `dinosr --help` need not

    return regex.compile(text, regex.V1)


def substitution(name: str, signs: str, found: str, new: Callable[[str], str]) -> Step:
    """The step that replaces ``found``, which contains one of ``signs``: characters that most texts do not have."""
    is_sign = lru_cache(maxsize=None)(lambda one: bool(pattern(signs).fullmatch(one)))

    def apply(text: str) -> str:
        return pattern(found).sub(lambda match: new(match[0]), text) if any(map(is_sign, set(text))) else text

    return Step(name, apply, pattern(found), new)


def characters(letters: Any) -> str:
    r"""Characters for use within the brackets of a pattern, as ``\U0000002d``."""
    return "".join(f"\\U{ord(one):08x}" for one in letters)


def alternatives(replace: Mapping[str, str]) -> str:
    """The pattern of what is replaced, the longest first; digits only where they are a whole number."""
    digit = r"\p{Nd}"
    return "|".join(
        (rf"(?<!{digit})" if one[0].isdecimal() else "")
        + characters(one)
        + (rf"(?!{digit})" if one[-1].isdecimal() else "")
        for one in sorted(replace, key=len, reverse=True)
    )


def visible(found: str) -> str:
    """What an invisible character becomes: U+200B and white space separate words, the others are removed."""
    return "" if unicodedata.category(found) == "Cf" and found != "\u200b" else " "


def word_around(text: str, start: int, end: int) -> str:
    """The word in which ``text[start:end]`` is."""
    while start and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return shorten(text[start:end].strip())


def is_surrogate(one: str) -> bool:
    """Whether it is half of a character, which JSON can contain and UTF-8 cannot."""
    return "\ud800" <= one <= "\udfff"


# ---- replacements ----------------------------------------------------------------------------------------------------


def check_replacements(rule: TextNormalization) -> None:
    """Raise ValueError for a replacement that is impossible or whose result would be replaced again."""
    if len(rule.replace) > MAX_REPLACEMENTS:
        raise ValueError(f"replace: has {len(rule.replace)} replacements, more than {MAX_REPLACEMENTS}")
    for old, new in rule.replace.items():
        what = f"replace: {shorten(old)!r} -> {shorten(new)!r}"
        if not old.strip():
            raise ValueError(f"{what}: what is replaced is empty; give at least one character")
        if max(len(old), len(new)) > MAX_REPLACEMENT:
            raise ValueError(f"{what}: longer than {MAX_REPLACEMENT} characters; split it")
        if WORD_END in new or any(map(is_surrogate, old + new)) or any(map(str.isspace, "".join(new.split(" ")))):
            raise ValueError(f"{what}: the result contains {WORD_END!r}, a line break or half a character; correct it")
    if not rule.replace:
        return
    again = pattern(alternatives(rule.replace))
    for old, new in rule.replace.items():
        if found := again.search(new) or again.search(rule.to_case(rule.to_form(new))):
            raise ValueError(
                f"replace: {shorten(old)!r} becomes {shorten(new)!r}, in which {shorten(found[0])!r} would be replaced "
                "again; give the final text"
            )


# ---- the file --------------------------------------------------------------------------------------------------------


def read_normalization(path: Path) -> TextNormalization:
    """The rules in a ``text_normalization.json``, or in the folder that contains one.

    Raises UserError for a file that is missing, damaged or has impossible values.
    """
    return read_record(path / NAME if is_folder(path) else path, TextNormalization, REMEDY)


def kept_normalization(folder: Path) -> TextNormalization | None:
    """The rules beside a dictionary in this folder, if there are any. Raises as ``read_normalization``."""
    return None if kind_of(folder / NAME) == "nothing" else read_normalization(folder / NAME)


def require_same(rule: TextNormalization | None, folder: Path, replaced: Collection[str]) -> None:
    """Raise UserError if words of other manifests in this folder, not ``replaced``, were normalised in another way."""
    others = sorted(path.name for path in folder.glob("*.wrd") if path.stem not in replaced)
    kept = kept_normalization(folder)
    if not others or rule == kept:
        return
    how = f"was normalised in another way ({kept.difference(rule)})" if kept and rule else "was not normalised"
    raise UserError(
        f"--text-normalize: {folder}/{others[0]} {how}; use the same rules for all manifests there, give "
        "another --out, or remove that file"
    )

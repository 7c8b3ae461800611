"""Rules for transcripts: what they do to texts of many scripts, and which rules are refused."""

import json
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dinosr_plugin.cli import main
from dinosr_plugin.data.text_normalization import (
    CHOICES,
    NAME,
    TextNormalization,
    kept_normalization,
    read_normalization,
)
from dinosr_plugin.data.text_replacements import read_replacements
from dinosr_plugin.errors import UserError

DEFAULT = TextNormalization()

# ---- texts -----------------------------------------------------------------------------------------------------------

TEXTS = {
    'Ñandú, "¿dónde?"': "ñandú dónde",
    "IT'S don’t l´eau N`djamena": "it's don't l'eau n'djamena",  # apostrophes, however they were typed
    "‘hola’ 'tis the dogs' rock 'n' roll": "hola tis the dogs rock n roll",
    "well-known no...sé a—b x/y «sí»": "well known no sé a b x y sí",  # never joined
    "El 50% & más": "el 50 más",
    "Mun\u0303oz mu\u00f1oz": "muñoz muñoz",
    "ＡＢＣ！ ｶﾞ ﬁn ﻛﺘﺐ": "abc ガ fin كتب",  # full width, half width, a ligature, presentation forms
    "kaʼa ꞌna ʻokina ɓa ŋ ma˥˩ aː tʰa nda³ x₂": "kaʼa ꞌna ʻokina ɓa ŋ ma˥˩ aː tʰa nda³ x₂",  # letters and tones
    "e\u0301\u0300 ɛ\u0300": "é\u0300 ɛ\u0300",  # marks without a composed letter
    "नमस्ते। क्\u200dष": "नमस्ते क्\u200dष",
    "ന്\u200d": "ന്\u200d",  # a joiner at the end of a word that is part of its spelling
    "می\u200cخواهم، خوب؟": "می\u200cخواهم خوب",
    "שלום־עולם צ׳יפס צה״ל": "שלום עולם צ׳יפס צה״ל",
    "สวัสดีครับ ๆ": "สวัสดีครับ ๆ",
    "Ինչո՞ւ է։": "ինչու է",  # the mark is above a vowel, within the word
    "col·lecció · x": "col·lecció x",
    "ΟΔΟΣ": "οδος",
    "a\u200bb a\u00adb \u202eabc\u00a0d\ufeff": "a b ab abc d",
    "- ' \u0301 ...": "",
}


@pytest.mark.parametrize("text", TEXTS)
def test_default_rules(text):
    assert DEFAULT.apply(text) == unicodedata.normalize("NFC", TEXTS[text])


def test_letters_that_look_like_punctuation_stay_where_they_are_told_to():
    rule = TextNormalization(letters="'-:")
    assert rule.apply("'A'a’ well-known a: - «x»") == "'a'a' well-known a: x"
    assert TextNormalization(letters="‘").apply("‘A ’B don’t") == "‘a b don't"
    tones = TextNormalization(letters="123")
    assert tones.fault(tones.apply("Nda3 x1")) is None and "'4'" in tones.fault("x4")


def test_upper_case_and_kept_case_and_punctuation():
    assert TextNormalization(case="upper").apply("straße, Ñ") == "STRASSE Ñ"
    assert TextNormalization(case="keep").apply("Straße, Ñ") == "Straße Ñ"
    assert TextNormalization(punctuation="keep").apply("Ñ,  «A»  ’b") == "ñ, «a» ’b"


def test_turkish_needs_two_replacements():
    assert TextNormalization(replace={"I": "ı", "İ": "i"}).apply("ISPARTA İstanbul") == "ısparta istanbul"


def test_replacements_are_made_before_the_case_changes_and_again_after_it():
    rule = TextNormalization(replace={"Mr.": "mister", "mr": "mister", "50%": "fifty percent", "5": "five"})
    assert rule.apply("Mr. MR mr, 50% 5") == "mister mister mister fifty percent five"


def test_digits_are_replaced_only_where_they_are_a_whole_number():
    rule = TextNormalization(replace={"3": "tres", "13": "trece", "3%": "tres por ciento"})
    assert rule.apply("3, 13 a3b 3%") == "tres trece atresb tres por ciento"
    assert rule.fault(rule.apply("33")) and rule.fault(rule.apply("30")) and rule.fault(rule.apply("130"))


def test_compatibility_forms_change_modifier_letters():
    assert TextNormalization(form="NFKC").apply("tʰa³") == "tha3"
    assert TextNormalization(form="NFD").apply("Ñ") == "n\u0303"


@pytest.mark.parametrize(
    "text, fault",
    [
        ("3 de mayo", "digit '3'"),
        ("a1", "digit '1' in its transcript ('a1')"),
        ("٣", "digit '٣'"),
        ("½", "digit '½'"),
        ("...", "no words"),
        ("a, \ufffd b", "U+FFFD in its transcript stands for a letter"),
        ("sí", None),
    ],
)
def test_transcripts_that_cannot_be_used(text, fault):
    found = DEFAULT.fault(DEFAULT.apply(text))
    assert found is None if fault is None else fault in found


def test_a_lost_letter_and_the_end_of_words_are_faults_where_symbols_are_kept():
    rule = TextNormalization(punctuation="keep", digits="keep")
    assert "U+FFFD" in rule.fault(rule.apply("a\ufffdb")) and "'|'" in rule.fault(rule.apply("a ｜ b"))
    assert rule.fault(rule.apply("3, a")) is None


# ---- properties ------------------------------------------------------------------------------------------------------

RULES = st.builds(
    TextNormalization,
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    letters=st.text("'’-:.3ʼ!\u0301", max_size=3),
)
SIGNS = (
    "aAñÑßİIıσΣǰ\u0301\u0303'’‘´-.,?¿«»·׳ \t\u00a0\u200b\u200c\u200d\u00ad\u202e3³½ʼꞌ˥^क्षिש־ﬁＡ！ｶﾞ՞ւ%|&"
    "\ue000\U0001f600\ufe0f\u1e9e"
)
ANY_TEXT = st.one_of(st.text(SIGNS, max_size=20), st.text(max_size=20))


@given(RULES, ANY_TEXT)
def test_a_normalised_text_stays_as_it_is(rule, text):
    once = rule.apply(text)
    assert rule.apply(once) == once
    assert once == " ".join(once.split())


@given(
    st.dictionaries(st.text("abAB'. ", min_size=1, max_size=3), st.text("abcC'. ", max_size=3), max_size=4), ANY_TEXT
)
def test_so_does_one_after_replacements(replace, text):
    try:
        rule = TextNormalization(replace=replace)
        once = rule.apply(text)
    except ValueError:
        assume(False)
    assert rule.apply(once) == once


def plain_words(text: str) -> list[str]:
    """The default rules for letters, marks, digits, straight apostrophes and ASCII punctuation, by a plain loop."""
    words, word = [], ""
    text = unicodedata.normalize("NFC", text.lower())
    for i, one in enumerate(text):
        is_letter = unicodedata.category(one)[0] in "LN" or (unicodedata.category(one)[0] == "M" and word)
        before, after = text[max(0, i - 1) : i], text[i + 1 : i + 2]
        between = unicodedata.category(before or " ")[0] in "LMN" and unicodedata.category(after or " ")[0] in "LN"
        if is_letter or (one == "'" and word and between):
            word += one
        else:
            words, word = [*words, word], ""
    return [word for word in [*words, word] if word]


@given(st.text("abÑéṇ\u0301\u0323ि'.,-?!\"();: 3ʼ", max_size=25))
def test_words_are_those_of_a_plain_loop(text):
    """... so that no letter is lost, and no two words are joined."""
    assert DEFAULT.apply(text).split() == plain_words(text)


# ---- rules that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"case": "title"}, "case: is 'title', not one of lower, upper, keep"),
        ({"letters": "-|"}, "letters: '|' cannot be a letter"),
        ({"letters": "a b"}, "letters: ' ' cannot be a letter"),
        ({"replace": {"": "a"}}, "replace: '' -> 'a': what is replaced is empty"),
        ({"replace": {"n": "nn"}}, "replace: 'n' becomes 'nn', in which 'n' would be replaced again"),
        ({"replace": {"y": "j", "j": "h"}}, "replace: 'y' becomes 'j', in which 'j' would be replaced again"),
        ({"replace": {"I": "ı"}, "case": "upper"}, "replace: 'I' becomes 'ı', in which 'I'"),
        ({"replace": {"a": "x|"}}, "replace: 'a' -> 'x|': the result contains '|'"),
        ({"replace": {"a": "\ud800"}}, "half a character"),
        ({"replace": {"a": "b" * 101}}, "longer than 100"),
        ({"replace": dict.fromkeys(map(str, range(1_001)), "")}, "more than 1000"),
    ],
)
def test_impossible_rules(fields, message):
    with pytest.raises(ValueError) as error:
        TextNormalization(**fields)
    assert message in str(error.value)


def test_replacements_without_an_end_are_an_error_of_the_text():
    rule = TextNormalization(replace={"ab": "bbaa"})
    assert rule.apply("ab") == "bbaa"
    with pytest.raises(UserError, match="'a+b+': the replacements never come to an end"):
        rule.apply("a" * 9 + "b" * 9)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_file_of_replacements(tmp_path):
    path = tmp_path / "replace.txt"
    path.write_text("3\ttres\nU+2019\t'\nn\u0303\tU+006E\n\n«\t\nU+X\tz\n", encoding="utf-8")
    assert read_replacements(path, "NFC") == {"3": "tres", "’": "'", "ñ": "n", "«": "", "U+X": "z"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("a b\n", "line 1: 'a b' is not `from<TAB>to`"),
        ("a\tb\n\tb\n", "line 2: '\\tb' is not"),
        ("a\tb\tc\n", "line 1:"),
        ("ñ\tb\nn\u0303\tc\n", "line 2: 'ñ' has another replacement above"),
        ("\n", "contains no replacements"),
    ],
)
def test_files_that_contain_something_else(text, message, tmp_path):
    path = tmp_path / "replace.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_replacements(path, "NFC")
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_the_rules_are_kept_and_read_again(tmp_path):
    assert kept_normalization(tmp_path) is None
    rule = TextNormalization("NFD", "upper", letters="'’", replace={"3": "tres"})
    (tmp_path / NAME).write_text("\n".join(rule.file_lines()), encoding="utf-8")
    assert kept_normalization(tmp_path) == read_normalization(tmp_path / NAME) == rule


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not JSON"),
        ('{"case": 3}', "field case is 3"),
        ('{"casing": "lower"}', "field casing is unknown"),
        ('{"case": "title"}', "case: is 'title'"),
        ('{"replace": {"a": 1}}', "field replace"),
        (json.dumps({"replace": {"a": "aa"}}), "would be replaced again"),
    ],
)
def test_damaged_rules_are_one_line(content, message, tmp_path, capsys):
    (tmp_path / NAME).write_text(content)
    (tmp_path / "text").write_text("a\n")
    assert main(["normalize", str(tmp_path / "text"), "--like", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / NAME}: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()

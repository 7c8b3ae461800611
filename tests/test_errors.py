"""Helpers for messages to the user."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError, first_few


@given(st.lists(st.integers()), st.integers(1, 5))
def test_first_few(items, n):
    text = first_few(items, n)
    shown = text.removesuffix(", ...")
    assert shown == ", ".join(str(item) for item in items[:n])
    assert text.endswith(", ...") == (len(items) > n)


def test_examples():
    assert first_few(["a", "b"]) == "a, b"
    assert first_few("abcd") == "a, b, c, ..."
    assert first_few(range(10), 2) == "0, 1, ..."


def test_a_message_is_one_line_whatever_is_in_it():
    error = UserError("a\nb\x1b[31m\r\u2028\u202e\udcff", ["c\nd"])
    assert str(error) == "a\\nb\\x1b[31m\\r\\u2028\\u202e\\udcff\nc\\nd"


def test_other_characters_are_unchanged():
    text = "Ä é 日本 \u200d क्\u200dष 🙂 \xa0"
    assert str(UserError(text)) == text


def test_an_error_survives_pickling():
    error = pickle.loads(pickle.dumps(UserError("a\nb", ["c", "d"])))
    assert str(error) == "a\\nb\nc\nd"

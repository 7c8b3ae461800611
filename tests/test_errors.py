"""Helpers for messages to the user."""

from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.errors import first_few


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

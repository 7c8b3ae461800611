"""Literals are parsed, never evaluated."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.modules.literals import MAX_DEPTH, MAX_VALUES, parse_literal, shortened

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
KEYS = st.integers() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@given(VALUES)
def test_parses_the_repr_of_any_value(value):
    assert parse_literal(repr(value)) == value


@pytest.mark.parametrize(
    "text, value",
    [
        ("(0.9, 0.98)", (0.9, 0.98)),
        ("10000,50000,200000", (10000, 50000, 200000)),
        ("[(512, 3)] * 2 + 2 * [(256, 3)]", [(512, 3)] * 2 + [(256, 3)] * 2),
        ("-1e-8", -1e-8),
        ("+2", 2),
        (" True\n", True),
        ("{'a': [1], 2: None}", {"a": [1], 2: None}),
        ("[1] * 0", []),
        ("[1] * -3", []),
    ],
)
def test_strings_of_fairseqs_configs(text, value):
    assert parse_literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "__import__('os').getcwd()",
        "f'{1}'",
        "1 + 1",
        "2 ** 10",
        "'a' * 3",
        "[1] * True",
        "[1] * 1.5",
        "[1] * [1]",
        "(1, 2) * 2",
        "[1] + (2,)",
        "{1, 2}",
        "{**{}}",
        "{[1]: 2}",
        "-'a'",
        "not True",
        "[n for n in [1]]",
        "lambda: 1",
        "b'bytes'",
        "1j",
        "...",
        "x = 1",
        "1; 2",
        "[1, 2][0]",
        "(1).real",
        "1 if True else 2",
        "(x := 1)",
        "nan",
        "\0",
    ],
)
def test_anything_else_is_an_error(text):
    with pytest.raises(ValueError, match="is not a literal"):
        parse_literal(text)


@pytest.mark.parametrize(
    "text",
    [
        "[1] * 1000000000000",
        "[[1] * 1000] * 1000",
        "[[[[1] * 100] * 100] * 100] * 100",
        "{'a': [1] * 60000, 'b': [1] * 60000}",
        "[1]" + " * 1000" * 5,
        "[] * 10000000000000000000000",
        "(" * 100000,
        "-" * 100000 + "1",
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
        "[1]" + " + [1]" * 20000,
        "9" * 100000,
    ],
)
def test_memory_and_the_stack_are_not_exhausted(text):
    with pytest.raises(ValueError):
        parse_literal(text)


def test_the_largest_that_are_allowed():
    assert len(parse_literal(f"[1] * {MAX_VALUES - 1}")) == MAX_VALUES - 1
    assert parse_literal("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert math.isinf(parse_literal("1e999"))


def test_messages_are_short():
    with pytest.raises(ValueError) as error:
        parse_literal("x" * 10**6)
    assert len(str(error.value)) < 300
    assert shortened("abc") == "'abc'" and shortened("a" * 200) == repr("a" * 100) + "..."

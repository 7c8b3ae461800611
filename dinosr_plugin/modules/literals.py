"""Python literals in text, parsed without evaluating it."""

import ast
from typing import Any

MAX_VALUES = 100_000
"""Maximum number of values in one text, containers and repetitions included."""

MAX_DEPTH = 50
"""Maximum number of brackets around one value."""


def parse_literal(text: str) -> Any:
    """``"[(512, 3)] * 2 + [(256, 3)]"`` -> [(512, 3), (512, 3), (256, 3)].

    Supported are numbers, strings, booleans, None, tuples, lists, dictionaries, the sign of a number, ``+`` of two
    lists and ``*`` of a list and an integer. Anything else, and more than ``MAX_VALUES`` or ``MAX_DEPTH``, raises
    ValueError.
    """
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
        if _count(value) <= MAX_VALUES:
            return value
    # null bytes are ValueErrors; deep nesting is one of the last two, which depends on the version of Python
    except (SyntaxError, TypeError, ValueError, OverflowError, RecursionError, MemoryError):
        pass
    raise ValueError(f"{shortened(text)} is not a literal: numbers, strings, lists, tuples, dictionaries")


def shortened(text: Any, length: int = 100) -> str:
    """The repr of a value for a message, cut to a length."""
    return repr(text) if len(str(text)) <= length else f"{str(text)[:length]!r}..."


def _value(node: ast.AST | None) -> Any:
    """The value of a node of the syntax tree. Raises TypeError for anything unsupported."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.Tuple():
            return tuple(map(_value, node.elts))
        case ast.List():
            return list(map(_value, node.elts))
        case ast.Dict():
            return dict(zip(map(_value, node.keys), map(_value, node.values), strict=True))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            return -number if isinstance(node.op, ast.USub) else +number
        case ast.BinOp(op=ast.Add()):
            return _joined(_value(node.left), _value(node.right))
        case ast.BinOp(op=ast.Mult()):
            return _repeated(_value(node.left), _value(node.right))
    raise TypeError


def _joined(left: Any, right: Any) -> list:
    if isinstance(left, list) and isinstance(right, list):
        return left + right
    raise TypeError


def _repeated(left: Any, right: Any) -> list:
    """A list and an integer, in either order. Raises TypeError for anything else, and for too many values."""
    values, times = (left, right) if isinstance(left, list) else (right, left)
    if not isinstance(values, list) or type(times) is not int or (_count(values) - 1) * times > MAX_VALUES:
        raise TypeError
    return values * times


def _count(value: Any, depth: int = 0) -> int:
    """Number of values, containers included. Raises TypeError for more than ``MAX_DEPTH`` containers in each other."""
    if depth > MAX_DEPTH:
        raise TypeError
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return 1 + sum(_count(element, depth + 1) for element in value) if isinstance(value, list | tuple) else 1

"""Parses the convolution layers that fairseq configs specify as a Python expression, without evaluating it."""

import ast
from typing import Any

MAX_LAYERS = 100


def parse_conv_layers(spec: str) -> list[tuple[int, int, int]]:
    """``"[(512,10,5)] + [(512,3,2)] * 4"`` -> [(channels, kernel, stride), ...].

    Supported are lists of integer triples, ``+`` of lists and ``*`` of a list and an integer. Anything else, and more
    than ``MAX_LAYERS`` layers, raises ValueError.
    """
    try:
        layers = _walk(ast.parse(spec.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:  # also null bytes, deep nesting
        raise ValueError(_message(spec)) from error
    if not isinstance(layers, list) or not layers or not all(map(_is_layer, layers)):
        raise ValueError(_message(spec))
    return layers


def _is_layer(value) -> bool:
    """Whether it is a triple of positive integers."""
    return isinstance(value, tuple) and len(value) == 3 and all(isinstance(n, int) and n > 0 for n in value)


def _walk(node: ast.AST) -> Any:
    """The value of a node of the syntax tree: int, tuple or list. Raises TypeError for anything unsupported."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_walk(element) for element in node.elts)
    if isinstance(node, ast.List):
        return [_walk(element) for element in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _walk(node.left) + _walk(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _walk(node.left), _walk(node.right)
        layers, times = (left, right) if isinstance(left, list) else (right, left)
        if not isinstance(layers, list) or not isinstance(times, int) or not 0 < len(layers) * times <= MAX_LAYERS:
            raise TypeError
        return layers * times
    raise TypeError


def _message(spec: str) -> str:
    example = "[(512,10,5)] + [(512,3,2)] * 4"
    return f"conv_feature_layers={spec!r} is not a list of (channels, kernel, stride) such as '{example}'"

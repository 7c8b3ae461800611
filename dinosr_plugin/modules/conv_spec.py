"""Reads the convolution layers that fairseq configs write as a Python expression, without evaluating it."""

import ast

MAX_LAYERS = 100


def parse_conv_layers(spec: str) -> list[tuple[int, int, int]]:
    """``"[(512,10,5)] + [(512,3,2)] * 4"`` -> [(channels, kernel, stride), ...].

    Lists of integer triples, ``+`` of lists and ``*`` of a list by an integer are understood; anything else, and more than
    ``MAX_LAYERS`` layers, raises ValueError.
    """
    try:
        layers = _walk(ast.parse(spec.strip(), mode="eval").body)
    except (
        SyntaxError,
        TypeError,
        ValueError,
        RecursionError,
        MemoryError,
    ) as error:  # the last three: null bytes, deep nesting
        raise ValueError(_complaint(spec)) from error
    good = (
        isinstance(layers, list)
        and layers
        and all(
            isinstance(layer, tuple) and len(layer) == 3 and all(isinstance(n, int) and n > 0 for n in layer)
            for layer in layers
        )
    )
    if not good:
        raise ValueError(_complaint(spec))
    return layers


def _walk(node):
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


def _complaint(spec: str) -> str:
    return f"conv_feature_layers={spec!r} is not a list of (channels, kernel, stride) such as '[(512,10,5)] + [(512,3,2)] * 4'"

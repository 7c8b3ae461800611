"""Parses the convolution layers that fairseq configs specify as a Python expression, without evaluating it."""

from typing import Any

from .literals import parse_literal, shortened

MAX_LAYERS = 100


def parse_conv_layers(spec: str, name: str = "conv_feature_layers") -> list[tuple[int, int, int]]:
    """``"[(512,10,5)] + [(512,3,2)] * 4"`` -> [(channels, kernel, stride), ...].

    Supported are lists of integer triples, ``+`` of lists and ``*`` of a list and an integer. Anything else, and more
    than ``MAX_LAYERS`` layers, raises ValueError with a message that calls the text ``name``.
    """
    try:
        layers = parse_literal(spec)
    except (ValueError, AttributeError):  # AttributeError: not text
        layers = None
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS or not all(map(_is_layer, layers)):
        example = "[(512,10,5)] + [(512,3,2)] * 4"
        raise ValueError(f"{name}={shortened(spec)} is not a list of (channels, kernel, stride) such as '{example}'")
    return layers


def _is_layer(value: Any) -> bool:
    """Whether it is a triple of positive integers."""
    return isinstance(value, tuple) and len(value) == 3 and all(type(n) is int and n > 0 for n in value)

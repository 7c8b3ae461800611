"""conv_feature_layers is parsed, never evaluated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.modules.conv_spec import MAX_LAYERS, parse_conv_layers


@pytest.mark.parametrize(
    "spec, layers",
    [
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2),
        (
            "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
            [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2,
        ),
        ("[(512, 10, 5), (512, 8, 4)] + 3 * [(512, 4, 2)]", [(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3),
        ("  [(1,1,1)]\n", [(1, 1, 1)]),
        ("([(8,4,2)] * 2 + [(4,2,2)]) * 2", [(8, 4, 2), (8, 4, 2), (4, 2, 2)] * 2),
    ],
)
def test_common_strings(spec, layers):
    assert parse_conv_layers(spec) == layers


@given(st.lists(st.tuples(*[st.integers(1, 2048)] * 3), min_size=1, max_size=20))
def test_parses_the_repr_of_any_layers(layers):
    assert parse_conv_layers(repr(layers)) == layers


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "512",
        "(512,10,5)",  # not a list
        "[]",
        "[(512,10)]",
        "[(512,10,5,1)]",
        "[[512,10,5]]",
        "[(512,10,5.0)]",
        "[(512,10,0)]",
        "[(512,10,-5)]",
        "[(512,10,True)]",
        "[('512',10,5)]",
        "[(512,10,5)] * 0",
        "[(512,10,5)] * -1",
        "[(512,10,5)] * 1.5",
        "[(512,10,5)] * [1]",
        "[(512,10,5)] * True",
        "[(512,10,5)] - [(512,10,5)]",
        "[(512,10,5)] + 1",
        "[(512,10,5)][0:1]",
        "[layer for layer in [(1,1,1)]]",
        "[(n, 1, 1)]",
        "[(512,10,5)].copy()",
        "list([(512,10,5)])",
        "__import__('os').getcwd()",
        "[(512,10,5)] if 1 else []",
        "x = [(512,10,5)]",
        "[(512,10,5)",
        "[(512,10,5)]; print()",
        "[(1,1,1\0)]",
    ],
)
def test_other_expressions_are_errors_that_name_the_field(spec):
    with pytest.raises(ValueError, match="conv_feature_layers="):
        parse_conv_layers(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "[(1,1,1)] * 1000000000000",
        "[(1,1,1)]" + " * 100" * 6,  # each factor is small, the product would fill the memory
        "[(1,1,1)] * 10 ** 10",
        "[(1,1,1)]" + " + [(1,1,1)]" * 20000,
        "-" * 100000 + "1",
        "(" * 100000,
    ],
)
def test_expressions_that_would_exhaust_memory_or_the_stack(spec):
    with pytest.raises(ValueError):
        parse_conv_layers(spec)
    assert len(parse_conv_layers(f"[(1,1,1)] * {MAX_LAYERS}")) == MAX_LAYERS

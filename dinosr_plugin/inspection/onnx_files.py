"""ONNX models: inputs, outputs and parameters, read from the file's protobuf fields without any library.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Tensors are skipped, not read.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..files import open_file
from .description import FIRST, Description, text
from .weights import Weight, Weights, parameters_of, precision_of

COPY = "copy or export it again"
MAX_FIELDS = 300_000  # read in a second
MAX_NAME = 10_000  # bytes
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
PRODUCER, VERSION, GRAPH, METADATA = 2, 3, 7, 14  # of a model
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12  # of a graph
DIMS, DTYPE, TENSOR_NAME = 1, 2, 8  # of a tensor
Span = tuple[int, int]


def is_onnx(head: bytes) -> bool:
    """Whether a file begins with a version and the name of a program, as models do."""
    return head[:1] == b"\x08" and head[2:3] == b"\x12"


class Fields:
    """The fields of a protobuf message in a file. Raises ValueError for anything else, and for too many."""

    def __init__(self, data: mmap.mmap):
        self.data, self.left = data, MAX_FIELDS

    def of(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """(number, value) of the message in these bytes: a whole number, or the place of what has a length."""
        place, end = span
        while place < end:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            key, place = self.number(place, end)
            wire = key & 7
            if wire == 0:
                value, place = self.number(place, end)
                yield key >> 3, value
                continue
            length, place = self.number(place, end) if wire == 2 else ({1: 8, 5: 4}.get(wire, end), place)
            if length > end - place:
                raise ValueError("a field is longer than the file")
            yield key >> 3, (place, place + length)
            place += length

    def number(self, place: int, end: int) -> tuple[int, int]:
        """A variable-length integer, and the place after it."""
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                raise ValueError("it ends in the middle of a field")
            byte = self.data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
        raise ValueError("a number is too long")

    def text(self, value: int | Span) -> str:
        """A name."""
        if isinstance(value, int) or value[1] - value[0] > MAX_NAME:
            raise ValueError("a name is missing or too long")
        return self.data[value[0] : value[1]].decode(errors="replace")

    def spans(self, span: Span, number: int) -> list[Span]:
        """The messages in the fields of this number."""
        return [value for found, value in self.of(span) if found == number and not isinstance(value, int)]


def describe_onnx(path: Path) -> Description:
    """Raises UserError for a damaged file."""
    with open_file(path, COPY) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        fields = Fields(data)
        try:
            return of_model(fields, (0, len(data)))
        except ValueError as error:
            raise UserError(f"{path}: a damaged ONNX file: {error}; {COPY}") from None


def of_model(fields: Fields, span: Span) -> Description:
    parts = list(fields.of(span))
    names = [fields.text(value) for wanted in (PRODUCER, VERSION) for number, value in parts if number == wanted]
    graphs = [value for number, value in parts if number == GRAPH and not isinstance(value, int)]
    if not graphs:
        raise ValueError("it has no graph")
    weights, ends, nodes = of_graph(fields, graphs[0])
    return Description(
        "model in ONNX format",
        "ONNX",
        written_by=text(" ".join(names)) or None,
        parameters={"weights": sum(parameters_of(weights).values())},
        sizes={"nodes": nodes},
        precision=precision_of(weights),
        contents=[f"{kind} {', '.join(map(text, ends[kind][:FIRST]))}" for kind in ends],
        instead="run it with onnxruntime, or give the checkpoint that it was made from",
    )


def of_graph(fields: Fields, span: Span) -> tuple[Weights, dict[str, list[str]], int]:
    """Weights, names of the inputs and outputs, and the number of nodes."""
    weights: dict[str, Weight] = {}
    ends: dict[str, list[str]] = {"inputs": [], "outputs": []}
    nodes = 0
    for number, value in fields.of(span):
        if isinstance(value, int):
            continue
        if number == INITIALIZER:
            name, weight = of_tensor(fields, value)
            weights[name] = weight
        elif number in (INPUT, OUTPUT):
            name = next((fields.text(one) for found, one in fields.of(value) if found == 1), "?")
            ends["inputs" if number == INPUT else "outputs"].append(name)
        nodes += number == NODE
    ends["inputs"] = [name for name in ends["inputs"] if name not in weights]  # older files repeat the weights there
    return weights, ends, nodes


def of_tensor(fields: Fields, span: Span) -> tuple[str, Weight]:
    """Name and shape. Raises ValueError for an impossible shape."""
    name, dtype, shape = "", "unknown", []
    for number, value in fields.of(span):
        if number == DIMS:
            shape += [value] if isinstance(value, int) else packed(fields, value)
        elif number == DTYPE and isinstance(value, int):
            dtype = DTYPES.get(value, "unknown")
        elif number == TENSOR_NAME:
            name = fields.text(value)
    if math.prod(shape) > 1 << 50:
        raise ValueError(f"tensor {text(name)} is too large")
    return name, Weight(tuple(shape), dtype)


def packed(fields: Fields, span: Span) -> list[int]:
    """Whole numbers one after the other."""
    numbers: list[int] = []
    place, end = span
    while place < end and len(numbers) < 64:
        number, place = fields.number(place, end)
        numbers.append(number)
    return numbers

"""The header of a safetensors file: names, shapes and number formats, without reading the tensors.

Format: https://huggingface.co/docs/safetensors: 8 bytes, the length of the header, little-endian; the header, JSON; the
tensors. As in the library's reader, the tensors must fill the rest of the file without overlap.
"""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..files import open_file, parse_json
from .weights import Weight, Weights

MAX_HEADER = 1 << 25  # bytes; 100,000 tensors have a third
MAX_DIMENSIONS = 64
COPY = "copy or download it again"
DTYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "C64": ("complex64", 8),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1),
    "U64": ("uint64", 8), "U32": ("uint32", 4), "U16": ("uint16", 2), "U8": ("uint8", 1), "BOOL": ("bool", 1),
}  # fmt: skip
"""Name in the file -> torch's name, and bytes."""


class Header(NamedTuple):
    """``weights`` in the order of the file; ``metadata``: what its writer said about it."""

    weights: Weights
    metadata: dict[str, str]


def is_safetensors(head: bytes) -> bool:
    """Whether the first bytes of a file are those of this format."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


def read_header(path: str | Path) -> Header:
    """The header of a safetensors file.

    Raises UserError for a file that cannot be read, is truncated, or whose header does not fit it.
    """
    with open_file(path, COPY) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise UserError(f"{path}: a safetensors file whose header does not fit into it; {COPY}")
        content = file.read(length)
    try:
        entries = parse_json(content)
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not text")
        spans = {name: span_of(name, entry) for name, entry in entries.items()}
        require_filled([span for _, span in spans.values()], size - 8 - length)
    except ValueError as error:
        raise UserError(f"{path}: a damaged safetensors file: {error}; {COPY}") from None
    return Header({name: weight for name, (weight, _) in spans.items()}, metadata)


def span_of(name: str, entry: Any) -> tuple[Weight, tuple[int, int]]:
    """A tensor and the bytes that it takes. Raises ValueError unless its shape and format agree with these."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, span = (entry.get(field) for field in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name[:60]!r} has an unknown number format")
    if not is_counts(shape) or len(shape) > MAX_DIMENSIONS or not is_counts(span) or len(span) != 2:
        raise ValueError(f"tensor {name[:60]!r} has no shape or place")
    torch_name, width = DTYPES[dtype]
    if math.prod(shape) * width != span[1] - span[0]:
        raise ValueError(f"tensor {name[:60]!r} is larger or smaller than its place")
    return Weight(tuple(shape), torch_name), (span[0], span[1])


def is_counts(value: Any) -> bool:
    """Whether it is a list of whole numbers that a file can contain."""
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def require_filled(spans: list[tuple[int, int]], size: int) -> None:
    """Raises ValueError unless the tensors fill ``size`` bytes, one after the other."""
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError("its tensors overlap, or leave a gap")
        end = stop
    if end != size:
        raise ValueError(f"its tensors have {end:,} bytes, but {size:,} follow the header")

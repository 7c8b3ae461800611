"""Small models in the formats of other programs, written byte by byte from their specifications."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

WIDTHS = {"F32": 4, "F16": 2, "I64": 8}


def safetensors_bytes(tensors: Mapping[str, tuple[str, Sequence[int]]], **metadata: str) -> bytes:
    """Name -> (number format, shape); the values are zeros."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * WIDTHS[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + bytes(end)


HF_CONFIG = {
    "architectures": ["HubertForCTC"], "model_type": "hubert", "transformers_version": "4.41.0", "hidden_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 5,
    "conv_dim": [4, 4], "conv_kernel": [10, 8], "conv_stride": [5, 4],
}  # fmt: skip
HF_TENSORS: dict[str, tuple[str, Sequence[int]]] = {
    "hubert.feature_extractor.conv_layers.0.conv.weight": ("F32", (4, 1, 10)),
    "hubert.feature_extractor.conv_layers.1.conv.weight": ("F32", (4, 4, 8)),
    "hubert.feature_projection.projection.weight": ("F32", (8, 4)),
    "hubert.encoder.layers.0.attention.k_proj.weight": ("F32", (8, 8)),
    "hubert.encoder.layers.1.attention.k_proj.weight": ("F32", (8, 8)),
    "lm_head.weight": ("F32", (5, 8)),
}


def write_hugging_face(folder: Path) -> None:
    """A recogniser: config, weights, feature extractor, vocabulary."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true}')
    (folder / "vocab.json").write_text('{"<pad>": 0, "|": 1, "E": 3, "T": 2, "[UNK]": 4}')
    (folder / "model.safetensors").write_bytes(safetensors_bytes(HF_TENSORS, format="pt"))


# ---- ONNX, in protobuf's wire format ---------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx_bytes() -> bytes:
    """A model with one weight (3, 4), an input, an output and a node."""
    tensor = field(1, 3) + field(1, 4) + field(2, 1) + field(8, "w") + field(9, bytes(48))
    node = field(1, "x") + field(1, "w") + field(2, "y") + field(4, "MatMul")
    graph = field(1, node) + field(2, "g") + field(5, tensor) + field(11, field(1, "x")) + field(12, field(1, "y"))
    return field(1, 8) + field(2, "pytorch") + field(3, "2.6.0") + field(7, graph) + field(8, field(2, 17))

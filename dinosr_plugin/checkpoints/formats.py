"""What kind of file a path is, from its first bytes."""

from pathlib import Path


def is_torch_file(path: str | Path) -> bool:
    """Whether a file starts as PyTorch's do: a zip archive or, before torch 1.6, a pickle. Raises OSError."""
    with open(path, "rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80"

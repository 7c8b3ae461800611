"""Reading NumPy's files without unpickling, and with a bound on the size that their headers state."""

import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from ..files import require_file

MAX_COMPRESSED = 1 << 28  # bytes of a compressed member when it is unpacked; this package compresses none
FAULTS = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, TokenError)
"""What numpy and zipfile raise for damaged files; RuntimeError for encrypted ones, MemoryError never."""


def map_array(path: str | Path) -> np.ndarray:
    """The array of a ``.npy`` file, memory-mapped, so that it cannot be larger than the file.

    Raises:
        ValueError: the file is not a regular file, is shorter than its header states, contains Python objects, or is
            not such a file.
    """
    try:
        array = np.load(require_file(path, "give a file"), mmap_mode="r", allow_pickle=False)
    except (*FAULTS, OverflowError, TypeError, SyntaxError) as error:
        raise ValueError(f"not an array, or truncated: {error}") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays with another suffix
        raise ValueError("contains an archive instead of an array")
    return array


class ArrayArchive:
    """An ``.npz`` file that stays open: ``archive["name"]`` is an array.

    Raises:
        ValueError: as ``map_array``, when it is opened or when an array is read: no such array, damaged, larger than
            the file, or of Python objects.
    """

    def __init__(self, path: str | Path):
        try:
            self.size = Path(path).stat().st_size
            self.archive = zipfile.ZipFile(require_file(path, "give a file"))
        except FAULTS as error:
            raise ValueError(f"not an archive, or truncated: {error}") from error

    def __enter__(self) -> "ArrayArchive":
        return self

    def __exit__(self, *error: Any) -> None:
        self.archive.close()

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            member = self.archive.getinfo(f"{name}.npy")
            if member.file_size > max(self.size, MAX_COMPRESSED):
                raise ValueError(f"{member.file_size} bytes in a file of {self.size}")
            with self.archive.open(member) as file:
                require_size(file, member.file_size)
            with self.archive.open(member) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except (*FAULTS, OverflowError, TypeError, SyntaxError, zlib.error) as error:
            raise ValueError(f"array {name}: {error}") from error


def require_size(file: Any, size: int) -> None:
    """Raises ValueError unless the header of an array in ``file`` states at most ``size`` bytes."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"unknown version {version}")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"states {dtype} of shape {shape} in {size} bytes")

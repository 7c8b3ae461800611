"""Checkpoint files: the functions that read them.

Every command, every training and every function of fairseq that loads a checkpoint reads it through this module, so
that a checkpoint from a stranger is safe to open:

- It is data: torch's ``weights_only`` stays on, which refuses Python objects. Two harmless classes are allowed.
- It is intact: the checksums of its records are compared, once for each file and process.
- Its config is data, too (``contents``): no text of it is evaluated (``compat.evaluation``), no resolver of OmegaConf
  is called, so that nothing of the environment gets into a model, and no command in it is used. Of the paths in it
  those of dictionaries are opened and, by ``fairseq-generate`` with fairseq's own tasks, those of embeddings and of
  other checkpoints: only regular files, and as data, too.
- Its sizes are bounded by the size of the file: a model is not built if it is much larger than the file (``building``).

YAML files are different: a config, ``--config-dir`` or an override may name code to run (``common.user_dir``,
``task.post_save_script``). Use only those of people whom you trust.
"""

import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import NOT_A_FILE, is_folder, kind_of, open_file
from .contents import Damaged, require_fairseq
from .other_files import HEAD, SAFETENSORS, archive_format, folder_format, format_of
from .packed import is_packed, read_packed

REMEDY = "give a checkpoint that a training saved"
_intact: set[tuple] = set()  # identities of the files whose checksums match
_END, _END_64 = (
    struct.Struct("<4s8xIIH"),
    struct.Struct("<4s36xQQ4s4xQ4x"),
)  # of a zip file; the latter with its locator


def read_checkpoint(path: str | Path, name: str | None = None, remedy: str = REMEDY) -> dict[str, Any]:
    """What a PyTorch file, or a packed one, contains, after comparing its checksums.

    Args:
        name: what messages call the file: the path by default.
        remedy: what messages advise.

    Raises:
        UserError: anything but an intact PyTorch file that contains a dictionary.
    """
    try:
        return read_state(path)
    except Damaged as error:
        raise UserError(f"{name or path}: {error}; {error.remedy or remedy}") from None


def read_fairseq_checkpoint(path: str | Path, name: str | None = None, remedy: str = REMEDY) -> dict[str, Any]:
    """``read_checkpoint``, which also raises UserError for a file that is not a checkpoint of fairseq."""
    state = read_checkpoint(path, name, remedy)
    try:
        require_fairseq(state, os.path.getsize(path))
    except Damaged as error:
        raise UserError(f"{name or path}: {error}; {error.remedy or remedy}") from None
    return state


def read_state(path: str | Path, checksums: bool = True) -> dict[str, Any]:
    """The dictionary in a PyTorch file, whose tensors stay on the disk; or the checkpoint in a packed file.

    Raises Damaged for a missing or damaged file, and UserError for one that exists but cannot be opened.
    """
    if (kind := kind_of(path)) != "file":
        raise Damaged(*folder_format(path)) if kind == "folder" else Damaged(NOT_A_FILE[kind])
    with open_file(path, REMEDY) as file:
        start = file.read(HEAD)
    if not start:
        raise Damaged("empty (0 bytes)")
    other = format_of(start)
    if other == SAFETENSORS and is_packed(path):
        return read_packed(path)
    if other is None and not start.startswith((b"PK", b"\x80")):
        raise Damaged("not a PyTorch file")
    is_zip = start.startswith(b"PK")
    if is_zip and not zipfile.is_zipfile(path):  # the directory of a zip file is at its end
        raise Damaged("truncated")
    other = archive_format(path) if is_zip else other
    if other is not None:
        raise Damaged(f"not a PyTorch file but {other.what}", other.remedy)
    if checksums:
        check_bytes(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch, pickle and zipfile raise many classes, with long and misleading messages
        raise Damaged(why_not_loaded(error)) from None
    if not isinstance(state, dict):
        raise Damaged(f"not a checkpoint: it contains a value of the type {type(state).__name__}")
    return state


def is_torch_file(path: str | Path) -> bool:
    """Whether a file starts as PyTorch's do: a zip archive or, before torch 1.6, a pickle. False for a folder.

    True also for those formats that ``read_checkpoint`` refuses by name.

    Raises UserError if it cannot be read.
    """
    if is_folder(path):
        return False
    with open_file(path, "give a checkpoint, a file of units, or a folder of these") as file:
        start = file.read(HEAD)
    return start.startswith((b"PK\x03\x04", b"\x80")) or format_of(start) is not None


def why_not_loaded(error: Exception) -> str:
    """The reason, without torch's advice to set ``weights_only=False``, which would run code from the file."""
    refused = re.search(r"(?:Unsupported (?:global: GLOBAL|class)|unsupported GLOBAL) (\S+)", str(error))
    return f"contains a Python object of {refused[1]}, which is not loaded from files" if refused else "unreadable"


def check_bytes(path: str | Path) -> None:
    """Raises Damaged if a checksum does not match. A file that has not changed since the last call is not read again.

    torch.load compares no checksums: it loads the zeros that a power failure leaves in a file.
    """
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _intact or not zipfile.is_zipfile(path):  # the format of torch before 1.6 has no checksums
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            require_one_reading(path, archive)
            if any(record.compress_type for record in records) or sum(r.file_size for r in records) > status.st_size:
                raise Damaged("compressed, which PyTorch files are not")  # or claims more bytes than it has
            wrong = archive.testzip()
    except Damaged:
        raise
    except Exception as error:  # zipfile raises exceptions of many classes for an invalid directory
        raise Damaged("unreadable") from error
    if wrong:
        raise Damaged("damaged (checksums do not match)")
    _intact.add(identity)


def require_one_reading(path: str | Path, archive: zipfile.ZipFile) -> None:
    """Raises Damaged for a zip file in which torch might see other records than zipfile, whose checksums say nothing.

    zipfile searches for the directory before the end of the file, torch where the end says that it is.
    """
    with open(path, "rb") as file:
        file.seek(-min(_END_64.size + _END.size, os.fstat(file.fileno()).st_size), os.SEEK_END)
        last = file.read()
        end = file.tell() - _END.size
    mark, size, start, comment = _END.unpack_from(last, len(last) - _END.size)
    if len(last) > _END_64.size:
        mark_64, size_64, start_64, locator, place = _END_64.unpack_from(last)
        if locator == b"PK\6\7":
            size, start, end = size_64, start_64, end - _END_64.size
            if mark_64 != b"PK\6\6" or place != end:
                raise Damaged("unreadable")
    names = archive.namelist()
    if mark != b"PK\5\6" or comment or start + size != end or len(set(names)) < len(names):
        raise Damaged("unreadable")

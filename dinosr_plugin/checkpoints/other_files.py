"""Files that people give in place of a checkpoint: each is recognised by its first bytes, its records or its entries.

Only looks: nothing in such a file is loaded. ``checkpoints.file`` raises what is found here.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..files import NOT_A_FILE, is_file
from ..modules.literals import shortened

HEAD = 512  # bytes that tell a file's format
SPACE = b"\xef\xbb\xbf \t\r\n"  # before the text of a page, a byte order mark included
DOWNLOAD = "download the file itself"
UNPACK = "unpack it, and give the checkpoint in it"
HUGGING_FACE = "make a checkpoint of its folder: dinosr import hf DIR OUT.pt"

STARTS: tuple[tuple, ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS", "run `git lfs pull` where it is from, or " + DOWNLOAD),
    (b"<", "a web page", DOWNLOAD),
    (b"\x1f\x8b", "compressed by gzip", UNPACK),
    (b"BZh", "compressed by bzip2", UNPACK),
    (b"\xfd7zXZ", "compressed by xz", UNPACK),
    (b"\x93NUMPY", "an array of NumPy (.npy)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"RIFF", "a sound file (.wav)"),
    (b"fLaC", "a sound file (.flac)"),
    (b"OggS", "a sound file (.ogg)"),
    (b"ID3", "a sound file (.mp3)"),
)
"""First bytes of a file -> what it is, and a remedy if it is not the usual one."""

PROGRAMS = {
    ("model_weight", "model_cfg", "task_cfg"): "s3prl's copy of a fairseq checkpoint",
    ("Step", "Args", "Config"): "a checkpoint of s3prl",
    ("pytorch-lightning_version",): "a checkpoint of PyTorch Lightning",
    ("dims", "model_state_dict"): "a checkpoint of Whisper",
}
"""Entries that a dictionary has -> what it is."""


class Format(NamedTuple):
    """What a file is, for a message, and a remedy; None: the usual one."""

    what: str
    remedy: str | None = None


SAFETENSORS = Format("safetensors, a format of Hugging Face", HUGGING_FACE)


def format_of(head: bytes) -> Format | None:
    """The format of a file that is not PyTorch's, by its first ``HEAD`` bytes; None for one that is not known."""
    for start, *known in STARTS:
        if head.lstrip(SPACE).startswith(start):
            return Format(*known)
    if head[8:10] == b'{"':  # after the length of the header
        return SAFETENSORS
    if head[257:262] == b"ustar":
        return Format("a tar archive", UNPACK)
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # protobuf: number of the version, name of the program
        return Format("a model in ONNX format")
    return None


def names_in(path: str | Path) -> list[str] | None:
    """Names of the records of a zip archive; None for a file that is not one, or whose directory cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # zipfile raises exceptions of many classes for an invalid directory
        return None


def is_torchscript(names: Sequence[str]) -> bool:
    """Whether an archive with records of these names is a program of torch.jit."""
    return any(name.endswith("/constants.pkl") for name in names)


def is_arrays(names: Sequence[str]) -> bool:
    """Whether an archive with records of these names is NumPy's (.npz)."""
    return bool(names) and all(name.endswith(".npy") for name in names)


def archive_format(path: str | Path) -> Format | None:
    """The format of a zip archive that is not PyTorch's; None for one that is, or whose directory cannot be read."""
    names = names_in(path)
    if names is None:
        return None
    if is_torchscript(names):
        return Format("a program of TorchScript (torch.jit)")
    if is_arrays(names):
        return Format("arrays of NumPy (.npz)")
    is_torch = any(name.endswith("/data.pkl") for name in names)
    return None if is_torch else Format("a zip archive of another program", UNPACK)


def folder_format(path: str | Path) -> Format:
    """What a message says about a folder that is given in place of a checkpoint."""
    what = NOT_A_FILE["folder"]
    is_model = is_file(Path(path, "config.json"))
    return Format(f"{what}, with a model of Hugging Face", HUGGING_FACE) if is_model else Format(what)


def other_program(state: Mapping[str, Any]) -> str:
    """What a dictionary is that is not a checkpoint of fairseq; for a message."""
    for entries, what in PROGRAMS.items():
        if state.keys() >= {*entries}:
            return f": it is {what}"
    if state and all(isinstance(value, Tensor) for value in state.values()):
        return ": it contains nothing but tensors, like Hugging Face's pytorch_model.bin (dinosr import hf)"
    return f": it contains {', '.join(map(shortened, list(state)[:3]))}" if state else ": it is empty"

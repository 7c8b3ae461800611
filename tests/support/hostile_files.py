"""Hostile files and paths of every kind, for tests of whatever is given one."""

import json
import os
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from support.hostile_checkpoints import CODE, DAMAGED, Touch

Writer = Callable[[Path, Path], object]
"""``write(path, marker)`` makes ``path``; if its code runs, the file ``marker`` appears."""

CONTROL = "\x1b]0;owned\x07\x1b[2J\x1b[31m"


def content(data: str | bytes) -> Writer:
    return lambda path, marker: path.write_bytes(data if isinstance(data, bytes) else data.encode())


def wav(rate: int = 16000, channels: int = 1, size: int = 2**32 - 1, samples: int = 800) -> bytes:
    """A PCM file whose header claims ``size`` bytes."""
    form = struct.pack("<HHIIHH", 1, channels, rate, (2 * rate * channels) % 2**32, 2 * channels % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + bytes(2 * samples)
    return b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + body


def flac_of_many_samples(path: Path, marker: Path) -> None:
    """A FLAC file whose header claims 2^36 - 1 samples."""
    soundfile.write(path, np.zeros(800), 16000, format="FLAC")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)


def loud(value: float) -> Writer:
    sound = np.full(8000, value, dtype=np.float32)
    return lambda path, marker: soundfile.write(path, sound, 16000, subtype="FLOAT", format="WAV")


def object_array(path: Path, marker: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.array([Touch(marker)], dtype=object), allow_pickle=True)


def object_archive(path: Path, marker: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, centroids=np.array([Touch(marker)], dtype=object), meta=np.array([Touch(marker)], dtype=object))


def large_array(path: Path, marker: Path) -> None:
    """An array that claims 8 TB."""
    header = str({"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}).ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64))


NESTED = "[" * 100_000
LARGE = "9" * 5000
BYTES: dict[str, Writer] = {
    "empty": content(b""),
    "one line break": content(b"\n"),
    "control characters": content(f"{CONTROL}\t{CONTROL} {CONTROL}\n" * 3),
    "null characters": content("a\0b\t\0\n" * 4),
    "UTF-16": content("/\nu1.wav\t16000\n".encode("utf-16")),
    "UTF-16 without a mark": content("/\nu1.wav\t16000\n".encode("utf-16-le")),
    "Latin-1": content("/\nn\xe9.wav\t16000\n".encode("latin-1")),
    "long line": content("a" * 2_000_000),
    "many columns": content("a\t" * 100_000),
    "large numbers": content(f"{10**30} {10**30}\n{10**30}\t{10**30}\t1e999\tnan\n"),
    "larger numbers": content(f"/\na.wav\t{LARGE}\n{LARGE}\t{LARGE}\t{LARGE}\n"),
    "numbers alone": content("-1 -5\n1 nan\n0 0\n"),
    "nested JSON": content(NESTED),
    "other JSON": content(json.dumps({"rate": "fast", "digest": None, "rows": [1], "k": 10**30})),
    "list in JSON": content("[1, 2, 3]"),
    "upwards": content("../../../../../..\n../../etc/passwd\t16000\n"),
    "TeX": content("/\n$\\input{x}$.wav\t16000\nutt\tstart\tend\tphone\n0\t0\t1\t$\\frac$\n"),
    "array of objects": object_array,
    "archive of objects": object_archive,
    "array of terabytes": large_array,
    "WAV of 4 GB": content(wav()),
    "WAV of rate 0": content(wav(rate=0, size=1600)),
    "WAV of a large rate": content(wav(rate=2**31 - 1, size=1600)),
    "WAV of many channels": content(wav(channels=65535, size=1600)),
    "WAV of no samples": content(wav(size=0, samples=0)),
    "FLAC of many samples": flac_of_many_samples,
    "sound of nan": loud(float("nan")),
    "sound too loud": loud(1e30),
}
FEW = ["empty", "control characters", "UTF-16", "larger numbers", "nested JSON", "array of objects", "WAV of 4 GB"]
CHECKPOINTS: dict[str, Writer] = {**CODE, **DAMAGED}
FEW_CHECKPOINTS = ["pickle", "pickle of torch before 1.6", "pickle alone", "convolutions of wav2vec2"]


def folder(path: Path, marker: Path) -> None:
    path.mkdir()


def folder_of_files(path: Path, marker: Path) -> None:
    path.mkdir()
    for name in ("meta.json", "checkpoint_last.pt", "a.units", "a.npy", "a.wav"):
        (path / name).write_text(CONTROL)


def bound_socket(path: Path, marker: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # addresses of sockets have at most 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def link_to(target: str) -> Writer:
    return lambda path, marker: path.symlink_to(target)


KINDS: dict[str, Writer] = {
    "folder": folder,
    "folder of files": folder_of_files,
    "pipe": lambda path, marker: os.mkfifo(path),
    "socket": bound_socket,
    "broken link": link_to("nowhere"),
    "link to itself": lambda path, marker: path.symlink_to(path.name),
}
"""Also given as names of output."""
DEVICES: dict[str, Writer] = {"zeros without end": link_to("/dev/zero"), "random bytes": link_to("/dev/urandom")}

NAMES = {
    "too long": "a" * 300,
    "null character": "a\0b",
    "below a file": "file/below",
    "line break": "a\nerror: b",
    "control characters": CONTROL,
    "TeX": "$\\input{x}$",
    "URL": "http://127.0.0.1:9/a",
    "colons": "a:0:1",
    "not UTF-8": os.fsdecode(b"a\xff"),
}
"""Names of files that do not exist."""


def make(name: str, write: Writer, folder: Path, suffix: str) -> Path:
    """The hostile file of this kind with a suffix, made unless it exists; its marker is in ``folder/markers``."""
    path = folder / f"{re.sub('[^A-Za-z0-9]+', '_', name)}{suffix}"  # Hydra reads quotes and spaces as syntax
    if not os.path.lexists(path):
        (folder / "markers").mkdir(parents=True, exist_ok=True)
        write(path, folder / "markers" / path.name)
    return path

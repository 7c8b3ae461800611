"""Writing files and folders: completely or not at all."""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from .locks import claim, claim_name, is_claimed, unfinished_name
from .paths import kind_of, remove, scan, unwritable


@contextmanager
def output(path: str | Path, option: str = "--out", wait: float = 0.0, folder: bool = False) -> Iterator[Path]:
    """A temporary name for a file, or for a new folder, which gets its name when the context ends.

    If the context is left by an exception, nothing remains: the file that was there before is unchanged. Missing parent
    folders are created. An error of the system within the context is one about this output, unless it names another
    file.

    Args:
        option: how messages name the path: the option or field that it was given with.
        wait: as ``claim``.
        folder: the output is a folder; the path may be an empty folder.

    Raises:
        UserError: another process is writing the file, or it cannot be written.
    """
    final = Path(os.path.abspath(path))
    with claim_new(path, option, wait, folder):
        unfinished = unfinished_name(final)
        try:
            yield unfinished
            os.replace(unfinished, final)
        except OSError as error:
            if error.filename is not None and unfinished.name not in str(error.filename):
                raise  # about another file
            raise unwritable(option_with_path(option, path), error) from error
        finally:
            remove(unfinished)


@contextmanager
def text_output(path: str | Path, option: str = "--out", wait: float = 0.0) -> Iterator[TextIO]:
    """``output`` as an open file of UTF-8 text with LF."""
    with output(path, option, wait) as unfinished, open(unfinished, "w", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def claim_new(path: str | Path, option: str = "--out", wait: float = 0.0, folder: bool = False) -> Iterator[None]:
    """``claim`` a path that ``output`` will write, so that errors come before the work.

    Arguments and errors as ``output``.
    """
    what, final = option_with_path(option, path), Path(os.path.abspath(path))
    kind = kind_of(final)
    if kind == "other":
        raise UserError(f"{what}: is a pipe or a device; give the name of a file")
    if kind == "folder" and not folder:
        raise UserError(f"{what}: is a folder; give the name of a file")
    if kind != "nothing" and folder and (kind == "file" or any(scan(final))):
        raise UserError(f"{what}: already exists; give a new folder, or remove it first")
    with new_folders(final.parent, what), claim_name(final, what, wait):
        yield


@contextmanager
def claim_folder(path: str | Path, option: str = "--out", wait: float = 0.0) -> Iterator[Path]:
    """``claim`` a folder that is written into, after creating it and its parents if they are missing.

    Folders that were created and are still empty at the end are removed. Arguments and errors as ``output``.
    """
    what = option_with_path(option, path)
    with new_folders(Path(os.path.abspath(path)), what), claim(path, what, wait):
        yield Path(path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder, which is removed at the end. Those of killed processes are removed first."""
    base, prefix = Path(tempfile.gettempdir()), f"dinosr-{os.geteuid()}-"
    for entry in scan(base):
        leftover = entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
        if leftover and not is_claimed(entry.path):
            with suppress(UserError), claim_name(entry.path, entry.name):
                remove(entry.path)
    path = base / f"{prefix}{secrets.token_hex(8)}"
    with claim_name(path, str(path)):
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise unwritable(str(path), error) from error
        try:
            yield path
        finally:
            remove(path)


@contextmanager
def new_folders(path: Path, what: str) -> Iterator[None]:
    """Create a folder and its parents if they are missing, and remove them at the end if they are still empty.

    Raises UserError if they cannot be created; ``what`` begins the message.
    """
    missing: list[Path] = []
    existing = path
    while kind_of(existing) == "nothing" and not existing.is_symlink():
        missing.append(existing)
        existing = existing.parent
    if kind_of(existing) != "folder":
        raise unwritable(what, NotADirectoryError(errno.ENOTDIR, f"{existing} is not a folder"))
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(what, error) from error
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def make_folder(path: str | Path, option: str = "--out") -> Path:
    """Create a folder with its parents, unless it exists. Raises UserError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(option_with_path(option, path), error) from error
    return Path(path)


def write_files(
    folder: str | Path, contents: Mapping[str, bytes | Iterable[str]], option: str = "--out", wait: float = 60.0
) -> None:
    """Write name -> lines (or bytes) into a folder: all of these files or none, which get their names in this order.

    Raises UserError as ``output``.
    """
    with ExitStack() as stack:
        unfinished = {
            name: stack.enter_context(output(Path(folder) / name, option, wait)) for name in reversed(contents)
        }
        for name, content in contents.items():
            try:
                if isinstance(content, bytes):
                    write_bytes(unfinished[name], content)
                else:
                    write_lines(unfinished[name], content)
            except OSError as error:
                raise unwritable(option_with_path(option, Path(folder) / name), error) from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text with LF to the temporary name of an output.

    Raises OSError, and UserError for a name of a file or folder in the text that is not UTF-8.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        try:
            file.writelines(line + "\n" for line in lines)
        except UnicodeEncodeError as error:
            raise UserError(
                f"{error.object.rstrip()}: not UTF-8, which text files cannot contain; rename it"
            ) from error


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write to the temporary name of an output, or into that folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_array(path: Path, array: Any) -> None:
    """Write a NumPy array as .npy to the temporary name of an output. Raises OSError."""
    import numpy as np  # not needed by every command

    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def option_with_path(option: str, path: str | Path) -> str:
    """``--out x`` for an option, ``checkpoint.save_dir=x`` for a field."""
    return f"{option}{' ' if option.startswith('-') else '='}{path}"

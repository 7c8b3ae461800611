"""Files and folders: which ones may be read, how text is read, and how output is written.

Every command and every training reads its text and writes its output through this module, so that

- a folder, a pipe, a device or an encoding that cannot be read is one line that names the file;
- output appears under its name only when it is complete;
- a file or folder that a living process writes is refused to every other process;
- what a killed process left unfinished is removed by the next one that writes the same output.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import UserError

Record = TypeVar("Record")

LOCK = ".lock"  # of a folder; the lock of a file is .NAME.lock beside it
UNFINISHED = ".unfinished."
CHOOSE_ANOTHER = "wait for it to end, or give another name"
MAX_LINE = 1 << 26  # characters of a line: the units of an utterance of a day; one that is longer is not read whole
MAX_TEXT = 1 << 30  # bytes of a file that is read whole, such as JSON
MAX_NUMBER = 1 << 53  # of whole numbers in JSON, on either side of 0: float64 holds each of them

_held: dict[str, int] = {}  # path of a lock that this process holds -> by how many nested `claim`s


# ---- which files may be read -----------------------------------------------------------------------------------------


def kind_of(path: str | Path) -> str:
    """``file``, ``folder``, ``nothing`` or ``other`` (a pipe, a device), links followed.

    Unlike ``Path.is_file``, which raises for some paths and returns False for others, it raises UserError whenever the
    system cannot tell: a folder on the way may not be entered, the name is too long or contains a null character.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be used ({reason}); give another name, or correct its permissions") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def is_file(path: str | Path) -> bool:
    """Whether this is a regular file. Raises UserError as ``kind_of`` does."""
    return kind_of(path) == "file"


def is_folder(path: str | Path) -> bool:
    """Whether this is a folder. Raises UserError as ``kind_of`` does."""
    return kind_of(path) == "folder"


def require_file(path: str | Path, remedy: str) -> Path:
    """The path, if it is a regular file. Raises UserError for anything else; opening a pipe might wait for ever."""
    kind = kind_of(path)
    if kind != "file":
        wrong = {"nothing": "no such file", "folder": "is a folder, not a file", "other": "is a pipe or a device"}[kind]
        raise UserError(f"{path}: {wrong}; {remedy}")
    return Path(path)


def require_folder(path: str | Path, remedy: str) -> Path:
    """The path, if it is a folder. Raises UserError for anything else."""
    kind = kind_of(path)
    if kind != "folder":
        raise UserError(f"{path}: {'no such folder' if kind == 'nothing' else 'is not a folder'}; {remedy}")
    return Path(path)


def open_file(path: str | Path, remedy: str) -> BinaryIO:
    """A regular file, open for reading bytes. Raises UserError if it cannot be opened."""
    require_file(path, remedy)
    try:
        return open(path, "rb")
    except OSError as error:
        raise unreadable(path, error, remedy) from error


def unreadable(path: str | Path, error: Exception, remedy: str) -> UserError:
    """The UserError for an error of the system while a file is read."""
    return UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {remedy}")


# ---- text ------------------------------------------------------------------------------------------------------------


def read_lines(path: str | Path, remedy: str, damaged: bool = False) -> Iterator[str]:
    """The lines of a text file without line breaks, one at a time; a line ends with LF, CR LF or CR.

    The file is UTF-8, with or without a byte order mark, or UTF-16 with one.

    Args:
        damaged: read what is not such text too, with replacement characters: for logs, whose end a crash may damage.

    Raises:
        UserError: the file is missing or cannot be read, is not such text, or contains null characters, which is how
            UTF-16 without a mark and binary files look.
    """
    with open_file(path, remedy) as file:
        encoding = encoding_of(file)
    try:
        with open(path, encoding=encoding, errors="replace" if damaged else "strict") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), ""), start=1):
                if "\0" in line and not damaged:
                    raise UserError(f"{path} line {number}: contains a null character, not UTF-8 text; {remedy}")
                if len(line) == MAX_LINE and not damaged:
                    raise UserError(f"{path} line {number}: longer than {MAX_LINE} characters; {remedy}")
                yield line.rstrip("\n")
    except UnicodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8, or {remedy}") from error
    except OSError as error:
        raise unreadable(path, error, remedy) from error


def encoding_of(file: BinaryIO) -> str:
    """The encoding that a byte order mark indicates; UTF-8 without one."""
    return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def read_text(path: str | Path, remedy: str) -> str:
    """The whole text, with LF as line break. Raises UserError as ``read_lines`` does, and for more than 1 GiB."""
    if os.stat(require_file(path, remedy)).st_size > MAX_TEXT:
        raise UserError(f"{path}: larger than {MAX_TEXT >> 30} GiB; {remedy}")
    return "\n".join(read_lines(path, remedy))


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError as ``read_text`` does, and for anything but an object."""
    text = read_text(path, remedy)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def read_record(path: str | Path, kind: type[Record], remedy: str) -> Record:
    """The dataclass ``kind`` in a JSON file. Raises UserError as ``read_json`` does, and for other fields or types."""
    values = read_json(path, remedy)
    try:
        return to_record(kind, values)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def parse_json(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError, whose message describes the fault, for anything else."""
    try:
        value = json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: also bytes that are not UTF-8, and numbers of 4,301 digits
        raise ValueError("not JSON") from error
    if not isinstance(value, dict):
        raise ValueError("contains no JSON object")
    return value


def to_record(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """A dataclass from values that were read from a file, each of the type that the dataclass states.

    Types may be int, float, str, bool, None, unions of them, and lists and dictionaries, whose items are checked too.
    Whole numbers are at most ``MAX_NUMBER``, other numbers finite.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names it.
    """
    hints, known = get_type_hints(kind), fields(kind)  # type: ignore[arg-type]
    required = {field.name for field in known if field.default is MISSING and field.default_factory is MISSING}
    for name in sorted(required - values.keys()):
        raise ValueError(f"field {name} is missing")
    for name in sorted(values.keys() - {field.name for field in known}):
        raise ValueError(f"field {name} is unknown")
    for name, value in values.items():
        if not has_type(value, hints[name]):
            raise ValueError(f"field {name} is {json.dumps(value)[:40]}, which is not of type {type_name(hints[name])}")
    return kind(**values)


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a type that ``to_record`` knows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(has_type(value, one) for one in arguments)
    if origin is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if origin is dict:  # JSON's keys are strings
        return isinstance(value, dict) and all(has_type(item, arguments[1]) for item in value.values())
    if hint is float:  # 50 is a float too; NaN is not at most anything
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint is int:
        return type(value) is int and abs(value) <= MAX_NUMBER
    return type(value) is hint


def type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if not get_args(hint) else str(hint)


# ---- output ----------------------------------------------------------------------------------------------------------


@contextmanager
def claim(path: str | Path, what: str = "") -> Iterator[None]:
    """Within this context no other process may write this file or folder, which need not exist yet.

    The lock belongs to the process: the system removes it when the process ends in whatever way. A second ``claim`` of
    the same path by the same process is nested in the first. What killed processes left unfinished under this name is
    removed. On a file system without locks nothing is claimed.

    Args:
        path: an existing folder, or a file, or a path in an existing folder that does not exist yet.
        what: how messages name the path: an option or a field, with its value.

    Raises:
        UserError: another process writes there.
    """
    lock = lock_of(Path(os.path.abspath(path)))
    descriptor = None
    if str(lock) not in _held:
        descriptor = acquire(lock, what or str(path))
        remove_unfinished(Path(path))
    _held[str(lock)] = _held.get(str(lock), 0) + 1
    try:
        yield
    finally:
        _held[str(lock)] -= 1
        if not _held[str(lock)]:
            del _held[str(lock)]
            release(lock, descriptor)


def lock_of(path: Path) -> Path:
    return path / LOCK if is_folder(path) else path.with_name(f".{path.name}{LOCK}")


def acquire(lock: Path, what: str) -> int | None:
    """Descriptor of the locked file, or None where the file system has no locks. Raises UserError for a lock held."""
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(what, error) from error
        try:
            # not flock, which a forked process inherits: a loader's worker would hold it after its parent was killed
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{what}: another process ({owner or 'unknown'}) writes there; {CHOOSE_ANOTHER}"
                ) from None
            return None
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == os.stat(lock).st_ino:
                break
        os.close(descriptor)  # its owner has removed it in the meantime
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return descriptor


def release(lock: Path, descriptor: int | None) -> None:
    if descriptor is not None:
        with suppress(OSError):
            os.unlink(lock)
        os.close(descriptor)


def unfinished_name(path: Path) -> Path:
    """``.NAME.unfinished.PID`` beside a file or folder."""
    return path.with_name(f".{path.name}{UNFINISHED}{os.getpid()}")


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes have left of this file or folder, and of the files in this folder.

    Called with the lock of the path held, so that no other process writes it.
    """
    for entry in scan(path.parent):
        if entry.name.startswith(f".{path.name}{UNFINISHED}"):
            remove(Path(entry.path))
    for entry in scan(path):
        name, mark, _ = entry.name.removeprefix(".").rpartition(UNFINISHED)
        if mark and entry.name.startswith("."):
            with suppress(UserError), claim(path / name):  # not if a process writes that file
                pass


def scan(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def remove(path: Path) -> None:
    """Remove a file or a folder with its contents, if it exists."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextmanager
def output(path: str | Path, option: str = "--out") -> Iterator[Path]:
    """A temporary name for a file, or for a folder that does not exist, which gets its name when the context ends.

    If the context is left by an exception, nothing remains: the file that was there before is unchanged. Missing parent
    folders are created.

    Args:
        option: how messages name the path: the option or field that it was given with.

    Raises:
        UserError: another process writes the file, or it cannot be written.
    """
    final = Path(path)
    what = f"{option} {path}"
    if is_folder(final):
        raise UserError(f"{what}: is a folder; give the name of a file")
    make_folder(final.parent, option)
    with claim(final, what):
        unfinished = unfinished_name(final)
        try:
            yield unfinished
            os.replace(unfinished, final)
        except OSError as error:
            raise unwritable(what, error) from error
        finally:
            remove(unfinished)


def make_folder(path: str | Path, option: str = "--out") -> Path:
    """Create a folder with its parents, unless it exists. Raises UserError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(f"{option} {path}", error) from error
    return Path(path)


def unwritable(what: str, error: Exception) -> UserError:
    """The UserError for an error of the system while output is written."""
    reason = getattr(error, "strerror", None) or str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return UserError(f"{what}: cannot be written ({reason}); {'free some space' if full else 'give another folder'}")

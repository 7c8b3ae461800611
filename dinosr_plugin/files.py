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
import logging
import math
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import UserError

logger = logging.getLogger(__name__)

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
    return UserError(f"{path}: cannot be read ({reason_of(error)}); {remedy}")


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
def claim(path: str | Path, what: str = "", wait: float = 0.0) -> Iterator[None]:
    """Within this context no other process may write this file or folder, which need not exist yet.

    The lock belongs to the process: the system removes it when the process ends in whatever way. A second ``claim`` of
    the same path by the same process is nested in the first, and so is one of a file in a folder that it has claimed.
    What killed processes left unfinished under this name is removed. On a file system without locks nothing is claimed.

    Args:
        path: an existing folder, or a file, or a path in an existing folder that does not exist yet.
        what: how messages name the path: an option or a field, with its value.
        wait: for how many seconds to wait for another process.

    Raises:
        UserError: another process writes there, or the lock cannot be written.
    """
    what, path = what or str(path), Path(os.path.abspath(path))
    with ExitStack() as stack:
        if is_covered(path):
            remove_unfinished(path)
        else:
            stack.enter_context(hold(lock_of(path), what, wait, cleaned=path))
        yield


@contextmanager
def claim_name(path: str | Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """``claim`` for a folder that may be removed or replaced as a whole: its lock is beside it, not in it."""
    path = Path(os.path.abspath(path))
    with ExitStack() as stack:
        if not is_covered(path):
            stack.enter_context(hold(lock_beside(path), what, wait, cleaned=path))
        yield


def is_claimed(path: str | Path) -> bool:
    """Whether this process claims this name itself."""
    return str(lock_beside(Path(os.path.abspath(path)))) in _held


@contextmanager
def share(path: str | Path) -> Iterator[None]:
    """Within this context every process may read this path, and ``alone`` fails in all others.

    Raises UserError if the lock cannot be written.
    """
    with hold(shared_lock(path), str(path), wait=math.inf, shared=True):
        yield


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Within this context ``share`` waits in every other process. Raises Occupied if one of them shares the path."""
    with hold(shared_lock(path), str(path)):
        yield


@contextmanager
def hold(lock: Path, what: str, wait: float = 0.0, shared: bool = False, cleaned: Path | None = None) -> Iterator[None]:
    """Hold a lock; then remove what was left unfinished of ``cleaned``. Arguments and errors as ``claim``."""
    descriptor = None
    if str(lock) not in _held:
        descriptor = acquire_within(lock, what, wait, shared)
        if cleaned:
            remove_unfinished(cleaned)
    _held[str(lock)] = _held.get(str(lock), 0) + 1
    try:
        yield
    finally:
        _held[str(lock)] -= 1
        if not _held[str(lock)]:
            del _held[str(lock)]
            release(lock, descriptor)


def is_covered(path: Path) -> bool:
    """Whether this process has claimed a folder that contains the path."""
    return any(str(folder / LOCK) in _held for folder in path.parents)


def lock_of(path: Path) -> Path:
    return path / LOCK if is_folder(path) else lock_beside(path)


def lock_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{LOCK}")


def shared_lock(path: str | Path) -> Path:
    path = Path(os.path.abspath(path))
    return path.with_name(f".{path.name}.use{LOCK}")


def acquire_within(lock: Path, what: str, wait: float, shared: bool) -> int | None:
    """``acquire`` again and again, for ``wait`` seconds."""
    end, said = time.monotonic() + wait, False
    while True:
        try:
            return acquire(lock, what, shared)
        except Occupied as error:
            if time.monotonic() >= end:
                raise
            if not said and time.monotonic() + 5 < end:
                logger.warning(f"{what}: waiting for another process ({error.owner}), which writes there")
                said = True
        time.sleep(0.1)


class Occupied(UserError):
    """Another process holds the lock. ``owner``: which one."""

    def __init__(self, what: str, owner: str):
        self.owner = owner or "unknown"
        super().__init__(f"{what}: another process ({self.owner}) writes there; {CHOOSE_ANOTHER}")


def acquire(lock: Path, what: str, shared: bool = False) -> int | None:
    """Descriptor of the locked file, or None where the file system has no locks. Raises Occupied for a lock held."""
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError) as error:
            raise unwritable(what, error) from error
        try:
            # not flock, which a forked process inherits: a loader's worker would hold it after its parent was killed
            fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise Occupied(what, owner) from None
            with suppress(OSError):
                os.unlink(lock)
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
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while others share it
            os.unlink(lock)
        os.close(descriptor)


def unfinished_name(path: Path) -> Path:
    """``.NAME.unfinished.PID`` beside a file or folder."""
    return path.with_name(f".{path.name}{UNFINISHED}{os.getpid()}")


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes have left of this file or folder, and of the files in this folder.

    Called with the lock of the path held, so that no other process writes it.
    """
    own = str(os.getpid())
    for entry in scan(path.parent):
        name, mark, process = entry.name.rpartition(UNFINISHED)
        if mark and name == f".{path.name}" and process != own:
            remove(entry.path)
    for entry in scan(path):
        name, mark, process = entry.name.removeprefix(".").rpartition(UNFINISHED)
        if mark and entry.name.startswith(".") and process != own:
            with suppress(UserError), hold(lock_of(path / name), name, cleaned=path / name):
                pass  # a file that another process writes is kept


def scan(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def remove(path: str | Path) -> None:
    """Remove a file or a folder with its contents, if it exists."""
    path = Path(path)
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


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
        UserError: another process writes the file, or it cannot be written.
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
            raise unwritable(named(option, path), error) from error
        finally:
            remove(unfinished)


@contextmanager
def text_output(path: str | Path, option: str = "--out", wait: float = 0.0) -> Iterator[TextIO]:
    """``output`` as an open file of UTF-8 text with LF."""
    with output(path, option, wait) as unfinished, open(unfinished, "w", encoding="utf-8", newline="\n") as file:
        yield file


def named(option: str, path: str | Path) -> str:
    """``--out x`` for an option, ``checkpoint.save_dir=x`` for a field."""
    return f"{option}{' ' if option.startswith('-') else '='}{path}"


@contextmanager
def claim_new(path: str | Path, option: str = "--out", wait: float = 0.0, folder: bool = False) -> Iterator[None]:
    """``claim`` what will be written with ``output``, before hours of work. Arguments and errors as ``output``."""
    what, final = named(option, path), Path(os.path.abspath(path))
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
    what = named(option, path)
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
        for one in missing:
            with suppress(OSError):
                one.rmdir()


def make_folder(path: str | Path, option: str = "--out") -> Path:
    """Create a folder with its parents, unless it exists. Raises UserError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(named(option, path), error) from error
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
                raise unwritable(named(option, Path(folder) / name), error) from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text with LF to the temporary name of an output. Raises OSError."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write to the temporary name of an output, or into that folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_array(path: Path, array: Any) -> None:
    """Write a NumPy array as .npy to the temporary name of an output. Raises OSError."""
    import numpy as np  # not needed by every command

    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


# ---- errors of the system --------------------------------------------------------------------------------------------

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "free some space, or raise the limit on the size of files (ulimit -f)",
    errno.ENOENT: "restore it, or correct the name",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "close other files, or raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the limit on open files",
    errno.ENOMEM: "free some memory",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network file system",
}
ANOTHER_PLACE = "give another folder, or correct its permissions"


def unwritable(what: str, error: Exception) -> UserError:
    """The UserError for an error of the system while output is written."""
    number = getattr(error, "errno", None)
    remedy = "give another folder" if number in (None, errno.ENOENT) else REMEDIES.get(number, "give another folder")
    return UserError(f"{what}: cannot be written ({reason_of(error)}); {remedy}")


def system_error(error: OSError) -> UserError:
    """The UserError for an error of the system that nothing else has explained."""
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return UserError(f"{where}{reason_of(error)}; {REMEDIES.get(error.errno or 0, ANOTHER_PLACE)}")


def reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

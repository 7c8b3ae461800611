"""Locks on the files and folders that a process writes, and the removal of what killed processes left unfinished."""

import errno
import fcntl
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import UserError
from .paths import is_folder, remove, scan, unwritable

logger = logging.getLogger(__name__)
LOCK = ".lock"  # of a folder; the lock of a file is .NAME.lock beside it
UNFINISHED = ".unfinished."
CHOOSE_ANOTHER = "wait for it to end, or give another name"
_held: dict[str, int] = {}  # path of a lock that this process holds -> number of nested contexts that hold it


class Occupied(UserError):
    """Another process, ``owner``, holds the lock."""

    def __init__(self, what: str, owner: str):
        self.owner = owner or "unknown"
        super().__init__(f"{what}: another process ({self.owner}) is writing there; {CHOOSE_ANOTHER}")


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
        UserError: another process is writing there, or the lock cannot be written.
    """
    what, path = what or str(path), Path(os.path.abspath(path))
    with ExitStack() as stack:
        if is_covered(path):
            remove_unfinished(path)
        else:
            stack.enter_context(hold(lock_of(path), what, wait, clean=path))
        yield


@contextmanager
def claim_name(path: str | Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """``claim`` for a folder that may be removed or replaced as a whole: its lock is beside it, not in it."""
    path = Path(os.path.abspath(path))
    with ExitStack() as stack:
        if not is_covered(path):
            stack.enter_context(hold(lock_beside(path), what, wait, clean=path))
        yield


def is_claimed(path: str | Path) -> bool:
    """Whether this process claims this name itself."""
    return str(lock_beside(Path(os.path.abspath(path)))) in _held


@contextmanager
def read_lock(path: str | Path) -> Iterator[None]:
    """Within this context ``write_lock`` fails in every other process; any number of them may hold a ``read_lock``.

    Raises UserError if the lock cannot be written.
    """
    with hold(read_lock_beside(path), str(path), wait=math.inf, shared=True):
        yield


@contextmanager
def write_lock(path: str | Path) -> Iterator[None]:
    """Within this context ``read_lock`` waits in every other process. Raises Occupied if one of them holds it."""
    with hold(read_lock_beside(path), str(path)):
        yield


@contextmanager
def hold(lock: Path, what: str, wait: float = 0.0, shared: bool = False, clean: Path | None = None) -> Iterator[None]:
    """Hold a lock. Once it is held, call ``remove_unfinished`` on ``clean``. Arguments and errors as ``claim``."""
    descriptor = None
    if str(lock) not in _held:
        descriptor = acquire_within(lock, what, wait, shared)
        if clean:
            remove_unfinished(clean)
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
    """The lock file of a path: inside an existing folder, else beside the path."""
    return path / LOCK if is_folder(path) else lock_beside(path)


def lock_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{LOCK}")


def read_lock_beside(path: str | Path) -> Path:
    path = Path(os.path.abspath(path))
    return path.with_name(f".{path.name}.use{LOCK}")


def acquire_within(lock: Path, what: str, wait: float, shared: bool) -> int | None:
    """``acquire``, tried for ``wait`` seconds."""
    end, warned = time.monotonic() + wait, False
    while True:
        try:
            return acquire(lock, what, shared)
        except Occupied as error:
            if time.monotonic() >= end:
                raise
            if not warned and time.monotonic() + 5 < end:
                logger.warning(f"{what}: waiting for another process ({error.owner}), which is writing there")
                warned = True
        time.sleep(0.1)


def acquire(lock: Path, what: str, shared: bool = False) -> int | None:
    """Descriptor of the locked file, or None where the file system has no locks. Raises Occupied if it is held."""
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
    pid = str(os.getpid())
    for entry in scan(path.parent):
        name, mark, process = entry.name.rpartition(UNFINISHED)
        if mark and name == f".{path.name}" and process != pid:
            remove(entry.path)
    for entry in scan(path):
        name, mark, process = entry.name.removeprefix(".").rpartition(UNFINISHED)
        if mark and entry.name.startswith(".") and process != pid:
            with suppress(UserError), hold(lock_of(path / name), name, clean=path / name):
                pass  # a file that another process writes is kept

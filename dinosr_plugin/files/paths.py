"""Which files may be read, and errors of the system as messages."""

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError

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
REMEDIES_OF_SYSTEM = {
    number: REMEDIES[number] for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
}
"""Those of errors that another file would not avoid."""
NOT_A_FILE = {"nothing": "no such file", "folder": "is a folder, not a file", "other": "is a pipe or a device"}
"""What messages say about a path of another kind (``kind_of``) where a file is needed."""

ANOTHER_PLACE = "give another folder, or correct its permissions"


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
        raise UserError(
            f"{path}: cannot be used ({reason_of(error)}); give another name, or correct its permissions"
        ) from error
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
        raise UserError(f"{path}: {NOT_A_FILE[kind]}; {remedy}")
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


def scan(folder: Path) -> list[os.DirEntry]:
    """The entries of a folder, in any order; [] if it cannot be read."""
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


def unreadable(path: str | Path, error: Exception, remedy: str) -> UserError:
    """The UserError for an error of the system while a file is read; ``remedy`` is for errors of the file itself."""
    number = getattr(error, "errno", None)
    remedy = (
        "correct its permissions" if number in (errno.EACCES, errno.EPERM) else REMEDIES_OF_SYSTEM.get(number, remedy)
    )
    return UserError(f"{path}: cannot be read ({reason_of(error)}); {remedy}")


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
    """Short description of an error of the system, without the file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

"""Folders that are made once a session, by whichever test process needs one first, and are read by all."""

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def make_once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Returns ``folder``, filled by ``write(folder)`` if no process has done so; other processes wait meanwhile.

    It is filled in place, because manifests hold the paths of their folders. ``write`` starts with an empty folder also
    if it failed before. Tests must not change the files: one that needs other content copies the folder.
    """
    done = folder.with_name(f"{folder.name}.done")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write(folder)
            done.touch()
    return folder

"""Folders that are made once per session, by the test process that needs them first, and read by all."""

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def make_once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Returns ``folder``, filled by ``write(folder)`` unless a process has already done so; others wait meanwhile.

    It is filled in place, because manifests contain the paths of their folders. ``write`` always starts with an empty
    folder, also after a failure. Tests must not change the files; a test that needs to must copy the folder.
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

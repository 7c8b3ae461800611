"""A single recording where a manifest is expected."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..files import require_file, write_lines
from .audio import AudioError, read_header, wrong_format
from .audio_files import CONVERTIBLE, SUFFIXES, UNREADABLE
from .conversion import convert
from .manifest import path_fault


@contextmanager
def as_manifest(path: Path) -> Iterator[Path]:
    """The path of a manifest: ``path`` itself, or if it is a recording, a temporary one with this recording alone.

    A file is a recording by its suffix. If it is not 16 kHz mono, the manifest is of a temporary copy that is.

    Raises UserError for a recording that cannot be read, or whose name a manifest cannot contain.
    """
    if path.suffix.lower() not in (*SUFFIXES, *CONVERTIBLE, *UNREADABLE):
        yield path
        return
    require_file(path, "check the name")
    if fault := path_fault(path.name):
        raise UserError(f"{str(path)!a}: {fault}")
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, f"{path.stem}.tsv")
        try:
            header = read_header(path)
            root, name, samples = path.parent.absolute(), path.name, header.samples
            if wrong_format(header):
                root, name = Path(folder), f"{path.stem}.flac"
                samples = convert(path, root / name).samples
        except AudioError as error:
            raise UserError(f"{path}: {error}") from error
        write_lines(manifest, [str(root), f"{name}\t{samples}"])
        yield manifest

"""``--json FILE``: what a benchmark measured, for other programs."""

import argparse
import json
from pathlib import Path

from dinosr_plugin.data.manifest import require_writable, write_files
from dinosr_plugin.errors import UserError


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=record_file, metavar="FILE", help="write the record here too")


def record_file(text: str) -> Path:
    """An argparse type. What cannot be written is an error now, rather than after minutes of measuring; a folder that is not there is made then."""
    path = Path(text)
    try:
        require_writable(path.parent, "--json")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a folder; give a file")
    return path


def write_record(path: Path | None, record) -> None:
    """None: nobody wants it."""
    if path is not None:
        write_files(path.parent, {path.name: [json.dumps(record, indent=1)]})

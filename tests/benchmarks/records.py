"""Code that the benchmark scripts share: ``--json FILE``, the measurements for other programs, and the exit status."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from dinosr_plugin.errors import UserError
from dinosr_plugin.files import claim_new, write_files


def run_script(main: Callable[[], None]) -> None:
    """Call ``main`` with the exit statuses of the ``dinosr`` command: 1 after a UserError, 130 after Ctrl-C."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=record_file, metavar="FILE", help="also write the measurements to this file")


def record_file(text: str) -> Path:
    """An argparse type: a file that can be written, so that a wrong path is reported before minutes of measuring.

    A missing folder is created when the file is written.
    """
    path = Path(text)
    try:
        with claim_new(path, "--json"):
            return path
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def write_record(path: Path | None, record) -> None:
    """Write the record as JSON; without a path do nothing."""
    if path is not None:
        write_files(path.parent, {path.name: [json.dumps(record, indent=1)]})

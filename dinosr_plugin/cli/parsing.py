"""What the sub-commands share: types of arguments, common options, notes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import printable
from ..pretrained import find_checkpoint

MAX_MINUTES = 10.0  # the value of checkpoints.chunks, which takes seconds to import


def add_command(commands, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """Add a sub-command; ``text`` is both its one-line help and its description."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def add_formats(commands, name: str, text: str, formats: Sequence[Callable[[Any], None]]) -> None:
    """Add a command with a sub-command for each format, which the functions ``formats`` add."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    choices = parser.add_subparsers(title="formats", metavar="FORMAT", required=True)
    for add in formats:
        add(choices)


def whole_number(text: str) -> int:
    """An argparse type: an integer above 0."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


whole_number.__name__ = "positive integer"  # argparse's message: invalid positive integer value: '0'


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


positive.__name__ = "positive number"


def finite(text: str) -> float:
    """An argparse type: a finite number, positive or negative."""
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError
    return value


finite.__name__ = "finite number"


def pieces_or_model(text: str) -> int | Path:
    """An argparse type: the number of pieces to learn, or the path of a model that contains them."""
    return whole_number(text) if text.isdecimal() else Path(text)


pieces_or_model.__name__ = "positive integer or model file"


def checkpoint(text: str) -> Path:
    """An argparse type: the path of a checkpoint, or the name of a model in the package."""
    return find_checkpoint(text)


def checkpoint_or_folder(text: str) -> Path:
    """As ``checkpoint``, for arguments that may also be a folder."""
    return find_checkpoint(text, or_folder=True)


def layer(text: str) -> int | str:
    """An argparse type: a layer's number; or a name, which the model decides on."""
    return text if text.isidentifier() else int(text)


layer.__name__ = "layer (number, last, all or the name of an output)"


def shard(text: str) -> tuple[int, int]:
    """An argparse type: I/N -> (I, N)."""
    number, shards = (int(part) for part in text.split("/"))
    if not 1 <= number <= shards:
        raise ValueError
    return number, shards


shard.__name__ = "shard (such as 1/4)"


def add_out(parser: argparse.ArgumentParser, kind: str, required: bool = True, **options: Any) -> None:
    """Add ``--out``. While the command runs, no other command may write there (``running.claim_out``).

    Args:
        kind: ``file``, ``folder``, or ``new folder``, which gets its name when it is complete; ``parts``: the command
            itself claims each part that it writes.
        options: of ``add_argument``.
    """
    parser.add_argument("--out", type=Path, required=required, **options)
    parser.set_defaults(out_kind=kind)


def add_out_argument(parser: argparse.ArgumentParser, text: str, kind: str = "file") -> None:
    """Add the argument ``OUT``, which is claimed as ``--out`` is; ``kind`` as in ``add_out``."""
    parser.add_argument("out", type=Path, metavar="OUT", help=text)
    parser.set_defaults(out_kind=kind, out_name="OUT")


def add_skip_missing(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--skip-missing", action="store_true", help=text)


def add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="process only part I of N of the manifest; N processes, which may run at the same time, process all of it",
    )


def add_max_minutes(parser: argparse.ArgumentParser, in_chunks: bool = False) -> None:
    """``in_chunks``: whether longer recordings are read in chunks, and not refused."""
    costs = "time grows with the square of its length, and a base model takes about 1.3 GB of memory per minute"
    text = f"longest recording that is accepted, in minutes. A model reads each recording as a whole: {costs}"
    if in_chunks:
        text = (
            f"longest recording that a model reads as a whole, in minutes: {costs}. Longer ones are read in chunks of "
            "20 s with 2 s of context on either side"
        )
    parser.add_argument(
        "--max-minutes", type=positive, default=MAX_MINUTES, metavar="M", help=f"{text} (default: %(default)g)"
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="threads that read files; they do not change the result (default: one per CPU, at most 16)",
    )


def workers(options: argparse.Namespace) -> int:
    from ..data.audio_files import default_workers

    return options.workers or default_workers()


def add_cache(parser) -> None:
    """Options of commands that compute the layers of a model."""
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep the features of all layers there, for later commands (default: temporary, removed at the end)",
    )
    parser.add_argument(
        "--cache-gb",
        type=positive,
        metavar="GB",
        help="maximum size of the cache; what was not used for longest is removed (default: 50)",
    )


def cache_of(options: argparse.Namespace) -> tuple[Path | None, float]:
    """(folder, bytes) of these options."""
    from ..evaluation.layers import MAX_BYTES

    return options.cache, options.cache_gb * 1e9 if options.cache_gb else MAX_BYTES


def print_notes(notes: list[str]) -> None:
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)

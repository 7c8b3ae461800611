"""What a file of a model is: ``dinosr inspect``."""

import argparse
import json
import os
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import printable
from .parsing import add_command, checkpoint_or_folder

if TYPE_CHECKING:
    from ..inspection.description import Codebooks, Description

WIDTH = 100  # characters of a line
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def add_inspect(commands) -> None:
    text = (
        "say what a checkpoint or another file of a model is: kind, training, sizes, codebooks, dictionary, and which "
        "commands read it; no code in it is run"
    )
    parser = add_command(commands, "inspect", run_inspect, text)
    parser.add_argument(
        "model",
        type=checkpoint_or_folder,
        metavar="FILE",
        help="checkpoint of this plug-in, fairseq, CPC_audio, SpidR, s3prl, Lightning and others; safetensors, ONNX, "
        "TorchScript, k-means; or a folder of Hugging Face or of features. The exit status is 0 for these, also where "
        "nothing here reads them, and 1 for what is damaged or not a model",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object instead of text")


def run_inspect(options: argparse.Namespace) -> int:
    from ..inspection.describe import describe

    description, size = describe(options.model), size_of(options.model)
    if options.as_json:
        print(json.dumps({"file": str(options.model), "bytes": size, **asdict(description)}))
        return 0
    print(f"{printable(str(options.model))}: {printable(description.kind)}")
    for name, value in lines_of(description, size):
        print(textwrap.fill(printable(value), WIDTH, initial_indent=f"{name:<13}", subsequent_indent=" " * 13))
    return 0


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())


def lines_of(description: "Description", size: int) -> Iterator[tuple[str, str]]:
    """(name, text) of everything that is known."""
    yield from (
        (name.replace("_", " "), value)
        for name in ("objective", "written_by")
        if (value := getattr(description, name)) is not None
    )
    if description.updates is not None or description.epochs is not None:
        both = ((description.updates, "update"), (description.epochs, "complete epoch"))
        yield "trained", ", ".join(f"{count:,} {noun}{'s' * (count != 1)}" for count, noun in both if count is not None)
    if description.parameters:
        parts = ", ".join(f"{part} {short(count)}" for part, count in description.parameters.items())
        yield "parameters", f"{short(sum(description.parameters.values()))} in all: {parts}"
    if description.sizes:
        yield "sizes", ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in description.sizes.items())
    if description.rate is not None:
        centre = description.first_centre
        place = "" if centre is None else f", the first centred at {1000 * centre:.5g} ms"
        yield "frames", f"{description.rate:g} per second{place}"
    if description.normalized_waves is not None:
        yield (
            "input",
            "recordings of mean 0 and variance 1" if description.normalized_waves else "recordings as they are",
        )
    if description.codebooks:
        yield "codebooks", codebooks_text(description.codebooks)
    if symbols := description.dictionary:
        yield "dictionary", f"{symbols.count:,} symbols: {' '.join(symbols.first)}"
        if symbols.normalization is not None:
            rules = ", ".join(f"{name} {value}" for name, value in symbols.normalization.items() if value)
            yield "texts", f"normalised: {rules}"
    if description.precision:
        yield "precision", ", ".join(description.precision)
    yield from (("contains", line) for line in description.contents)
    yield "file", f"{description.format}, {bytes_text(size)}"
    if description.commands:
        yield "read by", ", ".join(description.commands)
    if description.instead:
        yield "not read", description.instead


def codebooks_text(codebooks: "Codebooks") -> str:
    plural = "s" if codebooks.count > 1 and not codebooks.noun.startswith("set") else ""
    text = f"{codebooks.count} {codebooks.noun}{plural} of {codebooks.size:,}"
    if layers := codebooks.layers:
        text += f", of layer{'s' if len(layers) > 1 else ''} {span(layers)}"
    if codebooks.in_use:
        text += f"; in use {span(codebooks.in_use)}"
    return text


def span(numbers: list[int]) -> str:
    """The smallest and the largest of several numbers."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def short(count: int) -> str:
    """94,697,216 -> 94.7 M."""
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def bytes_text(size: int) -> str:
    return next((f"{size / unit:.1f} {name}" for unit, name in UNITS if size >= unit), f"{size} bytes")

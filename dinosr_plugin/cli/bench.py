"""Speed and memory: ``dinosr bench``, a front of tests/benchmarks."""

import argparse
import importlib
import sys
from pathlib import Path

from ..errors import UserError
from .parsing import add_command

FOLDER = Path(__file__).parents[2] / "tests/benchmarks"
SCRIPTS = {
    "step": "step",
    "data": "loader",
    "codebook": "codebook",
    "decode": "decoders",
    "kmeans": "kmeans",
    "abx": "abx",
}
"""Benchmark -> the file that does it."""


def add_bench(commands) -> None:
    what = "a training step, the data loader, codebooks, decoders, k-means, ABX"
    text = f"how fast, and with how much memory: {what}, each beside others that do the same; in a checkout of the repository"
    parser = add_command(commands, "bench", run_bench, text)
    parser.add_argument(
        "benchmark", choices=SCRIPTS, help="what to measure; `dinosr bench WHAT --help` tells its options"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of that benchmark")


def run_bench(options: argparse.Namespace) -> int:
    script = FOLDER / f"{SCRIPTS[options.benchmark]}.py"
    if not script.is_file():
        raise UserError(
            f"{script}: not there; benchmarks come with a checkout of the repository: clone it, and `pip install -e` that"
        )
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    try:
        module = importlib.import_module(script.stem)
    except ModuleNotFoundError as error:
        raise UserError(
            f"dinosr bench {options.benchmark}: no package {error.name}; {script} says what it needs"
        ) from None
    module.main(options.arguments)
    return 0

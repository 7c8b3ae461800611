"""Speed, memory and resuming: ``dinosr bench``, which runs the scripts in tests/benchmarks."""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from ..errors import UserError
from ..files import is_file
from .parsing import add_command

CHECKOUT = Path(__file__).parents[2]
SCRIPTS = {  # benchmark -> script in tests/benchmarks
    "step": "step",
    "data": "loader",
    "codebook": "codebook",
    "decode": "decoders",
    "kmeans": "kmeans",
    "abx": "abx",
    "similarity": "similarity",
    "kills": "kills",
}
PACKAGES = {  # benchmark -> (module, package that provides it), where the module is not a requirement of the plug-in
    "decode": ("flashlight", "flashlight-text"),
    "kmeans": ("sklearn", "scikit-learn"),
    "abx": ("zrc_abx2", "zerospeech-libriabx2"),
}


def add_bench(commands) -> None:
    text = (
        "measure speed and memory of a training step, the data loader, codebooks, decoders, k-means, ABX or "
        "similarity, compared with other implementations, or kill trainings at random; requires a checkout of the "
        "repository"
    )
    parser = add_command(commands, "bench", run_bench, text)
    parser.add_argument(
        "benchmark", choices=SCRIPTS, help="what to measure; `dinosr bench WHAT --help` lists its options"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the benchmark")


def run_bench(options: argparse.Namespace) -> int:
    script = CHECKOUT / f"tests/benchmarks/{SCRIPTS[options.benchmark]}.py"
    if not is_file(script):
        raise UserError(
            f"{script}: no such file; benchmarks are part of the repository: clone it and run `pip install -e .` there"
        )
    module, package = PACKAGES.get(options.benchmark, (None, None))
    if module and importlib.util.find_spec(module) is None:
        raise UserError(f"dinosr bench {options.benchmark}: package {package} is missing; pip install {package}")
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, script, *options.arguments], env={**os.environ, "PYTHONPATH": path})
    return done.returncode if done.returncode >= 0 else 128 - done.returncode  # as a shell reports a signal

"""SUPERB's tasks: ``dinosr s3prl``."""

import argparse
import contextlib
import sys

from .parsing import add_command

PROGRAMS = {
    "main": "s3prl-main: SuperbPR and the other recipes of s3prl.problem",
    "run_downstream": "run_downstream.py, the older runner",
}


def add_s3prl(commands) -> None:
    text = (
        "run a program of s3prl, SUPERB's toolkit, with checkpoints as its upstreams: dinosr, dinosr_teacher, and "
        "dinosr_random, the same model before training"
    )
    parser = add_command(commands, "s3prl", run_s3prl, text)
    programs = "; ".join(f"{name}: {what}" for name, what in PROGRAMS.items())
    parser.add_argument("program", choices=PROGRAMS, help=programs)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the program")


def run_s3prl(options: argparse.Namespace) -> int:
    from ..interop.s3prl import run_program

    with contextlib.ExitStack() as stack:  # s3prl moves the cursor, in order to redraw two progress bars
        stack.enter_context(contextlib.redirect_stdout(getattr(sys.stdout, "stream", sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(getattr(sys.stderr, "stream", sys.stderr)))
        return run_program(options.program, options.arguments)

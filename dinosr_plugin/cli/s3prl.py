"""SUPERB's tasks: ``dinosr s3prl``."""

import argparse

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
    parser.add_argument("program", choices=PROGRAMS, help="; ".join(f"{name}: {what}" for name, what in PROGRAMS.items()))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the program")


def run_s3prl(options: argparse.Namespace) -> int:
    from ..interop.s3prl import run_program

    return run_program(options.program, options.arguments)

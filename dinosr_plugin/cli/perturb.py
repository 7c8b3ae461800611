"""Another voice for a recording: ``dinosr perturb``."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..ranges import SEED, Range
from .parsing import add_command, add_out_argument, positive, print_notes

VALUES = {"formant": Range(0.5, 2), "pitch": Range(40, 1000), "range": Range(0, 5, exclude_low=True)}
"""Option -> what it may be."""


def add_perturb(commands) -> None:
    text = (
        "write a recording with another voice, as the views of Spin are made: formants, median and range of F0 drawn "
        "at random, then an equaliser; or exactly the change that is given"
    )
    parser = add_command(commands, "perturb", run_perturb, text)
    parser.add_argument("sound", type=Path, metavar="IN", help="a recording of any format, rate and number of channels")
    add_out_argument(parser, "a new file, 16 kHz mono: FLAC if its name ends in .flac, otherwise WAV")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed of the change (default: 0)")
    parser.add_argument(
        "--formant", type=positive, metavar="RATIO", help="ratio of the formants, 0.5 to 2; without --seed"
    )
    parser.add_argument(
        "--pitch", type=positive, metavar="HZ", help="new median F0, 40 to 1000 Hz (default: as before)"
    )
    parser.add_argument(
        "--range", type=positive, metavar="FACTOR", help="factor of the range of F0, at most 5 (default: 1)"
    )
    parser.add_argument(
        "--by",
        choices=["praat", "resample"],
        default="praat",
        help="praat: Praat's Change gender, which needs praat-parselmouth (GPL-3); resample: formants and F0 together "
        "by the ratio of the formants, an approximation that needs no other package (default: %(default)s)",
    )
    parser.add_argument("--no-equalizer", action="store_true", help="change the voice only")


def run_perturb(options: argparse.Namespace) -> int:
    from ..data.perturbation.by_hand import perturb_file

    voice = chosen_voice(options)
    account = perturb_file(
        options.sound, options.out, options.by, voice, options.seed or 0, equalizer=not options.no_equalizer
    )
    print(f"{options.out}:", *account.lines(), sep="\n  ")
    if account.unchanged:
        print_notes([f"the voice is not changed: {account.unchanged}"])
    return 0


def chosen_voice(options: argparse.Namespace):
    """The change that is given, or None. Raises UserError for options that exclude each other."""
    from ..data.perturbation.voice import RESAMPLE, Fixed

    if options.seed is not None and options.seed not in SEED:
        raise UserError(f"--seed {options.seed}: must be {SEED}")
    given = {name: getattr(options, name) for name in VALUES if getattr(options, name) is not None}
    if not given:
        return None
    first = next(iter(given))
    if options.seed is not None:
        raise UserError(f"--seed {options.seed}: draws the change, which --{first} gives; remove one of them")
    for name, value in given.items():
        if value not in VALUES[name]:
            raise UserError(f"--{name} {value:g}: must be {VALUES[name]}")
    if options.by == RESAMPLE and given.keys() != {"formant"}:
        name = next(name for name in given if name != "formant")
        raise UserError(f"--{name} {given[name]:g}: --by resample moves formants and F0 together; give --formant only")
    return Fixed(given.get("formant", 1.0), given.get("pitch", 0.0), given.get("range", 1.0))

"""Long recordings, cut at pauses: ``dinosr segment``."""

import argparse
import math
from pathlib import Path

from ..errors import UserError
from ..ranges import Range
from .parsing import add_command, add_out, positive, print_notes

MAX_SECONDS, PAUSE = Range(2, 3600), Range(0.15, 60)


def add_segment(commands) -> None:
    text = (
        "cut long recordings of any format at pauses into 16 kHz mono FLAC files for training, which "
        "`dinosr manifest folder` lists; with a table of their times, segments.tsv"
    )
    parser = add_command(commands, "segment", run_segment, text)
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="recordings, or folders that are searched for them. The segments of DIR/anna/one.wav are written to "
        "NEW_DIR/anna/one, so that the speaker is still the first folder",
    )
    add_out(parser, "new folder", metavar="NEW_DIR", help="folder for the segments, created if necessary")
    parser.add_argument(
        "--max-seconds",
        type=positive,
        default=20.0,
        metavar="S",
        help="longest segment. Longer speech is cut at its longest pause, or, if it has none, at its quietest point "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--min-seconds",
        type=positive,
        default=1.0,
        metavar="S",
        help="shorter segments are left out (default: %(default)g)",
    )
    parser.add_argument(
        "--min-pause",
        type=positive,
        default=0.5,
        metavar="S",
        help="a pause of this length ends a segment and is left out, except for 0.1 s on either side; shorter pauses "
        "stay inside (default: %(default)g)",
    )
    parser.add_argument(
        "--method",
        choices=("silero", "energy"),
        help="how speech is found. silero: Silero VAD, a network, which also works in noise (pip install "
        '"dinosr-plugin[segment]"); energy: whatever is clearly louder than the background '
        "(default: silero if it is installed)",
    )


def run_segment(options: argparse.Namespace) -> int:
    from ..data.segmentation.recordings import segment
    from ..data.segmentation.voice import choose_detector

    rules = rules_of(options)
    detector = choose_detector(options.method)
    done = segment(options.files, options.out, detector, rules)
    print_notes(done.notes)
    print(f"{options.out}, speech found by {detector.name}:", *done.lines(), sep="\n  ")
    print(f"next: dinosr manifest folder {options.out} --out DIR")
    return 0


def rules_of(options: argparse.Namespace):
    """The durations in windows. Raises UserError for values that are impossible, alone or together."""
    from ..data.segmentation.cutting import Rules
    from ..data.segmentation.voice import WINDOW_SECONDS

    for option, value, range in (
        ("--max-seconds", options.max_seconds, MAX_SECONDS),
        ("--min-pause", options.min_pause, PAUSE),
    ):
        if value not in range:
            raise UserError(f"{option} {value:g}: must be {range}")
    for option, value in (("--min-seconds", options.min_seconds), ("--min-pause", options.min_pause)):
        if value > options.max_seconds / 2:
            raise UserError(f"{option} {value:g}: must be at most half of --max-seconds {options.max_seconds:g}")
    return Rules(
        min_pause=math.ceil(options.min_pause / WINDOW_SECONDS),
        min_length=math.ceil(options.min_seconds / WINDOW_SECONDS),
        max_length=math.floor(options.max_seconds / WINDOW_SECONDS),
    )

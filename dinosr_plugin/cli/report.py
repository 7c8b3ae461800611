"""All measures on one page: ``dinosr report``."""

import argparse
import sys
from pathlib import Path

from .parsing import add_cache, add_command, add_out, add_skip_missing, cache_of, checkpoint, whole_number


def add_report(commands) -> None:
    parser = add_command(
        commands,
        "report",
        run_report,
        "write an HTML page with plots of what a checkpoint has learned, and baselines for every figure",
    )
    parser.add_argument(
        "checkpoint",
        type=checkpoint,
        metavar="CHECKPOINT",
        help="pre-training checkpoint of DinoSR or Spin; for other speech models the page covers only the layers",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        required=True,
        metavar="TSV",
        help="manifest of the speech to measure on; use speakers not seen in training",
    )
    parser.add_argument(
        "--phones",
        type=Path,
        metavar="PATH",
        help="phone alignment of that speech: a table with the columns utt, start, end, phone, or a folder of TextGrid "
        "files (default: the page is without the figures that need one)",
    )
    parser.add_argument(
        "--items",
        type=Path,
        metavar="FILE",
        help=".item file for ABX (default: the triphones of --phones)",
    )
    parser.add_argument(
        "--train",
        type=Path,
        required=True,
        metavar="TSV",
        help="training manifest, on which k-means is fitted for comparison",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="TensorBoard folder (common.tensorboard_logdir) or JSON log of the training, whose curves are shown "
        "(default: training.log beside the checkpoint, if it is there)",
    )
    parser.add_argument("--no-abx", action="store_true", help="skip ABX, which takes the longest")
    parser.add_argument(
        "--clusters",
        type=whole_number,
        metavar="N",
        help="clusters of k-means, required for a checkpoint without codebooks (default: the size of the codebooks)",
    )
    add_skip_missing(parser, "skip utterances of the manifest that have no alignment")
    add_cache(parser)
    add_out(
        parser,
        "folder",
        metavar="DIR",
        help="folder for report.html, its plots and figures.json; an interrupted run resumes there",
    )


def run_report(options: argparse.Namespace) -> int:
    from ..evaluation.report import write_report

    cache, max_bytes = cache_of(options)
    path = write_report(
        options.checkpoint,
        options.manifest,
        options.phones,
        options.train,
        options.out,
        log=options.log,
        abx=not options.no_abx,
        clusters=options.clusters,
        skip_missing=options.skip_missing,
        cache=cache,
        max_bytes=max_bytes,
        items=options.items,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(path)
    return 0

"""Everything at a glance: ``dinosr report``."""

import argparse
import sys
from pathlib import Path

from .parsing import add_cache, add_command, add_skip_missing, cache_of, whole_number


def add_report(commands) -> None:
    parser = add_command(
        commands,
        "report",
        run_report,
        "one HTML page with pictures of what a checkpoint learned, baselines beside every figure",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a DinoSR pre-training checkpoint; of other speech models the page tells of the layers only",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        required=True,
        metavar="TSV",
        help="the speech to measure on; speakers that were not trained on",
    )
    parser.add_argument(
        "--phones", type=Path, required=True, metavar="TSV", help="its phone alignment: utt, start, end, phone"
    )
    parser.add_argument(
        "--train",
        type=Path,
        required=True,
        metavar="TSV",
        help="the training manifest, on which k-means is fitted for comparison",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="the run's TensorBoard folder (common.tensorboard_logdir) or JSON log (common.log_file): adds the course of the training",
    )
    parser.add_argument("--no-abx", action="store_true", help="leave ABX out, which takes the longest")
    parser.add_argument(
        "--clusters",
        type=whole_number,
        metavar="N",
        help="of k-means; for a checkpoint without codebooks (others: as many as a codebook has codes)",
    )
    add_skip_missing(parser, "go on without the utterances of the manifest that have no alignment")
    add_cache(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for report.html, its pictures and figures.json; what is killed goes on there",
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
        say=lambda line: print(line, file=sys.stderr),
    )
    print(path)
    return 0

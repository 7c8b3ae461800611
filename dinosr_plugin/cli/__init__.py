"""The ``dinosr`` command: one sub-command for each tool.

This package parses arguments and prints results. The work is done by the rest of the package, which each ``run_*``
function imports when it is called: ``dinosr --help`` imports neither torch nor fairseq.

Exit status: 0 for success; 1 for an error that the user can fix (``error: ...`` on stderr), and for a manifest with
problems; 2 for an invalid command line; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
"""

import argparse
from collections.abc import Sequence

from .bench import add_bench
from .corpora import add_check, add_manifest, add_path, add_synth
from .decoding import add_ngram, add_transcribe, add_tune_lm
from .export import add_export
from .features import add_features
from .importing import add_import
from .inspect import add_inspect
from .kmeans import add_kmeans
from .language import add_lm_features, add_lm_score, add_zerospeech, add_zerospeech_synth
from .measures import add_abx, add_quality
from .perturb import add_perturb
from .probe import add_probe
from .report import add_report
from .running import run
from .s3prl import add_s3prl
from .segment import add_segment
from .similarity import add_similarity
from .speaker import add_speaker
from .texts import add_normalize
from .units import add_units

COMMANDS = (
    add_path, add_segment, add_manifest, add_normalize, add_check, add_synth, add_perturb,
    add_features, add_kmeans, add_units, add_quality, add_abx, add_probe, add_similarity, add_report, add_speaker,
    add_lm_score, add_lm_features, add_zerospeech, add_zerospeech_synth,
    add_ngram, add_tune_lm, add_transcribe, add_inspect, add_export, add_import, add_s3prl,
    add_bench,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return the exit status; ``arguments`` default to those of the process."""
    return run(make_parser().parse_args(arguments))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dinosr",
        description="Speech representations by clustering: prepare corpora, extract features and units, measure what "
        "was learned, score language models of units, transcribe. Models are trained with fairseq: "
        "fairseq-hydra-train with common.user_dir=$(dinosr path).",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser

"""What the frozen layers of a model know: ``dinosr probe``."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, printable
from ..files import is_folder
from .parsing import add_cache, add_command, add_out, add_skip_missing, cache_of, checkpoint, print_notes, whole_number

if TYPE_CHECKING:  # imports torch
    from ..evaluation.probes.inputs import ProbeOptions

TASKS = ("phone", "speaker", "gender", "f0", "energy", "position", "word")  # of evaluation.probes, which imports torch


def add_probe(commands) -> None:
    text = (
        "fit linear probes on the frozen layers of a model, and measure what can be read from each: phones, speaker, "
        "gender, F0, energy, position in the utterance, words; beside them MFCC, log-Mel, the untrained model, and "
        "probes of shuffled labels"
    )
    parser = add_command(commands, "probe", run_probe, text)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "checkpoint",
        type=checkpoint,
        nargs="?",
        metavar="CHECKPOINT",
        help="any model that `dinosr features` reads, or a speaker model: a table of its layers",
    )
    what.add_argument(
        "--checkpoints",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="instead of CHECKPOINT: validation loss against probes over the checkpoints (*.pt) of a training, in its "
        "checkpoint.save_dir; of several trainings, of any objectives, each has its own correlations, because their "
        "losses cannot be compared",
    )
    parser.add_argument(
        "--train", type=Path, required=True, metavar="TSV", help="manifest of the speech that probes are fitted on"
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        required=True,
        metavar="TSV",
        help="manifest of the speech to measure on, of other speakers; the speaker probe is fitted and measured here",
    )
    parser.add_argument(
        "--task", nargs="+", required=True, choices=TASKS, metavar="TASK", help=f"what to probe: {', '.join(TASKS)}"
    )
    parser.add_argument(
        "--phones",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="for phone: phone alignments of both manifests, in one file or several: tables with the columns utt, "
        "start, end, phone, or folders of TextGrid files",
    )
    parser.add_argument(
        "--words",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="for word: alignments of the words of both manifests: tables with the columns utt, start, end, word, or "
        "folders of TextGrid files",
    )
    parser.add_argument(
        "--genders",
        type=Path,
        metavar="FILE",
        help="for gender: SPEAKER<TAB>F or M, or LibriSpeech's SPEAKERS.TXT; speakers are the folders of the manifests",
    )
    parser.add_argument(
        "--frames",
        type=whole_number,
        metavar="N",
        help="training examples of a probe at most, random ones; memory is 4 bytes x N x width x layers (default: "
        "20000)",
    )
    parser.add_argument(
        "--top-words",
        type=whole_number,
        metavar="N",
        help="for word: the N words that are most frequent in --train, of those that both manifests have (default: "
        "100)",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="with --checkpoints of one training: its TensorBoard folder or JSON log, for the validation losses "
        "(default: those in the checkpoints)",
    )
    parser.add_argument(
        "--valid-subset",
        metavar="NAME",
        help="with --log: the subset whose loss is used (default: valid)",
    )
    add_skip_missing(parser, "leave out utterances without alignment")
    add_cache(parser)
    add_out(
        parser,
        "folder",
        required=False,
        metavar="DIR",
        help="folder for probes.json, probes.csv and probes.png, or loss_probes.json, .csv and .png; an interrupted "
        "command resumes there",
    )


def run_probe(options: argparse.Namespace) -> int:
    from ..evaluation.probes.inputs import FRAMES, TOP_WORDS, ProbeOptions

    wanted = ProbeOptions(
        options.train,
        options.manifest,
        tuple(dict.fromkeys(options.task)),
        tuple(options.phones),
        tuple(options.words),
        options.genders,
        options.frames or FRAMES,
        options.top_words or TOP_WORDS,
        options.skip_missing,
    )
    if options.checkpoints:
        return run_probe_of_runs(options, wanted)
    return run_probe_of_one(options, wanted)


def run_probe_of_one(options: argparse.Namespace, wanted: "ProbeOptions") -> int:
    from ..evaluation.probes.results import probe_checkpoint, text_of, write_probes

    for name in ("log", "valid_subset"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')}: only used with --checkpoints; remove it")
    if is_folder(options.checkpoint):
        raise UserError(f"{options.checkpoint}: is a folder; give a checkpoint in it, or --checkpoints DIR for all")
    found = probe_checkpoint(options.checkpoint, wanted, options.out, *cache_of(options))
    print_notes(found["notes"])
    print(text_of(found))
    if options.out:
        print(*write_probes(options.out, found), sep="\n")
    return 0


def run_probe_of_runs(options: argparse.Namespace, wanted: "ProbeOptions") -> int:
    from ..evaluation.probes.checkpoints import open_runs, probe_runs
    from ..evaluation.probes.run_results import text_of_runs, write_runs

    if options.valid_subset and not options.log:
        raise UserError("--log is required with --valid-subset")
    runs = open_runs(options.checkpoints, options.log, options.valid_subset or "valid")
    say = lambda line: print(printable(line), file=sys.stderr)
    found = probe_runs(runs, wanted, options.out, *cache_of(options), say)
    print_notes(found["notes"])
    print(text_of_runs(found))
    if options.out:
        print(*write_runs(options.out, found), sep="\n")
    return 0

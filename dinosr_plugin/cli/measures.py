"""Measures of what was learned: ``dinosr quality``, ``abx``."""

import argparse
from pathlib import Path

from ..errors import UserError
from .parsing import add_command, add_skip_missing, positive, print_notes, whole_number

# ---- dinosr quality --------------------------------------------------------------------------------------------------


def add_quality(commands) -> None:
    text = (
        "measure discrete units: their information about phones and speakers (PNMI, purity), their bit rate and their "
        "durations; of unit files, or of the codebooks of a checkpoint"
    )
    parser = add_command(commands, "quality", run_quality, text)
    parser.add_argument(
        "units",
        nargs="+",
        type=Path,
        metavar="UNITS",
        help="unit files, or folders of them; or checkpoints of one pre-training run, from which curves over updates "
        "are drawn if there are several",
    )
    parser.add_argument(
        "--phones",
        type=Path,
        required=True,
        metavar="TSV",
        help="phone alignment of the same speech: utt, start, end, phone",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="TSV",
        help="manifest of the speech, whose folders name the speakers; required for checkpoints (use speakers not "
        "seen in training) and for .km files; the alignment may contain more utterances",
    )
    add_skip_missing(
        parser, "skip utterances that have units (or are in the manifest) but no alignment, or the reverse"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for quality.json, code_by_phone.png and, for checkpoints, curves.png",
    )
    units = parser.add_argument_group("for unit files")
    units.add_argument("--rate", type=positive, metavar="HZ", help="units per second (default: 50)")
    runs = parser.add_argument_group("for checkpoints")
    runs.add_argument(
        "--train",
        type=Path,
        metavar="TSV",
        help="training manifest: also measure k-means of the same size on MFCC, log-Mel and every layer, untrained and "
        "trained",
    )
    runs.add_argument("--abx", action="store_true", help="with --train: also compute the ABX error of every row")
    runs.add_argument(
        "--clusters",
        type=whole_number,
        metavar="K",
        help="with --train: clusters of k-means, required for a checkpoint without codebooks (default: the size of "
        "the codebooks)",
    )
    runs.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="with --out: TensorBoard folder (common.tensorboard_logdir) or JSON log (common.log_file) of the "
        "training: add the loss to the curves",
    )


def run_quality(options: argparse.Namespace) -> int:
    from ..data.manifest import require_writable
    from ..evaluation.unit_files import is_checkpoint

    if options.out:
        require_writable(options.out)
    checkpoints = [path for path in options.units if is_checkpoint(path)]
    if not checkpoints:
        return run_quality_of_units(options)
    if others := [path for path in options.units if path not in checkpoints]:
        raise UserError(
            f"{others[0]}: not a checkpoint, but {checkpoints[0]} is; give either unit files or checkpoints"
        )
    return run_quality_of_checkpoints(options)


def run_quality_of_units(options: argparse.Namespace) -> int:
    from ..evaluation.codebooks import rows_table
    from ..evaluation.phones import PhoneAlignment
    from ..evaluation.unit_files import measure_files, write_unit_quality

    refuse(
        options, "only used with checkpoints, not with unit files; omit the option", "train", "abx", "clusters", "log"
    )
    phones = PhoneAlignment.read(options.phones)
    measured, notes = measure_files(options.units, phones, options.manifest, options.rate or 50.0, options.skip_missing)
    print_notes(notes)
    print(rows_table([row for row, _ in measured]))
    if options.out:
        print(*write_unit_quality(options.out, measured, phones.names), sep="\n")
    return 0


def run_quality_of_checkpoints(options: argparse.Namespace) -> int:
    from ..evaluation.codebooks import measure, quality_table, write_quality
    from ..evaluation.phones import PhoneAlignment
    from ..evaluation.training_log import loss_curve, read_pretraining_log
    from ..evaluation.unit_files import aligned_part

    refuse(options, "only used with unit files, not with checkpoints; omit the option", "rate")
    if options.manifest is None:
        raise UserError("--manifest: required for checkpoints; give the .tsv file of the speech")
    if options.train is None:
        refuse(options, "requires --train; add --train TSV", "abx", "clusters")
    if options.out is None:
        refuse(options, "requires --out, the folder of the plot; add --out DIR", "log")
    phones = PhoneAlignment.read(options.phones)
    losses = loss_curve(read_pretraining_log(options.log)) if options.log else []  # errors come before minutes of work
    work = options.out and options.out / "comparison"
    with aligned_part(options.manifest, phones, options.skip_missing) as (manifest, notes):
        print_notes(notes)
        figures = measure(options.units, manifest, phones, options.train, work, options.abx, options.clusters)
    print(quality_table(figures))
    if options.out:
        print(*write_quality(options.out, figures, phones.names, losses), sep="\n")
    return 0


def refuse(options: argparse.Namespace, reason: str, *names: str) -> None:
    """Raise UserError with this reason if one of these options is set."""
    for name in names:
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')}: {reason}")


# ---- dinosr abx ------------------------------------------------------------------------------------------------------


def add_abx(commands) -> None:
    text = (
        "compute the ABX error of features or units, within and across speakers, as in ZeroSpeech 2021: share of "
        "triples in which X, a phone like A, is closer to B"
    )
    parser = add_command(commands, "abx", run_abx, text)
    parser.add_argument(
        "features",
        type=Path,
        nargs="*",
        metavar="FEATURES",
        help="folders written by `dinosr features`, and unit files, which require --rate; a folder that contains "
        "several of either stands for all of them",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", type=Path, metavar="FILE", help=".item file of the benchmark")
    what.add_argument(
        "--phones", type=Path, metavar="TSV", help="phone alignment, from which items are made: its triphones"
    )
    made = parser.add_argument_group("items from --phones")
    made.add_argument(
        "--manifest",
        type=Path,
        metavar="TSV",
        help="manifest whose folders name the speakers (default: from utterance names, as in LibriSpeech), and to "
        "whose rows the lines of .km files belong",
    )
    made.add_argument(
        "--span",
        choices=("triphone", "phone"),
        help="extent of an item: the phone with both its neighbours, or the phone alone (default: triphone)",
    )
    made.add_argument(
        "--min-count",
        type=whole_number,
        metavar="N",
        help="least number of times that a speaker says a phone in a context; rarer ones are skipped (default: 1)",
    )
    made.add_argument(
        "--silence",
        nargs="+",
        metavar="PHONE",
        help="labels treated as silence, upper or lower case (default: SIL SP SPN)",
    )
    made.add_argument(
        "--write-items",
        type=Path,
        metavar="FILE",
        help="write the items to this .item file; without FEATURES, nothing else is done",
    )
    parser.add_argument(
        "--distance",
        choices=("onehot", "edit"),
        help="distance between units (default: onehot); between features it is always angular",
    )
    parser.add_argument("--rate", type=positive, metavar="HZ", help="units per second of unit files")
    parser.add_argument(
        "--no-sampling",
        action="store_true",
        help="compare all items, instead of a random sample of 10 per group and 5 other speakers",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the sample (default: %(default)s)"
    )
    add_skip_missing(parser, "skip items whose utterance has no features")
    parser.add_argument(
        "--tables", action="store_true", help="also print the error of every pair of phones and of every speaker"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for abx.json, abx.tsv, abx_speakers.tsv and abx_pairs.tsv"
    )


def run_abx(options: argparse.Namespace) -> int:
    from ..data.manifest import require_writable
    from ..evaluation.measures.abx.errors import MAX_GROUP, MAX_SPEAKERS
    from ..evaluation.measures.abx.table import COLUMNS, measure, open_sources, tables, write_abx
    from ..evaluation.table import format_table

    if not options.features and not options.write_items:
        raise UserError("FEATURES: required without --write-items; give a folder of `dinosr features`, or a unit file")
    if options.out:
        require_writable(options.out)
    sources = open_sources(options.features, options.rate, options.distance, options.manifest)
    items = abx_items(options)
    if not sources:
        return 0
    limits = (
        {"max_group": None, "max_speakers": None}
        if options.no_sampling
        else {"max_group": MAX_GROUP, "max_speakers": MAX_SPEAKERS}
    )
    rows = measure(sources, items, **limits, seed=options.seed, skip_missing=options.skip_missing)
    if options.tables:
        print(tables(rows), end="\n\n")
    print(format_table([row.as_dict() for row in rows], COLUMNS))
    if len({item.speaker for item in items}) == 1:
        source = options.manifest or options.items or options.phones
        print_notes([f"{source}: contains only one speaker, {items[0].speaker}; no error across speakers"])
    if options.out:
        settings = {
            "items": str(options.items or options.phones),
            "speakers": len({item.speaker for item in items}),
            **limits,
            "seed": options.seed,
        }
        print(*write_abx(options.out, rows, settings), sep="\n")
    return 0


def abx_items(options: argparse.Namespace) -> list:
    """Read the items, or make them from an alignment and write them for --write-items."""
    from ..data.manifest import require_writable
    from ..evaluation.measures.abx.items import (
        librispeech_speaker,
        make_items,
        manifest_speakers,
        read_items,
        write_items,
    )
    from ..evaluation.phones import PhoneAlignment

    choices = {
        name: getattr(options, name) for name in ("span", "min_count", "silence") if getattr(options, name) is not None
    }
    if options.items:
        if choices or options.manifest or options.write_items:
            raise UserError(
                "--manifest, --span, --min-count, --silence, --write-items: only used with --phones; omit them with "
                "--items"
            )
        return read_items(options.items)
    if options.write_items:
        require_writable(options.write_items.parent)
    speakers = manifest_speakers(options.manifest) if options.manifest else librispeech_speaker
    items = make_items(PhoneAlignment.read(options.phones), speakers, **choices)
    if options.write_items:
        write_items(options.write_items, items)
        print(f"{options.write_items}: {len(items)} items of {len({item.speaker for item in items})} speakers")
    return items

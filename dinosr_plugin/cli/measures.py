"""What was learned, in figures: ``dinosr quality``, ``abx``."""

import argparse
from pathlib import Path

from ..errors import UserError
from .parsing import add_command, add_skip_missing, positive, print_notes, whole_number

# ---- dinosr quality ----------------------------------------------------------------------------------------------------------


def add_quality(commands) -> None:
    text = "how much discrete units tell about phones and speakers (PNMI, purity), how many bits they take, how long they last; of unit files, or of a checkpoint's codebooks"
    parser = add_command(commands, "quality", run_quality, text)
    parser.add_argument(
        "units",
        nargs="+",
        type=Path,
        metavar="UNITS",
        help="files of units, folders of them; or checkpoints of one pre-training run, where more than one give curves over updates",
    )
    parser.add_argument(
        "--phones",
        type=Path,
        required=True,
        metavar="TSV",
        help="the phone alignment of the same speech: utt, start, end, phone",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="TSV",
        help="its manifest, for checkpoints (speakers that were not trained on) and for .km files; its folders tell the speakers, and more in the alignment does no harm",
    )
    add_skip_missing(
        parser, "go on without utterances that have units (or are in the manifest) or an alignment, but not both"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for quality.json, code_by_phone.png and, of checkpoints, curves.png",
    )
    units = parser.add_argument_group("for files of units")
    units.add_argument("--rate", type=positive, metavar="HZ", help="units a second (default: 50)")
    runs = parser.add_argument_group("for checkpoints")
    runs.add_argument(
        "--train",
        type=Path,
        metavar="TSV",
        help="the training manifest: adds k-means of the same size on MFCC, log-Mel and every layer, untrained and trained",
    )
    runs.add_argument("--abx", action="store_true", help="with --train: adds the ABX error of every row")
    runs.add_argument(
        "--clusters",
        type=whole_number,
        metavar="K",
        help="with --train: clusters of k-means, for a checkpoint without codebooks (default: as many as these have)",
    )
    runs.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="with --out: the run's TensorBoard folder (common.tensorboard_logdir) or JSON log (common.log_file): adds the training loss to the curves",
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
        raise UserError(f"{others[0]}: no checkpoint, but {checkpoints[0]} is; give one kind at a time")
    return run_quality_of_checkpoints(options)


def run_quality_of_units(options: argparse.Namespace) -> int:
    from ..evaluation.codebooks import rows_table
    from ..evaluation.phones import PhoneAlignment
    from ..evaluation.unit_files import measure_files, write_unit_quality

    refuse(options, "goes with checkpoints, not with files of units; leave it out", "train", "abx", "clusters", "log")
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

    refuse(options, "goes with files of units, not with checkpoints; leave it out", "rate")
    if options.manifest is None:
        raise UserError("--manifest: not given; name the .tsv file of the speech to measure on")
    if options.train is None:
        refuse(options, "wants --train; give that too", "abx", "clusters")
    if options.out is None:
        refuse(options, "wants --out, for the picture that it goes into; give that too", "log")
    phones = PhoneAlignment.read(options.phones)
    losses = (
        loss_curve(read_pretraining_log(options.log)) if options.log else []
    )  # before the minutes of work, for what may be wrong with it
    work = options.out and options.out / "comparison"
    with aligned_part(options.manifest, phones, options.skip_missing) as (manifest, notes):
        print_notes(notes)
        figures = measure(options.units, manifest, phones, options.train, work, options.abx, options.clusters)
    print(quality_table(figures))
    if options.out:
        print(*write_quality(options.out, figures, phones.names, losses), sep="\n")
    return 0


def refuse(options: argparse.Namespace, reason: str, *names: str) -> None:
    for name in names:
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')}: {reason}")


# ---- dinosr abx --------------------------------------------------------------------------------------------------------------


def add_abx(commands) -> None:
    text = "ABX error of features or units, within and across speakers, as in ZeroSpeech 2021: how often a phone is nearer to another phone than to itself"
    parser = add_command(commands, "abx", run_abx, text)
    parser.add_argument(
        "features",
        type=Path,
        nargs="*",
        metavar="FEATURES",
        help="folders that `dinosr features` wrote, and files of units, with --rate; of a folder that holds several: all of them",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", type=Path, metavar="FILE", help="an .item file of the benchmark")
    what.add_argument("--phones", type=Path, metavar="TSV", help="a phone alignment in place of that: its triphones")
    made = parser.add_argument_group("items from --phones")
    made.add_argument(
        "--manifest",
        type=Path,
        metavar="TSV",
        help="the manifest whose folders tell the speakers (default: LibriSpeech's names do), and whose rows .km files belong to",
    )
    made.add_argument(
        "--span",
        choices=("triphone", "phone"),
        help="an item holds its neighbours too, or the phone in the middle alone (default: triphone)",
    )
    made.add_argument(
        "--min-count",
        type=whole_number,
        metavar="N",
        help="leave out phones that a speaker says less often in a context (default: 1)",
    )
    made.add_argument(
        "--silence",
        nargs="+",
        metavar="PHONE",
        help="names of what is no phone (default: SIL SP SPN, in capitals or not)",
    )
    made.add_argument(
        "--write-items",
        type=Path,
        metavar="FILE",
        help="keep them as an .item file; without FEATURES that is all that is done",
    )
    parser.add_argument(
        "--distance", choices=("onehot", "edit"), help="between units (default: onehot); between features it is angular"
    )
    parser.add_argument("--rate", type=positive, metavar="HZ", help="units a second of files of units")
    parser.add_argument(
        "--no-sampling", action="store_true", help="compare all items, not 10 a group and 5 other speakers at random"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    add_skip_missing(parser, "go on without the items whose utterance has no features")
    parser.add_argument(
        "--tables", action="store_true", help="also print the errors of every pair of phones and of every speaker"
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
        raise UserError("FEATURES: not given; name a folder that `dinosr features` wrote, or a file of units")
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
        told = (
            f"{options.manifest}: its folders tell" if options.manifest else f"{options.items or options.phones}: tells"
        )
        print_notes([f"{told} of one speaker, {items[0].speaker}; nothing to compare across speakers"])
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
    """Read, or made from an alignment and kept with --write-items."""
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
                "--manifest, --span, --min-count, --silence, --write-items: say how items are made of --phones; with --items leave them out"
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

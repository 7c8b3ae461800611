"""Measures of what was learned: ``dinosr quality``, ``abx``."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from ..errors import UserError
from ..files import claim_new
from .parsing import (
    add_cache,
    add_command,
    add_out,
    add_skip_missing,
    cache_of,
    checkpoint_or_folder,
    positive,
    print_notes,
    whole_number,
)

# ---- dinosr quality --------------------------------------------------------------------------------------------------


def add_quality(commands) -> None:
    text = (
        "measure discrete units: their information about phones and speakers (PNMI, purity), bit rate and durations; "
        "of unit files, or of the codebooks of a checkpoint"
    )
    parser = add_command(commands, "quality", run_quality, text)
    parser.add_argument(
        "units",
        nargs="+",
        type=checkpoint_or_folder,
        metavar="UNITS",
        help="unit files, folders of them; or checkpoints of one pre-training run (several give curves over updates)",
    )
    parser.add_argument(
        "--phones",
        type=Path,
        metavar="PATH",
        help="phone alignment of the same speech: a table with the columns utt, start, end, phone, or a folder of "
        "TextGrid files (default: without figures about phones)",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="TSV",
        help="manifest of the speech: required for checkpoints (use speakers that were not trained on) and .km files; "
        "its folders name the speakers; the alignment may cover more",
    )
    add_skip_missing(parser, "skip utterances that have only units (or a row in the manifest) or only an alignment")
    add_out(
        parser,
        "folder",
        required=False,
        metavar="DIR",
        help="folder for quality.json, with --phones code_by_phone.png and, for checkpoints, curves.png",
    )
    units = parser.add_argument_group("for unit files")
    units.add_argument(
        "--rate",
        type=positive,
        metavar="HZ",
        help="units per second (default: from the .json file of the units, else 50)",
    )
    units.add_argument(
        "--first-centre",
        type=positive,
        metavar="SECONDS",
        help="time of the centre of the first unit (default: the model's own, from the .json file of the units; "
        "else half a unit)",
    )
    units.add_argument(
        "--alignment",
        choices=("centres", "published"),
        help="centres: a unit counts for the phone at its centre; published: units are repeated to 100 Hz, and unit "
        "i is compared with label i of a 10 ms alignment, as in the figures of HuBERT, DinoSR and SpidR (default: "
        "centres)",
    )
    units.add_argument(
        "--lags", action="store_true", help="also print PNMI for units shifted by -40 to +40 ms, and its peak"
    )
    runs = parser.add_argument_group("for checkpoints")
    runs.add_argument(
        "--train",
        type=Path,
        metavar="TSV",
        help="training manifest: adds k-means of the same size on MFCC, log-Mel and every layer, untrained and trained",
    )
    runs.add_argument(
        "--abx", action="store_true", help="with --train and --phones: add the ABX error of every row, of triphones"
    )
    runs.add_argument(
        "--items", type=Path, metavar="FILE", help="with --train: the same as --abx, of the items in this .item file"
    )
    runs.add_argument(
        "--speakers",
        action="store_true",
        help="with --train: add the accuracy of a linear speaker probe, on held-out utterances of the same speakers; "
        "its input is the mean of an utterance's features, or the shares of its units",
    )
    runs.add_argument(
        "--clusters",
        type=whole_number,
        metavar="K",
        help="with --train: clusters of k-means (default: the codebooks' size); codebooks of another size have no row",
    )
    add_cache(runs)
    runs.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="with --out: the run's TensorBoard folder (common.tensorboard_logdir) or JSON log (common.log_file): "
        "adds the training loss to the curves",
    )


def run_quality(options: argparse.Namespace) -> int:
    from ..checkpoints.file import is_torch_file

    checkpoints = [path for path in options.units if is_torch_file(path)]
    if not checkpoints:
        return run_quality_of_units(options)
    if others := [path for path in options.units if path not in checkpoints]:
        raise UserError(f"{others[0]}: not a checkpoint, but {checkpoints[0]} is; give one kind at a time")
    return run_quality_of_checkpoints(options)


def run_quality_of_units(options: argparse.Namespace) -> int:
    from ..evaluation.history import rows_table
    from ..evaluation.measures.quality.measure import LagMeasure
    from ..evaluation.phones import PhoneAlignment
    from ..evaluation.table import format_table
    from ..evaluation.unit_quality import NAME, measure_files, write_unit_quality

    refuse(
        options,
        "only used with checkpoints; remove it",
        *("train", "abx", "items", "speakers", "clusters", "log", "cache", "cache_gb"),
    )
    if options.lags and not options.phones:
        raise UserError("--phones is required with --lags, which shift units against phones")
    phones = PhoneAlignment.read(options.phones) if options.phones else None
    measured, notes = measure_files(
        options.units,
        phones,
        options.manifest,
        options.rate,
        options.first_centre,
        options.skip_missing,
        options.alignment or "centres",
        options.lags,
    )
    print_notes(notes)
    rows = [one.row for one in measured]
    print(rows_table(rows))
    if options.lags:
        print("\nPNMI of shifted units\n" + format_table(rows, [NAME, *LagMeasure.columns]))
    if options.out:
        print(*write_unit_quality(options.out, measured, phones), sep="\n")
    return 0


def run_quality_of_checkpoints(options: argparse.Namespace) -> int:
    from ..evaluation.history import measure_checkpoints, quality_table, write_quality
    from ..evaluation.measures.abx.items import read_items
    from ..evaluation.phones import PhoneAlignment
    from ..evaluation.speech import Speech
    from ..evaluation.training_log import loss_curve, read_pretraining_log

    refuse(options, "only used with unit files; remove it", "rate", "first_centre", "alignment", "lags")
    if options.manifest is None:
        raise UserError("--manifest: required for checkpoints; give the .tsv file of the speech to measure on")
    for name in ("abx", "items", "speakers", "clusters", "cache", "cache_gb"):
        if options.train is None and getattr(options, name):
            raise UserError(f"--train is required with --{name.replace('_', '-')}")
    if options.out is None and options.log:
        raise UserError("--out is required with --log, for the picture of the loss")
    if options.abx and not (options.phones or options.items):
        raise UserError("--phones is required with --abx, for its triphones; or give items with --items")
    phones = PhoneAlignment.read(options.phones) if options.phones else None
    # read before the measuring, so that an invalid log fails at once
    losses = loss_curve(read_pretraining_log(options.log)) if options.log else []
    speech, notes = Speech.read(options.manifest, phones, options.skip_missing)
    print_notes(notes)
    work = options.out and options.out / "comparison"
    cache, max_bytes = cache_of(options)
    figures = measure_checkpoints(
        options.units,
        speech,
        options.train,
        work,
        options.abx or options.items is not None,
        options.clusters,
        cache,
        max_bytes,
        options.speakers,
        read_items(options.items) if options.items else None,
    )
    print(quality_table(figures))
    if options.out:
        print(*write_quality(options.out, figures, phones, losses), sep="\n")
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
        "triples in which X is closer to B, another phone, than to A, the same phone"
    )
    parser = add_command(commands, "abx", run_abx, text)
    parser.add_argument(
        "features",
        type=Path,
        nargs="*",
        metavar="FEATURES",
        help="folders written by `dinosr features`, unit files, or folders of several of these",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", type=Path, metavar="FILE", help=".item file of the benchmark")
    what.add_argument(
        "--phones",
        type=Path,
        metavar="PATH",
        help="phone alignment, from which items are made, its triphones: a table or a folder of TextGrid files",
    )
    from_phones = parser.add_argument_group("items from --phones")
    from_phones.add_argument(
        "--manifest",
        type=Path,
        metavar="TSV",
        help="manifest whose folders name the speakers (default: LibriSpeech's file names), and whose rows .km files "
        "belong to",
    )
    from_phones.add_argument(
        "--span",
        choices=("triphone", "phone"),
        help="an item covers the phone and its neighbours, or the phone alone (default: triphone)",
    )
    from_phones.add_argument(
        "--min-count",
        type=whole_number,
        metavar="N",
        help="skip phones that a speaker says less often in a context (default: 1)",
    )
    from_phones.add_argument(
        "--silence",
        nargs="+",
        metavar="LABEL",
        help="labels treated as silence, upper or lower case (default: SIL SP SPN)",
    )
    from_phones.add_argument(
        "--write-items",
        type=Path,
        metavar="FILE",
        help="write the items to an .item file; without FEATURES nothing else is done",
    )
    parser.add_argument(
        "--distance",
        choices=("onehot", "edit"),
        help="distance between units (default: onehot); between features it is the angle",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        metavar="HZ",
        help="units per second of unit files (default: from the .json file of the units)",
    )
    parser.add_argument(
        "--last-frame",
        choices=("drop", "keep"),
        default="drop",
        help="the last frame whose centre is inside an item: drop: as zerospeech-libriabx2, and so the published "
        "figures; keep: as fastabx (default: %(default)s)",
    )
    parser.add_argument(
        "--no-sampling",
        action="store_true",
        help="compare all items, instead of a random sample of 10 per group and 5 other speakers",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the sample (default: %(default)s)"
    )
    add_skip_missing(parser, "skip items whose utterance has no features")
    parser.add_argument("--tables", action="store_true", help="also print the errors of every phone pair and speaker")
    add_out(
        parser,
        "folder",
        required=False,
        metavar="DIR",
        help="folder for abx.json, abx.tsv, abx_speakers.tsv and abx_pairs.tsv; an interrupted command resumes there",
    )


def run_abx(options: argparse.Namespace) -> int:
    from ..evaluation.measures.abx.errors import MAX_GROUP, MAX_SPEAKERS
    from ..evaluation.measures.abx.table import COLUMNS, measure_abx, open_sources, tables, write_abx
    from ..evaluation.table import format_table

    if not options.features and not options.write_items:
        raise UserError(
            "FEATURES: required without --write-items; give a folder written by `dinosr features`, or a unit file"
        )
    sources = open_sources(options.features, options.rate, options.distance, options.manifest)
    items = abx_items(options, any(source.units is not None for source in sources))
    if not sources:
        return 0
    limits = (None, None) if options.no_sampling else (MAX_GROUP, MAX_SPEAKERS)
    settings = {"max_group": limits[0], "max_speakers": limits[1], "seed": options.seed}
    settings |= {"last_frame": options.last_frame}
    rows = measure_abx(sources, items, options.out, **settings, skip_missing=options.skip_missing)
    if options.tables:
        print(tables(rows), end="\n\n")
    print(format_table(rows, COLUMNS))
    speakers = {item.speaker for item in items}
    if len(speakers) == 1:
        where = options.manifest or options.items or options.phones
        print_notes([f"{where}: contains only one speaker, {items[0].speaker}; no error across speakers"])
    if options.out:
        about = {"items": str(options.items or options.phones), "speakers": len(speakers), **settings}
        print(*write_abx(options.out, rows, about), sep="\n")
    return 0


def abx_items(options: argparse.Namespace, of_units: bool) -> list:
    """Read the items from --items, or make them from --phones and write them to --write-items.

    ``of_units``: whether there are unit files, whose utterances --manifest may name.
    """
    from ..evaluation.measures.abx.items import make_items, read_items, write_items
    from ..evaluation.phones import PhoneAlignment
    from ..evaluation.speech import librispeech_speaker, manifest_speakers

    names = ("span", "min_count", "silence")
    choices = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.items:
        if choices or options.write_items or (options.manifest and not of_units):
            raise UserError(
                "--manifest, --span, --min-count, --silence, --write-items: define how --phones is turned into items; "
                "omit them with --items (--manifest names the utterances of .km files, too)"
            )
        return read_items(options.items)
    written = claim_new(options.write_items, "--write-items") if options.write_items else nullcontext()
    with written:
        speakers = manifest_speakers(options.manifest) if options.manifest else librispeech_speaker
        items = make_items(PhoneAlignment.read(options.phones), speakers, **choices)
        if options.write_items:
            write_items(options.write_items, items)
    if options.write_items:
        print(f"{options.write_items}: {len(items)} items of {len({item.speaker for item in items})} speakers")
    return items

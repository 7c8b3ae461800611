"""What was learned, in figures: ``dinosr quality``, ``abx``."""

import argparse
from pathlib import Path

from ..errors import UserError
from .parsing import add_command, positive


# ---- dinosr quality ----------------------------------------------------------------------------------------------------------


def add_quality(commands) -> None:
    parser = add_command(
        commands, "quality", run_quality, "how much a DinoSR model's codes tell about phones: PNMI, purity, perplexity and active codes of every codebook"
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="one or more checkpoints of one pre-training run; more than one give curves over updates")
    parser.add_argument("--manifest", type=Path, required=True, metavar="TSV", help="the speech to measure on; speakers that were not trained on")
    parser.add_argument("--phones", type=Path, required=True, metavar="TSV", help="its phone alignment: utt, start, end, phone")
    parser.add_argument("--train", type=Path, metavar="TSV", help="the training manifest: adds k-means of the same size on MFCC, log-Mel and the untrained model")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the run's common.log_file: adds the training loss to the curves")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for quality.json, curves.png and code_by_phone.png")


def run_quality(options: argparse.Namespace) -> int:
    from ..data.manifest import require_writable
    from ..evaluation.codebooks import measure, quality_table, write_quality
    from ..evaluation.phones import PhoneAlignment

    if options.out:
        require_writable(options.out)
    phones = PhoneAlignment.read(options.phones)
    figures = measure(options.checkpoints, options.manifest, phones, options.train)
    print(quality_table(figures))
    if options.out:
        for path in write_quality(options.out, figures, phones.names, options.log):
            print(path)
    return 0


# ---- dinosr abx --------------------------------------------------------------------------------------------------------------


def add_abx(commands) -> None:
    text = "ABX error of features or units, within and across speakers, as in ZeroSpeech 2021: how often a phone is nearer to another phone than to itself"
    parser = add_command(commands, "abx", run_abx, text)
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder that `dinosr features` wrote; or a file of units, with --rate and a --distance of units")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", type=Path, metavar="FILE", help="an .item file of the benchmark")
    what.add_argument("--phones", type=Path, metavar="TSV", help="a phone alignment in place of that: its triphones")
    parser.add_argument("--manifest", type=Path, metavar="TSV", help="with --phones: the manifest whose folders tell the speakers (default: LibriSpeech's names do)")
    parser.add_argument("--distance", choices=("angular", "onehot", "edit"), default="angular", help="angular: of features; onehot, edit: of units (default: %(default)s)")
    parser.add_argument("--rate", type=positive, metavar="HZ", help="units a second of a file of units")
    parser.add_argument("--no-sampling", action="store_true", help="compare all items, not 10 a group and 5 other speakers at random")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    parser.add_argument("--skip-missing", action="store_true", help="go on without the items whose utterance has no features")
    parser.add_argument("--tables", action="store_true", help="also print the errors of every pair of phones and of every speaker")


def run_abx(options: argparse.Namespace) -> int:
    from ..evaluation.abx import MAX_GROUP, MAX_SPEAKERS, PAIR_COLUMNS, SPEAKER_COLUMNS, abx
    from ..evaluation.abx_items import librispeech_speaker, make_items, manifest_speakers, read_items
    from ..evaluation.phones import PhoneAlignment
    from ..evaluation.tables import format_table
    from ..units.codes import read_units
    from ..units.store import FeatureFolder

    if options.features.is_dir():
        features = FeatureFolder(options.features)
        rate = features.rate
    else:
        if options.rate is None or options.distance == "angular":
            raise UserError(f"{options.features}: a file of units wants --rate HZ and --distance onehot or edit")
        features, rate = read_units(options.features), options.rate
    speakers = manifest_speakers(options.manifest) if options.manifest else librispeech_speaker
    items = read_items(options.items) if options.items else make_items(PhoneAlignment.read(options.phones), speakers)
    most = (None, None) if options.no_sampling else (MAX_GROUP, MAX_SPEAKERS)
    result = abx(
        features, items, rate, options.distance,
        max_group=most[0], max_speakers=most[1], seed=options.seed, skip_missing=options.skip_missing,
    )
    for name, score in (("within", result.within), ("across", result.across)):
        print(f"{name} speakers: {'nothing to compare' if score is None else f'{score.error:.2f} %'}")
        if score is not None and options.tables:
            print(format_table(score.speaker_rows(), SPEAKER_COLUMNS), format_table(score.pair_rows(), PAIR_COLUMNS), sep="\n\n", end="\n\n")
    print(f"{result.items} items, {result.too_short} shorter than a frame, {result.missing} without features")
    return 0

"""Discrete units of the utterances of a manifest, and acoustic pieces: ``dinosr units``."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..files import is_folder
from .features import MANIFEST_HELP
from .parsing import add_command, add_max_minutes, add_out, add_shards, checkpoint_or_folder, pieces_or_model, positive

DEFAULT_RATE = 50.0  # of units whose file does not state it


def add_units(commands) -> None:
    parser = add_command(
        commands,
        "units",
        run_units,
        "write the discrete units of every utterance of a manifest: from the codebooks of a DinoSR or Spin model, or "
        "from k-means",
    )
    parser.add_argument(
        "checkpoint",
        type=checkpoint_or_folder,
        metavar="CHECKPOINT",
        help="pre-training checkpoint of DinoSR or Spin; with --kmeans, a folder of features; with --pieces, also a "
        "file of units of any model (.units, .km)",
    )
    parser.add_argument(
        "manifest", type=Path, nargs="?", metavar="MANIFEST", help=f"{MANIFEST_HELP}. Not with --kmeans"
    )
    parser.add_argument(
        "--kmeans", type=Path, metavar="FILE", help="file written by `dinosr kmeans fit` for features of the same kind"
    )
    add_out(
        parser,
        "parts",
        metavar="OUT",
        help="folder for codebook_0.units, ... and OUT/codes, the units of all codebooks, with which an interrupted "
        "run resumes and other forms of the same units take seconds; with --kmeans, the output file; with --pieces, "
        "the label file, named like the manifest: train.km; train.km.codes keeps the units of a checkpoint",
    )
    parser.add_argument(
        "--pieces",
        type=pieces_or_model,
        metavar="N",
        help="write acoustic pieces instead of units: labels of frames for task.labels, in the form of `dinosr kmeans "
        "apply`, with dict.km.txt. Runs of equal units count once, sentencepiece learns N frequent sequences of them "
        "(single units included; pieces.km.model), and every frame gets the number of its sequence. Or the path of an "
        "existing pieces.km.model, for other speech. N is at least the number of units; in R-Spin 40000 for 2048. All "
        "units are kept in memory",
    )
    parser.add_argument(
        "--predicted",
        action="store_true",
        help="write the units that the student's heads predict, instead of those that the teacher's codebooks assign "
        "(DinoSR only)",
    )
    parser.add_argument(
        "--codebooks",
        type=int,
        nargs="+",
        metavar="K",
        help="codebooks to write; 0 is that of the lowest layer with a codebook (default: all)",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        metavar="HZ",
        help="units per second, a multiple or fraction of the rate of the model or features: at 50 Hz, 100 repeats "
        "each unit, and 25 drops every second one (default: no change)",
    )
    parser.add_argument("--dedup", action="store_true", help="write each run of equal units once")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="write units without utterance names, to codebook_0.txt, ..., for fairseq-preprocess --only-source",
    )
    add_shards(parser)
    add_max_minutes(parser, in_chunks=True)


def run_units(options: argparse.Namespace) -> int:
    if options.pieces:
        return run_pieces(options)
    from ..data.one_recording import as_manifest
    from ..units.codes import write_codebook_units, write_kmeans_units
    from ..units.store import FeatureFolder

    shape = {"rate": options.rate, "deduplicate": options.dedup, "plain": options.plain}
    if options.kmeans:
        if options.manifest or options.predicted or options.codebooks or options.shard != (1, 1):
            raise UserError(
                "--kmeans: expects a folder of features; omit MANIFEST, --predicted, --codebooks and --shard"
            )
        print(write_kmeans_units(FeatureFolder(options.checkpoint), options.kmeans, options.out, **shape))
        return 0
    if options.manifest is None:
        raise UserError("MANIFEST: required without --kmeans; give the .tsv file of the speech")
    number, shards = options.shard
    chosen = {
        "predicted": options.predicted,
        "codebooks": options.codebooks,
        "shard": number,
        "shards": shards,
        "max_minutes": options.max_minutes,
    }
    with as_manifest(options.manifest) as manifest:
        done = write_codebook_units(options.checkpoint, manifest, options.out, **chosen, **shape)
    print(*done.files, done.summary, sep="\n")
    return 0


def run_pieces(options: argparse.Namespace) -> int:
    from ..units.pieces import write_piece_labels

    require_pieces_options(options)
    units, info = units_of_frames(options)
    done = write_piece_labels(units, info, options.manifest, options.out, options.pieces)
    print(f"{options.out}: {done.frames} frames, {done.used} of {done.pieces} pieces occur")
    print(f"{done.model}: the model; give it with --pieces for other speech")
    return 0


def require_pieces_options(options: argparse.Namespace) -> None:
    """Raise UserError for options that cannot be combined with --pieces."""
    if options.kmeans:
        raise UserError("--kmeans: not with --pieces; write the units of k-means first, and give their file instead")
    if options.rate or options.dedup or options.plain or options.shard != (1, 1):
        raise UserError("--pieces: every frame gets a label; omit --rate, --dedup, --plain and --shard")
    if options.manifest is None:
        raise UserError("MANIFEST: required with --pieces; give the .tsv file of the speech")


def units_of_frames(options: argparse.Namespace):
    """Utterance -> units, and their ``UnitInfo``: of a file of units, or of a codebook of a checkpoint."""
    from ..checkpoints.file import is_torch_file

    path = options.checkpoint
    if is_torch_file(path) or is_folder(path):  # a folder is refused as a checkpoint
        from ..units.codes import read_codebook_units

        codes = options.out.with_name(f"{options.out.name}.codes")
        return read_codebook_units(
            path, options.manifest, codes, options.predicted, options.codebooks, max_minutes=options.max_minutes
        )
    from ..units.unit_files import UnitInfo, read_info, read_labelled_units

    if options.predicted or options.codebooks:
        raise UserError(f"{path}: is a file of units; omit --predicted and --codebooks")
    units = read_labelled_units(path, options.manifest)
    return units, read_info(path) or UnitInfo(DEFAULT_RATE, 0.5 / DEFAULT_RATE)

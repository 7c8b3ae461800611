"""From speech to features and units: ``dinosr features``, ``kmeans``, ``units``."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..files import is_folder
from .parsing import add_command, add_out, pieces_or_model, positive, whole_number

# ---- dinosr features -------------------------------------------------------------------------------------------------


def layer(text: str) -> int | str:
    """An argparse type: a layer's number; or a name, which the model decides on."""
    return text if text.isidentifier() else int(text)


layer.__name__ = "layer (number, last, all or the name of an output)"


def shard(text: str) -> tuple[int, int]:
    """An argparse type: I/N -> (I, N)."""
    number, shards = (int(part) for part in text.split("/"))
    if not 1 <= number <= shards:
        raise ValueError
    return number, shards


shard.__name__ = "shard (such as 1/4)"


LAYER_HELP = (
    "number of a layer: 0 is the output of the first Transformer layer, of CPC of the first recurrent layer "
    "(hidden_states[1] of Hugging Face, output_layer=1 of fairseq's HuBERT); the input of these layers has no number. "
    "last: the output of the model, which includes the final LayerNorm of a pre-LN model, unlike the number of the "
    "last layer. all: each layer in a separate folder, layer_0, layer_1, ... Of Spin also projection, its normalised "
    "frames, and logits, their cosines with every code. The rate is the model's: 50 frames per second, of CPC 100 "
    "(default: %(default)s)"
)
DEFAULT_RATE = 50.0  # of units whose file does not state it
MAX_MINUTES = 10.0  # the value of units.batches, which takes seconds to import


def add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="process only part I of N of the manifest; N processes, which may run at the same time, process all of it",
    )


def add_max_minutes(parser: argparse.ArgumentParser) -> None:
    text = (
        "longest recording that is accepted, in minutes. A model reads each recording as a whole: time grows with the "
        "square of its length, and a base model takes about 1.3 GB of memory per minute (default: %(default)s)"
    )
    parser.add_argument("--max-minutes", type=positive, default=MAX_MINUTES, metavar="M", help=text)


def add_features(commands) -> None:
    parser = add_command(
        commands,
        "features",
        run_features,
        "extract features of every utterance of a manifest: layers of a model, MFCC or log-Mel",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="a model of this plug-in, of fairseq (wav2vec 2.0, HuBERT or data2vec, with or without CTC "
        "fine-tuning), or of CPC_audio; not with --mfcc or --fbank",
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file")
    add_out(
        parser,
        "parts",
        metavar="DIR",
        help="folder for the features; a run that was interrupted resumes when it is started again with the same "
        "options",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--layer", type=layer, default="last", metavar="L", help=LAYER_HELP)
    kind.add_argument(
        "--mfcc",
        dest="sound",
        action="store_const",
        const="mfcc",
        help="13 MFCC with deltas and delta-deltas (39 dimensions), 50 frames per second",
    )
    kind.add_argument(
        "--fbank",
        dest="sound",
        action="store_const",
        const="fbank",
        help="log-Mel: 80 bins of two frames each (160 dimensions), 50 frames per second",
    )
    parser.add_argument(
        "--weights",
        choices=("student", "teacher", "random"),
        default="student",
        help="student: the trained model; teacher: its moving average (DinoSR only); random: the model before training "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="number format of the files; float16 takes half the space and keeps three digits (default: %(default)s)",
    )
    add_shards(parser)
    add_max_minutes(parser)


def run_features(options: argparse.Namespace) -> int:
    from ..units.features import extract, extract_acoustic

    if bool(options.sound) == bool(options.checkpoint):
        raise UserError("CHECKPOINT: give either a checkpoint, or one of --mfcc and --fbank")
    number, shards = options.shard
    if options.sound:
        done = extract_acoustic(options.sound, options.manifest, options.out, options.dtype, number, shards)
    else:
        chosen = {
            "layer": options.layer,
            "weights": options.weights,
            "dtype": options.dtype,
            "shard": number,
            "shards": shards,
        }
        done = extract(options.checkpoint, options.manifest, options.out, **chosen, max_minutes=options.max_minutes)
    print(*done.folders, done.summary, sep="\n")
    return 0


# ---- dinosr kmeans ---------------------------------------------------------------------------------------------------


def add_kmeans(commands) -> None:
    text = "cluster features with k-means (fit), and write the cluster of every frame as labels (apply)"
    parser = commands.add_parser("kmeans", help=text, description=text[0].upper() + text[1:] + ".")
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    fit = add_command(
        steps,
        "fit",
        run_kmeans_fit,
        "fit k-means to a folder of features, or to features that are computed from speech and not stored",
    )
    fit.add_argument(
        "features",
        type=Path,
        nargs="?",
        metavar="FEATURES",
        help="folder written by `dinosr features`; or, with --manifest, a checkpoint; not with --mfcc or --fbank",
    )
    fit.add_argument(
        "--manifest", type=Path, metavar="TSV", help="manifest of the speech from which features are computed"
    )
    kind = fit.add_mutually_exclusive_group()
    kind.add_argument(
        "--layer",
        type=layer,
        metavar="L",
        help="layer of the checkpoint, from 0, last, or the name of an output (default: last)",
    )
    kind.add_argument(
        "--mfcc",
        dest="sound",
        action="store_const",
        const="mfcc",
        help="cluster MFCC of the manifest's speech (39 dimensions), without a checkpoint",
    )
    kind.add_argument(
        "--fbank",
        dest="sound",
        action="store_const",
        const="fbank",
        help="cluster log-Mel features of the manifest's speech (160 dimensions), without a checkpoint",
    )
    fit.add_argument(
        "--weights",
        choices=("student", "teacher", "random"),
        help="weights of the checkpoint: the trained model, its moving average, or the model before training "
        "(default: student)",
    )
    fit.add_argument(
        "--clusters", type=whole_number, required=True, metavar="K", help="number of clusters, usually 100 or 500"
    )
    add_out(fit, "file", metavar="FILE", help="output file (.npz)")
    fit.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    begin = fit.add_mutually_exclusive_group()
    begin.add_argument(
        "--init",
        choices=("k-means++", "random"),
        default="k-means++",
        help="how the initial centroids are drawn (default: %(default)s)",
    )
    text = (
        "start from the labels of an earlier clustering of the same speech, at the rate of the features (FILE.km next "
        "to FILE.tsv and dict.km.txt): the initial centroids are the means of the labels, clusters are numbered like "
        "the labels they share most frames with, and the share of changed labels is printed"
    )
    begin.add_argument("--from-labels", type=Path, metavar="FILE", help=text)
    fit.add_argument(
        "--restarts",
        type=whole_number,
        default=1,
        metavar="N",
        help="initialisations, tried on few frames; the best one is used; not with --from-labels (default: "
        "%(default)s)",
    )
    text = (
        "normalise the features of each utterance to mean 0 and variance 1, here and in apply: removes much of the "
        "speaker and the channel"
    )
    fit.add_argument("--normalize", action="store_true", help=text)
    fit.add_argument(
        "--passes",
        type=int,
        default=0,
        metavar="N",
        help="exact k-means passes over all frames, after those over a random sample of 256 frames per cluster; the "
        "first one reduces the distance by about half a percent (default: %(default)s)",
    )
    fit.add_argument(
        "--memory",
        type=positive,
        default=2.0,
        metavar="GB",
        help="memory for frames; if they need more, each pass reads or computes them again (default: %(default)s)",
    )
    apply = add_command(
        steps, "apply", run_kmeans_apply, "write .km labels, the cluster of every frame of a manifest, and dict.km.txt"
    )
    apply.add_argument("kmeans", type=Path, metavar="KMEANS", help="file written by `dinosr kmeans fit`")
    text = (
        "folder written by `dinosr features`, of the same layer; or the checkpoint, from which the layer is computed; "
        "omitted for clusters of MFCC or log-Mel features"
    )
    apply.add_argument("features", type=Path, nargs="?", metavar="FEATURES", help=text)
    apply.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file")
    add_out(apply, "file", metavar="FILE", help="output file, named like the manifest: train.km")


def run_kmeans_fit(options: argparse.Namespace) -> int:
    from ..units.kmeans import fit_kmeans

    old, features = old_labels(options), features_to_fit(options)
    named = {"rate": features.rate, "source": features.source}
    chosen = {
        "seed": options.seed,
        "init": options.init,
        "restarts": options.restarts,
        "passes": options.passes,
        "normalize": options.normalize,
        "max_bytes": int(options.memory * 2**30),
    }
    kmeans = fit_kmeans(features, options.clusters, **chosen, **named, old_labels=old)
    kmeans.save(options.out)
    print(f"{options.out}: {options.clusters} clusters, {kmeans.meta.distance}")
    if options.from_labels:
        print(
            f"labels of {options.from_labels}: {100 * kmeans.meta.labels_changed:.1f} % changed, NMI "
            f"{kmeans.meta.labels_nmi:.3f}"
        )
    return 0


def old_labels(options: argparse.Namespace):
    """Utterance -> labels; None without --from-labels.

    Raises UserError for a number of labels other than --clusters, and for --restarts together with --from-labels.
    """
    if not options.from_labels:
        return None
    from ..data.labels import count_classes
    from ..units.unit_files import read_labelled_units

    folder, kind = options.from_labels.parent, options.from_labels.suffix[1:]
    if options.restarts > 1:
        raise UserError(f"--restarts {options.restarts}: not used with --from-labels; omit one of the two")
    if (classes := count_classes(folder, kind)) != options.clusters:
        raise UserError(
            f"{folder / f'dict.{kind}.txt'}: contains {classes} labels, but --clusters is {options.clusters}; "
            f"give --clusters {classes}"
        )
    return read_labelled_units(options.from_labels, options.from_labels.with_suffix(".tsv"))


def features_to_fit(options: argparse.Namespace):
    """A ``FeatureFolder`` or ``LiveFeatures``. Raises UserError for options that exclude each other."""
    from ..units.store import FeatureFolder

    path = options.features
    if bool(options.sound) == bool(path):
        raise UserError("FEATURES: give either a folder of features or a checkpoint, or one of --mfcc and --fbank")
    if path and is_folder(path):
        if options.manifest or options.layer is not None or options.weights:
            raise UserError(f"{path}: is a folder of features; omit --manifest, --layer and --weights")
        return FeatureFolder(path)
    if options.manifest is None:
        problem = f"{path}: not a folder of features; for a checkpoint" if path else f"--{options.sound}: no speech;"
        raise UserError(f"{problem} give the .tsv file with --manifest")
    from ..units.features import LiveFeatures  # imports torch

    if options.sound:
        if options.weights:
            raise UserError(f"--weights: not used with --{options.sound}; omit the option")
        return LiveFeatures.of_sound(options.sound, options.manifest)
    return LiveFeatures.of_layer(
        path, options.manifest, "last" if options.layer is None else options.layer, options.weights or "student"
    )


def run_kmeans_apply(options: argparse.Namespace) -> int:
    from ..units.features import LiveFeatures
    from ..units.kmeans import KMeans, write_labels
    from ..units.store import FeatureFolder
    from ..units.unit_files import UnitInfo

    kmeans = KMeans.load(options.kmeans)
    if options.features and is_folder(options.features):
        features = FeatureFolder(options.features)
    else:
        features = LiveFeatures.of_source(kmeans.meta.features, options.manifest, options.features)
    kmeans.require_same(features.width, features.rate, features.source)
    info = UnitInfo(features.rate, features.first_centre, kmeans.meta.k)
    print(f"{options.out}: {write_labels(kmeans, features, options.manifest, options.out, info)} frames")
    return 0


# ---- dinosr units ----------------------------------------------------------------------------------------------------


def pieces(text: str) -> int | Path:
    """An argparse type: the number of pieces to learn, or the path of a model that contains them."""
    return pieces_or_model(text)


pieces.__name__ = "positive integer or pieces.km.model"


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
        type=Path,
        metavar="CHECKPOINT",
        help="pre-training checkpoint of DinoSR or Spin; with --kmeans, a folder of features; with --pieces, also a "
        "file of units of any model (.units, .km)",
    )
    parser.add_argument("manifest", type=Path, nargs="?", metavar="MANIFEST", help="a .tsv file; not with --kmeans")
    parser.add_argument(
        "--kmeans", type=Path, metavar="FILE", help="file written by `dinosr kmeans fit` for features of the same kind"
    )
    add_out(
        parser,
        "parts",
        metavar="OUT",
        help="folder for codebook_0.units, ... and OUT/codes, the units of all codebooks, with which an interrupted "
        "run resumes and other forms of the same units take seconds; with --kmeans, the output file; with --pieces, "
        "the label file, named like the manifest: train.km",
    )
    parser.add_argument(
        "--pieces",
        type=pieces,
        metavar="N",
        help="write acoustic pieces instead of units: labels of frames for task.labels, in the form of `dinosr kmeans "
        "apply`, with dict.km.txt. Runs of equal units count once, sentencepiece learns N frequent sequences of them "
        "(single units included; pieces.km.model), and every frame gets the number of its sequence. Or the path of an "
        "existing pieces.km.model, for other speech. N is at least the number of units; in R-Spin 40000 for 2048",
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
    add_max_minutes(parser)


def run_units(options: argparse.Namespace) -> int:
    if options.pieces:
        return run_pieces(options)
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
    done = write_codebook_units(options.checkpoint, options.manifest, options.out, **chosen, **shape)
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

        return read_codebook_units(
            path, options.manifest, options.predicted, options.codebooks, max_minutes=options.max_minutes
        )
    from ..units.unit_files import UnitInfo, read_info, read_labelled_units

    if options.predicted or options.codebooks:
        raise UserError(f"{path}: is a file of units; omit --predicted and --codebooks")
    units = read_labelled_units(path, options.manifest)
    return units, read_info(path) or UnitInfo(DEFAULT_RATE, 0.5 / DEFAULT_RATE)

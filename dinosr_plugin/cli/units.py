"""From speech to features and units: ``dinosr features``, ``kmeans``, ``units``."""

import argparse
from pathlib import Path

from ..errors import UserError
from .parsing import add_command, positive, whole_number

# ---- dinosr features ---------------------------------------------------------------------------------------------------------


def layer(text: str) -> int | str:
    """An argparse type: a layer's number, last, or all."""
    return text if text in ("last", "all") else int(text)


layer.__name__ = "number, last or all"


def shard(text: str) -> tuple[int, int]:
    """An argparse type: i/n."""
    one, of = (int(part) for part in text.split("/"))
    if not 1 <= one <= of:
        raise ValueError
    return one, of


shard.__name__ = "shard, as in 1/4"


LAYER_HELP = (
    "number of a Transformer layer: 0 is the first one (hidden_states[1] of Hugging Face, output_layer=1 of fairseq's HuBERT), what comes before the Transformer has no number; "
    "last: what the model gives, which is the last layer behind the final LayerNorm where the model has one there (pre-LN), the numbered one being without it; "
    "all: a folder layer_0, layer_1, ... for each. 50 frames a second, as the model gives them (default: %(default)s)"
)
MAX_MINUTES = 10.0  # as in units.batches, which takes seconds to import


def add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="do part I of N of the manifest only; one process for each, at the same time if you like, makes all",
    )


def add_max_minutes(parser: argparse.ArgumentParser) -> None:
    text = "refuse longer recordings: a model reads each as a whole, which takes time with the square of its length, and memory, a base model about 1.3 GB a minute (default: %(default)s)"
    parser.add_argument("--max-minutes", type=positive, default=MAX_MINUTES, metavar="M", help=text)


def add_features(commands) -> None:
    parser = add_command(
        commands,
        "features",
        run_features,
        "write the features of every utterance of a manifest: of a model's layers, or MFCC or log-Mel",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="a model of this plug-in, or fairseq's wav2vec 2.0, HuBERT or data2vec, fine-tuned with CTC or not, or CPC_audio's; not with --mfcc or --fbank",
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for them; a run that was killed goes on where it was when started again with the same options",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--layer", type=layer, default="last", metavar="L", help=LAYER_HELP)
    kind.add_argument(
        "--mfcc",
        dest="sound",
        action="store_const",
        const="mfcc",
        help="13 MFCC with first and second differences (39), 50 frames a second",
    )
    kind.add_argument(
        "--fbank", dest="sound", action="store_const", const="fbank", help="2 x 80 log-Mel bins, 50 frames a second"
    )
    parser.add_argument(
        "--weights",
        choices=("student", "teacher", "random"),
        default="student",
        help="student: the model itself; teacher: DinoSR's moving average of it; random: the same model before training (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the files; float16 takes half the space and keeps three digits (default: %(default)s)",
    )
    add_shards(parser)
    add_max_minutes(parser)


def run_features(options: argparse.Namespace) -> int:
    from ..units.features import extract, extract_acoustic

    if bool(options.sound) == bool(options.checkpoint):
        raise UserError("CHECKPOINT: give a checkpoint, or --mfcc or --fbank instead")
    number, of = options.shard
    if options.sound:
        done = extract_acoustic(options.sound, options.manifest, options.out, options.dtype, number, of)
    else:
        chosen = {
            "layer": options.layer,
            "weights": options.weights,
            "dtype": options.dtype,
            "shard": number,
            "shards": of,
        }
        done = extract(options.checkpoint, options.manifest, options.out, **chosen, max_minutes=options.max_minutes)
    print(*done.folders, done.summary, sep="\n")
    return 0


# ---- dinosr kmeans -----------------------------------------------------------------------------------------------------------


def add_kmeans(commands) -> None:
    text = "cluster features (fit), and write the clusters of every frame as labels (apply)"
    parser = commands.add_parser("kmeans", help=text, description=text[0].upper() + text[1:] + ".")
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    fit = add_command(
        steps, "fit", run_kmeans_fit, "find clusters in features: of a folder, or straight from speech, stored nowhere"
    )
    fit.add_argument(
        "features",
        type=Path,
        nargs="?",
        metavar="FEATURES",
        help="folder that `dinosr features` wrote; or, with --manifest, a checkpoint; not with --mfcc or --fbank",
    )
    fit.add_argument("--manifest", type=Path, metavar="TSV", help="speech whose features are computed instead of read")
    kind = fit.add_mutually_exclusive_group()
    kind.add_argument("--layer", type=layer, metavar="L", help="of the checkpoint: from 0, or last (default: last)")
    kind.add_argument(
        "--mfcc",
        dest="sound",
        action="store_const",
        const="mfcc",
        help="39 coefficients of the manifest's speech, no checkpoint",
    )
    kind.add_argument(
        "--fbank",
        dest="sound",
        action="store_const",
        const="fbank",
        help="2 x 80 log-Mel bins of the manifest's speech, no checkpoint",
    )
    fit.add_argument("--weights", choices=("student", "teacher", "random"), help="of the checkpoint (default: student)")
    fit.add_argument(
        "--clusters", type=whole_number, required=True, metavar="K", help="how many; 100 and 500 are usual"
    )
    fit.add_argument("--out", type=Path, required=True, metavar="FILE", help="the clusters (.npz)")
    fit.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same clusters (default: %(default)s)"
    )
    begin = fit.add_mutually_exclusive_group()
    begin.add_argument(
        "--init",
        choices=("k-means++", "random"),
        default="k-means++",
        help="how the first centres are drawn (default: %(default)s)",
    )
    text = "old labels of the same speech at the features' rate (FILE.km of FILE.tsv, with dict.km.txt): begin with the means under them, give each cluster the number of the label that it shares most frames with, and say how many changed"
    begin.add_argument("--from-labels", type=Path, metavar="FILE", help=text)
    fit.add_argument(
        "--restarts",
        type=whole_number,
        default=1,
        metavar="N",
        help="starts that are tried on few frames; the best one goes on; not with --from-labels (default: %(default)s)",
    )
    text = "bring each utterance's features to mean 0 and variance 1 first, and again in apply: takes out much of the speaker and the channel"
    fit.add_argument("--normalize", action="store_true", help=text)
    fit.add_argument(
        "--passes",
        type=int,
        default=0,
        metavar="N",
        help="exact ones over all frames, after those over a random sample of 256 a cluster; the first takes off another half percent of the distance or so (default: %(default)s)",
    )
    fit.add_argument(
        "--memory",
        type=positive,
        default=2.0,
        metavar="GB",
        help="for frames; where they take more, each pass reads or computes them again (default: %(default)s)",
    )
    apply = add_command(
        steps, "apply", run_kmeans_apply, "write MANIFEST's .km labels and dict.km.txt: the cluster of every frame"
    )
    apply.add_argument("kmeans", type=Path, metavar="KMEANS", help="file that `dinosr kmeans fit` wrote")
    text = "folder that `dinosr features` wrote, of the same layer; or the checkpoint, whose layer is computed; nothing where clusters of MFCC or log-Mel are"
    apply.add_argument("features", type=Path, nargs="?", metavar="FEATURES", help=text)
    apply.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file")
    apply.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the labels, named as the manifest: train.km"
    )


def run_kmeans_fit(options: argparse.Namespace) -> int:
    from ..data.manifest import require_writable
    from ..units.kmeans import fit_kmeans

    require_writable(options.out.parent)
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
            f"labels of {options.from_labels}: {100 * kmeans.meta.labels_changed:.1f} % changed, NMI {kmeans.meta.labels_nmi:.3f}"
        )
    return 0


def old_labels(options: argparse.Namespace):
    """Utterance -> labels, None without --from-labels. Raises UserError for labels of another number of clusters, and for --restarts beside them."""
    from ..data.labels import count_classes
    from ..units.unit_files import read_labelled_units

    if not options.from_labels:
        return None
    folder, kind = options.from_labels.parent, options.from_labels.suffix[1:]
    if options.restarts > 1:
        raise UserError(f"--restarts {options.restarts}: --from-labels is one start; leave it out")
    if (classes := count_classes(folder, kind)) != options.clusters:
        raise UserError(
            f"{folder / f'dict.{kind}.txt'}: {classes} labels, but --clusters {options.clusters}; give --clusters {classes}"
        )
    return read_labelled_units(options.from_labels, options.from_labels.with_suffix(".tsv"))


def features_to_fit(options: argparse.Namespace):
    """A ``FeatureFolder`` or ``LiveFeatures``. Raises UserError for options that do not go together."""
    from ..units.features import LiveFeatures
    from ..units.store import FeatureFolder

    given, of_checkpoint = options.features, options.layer is not None or options.weights
    if bool(options.sound) == bool(given):
        raise UserError("FEATURES: give a folder of features or a checkpoint, or --mfcc or --fbank instead")
    if given and given.is_dir():
        if options.manifest or of_checkpoint:
            raise UserError(
                f"{given}: a folder, which takes neither --manifest nor --layer nor --weights; leave those out"
            )
        return FeatureFolder(given)
    if options.manifest is None:
        said = f"{given}: no folder of features; for a checkpoint" if given else f"--{options.sound}: without speech;"
        raise UserError(f"{said} name the .tsv file with --manifest")
    if options.sound:
        if options.weights:
            raise UserError(f"--weights: of a checkpoint, not of --{options.sound}; leave it out")
        return LiveFeatures.of_sound(options.sound, options.manifest)
    return LiveFeatures.of_layer(
        given, options.manifest, "last" if options.layer is None else options.layer, options.weights or "student"
    )


def run_kmeans_apply(options: argparse.Namespace) -> int:
    from ..units.features import LiveFeatures
    from ..units.kmeans import KMeans, write_labels
    from ..units.store import FeatureFolder

    kmeans = KMeans.load(options.kmeans)
    if options.features and options.features.is_dir():
        features = FeatureFolder(options.features)
    else:
        features = LiveFeatures.of_source(kmeans.meta.features, options.manifest, options.features)
    kmeans.require_same(features.width, features.rate, features.source)
    print(f"{options.out}: {write_labels(kmeans, features, options.manifest, options.out)} frames")
    return 0


# ---- dinosr units ------------------------------------------------------------------------------------------------------------


def add_units(commands) -> None:
    parser = add_command(
        commands,
        "units",
        run_units,
        "write the discrete units of every utterance of a manifest: of a DinoSR model's codebooks, or of k-means",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a DinoSR pre-training checkpoint; or, with --kmeans, a folder of features",
    )
    parser.add_argument("manifest", type=Path, nargs="?", metavar="MANIFEST", help="a .tsv file; not with --kmeans")
    parser.add_argument(
        "--kmeans", type=Path, metavar="FILE", help="clusters that `dinosr kmeans fit` found in features of this kind"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder for codebook_0.units, ... and, in OUT/codes, what they are written from: a run that was killed goes on, and other forms of the same units take seconds; with --kmeans the file",
    )
    parser.add_argument(
        "--predicted",
        action="store_true",
        help="what the student's heads predict instead of what the teacher's codebooks hold",
    )
    parser.add_argument(
        "--codebooks",
        type=int,
        nargs="+",
        metavar="K",
        help="these only, from 0, that of the lowest layer that has one (default: all)",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        metavar="HZ",
        help="units a second, a whole multiple or part of the model's 50: at 100 each stands there twice, at 25 every second one is left out (default: the model's)",
    )
    parser.add_argument("--dedup", action="store_true", help="each run of equal units once")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="without utterance names, codebook_0.txt, ..., for fairseq-preprocess --only-source",
    )
    add_shards(parser)
    add_max_minutes(parser)


def run_units(options: argparse.Namespace) -> int:
    from ..units.codes import write_codebook_units, write_kmeans_units
    from ..units.store import FeatureFolder

    shape = {"rate": options.rate, "deduplicate": options.dedup, "plain": options.plain}
    if options.kmeans:
        if options.manifest or options.predicted or options.codebooks or options.shard != (1, 1):
            raise UserError(
                "--kmeans: takes a folder of features and neither MANIFEST nor --predicted, --codebooks or --shard; leave those out"
            )
        print(write_kmeans_units(FeatureFolder(options.checkpoint), options.kmeans, options.out, **shape))
        return 0
    if options.manifest is None:
        raise UserError("MANIFEST: not given; name the .tsv file of the speech")
    number, of = options.shard
    chosen = {
        "predicted": options.predicted,
        "codebooks": options.codebooks,
        "shard": number,
        "shards": of,
        "max_minutes": options.max_minutes,
    }
    done = write_codebook_units(options.checkpoint, options.manifest, options.out, **chosen, **shape)
    print(*done.files, done.summary, sep="\n")
    return 0

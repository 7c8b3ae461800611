"""Clusters of features, and labels of frames: ``dinosr kmeans``."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..files import is_folder
from .parsing import add_command, add_out, layer, positive, whole_number


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

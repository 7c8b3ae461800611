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


def add_features(commands) -> None:
    parser = add_command(commands, "features", run_features, "write the features of every utterance of a manifest: of a model's layers, or MFCC or log-Mel")
    parser.add_argument("checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="a model of this plug-in, or fairseq's wav2vec 2.0, HuBERT or data2vec; not with --mfcc or --fbank")
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for them; a run that was killed goes on where it was")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--layer", type=layer, default="last", metavar="L", help="from 0, last (with what the model does behind it), or all: a folder layer_0, ... for each (default: %(default)s)")
    kind.add_argument("--mfcc", dest="sound", action="store_const", const="mfcc", help="39 coefficients, 50 frames a second")
    kind.add_argument("--fbank", dest="sound", action="store_const", const="fbank", help="2 x 80 log-Mel bins, 50 frames a second")
    parser.add_argument("--weights", choices=("student", "teacher", "random"), default="student", help="random: as before training (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the files (default: %(default)s)")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="do this part of the manifest only; start N processes to do all")


def run_features(options: argparse.Namespace) -> int:
    from ..units.features import extract, extract_acoustic

    if bool(options.sound) == bool(options.checkpoint):
        raise UserError("CHECKPOINT: give a checkpoint, or --mfcc or --fbank instead")
    number, of = options.shard
    if options.sound:
        done = extract_acoustic(options.sound, options.manifest, options.out, options.dtype, number, of)
    else:
        done = extract(options.checkpoint, options.manifest, options.out, options.layer, options.weights, options.dtype, number, of)
    print(*done.folders, done.summary, sep="\n")
    return 0


# ---- dinosr kmeans -----------------------------------------------------------------------------------------------------------


def add_kmeans(commands) -> None:
    text = "cluster features (fit), and write the clusters of every frame as labels (apply)"
    parser = commands.add_parser("kmeans", help=text, description=text[0].upper() + text[1:] + ".")
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    fit = add_command(steps, "fit", run_kmeans_fit, "find clusters in a folder of features")
    fit.add_argument("features", type=Path, metavar="FEATURES", help="folder that `dinosr features` wrote")
    fit.add_argument("--clusters", type=whole_number, required=True, metavar="K", help="how many; 100 and 500 are usual")
    fit.add_argument("--out", type=Path, required=True, metavar="FILE", help="the clusters (.npz)")
    fit.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same clusters (default: %(default)s)")
    fit.add_argument("--init", choices=("k-means++", "random"), default="k-means++", help="how the first centres are drawn (default: %(default)s)")
    fit.add_argument("--restarts", type=whole_number, default=3, metavar="N", help="starts that are tried; the best one goes on (default: %(default)s)")
    fit.add_argument("--passes", type=int, default=0, metavar="N", help="passes over all frames after those over a random sample of 256 a cluster (default: %(default)s)")
    fit.add_argument("--memory", type=positive, default=2.0, metavar="GB", help="for frames; where they take more, each pass reads them again (default: %(default)s)")
    apply = add_command(steps, "apply", run_kmeans_apply, "write MANIFEST's .km labels and dict.km.txt: the cluster of every frame")
    apply.add_argument("kmeans", type=Path, metavar="KMEANS", help="file that `dinosr kmeans fit` wrote")
    apply.add_argument("features", type=Path, metavar="FEATURES", help="folder that `dinosr features` wrote, of the same layer")
    apply.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file")
    apply.add_argument("--out", type=Path, required=True, metavar="FILE", help="the labels, named as the manifest: train.km")


def run_kmeans_fit(options: argparse.Namespace) -> int:
    from ..units.kmeans import fit_kmeans
    from ..units.store import FeatureFolder

    features = FeatureFolder(options.features)
    named = {"rate": features.rate, "source": features.source}
    chosen = {"seed": options.seed, "init": options.init, "restarts": options.restarts, "passes": options.passes, "max_bytes": int(options.memory * 2**30)}
    kmeans = fit_kmeans(features, options.clusters, **chosen, **named)
    kmeans.save(options.out)
    print(f"{options.out}: {options.clusters} clusters, mean squared distance {kmeans.meta.inertia:.4g}")
    return 0


def run_kmeans_apply(options: argparse.Namespace) -> int:
    from ..units.kmeans import KMeans, write_labels
    from ..units.store import FeatureFolder

    kmeans, features = KMeans.load(options.kmeans), FeatureFolder(options.features)
    kmeans.require_same(features.width, features.rate, features.source)
    print(f"{options.out}: {write_labels(kmeans, features, options.manifest, options.out)} frames")
    return 0


# ---- dinosr units ------------------------------------------------------------------------------------------------------------


def add_units(commands) -> None:
    parser = add_command(commands, "units", run_units, "write the discrete units of every utterance of a manifest: of a DinoSR model's codebooks, or of k-means")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a DinoSR pre-training checkpoint; or, with --kmeans, a folder of features")
    parser.add_argument("manifest", type=Path, nargs="?", metavar="MANIFEST", help="a .tsv file; not with --kmeans")
    parser.add_argument("--kmeans", type=Path, metavar="FILE", help="clusters that `dinosr kmeans fit` found in features of this kind")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder for codebook_0.units, ...; with --kmeans the file")
    parser.add_argument("--predicted", action="store_true", help="what the student's heads predict instead of what the teacher's codebooks hold")
    parser.add_argument("--codebooks", type=int, nargs="+", metavar="K", help="these only, from 0, the lowest layer (default: all)")
    parser.add_argument("--rate", type=positive, metavar="HZ", help="units a second: a multiple or a part of the model's, which is the default")
    parser.add_argument("--dedup", action="store_true", help="each run of equal units once")
    parser.add_argument("--plain", action="store_true", help="without utterance names, for fairseq-preprocess --only-source")


def run_units(options: argparse.Namespace) -> int:
    from ..units.codes import write_codebook_units, write_kmeans_units
    from ..units.store import FeatureFolder

    shape = {"rate": options.rate, "deduplicate": options.dedup, "plain": options.plain}
    if options.kmeans:
        if options.manifest or options.predicted or options.codebooks:
            raise UserError("--kmeans: takes a folder of features and neither MANIFEST nor --predicted nor --codebooks; leave those out")
        print(write_kmeans_units(FeatureFolder(options.checkpoint), options.kmeans, options.out, **shape))
        return 0
    if options.manifest is None:
        raise UserError("MANIFEST: not given; name the .tsv file of the speech")
    print(*write_codebook_units(options.checkpoint, options.manifest, options.out, options.predicted, options.codebooks, **shape), sep="\n")
    return 0

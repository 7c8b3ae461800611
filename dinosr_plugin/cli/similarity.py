"""How alike the representations of models and layers are: ``dinosr similarity``."""

import argparse
from pathlib import Path

from .parsing import add_command, add_max_minutes, add_out, checkpoint_or_folder, layer, print_notes, whole_number

MEASURES_HELP = (
    "measures, of: cka, cka_unbiased, cka_batches (linear CKA: biased; unbiased; unbiased of mini-batches), cka_rbf; "
    "svcca (99 %% of the variance), svcca_wu, svcca_anatome (as in these implementations); pwcca, pwcca_google, "
    "pwcca_anatome; mean_cca, yanai; maxcorr (best correlation of each neuron; over several models also mincorr), "
    "linreg (row predicted from column); procrustes; rsa (default: cka cka_unbiased svcca pwcca)"
)


def add_similarity(commands) -> None:
    text = (
        "measure how alike models, layers or checkpoints represent the same speech: CKA, CCA, linear regression, "
        "Procrustes, RSA"
    )
    parser = add_command(commands, "similarity", run_similarity, text)
    parser.add_argument(
        "models",
        nargs="+",
        type=checkpoint_or_folder,
        metavar="MODEL",
        help="checkpoints that `dinosr features` reads; its feature folders, which resume if they are interrupted; "
        "mfcc; fbank (log-Mel); mfcc_uncentred and fbank_uncentred, whose means over an utterance are not 0",
    )
    parser.add_argument("--manifest", type=Path, required=True, metavar="TSV", help="the speech to compare on")
    parser.add_argument(
        "--layers",
        type=layer,
        nargs="+",
        metavar="L",
        help="layers of every model: numbers, last, all or names of outputs (default: all of one or two models, the "
        "last of more)",
    )
    parser.add_argument("--measure", nargs="+", metavar="NAME", help=MEASURES_HELP)
    parser.add_argument(
        "--level",
        choices=("frames", "utterances"),
        default="frames",
        help="compare frames, or the means of utterances; only these have embeddings of recordings (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--untrained", action="store_true", help="add the model of every checkpoint with random weights"
    )
    parser.add_argument(
        "--all-pairs",
        action="store_true",
        help="of two models, compare the layers of each with each other too",
    )
    parser.add_argument(
        "--max-frames",
        type=frame_limit,
        metavar="N",
        help="use one frame in k, with the smallest k that gives at most N frames; all: every frame (default: 40000)",
    )
    parser.add_argument(
        "--bootstrap",
        type=whole_number,
        default=0,
        metavar="N",
        help="add 95 %% intervals from N resamples of the utterances, in 20 groups; 200 are enough",
    )
    add_max_minutes(parser)
    add_out(
        parser,
        "folder",
        required=False,
        metavar="DIR",
        help="folder for similarity.json, similarity.csv, a heat map for each measure and, with --bootstrap, draws.npz",
    )


def frame_limit(text: str) -> int | str:
    """An argparse type: an integer above 0, or ``all``."""
    return text if text == "all" else whole_number(text)


frame_limit.__name__ = "number of frames (or all)"


def run_similarity(options: argparse.Namespace) -> int:
    from ..evaluation.similarity.opening import make_plan, open_suppliers, read_speech
    from ..evaluation.similarity.output import tables, write_similarity
    from ..evaluation.similarity.pairs import DEFAULT, MAX_FRAMES, measure_similarity
    from ..units.features import default_device

    device = default_device()
    suppliers = open_suppliers(options.models, options.layers, options.untrained, device)
    settings = {
        "measures": list(dict.fromkeys(options.measure or DEFAULT)),
        "level": options.level,
        "max_frames": {None: MAX_FRAMES, "all": None}.get(options.max_frames, options.max_frames),
        "bootstrap": options.bootstrap,
    }
    plan = make_plan(suppliers, options.all_pairs, **settings)
    utterances = read_speech(options.manifest, suppliers, options.max_minutes)
    similarity = measure_similarity(suppliers, utterances, plan, device)
    print_notes(similarity.notes)
    print(tables(similarity))
    if options.out:
        print(*write_similarity(options.out, similarity), sep="\n")
    return 0

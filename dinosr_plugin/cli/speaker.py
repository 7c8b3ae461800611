"""Speaker embeddings: ``dinosr speaker embed``, ``trials``, ``score``, ``eval``, ``cluster`` and ``report``."""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from ..errors import UserError
from ..files import claim_new
from ..ranges import SEED
from .parsing import (
    add_command,
    add_max_minutes,
    add_out,
    add_skip_missing,
    checkpoint,
    finite,
    layer,
    positive,
    print_notes,
    whole_number,
)

EMBEDDINGS_HELP = "folder written by `dinosr speaker embed`"
TRIALS_HELP = "trial list: lines `1 FILE FILE` (same speaker) and `0 FILE FILE` (different speakers)"


def add_speaker(commands) -> None:
    text = "embeddings of speakers: make them, verify and cluster recordings by them, and measure both"
    parser = commands.add_parser("speaker", help=text, description=text[0].upper() + text[1:] + ".")
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    for add in (add_embed, add_trials, add_score, add_eval, add_cluster, add_report):
        add(steps)


def seed_of(options: argparse.Namespace) -> int:
    if options.seed not in SEED:
        raise UserError(f"--seed {options.seed}: must be {SEED}")
    return options.seed


def add_resamples(parser: argparse.ArgumentParser) -> None:
    text = "samples of the bootstrap (default: %(default)s)"
    parser.add_argument("--resamples", type=whole_number, default=1000, metavar="N", help=text)


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=f"random seed {what} (default: %(default)s)")


# ---- dinosr speaker embed --------------------------------------------------------------------------------------------


def add_embed(steps) -> None:
    text = "write an embedding, a vector, of every recording of a manifest"
    parser = add_command(steps, "embed", run_embed, text)
    parser.add_argument(
        "checkpoint",
        type=checkpoint,
        nargs="?",
        metavar="CHECKPOINT",
        help="a speaker model; or any other model that `dinosr features` reads, whose embedding is the mean and the "
        "standard deviation of the frames of a layer; not with --mfcc",
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file")
    add_out(
        parser,
        "parts",
        metavar="DIR",
        help="folder for the embeddings; a run that was interrupted resumes when it is started again with the same "
        "options",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--mfcc",
        action="store_true",
        help="the mean and the standard deviation of 13 MFCC (26 dimensions), a baseline without a checkpoint",
    )
    kind.add_argument(
        "--layer",
        type=layer,
        metavar="L",
        help="layer of a model that has no embeddings, from 0, last, or the name of an output (default: last)",
    )
    parser.add_argument(
        "--trials",
        type=Path,
        metavar="FILE",
        help="embed the recordings and parts in this trial list only; required for lists of parts "
        "(FILE@START-END, in samples)",
    )
    add_max_minutes(parser)


def run_embed(options: argparse.Namespace) -> int:
    from ..evaluation.speakers.extraction import embed_manifest

    if options.mfcc == bool(options.checkpoint):
        raise UserError("CHECKPOINT: give either a checkpoint, or --mfcc")
    done = embed_manifest(
        options.checkpoint,
        options.manifest,
        options.out,
        options.trials,
        options.layer,
        options.max_minutes,
    )
    print(*done.folders, done.summary, sep="\n")
    return 0


# ---- dinosr speaker trials -------------------------------------------------------------------------------------------


def add_trials(steps) -> None:
    text = "draw a trial list, pairs of recordings of the same and of different speakers, in VoxCeleb's format"
    parser = add_command(steps, "trials", run_trials, text)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file; its folders name the speakers")
    add_out(parser, "file", metavar="FILE", help="output file, the list")
    parser.add_argument(
        "--per-speaker",
        type=whole_number,
        default=100,
        metavar="N",
        help="trials of the same speaker, and as many of different speakers, for each speaker, or all if there are "
        "fewer (default: %(default)s)",
    )
    parser.add_argument(
        "--halves",
        action="store_true",
        help="trials between the first and the second half of recordings, for corpora in which each speaker has one",
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help="use a random part of S seconds of each recording or half; shorter ones are left out",
    )
    add_seed(parser, "of pairs and parts")


def run_trials(options: argparse.Namespace) -> int:
    from ..evaluation.speakers.trials import make_trials, write_trials

    drawn = make_trials(options.manifest, options.per_speaker, options.halves, options.seconds, seed_of(options))
    write_trials(options.out, drawn.trials)
    print_notes(drawn.notes)
    targets = sum(trial.same for trial in drawn.trials)
    others = len(drawn.trials) - targets
    print(f"{options.out}: {targets} target and {others} nontarget trials of {drawn.speakers} speakers")
    return 0


# ---- dinosr speaker score --------------------------------------------------------------------------------------------


def add_score(steps) -> None:
    text = "write the score of every trial, the cosine of its two embeddings, perhaps normalised by a cohort"
    parser = add_command(steps, "score", run_score, text)
    parser.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help=EMBEDDINGS_HELP)
    parser.add_argument("trials", type=Path, metavar="TRIALS", help=TRIALS_HELP)
    add_out(parser, "file", metavar="FILE", help="output file: the lines of the list, each with its score at the end")
    parser.add_argument(
        "--cohort",
        type=Path,
        metavar="DIR",
        help="embeddings of other speakers by the same model: normalise scores by adaptive s-norm",
    )
    parser.add_argument(
        "--top",
        type=whole_number,
        metavar="N",
        help="with --cohort: embeddings of the cohort, the nearest ones of each recording, that its scores are "
        "normalised by (default: 300)",
    )
    add_skip_missing(parser, "leave out trials of recordings that have no embedding")


def run_score(options: argparse.Namespace) -> int:
    from ..evaluation.speakers.scores import TOP, score_list, write_scores

    if options.top and not options.cohort:
        raise UserError("--cohort is required with --top")
    scored = score_list(options.embeddings, options.trials, options.cohort, options.top or TOP, options.skip_missing)
    print_notes(scored.notes)
    write_scores(options.out, scored)
    print(f"{options.out}: {len(scored.trials)} scores")
    return 0


# ---- dinosr speaker eval ---------------------------------------------------------------------------------------------


def add_eval(steps) -> None:
    text = "measure scores: EER and minDCF at priors .01 and .05, with intervals by the bootstrap over speakers"
    parser = add_command(steps, "eval", run_eval, text)
    parser.add_argument(
        "scores",
        type=Path,
        metavar="SCORES",
        help="file written by `dinosr speaker score`; or, with TRIALS, " + EMBEDDINGS_HELP,
    )
    parser.add_argument("trials", type=Path, nargs="?", metavar="TRIALS", help=TRIALS_HELP)
    add_skip_missing(parser, "with TRIALS: leave out trials of recordings that have no embedding")
    add_resamples(parser)
    add_seed(parser, "of the bootstrap")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="write a picture of the DET curve and a histogram of the scores: PDF or SVG if its name ends in .pdf or "
        ".svg, otherwise PNG",
    )


def run_eval(options: argparse.Namespace) -> int:
    from ..evaluation.plots.verification import plot_verification
    from ..evaluation.speakers.scores import read_scores, score_list
    from ..evaluation.speakers.verification import verify

    if options.trials:
        scored = score_list(options.scores, options.trials, skip_missing=options.skip_missing)
    elif options.skip_missing:
        raise UserError("--skip-missing: only used with TRIALS; remove it")
    else:
        scored = read_scores(options.scores)
    print_notes(scored.notes)
    with claim_new(options.plot, "--plot") if options.plot else nullcontext():
        figures, rates = verify(scored, options.resamples, seed_of(options), options.trials or options.scores)
        print(json.dumps(figures.to_json(), indent=1) if options.json else figures.table())
        if options.plot:
            plot_verification(rates, *scored.by_kind(), options.plot)
    return 0


# ---- dinosr speaker cluster ------------------------------------------------------------------------------------------


def add_cluster(steps) -> None:
    text = (
        "group recordings into speakers: agglomerative clustering of embeddings by their cosines, average linkage; or "
        "the clusters that a training of SSRL has learned"
    )
    parser = add_command(steps, "cluster", run_cluster, text)
    parser.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help=EMBEDDINGS_HELP)
    add_out(parser, "file", metavar="FILE", help="output file: lines FILE<TAB>CLUSTER, clusters numbered from 0")
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument("--clusters", type=whole_number, metavar="K", help="number of clusters")
    until.add_argument(
        "--threshold",
        type=finite,
        metavar="T",
        help="merge clusters while the mean cosine of their recordings is at least T; `dinosr speaker eval` prints the "
        "score at the EER, a first guess",
    )
    until.add_argument(
        "--classifier",
        type=Path,
        metavar="CHECKPOINT",
        help="checkpoint of ssrl_speaker that the embeddings are of: each recording belongs to the cluster of its "
        "teacher's classifier with the highest cosine; numbers are those of the training's labels",
    )
    parser.add_argument(
        "--speakers",
        action="store_true",
        help="the folders name the speakers: print NMI, accuracy and purity of the clusters",
    )


def run_cluster(options: argparse.Namespace) -> int:
    from ..evaluation.measures.speaker_clusters import COLUMNS
    from ..evaluation.speakers.clusters import cluster_embeddings, compare_with_folders, write_clusters
    from ..evaluation.table import format_table

    if options.classifier:
        from ..evaluation.speakers.classification import classify_embeddings

        clustered = classify_embeddings(options.embeddings, options.classifier)
    else:
        clustered = cluster_embeddings(options.embeddings, options.clusters, options.threshold)
    figures = compare_with_folders(clustered, options.embeddings) if options.speakers else None
    write_clusters(options.out, clustered)
    print(f"{options.out}: {len(clustered.names)} recordings in {len(set(clustered.clusters.tolist()))} clusters")
    if figures:
        print(format_table([figures], COLUMNS))
    return 0


# ---- dinosr speaker report -------------------------------------------------------------------------------------------


def add_report(steps) -> None:
    text = (
        "write an HTML page about a speaker model: EER and minDCF, DET curve, a map of recordings, and the course of "
        "its training"
    )
    parser = add_command(steps, "report", run_report, text)
    parser.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help=EMBEDDINGS_HELP)
    parser.add_argument("trials", type=Path, metavar="TRIALS", help=TRIALS_HELP)
    add_out(parser, "file", metavar="FILE", help="output file, such as page.html, with all its pictures")
    add_skip_missing(parser, "leave out trials of recordings that have no embedding")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all figures and curves into this file, as JSON"
    )
    add_resamples(parser)
    add_seed(parser, "of the bootstrap and the map")
    training = parser.add_argument_group("the course of a training")
    training.add_argument(
        "--run",
        dest="save_dir",  # `run` is the function of the command
        type=Path,
        metavar="SAVE_DIR",
        help="checkpoint.save_dir of the training; with --manifest, --recordings, or both",
    )
    training.add_argument(
        "--manifest",
        type=Path,
        metavar="TSV",
        help="manifest of its training split, with the first labels beside it: add clusters in use and changed labels "
        "after every epoch, and NMI, accuracy and purity against the speakers that the folders name",
    )
    training.add_argument(
        "--log", type=Path, metavar="FILE", help="with --manifest: its JSON log; add the mean weights of recordings"
    )
    training.add_argument(
        "--recordings",
        type=Path,
        metavar="TSV",
        help="manifest of the recordings in TRIALS: add EER and minDCF with the checkpoint of every epoch "
        "(checkpoint1.pt ...), whose embeddings are kept in FILE.work: an interrupted run resumes",
    )


def run_report(options: argparse.Namespace) -> int:
    from ..evaluation.speakers.report import write_speaker_report

    if (options.manifest or options.recordings) and not options.save_dir:
        raise UserError(f"--run is required with --{'manifest' if options.manifest else 'recordings'}")
    if options.save_dir and not (options.manifest or options.recordings):
        raise UserError("--run: give --manifest, --recordings, or both, for what the page shows of the training")
    if options.log and not options.manifest:
        raise UserError("--manifest is required with --log")
    with claim_new(options.json, "--json") if options.json else nullcontext():
        write_speaker_report(
            options.embeddings,
            options.trials,
            options.out,
            options.save_dir,
            options.manifest,
            options.recordings,
            options.log,
            options.json,
            options.skip_missing,
            options.resamples,
            seed_of(options),
            say=lambda line: print(line, file=sys.stderr),
        )
    print(options.out)
    return 0

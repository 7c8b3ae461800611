"""Language models of units: ``dinosr lm-score``, ``lm-features``, ``zerospeech``, ``zerospeech-synth``."""

import argparse
from pathlib import Path

from .parsing import add_command, whole_number


def add_language_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "lm",
        type=Path,
        metavar="LM",
        help="a checkpoint of fairseq-train --task language_modeling, or of fairseq-hydra-train",
    )
    parser.add_argument(
        "units", type=Path, metavar="UNITS", help="a file of `dinosr units`, with the utterances' names"
    )
    parser.add_argument(
        "--dict",
        type=Path,
        metavar="FILE",
        help="the model's dict.txt (default: beside LM, or in the folder it was trained on)",
    )


# ---- dinosr lm-score ---------------------------------------------------------------------------------------------------------


def add_lm_score(commands) -> None:
    text = "how likely a language model of units finds every utterance: sum of natural-log probabilities, end included, not divided by the length"
    parser = add_command(commands, "lm-score", run_lm_score, text)
    add_language_model(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a line `utterance score` for each, as ZeroSpeech's lexical/dev.txt and syntactic/dev.txt",
    )


def run_lm_score(options: argparse.Namespace) -> int:
    from ..units.language_model import UnitLanguageModel, write_scores

    utterances, mean = write_scores(UnitLanguageModel(options.lm, options.dict), options.units, options.out)
    print(f"{options.out}: {utterances} utterances, {mean:.4f} a unit")
    return 0


# ---- dinosr lm-features ------------------------------------------------------------------------------------------------------


def add_lm_features(commands) -> None:
    text = "write what a layer of a language model of units makes of every utterance, for ZeroSpeech's sSIMI"
    parser = add_command(commands, "lm-features", run_lm_features, text)
    add_language_model(parser)
    parser.add_argument(
        "--layer",
        type=whole_number,
        default=2,
        metavar="L",
        help="from 1; the baseline's LSTM takes its second (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for a .npy file of each utterance: semantic/dev/librispeech or semantic/dev/synthetic",
    )


def run_lm_features(options: argparse.Namespace) -> int:
    from ..units.language_model import UnitLanguageModel, write_hidden_states

    utterances = write_hidden_states(
        UnitLanguageModel(options.lm, options.dict), options.units, options.layer, options.out
    )
    print(f"{options.out}: layer {options.layer} of {utterances} utterances")
    return 0


# ---- dinosr zerospeech -------------------------------------------------------------------------------------------------------


def add_zerospeech(commands) -> None:
    text = "ZeroSpeech 2021's measures of a language model of units: sWUGGY (words), sBLIMP (grammar) and sSIMI (meaning), those of them that the submission holds"
    parser = add_command(commands, "zerospeech", run_zerospeech, text)
    parser.add_argument(
        "dataset",
        type=Path,
        metavar="DATASET",
        help="the benchmark's folder: lexical/dev/gold.csv, syntactic/dev/gold.csv, semantic/dev/gold.csv and pairs.csv",
    )
    parser.add_argument(
        "submission",
        type=Path,
        metavar="SUBMISSION",
        help="lexical/dev.txt, syntactic/dev.txt (`dinosr lm-score`), semantic/dev/librispeech and synthetic (`dinosr lm-features`)",
    )
    parser.add_argument("--set", dest="subset", choices=("dev", "test"), default="dev", help="(default: %(default)s)")
    parser.add_argument(
        "--pooling",
        choices=("min", "max", "mean"),
        default="min",
        help="of sSIMI's features over time (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .json file of the same figures")


def run_zerospeech(options: argparse.Namespace) -> int:
    import json

    from ..data.manifest import require_writable, write_files
    from ..evaluation.zerospeech.submission import evaluate, report

    if options.out:
        require_writable(options.out.parent)
    found = evaluate(options.dataset, options.submission, options.subset, options.pooling)
    print(report(found))
    if options.out:
        write_files(options.out.parent, {options.out.name: [json.dumps(found, indent=1)]})
        print(options.out)
    return 0


# ---- dinosr zerospeech-synth -------------------------------------------------------------------------------------------------


def add_zerospeech_synth(commands) -> None:
    text = "make a small benchmark for `dinosr zerospeech` with the voices of `dinosr synth`: words and non-words, sentences and ones that break a rule"
    parser = add_command(commands, "zerospeech-synth", run_zerospeech_synth, text)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new folder for it: gold files and audio in the benchmark's layout, lexical.tsv, syntactic.tsv",
    )
    parser.add_argument(
        "--pairs",
        type=whole_number,
        default=160,
        metavar="N",
        help="of sentences, and as many of words if the vocabulary has them (default: %(default)s)",
    )
    parser.add_argument(
        "--voices",
        type=whole_number,
        default=4,
        metavar="V",
        help="that say each pair: from the third speaker of `dinosr synth` with the same seed on (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another number gives other pairs (default: %(default)s)"
    )


def run_zerospeech_synth(options: argparse.Namespace) -> int:
    from ..data.synth.pairs import make_benchmark

    made = make_benchmark(options.out, options.pairs, options.voices, options.seed)
    print(
        f"{options.out}: {made['lexical']} pairs of words, {made['syntactic']} of sentences, each in {options.voices} voices"
    )
    return 0

"""Language models of units: ``dinosr lm-score``, ``lm-features``, ``zerospeech``, ``zerospeech-synth``."""

import argparse
from pathlib import Path

from .parsing import add_command, add_out, whole_number


def add_language_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "lm",
        type=Path,
        metavar="LM",
        help="language model checkpoint, trained with fairseq-train --task language_modeling or with "
        "fairseq-hydra-train",
    )
    parser.add_argument(
        "units", type=Path, metavar="UNITS", help="unit file with utterance names, written by `dinosr units`"
    )
    parser.add_argument(
        "--dict",
        type=Path,
        metavar="FILE",
        help="dict.txt of the language model (default: the one in the folder of LM, or in its training data)",
    )


# ---- dinosr lm-score -------------------------------------------------------------------------------------------------


def add_lm_score(commands) -> None:
    text = (
        "score every utterance with a language model of units: sum of natural-log probabilities, including the end of "
        "the utterance, not normalised by length"
    )
    parser = add_command(commands, "lm-score", run_lm_score, text)
    add_language_model(parser)
    add_out(
        parser,
        "file",
        metavar="FILE",
        help="output file: one line `utterance score` per utterance, as in ZeroSpeech's lexical/dev.txt and "
        "syntactic/dev.txt",
    )


def run_lm_score(options: argparse.Namespace) -> int:
    from ..units.language_model import UnitLanguageModel, write_scores

    utterances, mean = write_scores(UnitLanguageModel(options.lm, options.dict), options.units, options.out)
    print(f"{options.out}: {utterances} utterances, {mean:.4f} a unit")
    return 0


# ---- dinosr lm-features ----------------------------------------------------------------------------------------------


def add_lm_features(commands) -> None:
    text = "write the hidden states of a language model of units for every utterance, for ZeroSpeech's sSIMI"
    parser = add_command(commands, "lm-features", run_lm_features, text)
    add_language_model(parser)
    parser.add_argument(
        "--layer",
        type=whole_number,
        default=2,
        metavar="L",
        help="layer, counted from 1; the ZeroSpeech baseline uses the second layer of its LSTM (default: %(default)s)",
    )
    add_out(
        parser,
        "folder",
        metavar="DIR",
        help="folder for one .npy file per utterance, such as semantic/dev/librispeech or semantic/dev/synthetic",
    )


def run_lm_features(options: argparse.Namespace) -> int:
    from ..units.language_model import UnitLanguageModel, write_hidden_states

    utterances = write_hidden_states(
        UnitLanguageModel(options.lm, options.dict), options.units, options.layer, options.out
    )
    print(f"{options.out}: layer {options.layer} of {utterances} utterances")
    return 0


# ---- dinosr zerospeech -----------------------------------------------------------------------------------------------


def add_zerospeech(commands) -> None:
    text = (
        "evaluate a language model of units with the ZeroSpeech 2021 measures sWUGGY (words), sBLIMP (grammar) and "
        "sSIMI (meaning), as far as the submission contains their files"
    )
    parser = add_command(commands, "zerospeech", run_zerospeech, text)
    parser.add_argument(
        "dataset",
        type=Path,
        metavar="DATASET",
        help="folder of the benchmark: lexical/dev/gold.csv, syntactic/dev/gold.csv, semantic/dev/gold.csv and "
        "pairs.csv",
    )
    parser.add_argument(
        "submission",
        type=Path,
        metavar="SUBMISSION",
        help="folder with lexical/dev.txt and syntactic/dev.txt (`dinosr lm-score`), and semantic/dev/librispeech and "
        "semantic/dev/synthetic (`dinosr lm-features`)",
    )
    parser.add_argument(
        "--set", dest="subset", choices=("dev", "test"), default="dev", help="set to evaluate (default: %(default)s)"
    )
    parser.add_argument(
        "--pooling",
        choices=("min", "max", "mean"),
        default="min",
        help="pooling of the sSIMI features over time (default: %(default)s)",
    )
    add_out(parser, "file", required=False, metavar="FILE", help="also write the figures to this .json file")


def run_zerospeech(options: argparse.Namespace) -> int:
    import json

    from ..evaluation.zerospeech.submission import evaluate, report
    from ..files import write_files

    figures = evaluate(options.dataset, options.submission, options.subset, options.pooling)
    print(report(figures))
    if options.out:
        write_files(options.out.parent, {options.out.name: [json.dumps(figures, indent=1)]})
        print(options.out)
    return 0


# ---- dinosr zerospeech-synth -----------------------------------------------------------------------------------------


def add_zerospeech_synth(commands) -> None:
    text = (
        "generate a small benchmark for `dinosr zerospeech` with the voices of `dinosr synth`: pairs of words and "
        "non-words, and of grammatical and ungrammatical sentences"
    )
    parser = add_command(commands, "zerospeech-synth", run_zerospeech_synth, text)
    add_out(
        parser,
        "new folder",
        metavar="DIR",
        help="new folder for the gold files and the audio, in the layout of the benchmark, and for the manifests "
        "lexical.tsv and syntactic.tsv",
    )
    parser.add_argument(
        "--pairs",
        type=whole_number,
        default=160,
        metavar="N",
        help="pairs of sentences, and pairs of words if the vocabulary is large enough (default: %(default)s)",
    )
    parser.add_argument(
        "--voices",
        type=whole_number,
        default=4,
        metavar="V",
        help="voices that read each pair: the speakers of `dinosr synth` with the same seed, from the third one on "
        "(default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")


def run_zerospeech_synth(options: argparse.Namespace) -> int:
    from ..data.synth.pairs import make_benchmark

    counts = make_benchmark(options.out, options.pairs, options.voices, options.seed)
    pairs = f"{counts['lexical']} pairs of words, {counts['syntactic']} of sentences"
    print(f"{options.out}: {pairs}, each in {options.voices} voices")
    return 0

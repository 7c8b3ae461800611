"""From speech to text: ``dinosr ngram``, ``tune-lm``, ``transcribe``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .parsing import add_command, add_out, finite, print_notes, whole_number

# ---- dinosr ngram ----------------------------------------------------------------------------------------------------


def add_ngram(commands) -> None:
    parser = add_command(commands, "ngram", run_ngram, "train an n-gram language model on a text, for decoding (--lm)")
    parser.add_argument(
        "text",
        type=Path,
        metavar="TEXT",
        help="training text, with spaces between symbols: train.wrd for a word model, train.ltr for letters, train.bpe "
        "for word pieces, or another text in one of these forms (`dinosr normalize` makes it)",
    )
    parser.add_argument(
        "--order",
        type=whole_number,
        required=True,
        metavar="N",
        help="longest n-gram, 2 to 6; usually 2 or 3 for words, 6 for letters",
    )
    add_out(parser, "file", metavar="FILE", help="output file, in ARPA format; replaced if it exists")


def run_ngram(options: argparse.Namespace) -> int:
    from ..decoding.ngram import make_ngram

    print(make_ngram(options.text, options.order, options.out))
    return 0


# ---- dinosr tune-lm --------------------------------------------------------------------------------------------------


def add_tune_lm(commands) -> None:
    text = (
        "find the language model weight and word score with the lowest word error rate on the emissions of a "
        "development set"
    )
    parser = add_command(commands, "tune-lm", run_tune_lm, text)
    parser.add_argument(
        "emissions", type=Path, metavar="EMISSIONS", help="file written by `fairseq-generate ... --emissions FILE`"
    )
    parser.add_argument(
        "--lm",
        required=True,
        metavar="FILE",
        help="n-gram model in a KenLM format (.arpa, .bin): of words with --lexicon, otherwise of the acoustic model's "
        "symbols",
    )
    parser.add_argument(
        "--lexicon",
        metavar="FILE",
        help="decode with --decoder lexicon and this file: lines 'word l e t t e r s |', or transcripts (train.wrd)",
    )
    parser.add_argument(
        "--lm-weights",
        type=finite,
        nargs="+",
        default=[0, 0.5, 1, 1.5, 2, 3],
        metavar="W",
        help="weights to try (default: 0 0.5 1 1.5 2 3)",
    )
    parser.add_argument(
        "--word-scores",
        type=finite,
        nargs="+",
        metavar="S",
        help="word scores to try with each weight; requires --lexicon (default: -1 0 1 2)",
    )
    parser.add_argument(
        "--beam",
        type=whole_number,
        default=50,
        metavar="N",
        help="beam size: hypotheses kept after each frame (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=whole_number,
        metavar="N",
        help="processes that decode; they do not change the result (default: one per CPU, at most 16)",
    )


def run_tune_lm(options: argparse.Namespace) -> int:
    from ..decoding import SearchOptions, build_decoder
    from ..decoding.emissions import EmissionReader
    from ..decoding.pool import default_processes
    from ..decoding.tune import summary, tune

    if options.word_scores and not options.lexicon:
        raise UserError("--word-scores: only used with a lexicon; add --lexicon FILE, or omit the option")
    emissions = EmissionReader(options.emissions)
    search = SearchOptions(beam=options.beam, lm=options.lm, lm_weight=1.0, lexicon=options.lexicon)
    decoder = build_decoder(
        "lexicon" if options.lexicon else "beam", emissions.meta.dictionary(), emissions.meta.blank, search
    )
    scores = options.word_scores or ([-1.0, 0.0, 1.0, 2.0] if options.lexicon else [0.0])
    weights, scores = list(dict.fromkeys(options.lm_weights)), list(dict.fromkeys(scores))  # without duplicates
    trials = tune(emissions, decoder, weights, scores, options.processes or default_processes())
    print(f"{tuning_table(trials)}\n{summary(trials, options.beam)}")
    return 0


def tuning_table(trials: Sequence) -> str:
    """Table of the error rates of ``Trial``s: a row for each weight, a column for each word score."""
    from ..evaluation.table import format_table

    scores = list(dict.fromkeys(trial.word_score for trial in trials))
    rows: dict[float, dict] = {}
    for trial in trials:
        rows.setdefault(trial.lm_weight, {"weight": f"{trial.lm_weight:g}"})[trial.word_score] = trial.rates["wer"]
    columns = [
        ("weight", f"{trials[0].rate_name} at LM weight", ""),
        *((score, f"word score {score:g}", ".2f") for score in scores),
    ]
    return format_table(list(rows.values()), columns)


# ---- dinosr transcribe -----------------------------------------------------------------------------------------------


FORMATS = ("text", "json", "srt", "ctm")
DECODERS = ("best_path", "beam", "lexicon")


def add_transcribe(commands) -> None:
    text = "transcribe audio files of any length, sample rate and number of channels with a fine-tuned checkpoint"
    parser = add_command(commands, "transcribe", run_transcribe, text)
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="checkpoint of CTC fine-tuning; no other file of the training is needed",
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="audio file in any format that libsndfile reads (wav, flac, ogg, mp3, ...); all files are checked "
        "before the first one is transcribed",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text: one line per file, FILE<TAB>words; json: one object per file, with start and end (seconds) and "
        "confidence (0 to 1) of every word; srt: subtitles, of a single FILE; ctm: one line per word, for scoring "
        "programs (default: %(default)s)",
    )
    add_out(
        parser,
        "file",
        required=False,
        metavar="NEW_FILE",
        help="write to this file, which is created at the end, instead of stdout",
    )
    add_decoder(parser)


def add_decoder(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group(
        "decoding",
        "beam and lexicon require flashlight-text (pip install flashlight-text) and split long recordings at pauses",
    )
    search.add_argument(
        "--decoder",
        choices=DECODERS,
        default="best_path",
        help="best_path: most likely symbol of each frame; beam: most likely text; lexicon: most likely sequence of "
        "words in --lexicon (default: %(default)s)",
    )
    search.add_argument(
        "--lm",
        metavar="FILE",
        help="n-gram model in a KenLM format (.arpa, .bin): of words for lexicon, of the dictionary's symbols for beam",
    )
    search.add_argument(
        "--lm-weight",
        type=finite,
        metavar="W",
        help="weight of the language model's log10 probabilities, usually 0.5 to 2; `dinosr tune-lm` finds the best "
        "one (default: 1)",
    )
    search.add_argument(
        "--lexicon",
        metavar="FILE",
        help="lines 'word l e t t e r s |', or transcripts (train.wrd), whose words are split into letters",
    )
    search.add_argument(
        "--word-score",
        type=finite,
        metavar="S",
        help="for lexicon: score added for each word; positive values reduce the deletions that a language model "
        "causes",
    )
    search.add_argument(
        "--beam",
        type=whole_number,
        metavar="N",
        help="for beam and lexicon: beam size, the hypotheses kept after each frame, usually 50 to 500 (default: 50)",
    )


def run_transcribe(options: argparse.Namespace) -> int:
    from ..decoding import build_decoder
    from ..decoding.pace import Pace
    from ..decoding.recogniser import load_recogniser
    from ..decoding.transcribe import require_possible, search_options, survey, write

    require_possible(options.files, options.format, options.out)
    search = search_options(options)
    recogniser = load_recogniser(options.checkpoint)
    decoder = build_decoder(options.decoder, recogniser.dictionary, recogniser.blank, search)
    pace = Pace()  # includes the time for checking the files
    recordings = survey(options.files)
    print_notes([note for recording in recordings if (note := recording.note())])
    note = write(recogniser, decoder, recordings, options.format, options.out, pace)
    print_notes([note] if note else [])
    if pace.sound:
        print(pace.summary(), file=sys.stderr)
    return 0

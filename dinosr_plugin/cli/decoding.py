"""From sound to words: ``dinosr ngram``, ``tune-lm``, ``transcribe``."""

import argparse
import sys
from pathlib import Path

from ..errors import UserError
from .parsing import add_command, finite, print_notes, whole_number

# ---- dinosr ngram ------------------------------------------------------------------------------------------------------------


def add_ngram(commands) -> None:
    parser = add_command(commands, "ngram", run_ngram, "make an n-gram language model of a text, for decoding (--lm)")
    parser.add_argument(
        "text",
        type=Path,
        metavar="TEXT",
        help="train.wrd for a model of words, train.ltr or train.bpe for one of letters or pieces; or any text like them",
    )
    parser.add_argument(
        "--order",
        type=whole_number,
        required=True,
        metavar="N",
        help="longest n-gram, 2 to 6; 2 or 3 is usual for words, 6 for letters",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the model, in ARPA format; replaced where it exists"
    )


def run_ngram(options: argparse.Namespace) -> int:
    from ..decoding.ngram import make_ngram

    print(make_ngram(options.text, options.order, options.out))
    return 0


# ---- dinosr tune-lm ----------------------------------------------------------------------------------------------------------


def add_tune_lm(commands) -> None:
    text = "find the weight of a language model and the word score with which emissions of a development set are decoded best"
    parser = add_command(commands, "tune-lm", run_tune_lm, text)
    parser.add_argument(
        "emissions", type=Path, metavar="EMISSIONS", help="file that `fairseq-generate ... --emissions FILE` wrote"
    )
    parser.add_argument(
        "--lm",
        required=True,
        metavar="FILE",
        help="n-gram model that KenLM reads (.arpa, .bin): of words with --lexicon, else of the model's symbols",
    )
    parser.add_argument(
        "--lexicon",
        metavar="FILE",
        help="decode with --decoder lexicon; lines 'word l e t t e r s |', or transcripts (train.wrd)",
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
        help="word scores to try with each of them, with --lexicon (default: -1 0 1 2)",
    )
    parser.add_argument(
        "--beam",
        type=whole_number,
        default=50,
        metavar="N",
        help="hypotheses kept after each frame (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=whole_number,
        metavar="N",
        help="that decode (default: one a CPU, 16 at most); changes the time, not the result",
    )


def run_tune_lm(options: argparse.Namespace) -> int:
    from ..decoding import SearchOptions, build_decoder
    from ..decoding.emissions import EmissionReader
    from ..decoding.pool import default_processes
    from ..decoding.tune import summary, tune, tuning_table

    if options.word_scores and not options.lexicon:
        raise UserError("--word-scores: letters or pieces have none; give --lexicon FILE, or leave it out")
    emissions = EmissionReader(options.emissions)
    search = SearchOptions(beam=options.beam, lm=options.lm, lm_weight=1.0, lexicon=options.lexicon)
    decoder = build_decoder(
        "lexicon" if options.lexicon else "beam", emissions.meta.dictionary(), emissions.meta.blank, search
    )
    scores = options.word_scores or ([-1.0, 0.0, 1.0, 2.0] if options.lexicon else [0.0])
    weights, scores = list(dict.fromkeys(options.lm_weights)), list(dict.fromkeys(scores))  # each once
    trials = tune(emissions, decoder, weights, scores, options.processes or default_processes())
    print(f"{tuning_table(trials)}\n{summary(trials, options.beam)}")
    return 0


# ---- dinosr transcribe -------------------------------------------------------------------------------------------------------


FORMATS = ("text", "json", "srt", "ctm")
DECODERS = ("best_path", "beam", "lexicon")


def add_transcribe(commands) -> None:
    text = "write down what is said in sound files of any length, sample rate and number of channels, with a fine-tuned checkpoint"
    parser = add_command(commands, "transcribe", run_transcribe, text)
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a checkpoint of CTC fine-tuning; nothing else of the training is needed",
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="wav, flac, ogg, mp3, or whatever else libsndfile reads; all are read once before any is transcribed",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text: FILE, a tab and its words, a line a file; json: an object a line, with start, end (s) and confidence (0 to 1) of every word; "
        "srt: subtitles, of one FILE; ctm: a word a line, for scoring programs (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="NEW_FILE", help="write there instead of stdout; appears when all is done"
    )
    add_decoder(parser)


def add_decoder(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group(
        "decoding",
        "beam and lexicon need flashlight-text (pip install flashlight-text), and cut long recordings in pauses",
    )
    search.add_argument(
        "--decoder",
        choices=DECODERS,
        default="best_path",
        help="best_path: the likeliest symbol of each frame; beam: the likeliest text; lexicon: the likeliest words of --lexicon (default: %(default)s)",
    )
    search.add_argument(
        "--lm",
        metavar="FILE",
        help="n-gram model that KenLM reads (.arpa, .bin): of words for lexicon, of the dictionary's symbols for beam",
    )
    search.add_argument(
        "--lm-weight",
        type=finite,
        metavar="W",
        help="factor of its log10 probabilities; 0.5 to 2 are usual, `dinosr tune-lm` finds the best (default: 1)",
    )
    search.add_argument(
        "--lexicon",
        metavar="FILE",
        help="lines 'word l e t t e r s |', or transcripts (train.wrd), whose words are spelt letter by letter",
    )
    search.add_argument(
        "--word-score",
        type=finite,
        metavar="S",
        help="for lexicon: added for each word; above 0 makes up for words that a language model deletes",
    )
    search.add_argument(
        "--beam",
        type=whole_number,
        metavar="N",
        help="hypotheses that beam and lexicon keep after each frame; 50 to 500 are usual (default: 50)",
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
    pace = Pace()  # the first reading counts, too
    recordings = survey(options.files)
    print_notes([note for recording in recordings if (note := recording.note())])
    write(recogniser, decoder, recordings, options.format, options.out, pace)
    if pace.sound:
        print(pace.summary(), file=sys.stderr)
    return 0

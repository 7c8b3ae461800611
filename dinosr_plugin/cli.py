"""The ``dinosr`` command: one sub-command a tool. Parsing and printing only; the work is done where each ``run_*`` imports it from.

Exit status: 0 done, 1 for something the user can mend (``error: ...`` on stderr) or a manifest with problems,
2 for a wrong command line, 130 after Ctrl-C.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Callable, Optional, Sequence

from .errors import UserError


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one sub-command (``arguments`` default to the process's own); returns the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `dinosr check ... | head` has seen enough; Python must not complain when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dinosr", description="Tools around DinoSR pre-training with fairseq.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (add_path, add_manifest, add_check, add_synth, add_features, add_kmeans, add_units, add_quality, add_abx, add_ngram, add_tune_lm, add_transcribe):
        add(commands)
    return parser


def add_command(commands, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """A sub-command whose one-line help is also its description."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


# ---- values -----------------------------------------------------------------------------------------------------------------


def whole_number(text: str) -> int:
    """An argparse type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


whole_number.__name__ = "whole number above 0"  # argparse puts it into its message


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


positive.__name__ = "number above 0"


def finite(text: str) -> float:
    """An argparse type: a number, of either sign."""
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError
    return value


finite.__name__ = "number"


def pieces_or_model(text: str) -> int | Path:
    """An argparse type: how many word pieces to learn, or the model to take them from."""
    return whole_number(text) if text.isdecimal() else Path(text)


pieces_or_model.__name__ = "whole number above 0, or bpe.model"


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=whole_number, metavar="N",
        help="threads that read files (default: one a CPU, 16 at most); changes the time, not the result",
    )


def workers(options: argparse.Namespace) -> int:
    from .data.audio import default_workers

    return options.workers or default_workers()


# ---- dinosr path ------------------------------------------------------------------------------------------------------------


def add_path(commands) -> None:
    add_command(commands, "path", run_path, "print the folder of this package, for fairseq: common.user_dir=$(dinosr path)")


def run_path(options: argparse.Namespace) -> int:
    print(Path(__file__).absolute().parent)
    return 0


# ---- dinosr manifest --------------------------------------------------------------------------------------------------------


def add_manifest(commands) -> None:
    text = "list a corpus for fairseq: .tsv, and .ltr, .wrd and dict.ltr.txt where its words are known, .bpe on demand"
    parser = commands.add_parser("manifest", help=text, description=text[0].upper() + text[1:] + ".")
    corpora = parser.add_subparsers(title="corpora", metavar="CORPUS", required=True)
    add_librispeech(corpora)
    add_librilight(corpora)
    add_folder(corpora)


def add_corpus(corpora, name: str, run: Callable[[argparse.Namespace], int], text: str, root: str) -> argparse.ArgumentParser:
    parser = add_command(corpora, name, run, text)
    parser.add_argument("root", type=Path, metavar="ROOT", help=root)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="folder for the manifests, made if need be; files of the same names are replaced",
    )
    parser.add_argument(
        "--bpe", type=pieces_or_model, metavar="N",
        help="also write word pieces, .bpe: learn N of them from the training transcripts with sentencepiece (bpe.model, dict.bpe.txt), "
        "or give the bpe.model of another manifest to use its pieces",
    )
    add_workers(parser)
    return parser


def check_out_and_bpe(options: argparse.Namespace) -> None:
    """Raise UserError now rather than after an hour of reading, for an --out or a --bpe that cannot be."""
    from .data.bpe import require_possible
    from .data.manifest import require_writable

    require_writable(options.out)
    if options.bpe:
        require_possible(options.bpe)


def add_librispeech(corpora) -> None:
    parser = add_corpus(
        corpora,
        "librispeech",
        run_librispeech,
        "one manifest with labels for each part of LibriSpeech, named after the part",
        "folder that holds the parts (train-clean-100, dev-clean, ...), or one part (SPEAKER/CHAPTER/*.flac)",
    )
    parser.add_argument("--parts", nargs="+", metavar="PART", help="take these parts only (default: all under ROOT)")
    parser.add_argument("--join", nargs="+", metavar=("NAME", "PART"), help="also write NAME.tsv and its labels, the PARTs as one: --join train train-clean-100 train-clean-360 train-other-500")


def run_librispeech(options: argparse.Namespace) -> int:
    from .data.librispeech import joined, librispeech_splits

    check_out_and_bpe(options)
    splits = librispeech_splits(options.root, options.parts, workers(options))
    names = [split.name for split in splits]
    if options.join:
        if len(options.join) < 2:
            raise UserError(f"--join {options.join[0]}: name the parts to join after it")
        splits.append(joined(splits, options.join[0], options.join[1:]))
    return write(options, splits, [name for name in names if name.startswith("train")] or names)


def add_librilight(corpora) -> None:
    add_corpus(
        corpora,
        "librilight",
        run_librilight,
        "train_10min, train_1h and train_10h of Libri-light's limited-resource release, with labels",
        "the folder librispeech_finetuning of that release, or its parent",
    )


def run_librilight(options: argparse.Namespace) -> int:
    from .data.librispeech import librilight_splits

    check_out_and_bpe(options)
    return write(options, librilight_splits(options.root, workers(options)), ["train_10h"])


def add_folder(corpora) -> None:
    parser = add_corpus(
        corpora,
        "folder",
        run_folder,
        "train and valid manifests of any folder of .wav, .flac and .ogg files; with labels where every file has its words in a UTF-8 .txt "
        "of the same name beside it (letters are kept as they are, runs of white space become one space)",
        "folder that holds the audio, at any depth",
    )
    parser.add_argument(
        "--split-by", choices=("file", "speaker"), default="file",
        help="what goes to valid as a whole: a file, or a speaker (the first folder under ROOT; in LibriSpeech's layout "
        "its own speakers) (default: %(default)s)",
    )
    parser.add_argument(
        "--valid-share", type=float, default=0.05, metavar="SHARE",
        help="share of the files or speakers that goes to valid; 0: no valid.tsv (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="another number gives another split; for one number an added file moves no other (default: %(default)s)",
    )
    parser.add_argument(
        "--convert", type=Path, metavar="NEW_DIR",
        help="write all files as 16 kHz mono 16-bit FLAC into this new folder and list those (mean of the channels, "
        "polyphase resampling)",
    )


def run_folder(options: argparse.Namespace) -> int:
    from .data.folder import TRAIN, folder_splits

    check_out_and_bpe(options)
    splits, notes = folder_splits(options.root, options.split_by, options.valid_share, options.seed, options.convert, workers(options))
    print_notes(notes)
    return write(options, splits, [TRAIN])


def write(options: argparse.Namespace, splits: list, counted: list[str]) -> int:
    """Write the splits and tell what was written; the dictionaries' counts come from the splits named in ``counted``."""
    from .data.bpe import bpe_files
    from .data.manifest import write_splits

    files, notes = bpe_files(splits, counted, options.bpe) if options.bpe else ({}, [])
    print_notes(write_splits(options.out, splits, counted, files) + notes)
    for split in splits:
        print(f"{options.out}/{split.describe()}")
    if files:
        print(f"{options.out}/bpe.model, dict.bpe.txt: {len(files['dict.bpe.txt'])} pieces; .bpe beside each .ltr")
    return 0


def print_notes(notes: list[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


# ---- dinosr check -----------------------------------------------------------------------------------------------------------


def add_check(commands) -> None:
    text = "read a manifest, its labels and all of its audio, and list every problem; exit status 1 where there is one"
    parser = add_command(commands, "check", run_check, text)
    parser.add_argument(
        "manifest", type=Path, metavar="MANIFEST",
        help="a .tsv file; .ltr, .bpe, .wrd, .phn, .km and their dictionaries beside it are checked with it",
    )
    parser.add_argument(
        "--min-sample-size", type=whole_number, metavar="N",
        help="the training's task.min_sample_size, in samples (16000 a second): tells how many files it would skip",
    )
    parser.add_argument(
        "--max-sample-size", type=whole_number, metavar="N",
        help="the training's task.max_sample_size, in samples: tells how many files it would crop",
    )
    add_workers(parser)


def run_check(options: argparse.Namespace) -> int:
    from .data.check import check_manifest

    report = check_manifest(options.manifest, options.min_sample_size, options.max_sample_size, workers(options))
    for problem in report.problems:
        print(f"problem: {problem}")
    for note in report.notes:
        print(f"note: {note}")
    print(report.summary(), flush=True)
    return 1 if report.problems else 0


# ---- dinosr synth -----------------------------------------------------------------------------------------------------------


def add_synth(commands) -> None:
    parser = add_command(commands, "synth", run_synth, "make a small synthetic corpus with known words and phones, to try things on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the corpus, made if need be")
    parser.add_argument("--minutes", type=positive, required=True, metavar="M", help="minutes of speech to make")
    parser.add_argument("--speakers", type=whole_number, required=True, metavar="S", help="number of different voices, 2 or more")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another number gives another corpus (default: %(default)s)")


def run_synth(options: argparse.Namespace) -> int:
    from .data.synth import synthesize

    synthesize(options.out, options.minutes, options.speakers, options.seed)
    print(f"{options.out}: list it for training with `dinosr manifest librispeech {options.out} --out DIR`")
    return 0


# ---- dinosr features --------------------------------------------------------------------------------------------------------


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
    from .units.features import extract, extract_acoustic

    if bool(options.sound) == bool(options.checkpoint):
        raise UserError("CHECKPOINT: give a checkpoint, or --mfcc or --fbank instead")
    number, of = options.shard
    if options.sound:
        done = extract_acoustic(options.sound, options.manifest, options.out, options.dtype, number, of)
    else:
        done = extract(options.checkpoint, options.manifest, options.out, options.layer, options.weights, options.dtype, number, of)
    print(*done.folders, done.summary, sep="\n")
    return 0


# ---- dinosr kmeans ----------------------------------------------------------------------------------------------------------


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
    from .units.kmeans import fit_kmeans
    from .units.store import FeatureFolder

    features = FeatureFolder(options.features)
    named = {"rate": features.rate, "source": features.source}
    chosen = {"seed": options.seed, "init": options.init, "restarts": options.restarts, "passes": options.passes, "max_bytes": int(options.memory * 2**30)}
    kmeans = fit_kmeans(features, options.clusters, **chosen, **named)
    kmeans.save(options.out)
    print(f"{options.out}: {options.clusters} clusters, mean squared distance {kmeans.meta.inertia:.4g}")
    return 0


def run_kmeans_apply(options: argparse.Namespace) -> int:
    from .units.kmeans import KMeans, write_labels
    from .units.store import FeatureFolder

    kmeans, features = KMeans.load(options.kmeans), FeatureFolder(options.features)
    kmeans.require_same(features.width, features.rate, features.source)
    print(f"{options.out}: {write_labels(kmeans, features, options.manifest, options.out)} frames")
    return 0


# ---- dinosr units -----------------------------------------------------------------------------------------------------------


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
    from .units.codes import write_codebook_units, write_kmeans_units
    from .units.store import FeatureFolder

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


# ---- dinosr quality ---------------------------------------------------------------------------------------------------------


def add_quality(commands) -> None:
    parser = add_command(
        commands, "quality", run_quality, "how much a DinoSR model's codes tell about phones: PNMI, purity, perplexity and active codes of every codebook"
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="one or more checkpoints of one pre-training run; more than one give curves over updates")
    parser.add_argument("--manifest", type=Path, required=True, metavar="TSV", help="the speech to measure on; speakers that were not trained on")
    parser.add_argument("--phones", type=Path, required=True, metavar="TSV", help="its phone alignment: utt, start, end, phone")
    parser.add_argument("--train", type=Path, metavar="TSV", help="the training manifest: adds k-means of the same size on MFCC, log-Mel and the untrained model")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the run's common.log_file: adds the training loss to the curves")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for quality.json, curves.png and code_by_phone.png")


def run_quality(options: argparse.Namespace) -> int:
    from .data.manifest import require_writable
    from .evaluation.codebooks import measure, quality_table, write_quality
    from .evaluation.phones import PhoneAlignment

    if options.out:
        require_writable(options.out)
    phones = PhoneAlignment.read(options.phones)
    figures = measure(options.checkpoints, options.manifest, phones, options.train)
    print(quality_table(figures))
    if options.out:
        for path in write_quality(options.out, figures, phones.names, options.log):
            print(path)
    return 0


# ---- dinosr abx -------------------------------------------------------------------------------------------------------------


def add_abx(commands) -> None:
    text = "ABX error of features or units, within and across speakers, as in ZeroSpeech 2021: how often a phone is nearer to another phone than to itself"
    parser = add_command(commands, "abx", run_abx, text)
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder that `dinosr features` wrote; or a file of units, with --rate and a --distance of units")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", type=Path, metavar="FILE", help="an .item file of the benchmark")
    what.add_argument("--phones", type=Path, metavar="TSV", help="a phone alignment in place of that: its triphones")
    parser.add_argument("--manifest", type=Path, metavar="TSV", help="with --phones: the manifest whose folders tell the speakers (default: LibriSpeech's names do)")
    parser.add_argument("--distance", choices=("angular", "onehot", "edit"), default="angular", help="angular: of features; onehot, edit: of units (default: %(default)s)")
    parser.add_argument("--rate", type=positive, metavar="HZ", help="units a second of a file of units")
    parser.add_argument("--no-sampling", action="store_true", help="compare all items, not 10 a group and 5 other speakers at random")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    parser.add_argument("--skip-missing", action="store_true", help="go on without the items whose utterance has no features")
    parser.add_argument("--tables", action="store_true", help="also print the errors of every pair of phones and of every speaker")


def run_abx(options: argparse.Namespace) -> int:
    from .evaluation.abx import MAX_GROUP, MAX_SPEAKERS, PAIR_COLUMNS, SPEAKER_COLUMNS, abx
    from .evaluation.abx_items import librispeech_speaker, make_items, manifest_speakers, read_items
    from .evaluation.phones import PhoneAlignment
    from .evaluation.tables import format_table
    from .units.codes import read_units
    from .units.store import FeatureFolder

    if options.features.is_dir():
        features = FeatureFolder(options.features)
        rate = features.rate
    else:
        if options.rate is None or options.distance == "angular":
            raise UserError(f"{options.features}: a file of units wants --rate HZ and --distance onehot or edit")
        features, rate = read_units(options.features), options.rate
    speakers = manifest_speakers(options.manifest) if options.manifest else librispeech_speaker
    items = read_items(options.items) if options.items else make_items(PhoneAlignment.read(options.phones), speakers)
    most = (None, None) if options.no_sampling else (MAX_GROUP, MAX_SPEAKERS)
    result = abx(
        features, items, rate, options.distance,
        max_group=most[0], max_speakers=most[1], seed=options.seed, skip_missing=options.skip_missing,
    )
    for name, score in (("within", result.within), ("across", result.across)):
        print(f"{name} speakers: {'nothing to compare' if score is None else f'{score.error:.2f} %'}")
        if score is not None and options.tables:
            print(format_table(score.speaker_rows(), SPEAKER_COLUMNS), format_table(score.pair_rows(), PAIR_COLUMNS), sep="\n\n", end="\n\n")
    print(f"{result.items} items, {result.too_short} shorter than a frame, {result.missing} without features")
    return 0


# ---- dinosr ngram -----------------------------------------------------------------------------------------------------------


def add_ngram(commands) -> None:
    parser = add_command(commands, "ngram", run_ngram, "make an n-gram language model of a text, for decoding (--lm)")
    parser.add_argument("text", type=Path, metavar="TEXT", help="train.wrd for a model of words, train.ltr or train.bpe for one of letters or pieces; or any text like them")
    parser.add_argument("--order", type=whole_number, required=True, metavar="N", help="longest n-gram, 2 to 6; 2 or 3 is usual for words, 6 for letters")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model, in ARPA format; replaced where it exists")


def run_ngram(options: argparse.Namespace) -> int:
    from .decoding.ngram import make_ngram

    print(make_ngram(options.text, options.order, options.out))
    return 0


# ---- dinosr tune-lm ---------------------------------------------------------------------------------------------------------


def add_tune_lm(commands) -> None:
    text = "find the weight of a language model and the word score with which emissions of a development set are decoded best"
    parser = add_command(commands, "tune-lm", run_tune_lm, text)
    parser.add_argument("emissions", type=Path, metavar="EMISSIONS", help="file that `fairseq-generate ... --emissions FILE` wrote")
    parser.add_argument("--lm", required=True, metavar="FILE", help="n-gram model that KenLM reads (.arpa, .bin): of words with --lexicon, else of the model's symbols")
    parser.add_argument("--lexicon", metavar="FILE", help="decode with --decoder lexicon; lines 'word l e t t e r s |', or transcripts (train.wrd)")
    parser.add_argument(
        "--lm-weights", type=finite, nargs="+", default=[0, 0.5, 1, 1.5, 2, 3], metavar="W", help="weights to try (default: 0 0.5 1 1.5 2 3)"
    )
    parser.add_argument(
        "--word-scores", type=finite, nargs="+", metavar="S", help="word scores to try with each of them, with --lexicon (default: -1 0 1 2)"
    )
    parser.add_argument("--beam", type=whole_number, default=50, metavar="N", help="hypotheses kept after each frame (default: %(default)s)")
    parser.add_argument("--processes", type=whole_number, metavar="N", help="that decode (default: one a CPU, 16 at most); changes the time, not the result")


def run_tune_lm(options: argparse.Namespace) -> int:
    from .decoding import SearchOptions, build_decoder
    from .decoding.emissions import EmissionReader
    from .decoding.pool import default_processes
    from .decoding.tune import summary, tune, tuning_table

    if options.word_scores and not options.lexicon:
        raise UserError("--word-scores: letters or pieces have none; give --lexicon FILE, or leave it out")
    emissions = EmissionReader(options.emissions)
    search = SearchOptions(beam=options.beam, lm=options.lm, lm_weight=1.0, lexicon=options.lexicon)
    decoder = build_decoder("lexicon" if options.lexicon else "beam", emissions.meta.dictionary(), emissions.meta.blank, search)
    scores = options.word_scores or ([-1.0, 0.0, 1.0, 2.0] if options.lexicon else [0.0])
    weights, scores = list(dict.fromkeys(options.lm_weights)), list(dict.fromkeys(scores))  # each once
    trials = tune(emissions, decoder, weights, scores, options.processes or default_processes())
    print(f"{tuning_table(trials)}\n{summary(trials, options.beam)}")
    return 0


# ---- dinosr transcribe ------------------------------------------------------------------------------------------------------

FORMATS = ("text", "json", "srt", "ctm")
DECODERS = ("best_path", "beam", "lexicon")


def add_transcribe(commands) -> None:
    text = "write down what is said in sound files of any length, sample rate and number of channels, with a fine-tuned checkpoint"
    parser = add_command(commands, "transcribe", run_transcribe, text)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint of CTC fine-tuning; nothing else of the training is needed")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE",
        help="wav, flac, ogg, mp3, or whatever else libsndfile reads; all are read once before any is transcribed",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="text",
        help="text: FILE, a tab and its words, a line a file; json: an object a line, with start, end (s) and confidence (0 to 1) of every word; "
        "srt: subtitles, of one FILE; ctm: a word a line, for scoring programs (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="NEW_FILE", help="write there instead of stdout; appears when all is done")
    add_decoder(parser)


def add_decoder(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("decoding", "beam and lexicon need flashlight-text (pip install flashlight-text), and cut long recordings in pauses")
    search.add_argument(
        "--decoder", choices=DECODERS, default="best_path",
        help="best_path: the likeliest symbol of each frame; beam: the likeliest text; lexicon: the likeliest words of --lexicon (default: %(default)s)",
    )
    search.add_argument("--lm", metavar="FILE", help="n-gram model that KenLM reads (.arpa, .bin): of words for lexicon, of the dictionary's symbols for beam")
    search.add_argument("--lm-weight", type=finite, metavar="W", help="factor of its log10 probabilities; 0.5 to 2 are usual, `dinosr tune-lm` finds the best (default: 1)")
    search.add_argument(
        "--lexicon", metavar="FILE",
        help="lines 'word l e t t e r s |', or transcripts (train.wrd), whose words are spelt letter by letter",
    )
    search.add_argument("--word-score", type=finite, metavar="S", help="for lexicon: added for each word; above 0 makes up for words that a language model deletes")
    search.add_argument("--beam", type=whole_number, metavar="N", help="hypotheses that beam and lexicon keep after each frame; 50 to 500 are usual (default: 50)")


def run_transcribe(options: argparse.Namespace) -> int:
    from .decoding import build_decoder
    from .decoding.pace import Pace
    from .decoding.transcribe import require_possible, search_options, survey, write
    from .models.checkpoint import load_recogniser

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


if __name__ == "__main__":
    sys.exit(main())

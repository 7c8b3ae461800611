"""Corpora and manifests: ``dinosr path``, ``manifest``, ``check``, ``synth``."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError, printable
from .parsing import add_command, add_out, add_workers, pieces_or_model, positive, print_notes, whole_number, workers
from .texts import add_text_options, chosen_normalization, normalize

# ---- dinosr path -----------------------------------------------------------------------------------------------------


def add_path(commands) -> None:
    text = "print the folder of this package, for fairseq-generate --user-dir $(dinosr path), or that of its configs"
    parser = add_command(commands, "path", run_path, text)
    parser.add_argument(
        "what",
        nargs="?",
        choices=("package", "configs"),
        default="package",
        help="configs: the YAML files of --config-path pkg://dinosr_plugin.config.pretraining, to read or copy them "
        "(default: %(default)s)",
    )


def run_path(options: argparse.Namespace) -> int:
    package = Path(__file__).absolute().parent.parent
    print(package / "config" if options.what == "configs" else package)
    return 0


# ---- dinosr manifest -------------------------------------------------------------------------------------------------


def add_manifest(commands) -> None:
    text = (
        "list the audio files of a corpus for fairseq: .tsv; with .ltr, .wrd and dict.ltr.txt if there are "
        "transcripts, and .bpe on request"
    )
    parser = commands.add_parser("manifest", help=text, description=text[0].upper() + text[1:] + ".")
    corpora = parser.add_subparsers(title="corpora", metavar="CORPUS", required=True)
    add_librispeech(corpora)
    add_librilight(corpora)
    add_folder(corpora)


def add_corpus(
    corpora, name: str, run: Callable[[argparse.Namespace], int], text: str, root: str
) -> argparse.ArgumentParser:
    parser = add_command(corpora, name, run, text)
    parser.add_argument("root", type=Path, metavar="ROOT", help=root)
    add_out(
        parser,
        "folder",
        metavar="DIR",
        help="folder for the manifests, created if necessary; existing files of the same names are replaced",
    )
    parser.add_argument(
        "--bpe",
        type=pieces_or_model,
        metavar="N",
        help="also write word pieces (.bpe): N pieces, learned with sentencepiece from the training transcripts "
        "(bpe.model, dict.bpe.txt); or the path of an existing bpe.model",
    )
    add_workers(parser)
    add_text_options(parser)
    return parser


def check_options(options: argparse.Namespace):
    """How transcripts will be normalised, and notes: ``texts.chosen_normalization``.

    Raises UserError for impossible options of all corpora before the audio is read, which can take an hour.
    """
    from ..data.bpe import require_possible

    if options.bpe:
        require_possible(options.bpe)
    return chosen_normalization(options)


def add_librispeech(corpora) -> None:
    parser = add_corpus(
        corpora,
        "librispeech",
        run_librispeech,
        "one manifest with transcripts for each part of LibriSpeech, named after the part",
        "folder that contains the parts (train-clean-100, dev-clean, ...), or one part (SPEAKER/CHAPTER/*.flac)",
    )
    parser.add_argument("--parts", nargs="+", metavar="PART", help="parts to list (default: all under ROOT)")
    parser.add_argument(
        "--join",
        nargs="+",
        metavar=("NAME", "PART"),
        help="also write NAME.tsv and its transcripts, which contain all the PARTs: "
        "--join train train-clean-100 train-clean-360 train-other-500",
    )


def run_librispeech(options: argparse.Namespace) -> int:
    from ..data.corpora.librispeech import joined, librispeech_splits

    chosen = check_options(options)
    splits = librispeech_splits(options.root, options.parts, workers(options))
    names = [split.name for split in splits]
    if options.join:
        if len(options.join) < 2:
            raise UserError(f"--join {options.join[0]}: no parts to join; list them after the name")
        splits.append(joined(splits, options.join[0], options.join[1:]))
    return write(options, splits, [name for name in names if name.startswith("train")] or names, chosen)


def add_librilight(corpora) -> None:
    add_corpus(
        corpora,
        "librilight",
        run_librilight,
        "train_10min, train_1h and train_10h of Libri-light's limited-resource training sets, with transcripts",
        "the folder librispeech_finetuning of that release, or its parent folder",
    )


def run_librilight(options: argparse.Namespace) -> int:
    from ..data.corpora.librispeech import librilight_splits

    chosen = check_options(options)
    return write(options, librilight_splits(options.root, workers(options)), ["train_10h"], chosen)


def add_folder(corpora) -> None:
    parser = add_corpus(
        corpora,
        "folder",
        run_folder,
        "training and validation manifests of any folder of .wav, .flac and .ogg files; with transcripts of the files "
        "that have a .txt file in UTF-8 of the same name next to them (letters are not changed, white space is reduced "
        "to single spaces). If only a part of the files has one, it is also listed in train_labelled.tsv and "
        "valid_labelled.tsv, which have the labels",
        "folder that contains the audio files, at any depth",
    )
    parser.add_argument(
        "--split-by",
        choices=("file", "speaker"),
        default="file",
        help="unit that is assigned to training or validation: a file, or all files of a speaker (--speakers, or the "
        "first folder under ROOT; in LibriSpeech's layout, the speaker's folder) (default: %(default)s)",
    )
    parser.add_argument(
        "--valid-share",
        type=float,
        metavar="SHARE",
        help="share of the files or speakers used for validation; 0: no valid.tsv (default: 0.05, or of few files or "
        "speakers the smallest share that leaves neither training nor validation empty)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed of the split; with the same seed, new files do not move the others (default: %(default)s)",
    )
    parser.add_argument(
        "--convert",
        type=Path,
        metavar="NEW_DIR",
        help="convert all files to 16 kHz mono 16-bit FLAC in this new folder and list those: also .mp3, .opus, .aiff "
        "and other kinds that libsndfile reads (channels are averaged; polyphase resampling; nothing is clipped: files "
        "that exceed full scale are scaled down). Names that repeat get their folders in front",
    )
    table = "one line for each file, which is named with or without folders and suffix: "
    parser.add_argument(
        "--transcripts",
        type=Path,
        metavar="FILE",
        help=f"table of words, in place of .txt files; {table}file<TAB>text, with or without a line of column names; "
        "Common Voice's .tsv; or Kaldi's text",
    )
    parser.add_argument(
        "--speakers",
        type=Path,
        metavar="FILE",
        help=f"table of speakers, in place of folders; {table}file<TAB>speaker, Common Voice's .tsv, or Kaldi's "
        "utt2spk. With --convert, the copies of each speaker are in one folder",
    )


def run_folder(options: argparse.Namespace) -> int:
    from ..data.corpora.folder import Choices, counted_split, folder_splits, left_over

    chosen = check_options(options)
    choices = Choices(
        options.split_by,
        options.valid_share,
        options.seed,
        options.convert,
        options.transcripts,
        options.speakers,
        chosen[0],
        workers(options),
    )
    splits, notes = folder_splits(options.root, choices)
    print_notes(notes + left_over(options.out, splits))
    return write(options, splits, [counted_split(splits)], chosen)


def write(options: argparse.Namespace, splits: list, counted: list[str], chosen: tuple) -> int:
    """Write the splits and print what was written.

    ``counted``: names of the splits whose symbols are counted; ``chosen``: of ``check_options``.
    """
    from ..data.bpe import bpe_files
    from ..data.manifest import write_splits

    splits, rules, text_notes, changes = normalize(options, splits, *chosen)
    files, notes = bpe_files(splits, counted, options.bpe) if options.bpe else ({}, [])
    print_notes(text_notes + write_splits(options.out, splits, counted, {**files, **rules}) + notes)
    if changes:
        print(changes)
    for split in splits:
        print(f"{options.out}/{split.describe()}")
    if files:
        print(f"{options.out}/bpe.model, dict.bpe.txt: {len(files['dict.bpe.txt'])} pieces; .bpe next to each .ltr")
    return 0


# ---- dinosr check ----------------------------------------------------------------------------------------------------


def add_check(commands) -> None:
    text = (
        "read a manifest, its labels and all its audio, and list every problem; the exit status is 1 if there are any"
    )
    parser = add_command(commands, "check", run_check, text)
    parser.add_argument(
        "manifest",
        type=Path,
        metavar="MANIFEST",
        help="a .tsv file; .ltr, .bpe, .wrd, .phn, .km files and dictionaries in the same folder are also checked",
    )
    parser.add_argument(
        "--min-sample-size",
        type=whole_number,
        metavar="N",
        help="task.min_sample_size of the training, in samples at 16 kHz: report how many files it would skip",
    )
    parser.add_argument(
        "--max-sample-size",
        type=whole_number,
        metavar="N",
        help="task.max_sample_size of the training, in samples at 16 kHz: report how many files it would crop",
    )
    add_workers(parser)


def run_check(options: argparse.Namespace) -> int:
    from ..data.check import check_manifest

    report = check_manifest(options.manifest, options.min_sample_size, options.max_sample_size, workers(options))
    for problem in report.problems:
        print(f"problem: {printable(problem)}")
    for note in report.notes:
        print(f"note: {printable(note)}")
    print(report.summary(), flush=True)
    return 1 if report.problems else 0


# ---- dinosr synth ----------------------------------------------------------------------------------------------------


def add_synth(commands) -> None:
    text = "generate a small synthetic corpus with known words and phone times, for trying things out"
    parser = add_command(commands, "synth", run_synth, text)
    add_out(parser, "new folder", metavar="DIR", help="folder for the corpus, created if necessary")
    parser.add_argument("--minutes", type=positive, required=True, metavar="M", help="amount of speech, in minutes")
    parser.add_argument(
        "--speakers", type=whole_number, required=True, metavar="S", help="number of voices, at least 2"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    parser.add_argument(
        "--language",
        choices=("en", "es"),
        default="en",
        help="English, or Spanish, with which a model of English can be trained further (default: %(default)s)",
    )


def run_synth(options: argparse.Namespace) -> int:
    from ..data.synth.corpus import synthesize

    synthesize(options.out, options.minutes, options.speakers, options.seed, language=options.language)
    print(f"{options.out}: list it for training with `dinosr manifest librispeech {options.out} --out DIR`")
    return 0

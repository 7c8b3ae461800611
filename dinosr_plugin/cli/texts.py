"""Normalising transcripts: the options of ``dinosr manifest``, and ``dinosr normalize``."""

import argparse
from pathlib import Path

from ..errors import UserError, printable
from .parsing import add_command, add_out, print_notes

MAX_ROWS = 18  # of the printed table
MAX_SYMBOLS = 60  # that are printed
DEFAULTS = {"form": "NFC", "case": "lower", "punctuation": "remove", "letters": "", "digits": "refuse"}
"""Those of ``TextNormalization``, which takes longer to import; ``replace`` is a file here."""


def add_text_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "transcripts",
        "Without these options, transcripts stay as they are, or are normalised as those in --out were "
        "(text_normalization.json). manifests/README.md has the rules.",
    )
    group.add_argument(
        "--text-normalize",
        action="store_true",
        help="normalise the transcripts: Unicode NFC, lower case, punctuation and symbols become spaces except for "
        "apostrophes between letters, digits are refused; the options below change this. Prints what has changed, and "
        "keeps the rules beside the dictionary",
    )
    group.add_argument("--text-case", choices=("lower", "upper", "keep"), help="case of the letters (default: lower)")
    group.add_argument(
        "--text-punctuation", choices=("remove", "keep"), help="punctuation and symbols (default: remove)"
    )
    group.add_argument(
        "--text-letters",
        metavar="CHARS",
        help='punctuation marks, symbols or digits that are letters of the language and stay: "\'" for a glottal stop '
        "that is typed as an apostrophe, or --text-letters=-: for these two",
    )
    group.add_argument(
        "--text-digits",
        choices=("refuse", "keep"),
        help="refuse: list the transcripts with digits, which say nothing about the pronunciation (default: refuse)",
    )
    group.add_argument(
        "--text-form",
        choices=("NFC", "NFD", "NFKC", "NFKD"),
        help="Unicode form. NFKC and NFKD also turn modifier letters into letters, such as superscript h into h "
        "(default: NFC)",
    )
    group.add_argument(
        "--text-replace",
        type=Path,
        metavar="FILE",
        help="replacements, which are made before the change of case: a text file with lines `from<TAB>to`; "
        "either may be code points, such as U+2019",
    )
    group.add_argument(
        "--text-like",
        type=Path,
        metavar="PATH",
        help="normalise as for other manifests: their folder, or the text_normalization.json in it",
    )


def chosen_normalization(options: argparse.Namespace):
    """(the ``TextNormalization`` of these options or None, notes): of the options, or the one that --out has.

    Raises UserError for options that do not belong together, and for files that cannot be read.
    """
    from ..data.text_normalization import NAME, TextNormalization, kept_normalization, read_normalization
    from ..data.text_replacements import read_replacements

    given = {name: value for name in (*DEFAULTS, "replace") if (value := getattr(options, f"text_{name}")) is not None}
    if given and options.text_like:
        what = f"--text-{next(iter(given))}: cannot be used with --text-like"
        raise UserError(f"{what}, which has all of these rules; omit one of them")
    if given and not options.text_normalize:
        raise UserError(f"--text-{next(iter(given))}: only used with --text-normalize; add that, or omit the option")
    if options.text_like:
        return read_normalization(options.text_like), []
    if not options.text_normalize:
        kept = kept_normalization(options.out)
        note = f"transcripts are normalised as {options.out}/{NAME} says; to leave them as they are, remove that file"
        return kept, [note] if kept else []
    try:
        if options.text_replace:
            given["replace"] = read_replacements(options.text_replace, options.text_form or DEFAULTS["form"])
        return TextNormalization(**given), []
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--text-{error}") from error


def normalize(options: argparse.Namespace, splits: list, rule, notes: list[str]) -> tuple[list, dict, list[str], str]:
    """Normalise the transcripts. ``rule``, ``notes``: of ``chosen_normalization``.

    Returns:
        The splits, further files of the set by name, notes, and what has changed, to print; "" if the transcripts stay.
    """
    from ..data.corpora.librispeech import absolute
    from ..data.text_normalization import NAME, require_same
    from ..data.text_report import TABLE, normalize_splits

    require_same(rule, options.out, {split.name for split in splits})
    if rule is None:
        return splits, {}, [], ""
    if all(row.words is None for split in splits for row in split.utterances):
        if options.text_normalize or options.text_like:
            raise UserError("--text-normalize: the corpus has no transcripts; omit it")
        return splits, {}, [], ""
    splits, report = normalize_splits(splits, rule, absolute(options.root))
    files = {NAME: rule.file_lines(), TABLE: report.table_lines()}
    return splits, files, notes + report.notes(), changes(rule, report, options.out / TABLE)


def changes(rule, report, table: Path) -> str:
    """The rules and what they have changed, on at most ``MAX_ROWS`` + 4 lines."""
    from ..data.text_report import COLUMNS, with_text
    from ..evaluation.table import Column, format_table

    rows = [with_text(row) for row in report.short_rows(MAX_ROWS)]
    symbols = sorted(report.after)
    shown = printable(" ".join(symbols[:MAX_SYMBOLS])) + (" ..." if len(symbols) > MAX_SYMBOLS else "")
    return "\n".join(
        [
            f"transcripts: {rule.describe()}",
            *([format_table(rows, [Column(name, name) for name in COLUMNS])] if rows else []),
            f"symbols: {len(report.before)} before, {len(symbols)} after: {shown}",
            f"all changes: {table}" if rows else "nothing has changed",
        ]
    )


# ---- dinosr normalize ------------------------------------------------------------------------------------------------


def add_normalize(commands) -> None:
    text = (
        "normalise a text as the transcripts of a manifest were: more text for `dinosr ngram`, words for a lexicon, "
        "references for another scoring program"
    )
    parser = add_command(commands, "normalize", run_normalize, text)
    parser.add_argument("text", type=Path, metavar="TEXT", help="text file, one sentence on each line")
    parser.add_argument(
        "--like",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder of manifests made with --text-normalize, or the text_normalization.json in it",
    )
    add_out(
        parser,
        "file",
        metavar="FILE",
        help="output file, replaced if it exists; words, or with the suffix .ltr letters as in manifests",
    )
    parser.add_argument(
        "--skip-unusable",
        action="store_true",
        help="leave out lines that manifests would refuse, such as those with digits, and count them; without this "
        "option they are an error",
    )


def run_normalize(options: argparse.Namespace) -> int:
    from ..data.text_file import normalize_file
    from ..data.text_normalization import read_normalization

    rule = read_normalization(options.like)
    print_notes(normalize_file(options.text, rule, options.out, options.skip_unusable))
    print(f"{options.out}: {rule.describe()}")
    return 0

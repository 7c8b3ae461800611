"""`dinosr check` of the label files beside a manifest: lines, symbols, order, rate, and what transcripts contain."""

from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path, PurePosixPath

from ..errors import UserError
from ..files import kind_of, read_lines
from .audio import SAMPLE_RATE
from .bpe import words_of_pieces
from .check_report import NumberedRow, Report
from .corpora.librispeech import TRANSCRIPTS, read_transcripts
from .labels import REMAKE as REMAKE_UNITS
from .labels import TOLERANCE
from .manifest import read_dictionary, shorten, utterance_id, words_of
from .text_normalization import NAME as NORMALIZATION
from .text_normalization import TextNormalization, kept_normalization
from .text_notes import text_notes
from .validation import REMAKE

LABELS = ("ltr", "bpe", "wrd", "phn", "km")
UNIT_RATES = (50, 100)  # units per second: those of the trunk's frames, and of fairseq's MFCC frames


def check_labels(tsv: Path, report: Report) -> dict[str, list[str]]:
    """Lines of the label files next to the manifest, by suffix; only of files that have one line per row."""
    labels = {}
    for kind in LABELS:
        path = tsv.with_suffix(f".{kind}")
        if kind_of(path) == "nothing":
            continue
        try:
            lines = list(read_lines(path, REMAKE))
        except UserError as error:
            report.problems.append(str(error))
            continue
        check_label_lines(path, lines, report)
        check_symbols(path, lines, tsv.with_name(f"dict.{kind}.txt"), report)
        if len(lines) == report.rows:
            labels[kind] = lines
    if "ltr" in labels and "wrd" in labels:
        pairs = zip(count(1), map(words_of, labels["ltr"]), labels["wrd"])
        report_differences(f"{tsv.stem}.ltr and {tsv.stem}.wrd disagree", pairs, report)
    if "bpe" in labels and "wrd" in labels:
        pairs = zip(count(1), map(words_of_pieces, labels["bpe"]), labels["wrd"])
        report_differences(f"{tsv.stem}.bpe and {tsv.stem}.wrd disagree", pairs, report)
    return labels


def check_words(tsv: Path, labels: dict[str, list[str]], report: Report) -> TextNormalization | None:
    """Notes about the symbols of transcripts. Returns the rules by which they were normalised, if they were."""
    words = labels.get("wrd") or list(map(words_of, labels.get("ltr", [])))
    name = f"{tsv.stem}.{'wrd' if 'wrd' in labels else 'ltr'}"
    rule = None
    try:
        rule = kept_normalization(tsv.parent)
    except UserError as error:
        report.problems.append(str(error))
    if rule:
        pairs = ((number, line, normalized(rule, line)) for number, line in enumerate(words, start=1))
        report_differences(f"{name} was not normalised as {NORMALIZATION} says", pairs, report, advice="")
    report.notes += text_notes(name, words, rule is not None, letter_counts(tsv.with_name("dict.ltr.txt")))
    return rule


def letter_counts(dictionary: Path) -> dict[str, int]:
    """Symbol -> count; {} for a dictionary that cannot be read, which ``check_symbols`` reports."""
    try:
        return read_dictionary(dictionary)
    except UserError:
        return {}


def normalized(rule: TextNormalization | None, text: str) -> str:
    """The text after these rules; unchanged if there are none, or if they have no result for it."""
    try:
        return rule.apply(text) if rule else text
    except UserError:
        return text


def check_label_lines(path: Path, lines: list[str], report: Report) -> None:
    if len(lines) != report.rows:
        report.problems.append(f"{path.name}: {len(lines)} lines for {report.rows} rows; {REMAKE}")
    empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if empty:
        where = f"{len(empty)} empty line(s), the first is line {empty[0]}"
        report.problems.append(f"{path.name}: {where}; {REMAKE}, or remove these utterances from the corpus")


def check_symbols(path: Path, lines: list[str], dictionary: Path, report: Report) -> None:
    """Every symbol must be in the dictionary. Letters and word pieces require one, for other labels it is optional."""
    if kind_of(dictionary) == "nothing" and path.suffix not in (".ltr", ".bpe"):
        return
    try:
        known = read_dictionary(dictionary)
    except UserError as error:
        report.problems.append(str(error))
        return
    unknown: Counter = Counter()
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        for symbol in set(line.split()) - known.keys():
            unknown[symbol] += 1
            first.setdefault(symbol, number)
    for symbol in sorted(unknown):
        where = f"{unknown[symbol]} line(s), the first is line {first[symbol]}"
        report.problems.append(
            f"{path.name}: symbol {symbol!r} is not in {dictionary.name} ({where}); {REMAKE}, or add the symbol to it"
        )


def check_units(tsv: Path, rows: list[NumberedRow | None], labels: dict[str, list[str]], report: Report) -> None:
    """One problem for all rows of ``.km`` that are shorter or longer than their audio.

    The rate is not known here; of ``UNIT_RATES`` the one with the fewest such rows is assumed.
    """
    lengths = [
        (number, len(line.split()), row.samples / SAMPLE_RATE)
        for number, (line, row) in enumerate(zip(labels.get("km", []), rows), 1)
        if row
    ]
    misfits = {rate: [one for one in lengths if abs(one[1] / rate - one[2]) > TOLERANCE] for rate in UNIT_RATES}
    rate = min(misfits, key=lambda rate: len(misfits[rate]))
    if misfits[rate]:
        number, units, seconds = misfits[rate][0]
        what = f"units and audio of {len(misfits[rate])} row(s) differ by more than {TOLERANCE} s"
        report.problems.append(
            f"{tsv.stem}.km: {what} at {rate} units per second, the first is line {number}: "
            f"{units} units for {seconds:.2f} s; {REMAKE_UNITS}"
        )


def report_differences(
    what: str, pairs: Iterable[tuple[int, str, str]], report: Report, advice: str = "the order may be wrong: "
) -> None:
    """One problem for all (line number, text, other text) that differ except in white space; it quotes the first."""
    different = [pair for pair in pairs if pair[1].split() != pair[2].split()]
    if different:
        number, one, other = different[0]
        report.problems.append(
            f"{what} on {len(different)} row(s), the first is line {number}: {shorten(one)!r} and {shorten(other)!r}; "
            f"{advice}{REMAKE}"
        )


def check_transcripts(
    tsv: Path,
    root: Path,
    rows: list[NumberedRow | None],
    labels: dict[str, list[str]],
    rule: TextNormalization | None,
    report: Report,
) -> None:
    """Labels must match LibriSpeech's transcripts next to the audio, if any; this detects labels in wrong order.

    ``rule``: how the labels were normalised.
    """
    kind = next((kind for kind in ("wrd", "ltr") if kind in labels), None)
    if kind is None:
        return
    texts: dict[str, dict[str, str]] = {}  # folder -> utterance id -> words
    pairs = []
    for number, (row, line) in enumerate(zip(rows, labels[kind]), start=1):
        if row is None:
            continue
        folder = str(PurePosixPath(row.path).parent)
        if folder not in texts:
            texts[folder] = folder_transcripts(root, folder, report)
        truth = texts[folder].get(utterance_id(row.path))
        if truth is not None:
            pairs.append((number, line if kind == "wrd" else words_of(line), normalized(rule, truth)))
    report_differences(f"{tsv.stem}.{kind} and the *{TRANSCRIPTS} files next to the audio disagree", pairs, report)


def folder_transcripts(root: Path, folder: str, report: Report) -> dict[str, str]:
    """Utterance id -> words of the *.trans.txt files of one folder; empty if it has none."""
    words: dict[str, str] = {}
    try:
        transcripts = sorted((root / folder).glob(f"*{TRANSCRIPTS}"))
    except OSError:  # a name that is too long
        return {}
    for transcript in transcripts:
        words.update(read_transcripts(root, f"{folder}/{transcript.name}", report.problems))
    return words

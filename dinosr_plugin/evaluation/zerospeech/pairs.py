"""sWUGGY and sBLIMP of the ZeroSpeech 2021 benchmark (Nguyen et al. 2020): does a unit language model know words and
grammar?

A model scores pairs of utterances, a word and a non-word, or a grammatical and an ungrammatical sentence, and should
give the first a higher probability. The dataset contains ``lexical/dev/gold.csv`` and ``syntactic/dev/gold.csv``. A
submission contains ``lexical/dev.txt`` and ``syntactic/dev.txt`` with a line ``filename score`` for each utterance, as
written by ``dinosr lm-score``. sSIMI, which uses hidden states, is in ``semantic.py``.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ...errors import UserError, first_few
from ...files import read_lines

GoldRow = Mapping[str, str]
"""A row of a gold file: column -> value."""

LEXICAL_COLUMNS = ("id", "filename", "voice", "frequency", "length", "correct")
SYNTACTIC_COLUMNS = ("id", "filename", "voice", "type", "subtype", "correct")
FREQUENCY_BANDS = (("oov", 1), ("1-5", 5), ("6-20", 20), ("21-100", 100), (">100", math.inf))
"""Name and upper edge of each band.

The edge belongs to the band above, as in the benchmark's scorer: a word with 5 occurrences is in band 6-20.
"""
MAX_LISTED = 5  # file names in a message


# ---- files -----------------------------------------------------------------------------------------------------------


def read_gold(path: Path, columns: Collection[str]) -> list[GoldRow]:
    """Rows of a .csv file of the benchmark.

    Raises UserError if the file cannot be read, is empty, or lacks columns or fields.
    """
    remedy = "DATASET must be the benchmark's folder, which contains lexical, syntactic or semantic"
    reader = csv.DictReader(line + "\n" for line in read_lines(path, remedy))
    try:
        names = reader.fieldnames or ()
        rows: list[GoldRow] = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: not a .csv file ({error}); {remedy}") from error
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(
            f"{path}: its header lacks the column(s) {', '.join(missing)}; give a gold file of ZeroSpeech 2021"
        )
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path} row {number}: its number of fields differs from the header's; correct the row")
    if not rows:
        raise UserError(f"{path}: contains no rows; {remedy}")
    return rows


def read_scores(path: Path) -> dict[str, float]:
    """Read lines ``filename score`` -> filename: score. Raises UserError for invalid lines and duplicate names."""
    scores: dict[str, float] = {}
    for number, line in enumerate(read_lines(path, "create it with `dinosr lm-score`"), start=1):
        name, _, score = line.rstrip().rpartition(" ")
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not name or math.isnan(value):
            raise UserError(f"{path} line {number}: not `filename score`; create the file with `dinosr lm-score`")
        if name in scores:
            raise UserError(f"{path} line {number}: duplicate file name {name}; remove one of the lines")
        scores[name] = value
    return scores


def require_same_files(expected: Iterable[str], actual: Collection[str], gold: Path, submission: Path) -> None:
    """Raise UserError for files of the benchmark that the submission lacks, and the other way round."""
    expected, actual = set(expected), set(actual)
    for path, missing, other in ((submission, expected - actual, gold), (gold, actual - expected, submission)):
        if missing:
            raise UserError(
                f"{path}: lacks {len(missing)} file(s) that {other} contains "
                f"({first_few(sorted(missing), MAX_LISTED)}); "
                "score exactly the benchmark's files"
            )


# ---- pairs -----------------------------------------------------------------------------------------------------------


def pair_scores(
    rows: Sequence[GoldRow], scores: Mapping[str, float], same: Sequence[str], gold: Path
) -> list[tuple[GoldRow, float]]:
    """The score of each pair, with the row of its correct side (in the first voice).

    The score is 1 if the correct side has the higher score, 0 if not, one half for a tie; it is averaged over voices.
    The correct (1) and incorrect (0) rows of a pair agree in the columns ``same`` and in voice; if there are several,
    they are matched in order. Raises UserError for a row without a counterpart.
    """
    sides: dict[tuple, tuple[list[GoldRow], list[GoldRow]]] = defaultdict(lambda: ([], []))
    for row in rows:
        if row["correct"] not in ("0", "1"):
            raise UserError(f"{gold}: {row['filename']} has {row['correct']!r} in column correct; it must be 1 or 0")
        sides[tuple(row[column] for column in (*same, "voice"))][row["correct"] == "1"].append(row)
    voices: dict[tuple, list[float]] = defaultdict(list)
    first: dict[tuple, GoldRow] = {}
    for (*key, voice), (incorrect, correct) in sides.items():
        if len(incorrect) != len(correct):
            raise UserError(
                f"{gold}: {' '.join(key)} in voice {voice}: {len(correct)} correct, {len(incorrect)} incorrect rows; "
                "every correct row must have one incorrect row"
            )
        for right, wrong in zip(correct, incorrect):
            first.setdefault(tuple(key), right)
            voices[tuple(key)].append(outcome(scores[right["filename"]], scores[wrong["filename"]]))
    return [(first[key], sum(of_voices) / len(of_voices)) for key, of_voices in voices.items()]


def outcome(right: float, wrong: float) -> float:
    return 0.5 if right == wrong else float(right > wrong)


def percent(results: Sequence[tuple[GoldRow, float]]) -> float:
    """Mean over pairs, whatever their number of voices."""
    return 100 * sum(score for _, score in results) / len(results)


def by_group(
    results: Sequence[tuple[GoldRow, float]],
    group_of: Callable[[GoldRow], str | None],
    order: Sequence[str] | None = None,
) -> list[dict]:
    """A row {"group", "pairs", "score"} for each group but None, in ``order`` or sorted."""
    groups: dict[str, list] = defaultdict(list)
    for row, score in results:
        if (group := group_of(row)) is not None:
            groups[group].append((row, score))
    names = [name for name in order if name in groups] if order else sorted(groups)
    return [{"group": name, "pairs": len(groups[name]), "score": percent(groups[name])} for name in names]


# ---- sWUGGY, sBLIMP --------------------------------------------------------------------------------------------------


def lexical(gold: Path, submission: Path) -> dict:
    """sWUGGY: {"pairs", "score" (%), "by_frequency" (in LibriSpeech), "by_length" (of the word, in phones)}.

    Raises UserError as ``read_gold``, ``read_scores``, ``require_same_files`` and ``pair_scores``.
    """
    results = minimal_pairs(gold, submission, LEXICAL_COLUMNS, ("id",))
    lengths = sorted({row["length"] for row, _ in results}, key=lambda length: number_in(length, gold))
    bands = by_group(results, lambda row: frequency_band(row["frequency"], gold), [name for name, _ in FREQUENCY_BANDS])
    return {
        "pairs": len(results),
        "score": percent(results),
        "by_frequency": bands,
        "by_length": by_group(results, lambda row: row["length"], lengths),
    }


def syntactic(gold: Path, submission: Path) -> dict:
    """sBLIMP: {"pairs", "score" (%), "by_type"}. Raises UserError as ``lexical``."""
    results = minimal_pairs(gold, submission, SYNTACTIC_COLUMNS, ("type", "subtype", "id"))
    return {"pairs": len(results), "score": percent(results), "by_type": by_group(results, lambda row: row["type"])}


def minimal_pairs(
    gold: Path, submission: Path, columns: Sequence[str], same: Sequence[str]
) -> list[tuple[GoldRow, float]]:
    rows, scores = read_gold(gold, columns), read_scores(submission)
    require_same_files((row["filename"] for row in rows), scores, gold, submission)
    return pair_scores(rows, scores, same, gold)


def frequency_band(frequency: str, gold: Path) -> str | None:
    """None if the frequency is not given."""
    if not frequency:
        return None
    value = number_in(frequency, gold)
    return next(name for name, edge in FREQUENCY_BANDS if value < edge)


def number_in(text: str, gold: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{gold}: {text!r} is not a valid frequency or length; it must be a number, at least 0")
    return value

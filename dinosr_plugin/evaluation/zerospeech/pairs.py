"""Does a language model of units know words and grammar? sWUGGY and sBLIMP of the ZeroSpeech 2021 benchmark (Nguyen et al. 2020).

A model hears pairs of utterances, a word and a non-word, or a sentence and one that breaks a rule, and should find the first one likelier.
The dataset holds ``lexical/dev/gold.csv`` and ``syntactic/dev/gold.csv``; a submission ``lexical/dev.txt`` and ``syntactic/dev.txt`` with a line
``filename score`` for each utterance, as ``dinosr lm-score`` writes them. sSIMI, from hidden states: ``zerospeech_semantic.py``.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ...data.manifest import open_text, read_lines
from ...errors import UserError

Row = Mapping[str, str]

LEXICAL_COLUMNS = ("id", "filename", "voice", "frequency", "length", "correct")
SYNTACTIC_COLUMNS = ("id", "filename", "voice", "type", "subtype", "correct")
FREQUENCY_BANDS = (("oov", 1), ("1-5", 5), ("6-20", 20), ("21-100", 100), (">100", math.inf))
"""Name and upper edge. The edge belongs to the band above, as in the benchmark's scorer: a word that comes 5 times counts as 6-20."""
SHOWN = 5  # file names in a message


# ---- files ------------------------------------------------------------------------------------------------------------------


def read_gold(path: Path, columns: Collection[str]) -> list[Row]:
    """Rows of a .csv file of the benchmark. Raises UserError where it cannot be read, lacks one of ``columns``, or a row lacks fields."""
    remedy = "DATASET is the benchmark's folder, with lexical, syntactic or semantic in it"
    with open_text(path, remedy) as file:
        reader = csv.DictReader(file)
        try:
            names, rows = reader.fieldnames or (), list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: no .csv file ({error}); {remedy}") from error
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(
            f"{path}: its first line names no column {', '.join(missing)}; give a gold file of ZeroSpeech 2021"
        )
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path} row {number}: not as many fields as the first line names; mend it")
    if not rows:
        raise UserError(f"{path}: no row in it; {remedy}")
    return rows


def read_scores(path: Path) -> dict[str, float]:
    """A line ``filename score`` for each utterance -> filename: score. Raises UserError for other lines, and for a file that comes twice."""
    scores: dict[str, float] = {}
    for number, line in enumerate(read_lines(path, "make it with `dinosr lm-score`"), start=1):
        name, _, score = line.rstrip().rpartition(" ")
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not name or math.isnan(value):
            raise UserError(f"{path} line {number}: not `filename score`; make it with `dinosr lm-score`")
        if name in scores:
            raise UserError(f"{path} line {number}: {name} stands there twice; leave one out")
        scores[name] = value
    return scores


def require_same_files(wanted: Iterable[str], found: Collection[str], gold: Path, submission: Path) -> None:
    """Raise UserError for files of the benchmark that the submission lacks, and the other way round."""
    wanted = set(wanted)
    for lacking, names, having in ((submission, wanted - set(found), gold), (gold, set(found) - wanted, submission)):
        if names:
            first = ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise UserError(
                f"{lacking}: lacks {len(names)} file(s) that {having} has ({first}); score exactly the benchmark's files"
            )


# ---- pairs ------------------------------------------------------------------------------------------------------------------


def pair_scores(
    rows: Sequence[Row], scores: Mapping[str, float], same: Sequence[str], gold: Path
) -> list[tuple[Row, float]]:
    """For each pair the row of its correct side (of its first voice), and how often that has the higher score: mean over voices, a tie counts one half.

    The correct (1) and the incorrect (0) row of a pair agree in ``same`` and in voice; where several do, they go together in their order.
    Raises UserError where one is without the other.
    """
    sides: dict[tuple, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for row in rows:
        if row["correct"] not in ("0", "1"):
            raise UserError(f"{gold}: {row['filename']} has {row['correct']!r} for correct, which is 1 or 0; mend it")
        sides[tuple(row[column] for column in (*same, "voice"))][row["correct"] == "1"].append(row)
    voices: dict[tuple, list[float]] = defaultdict(list)
    first: dict[tuple, Row] = {}
    for (*key, voice), (incorrect, correct) in sides.items():
        if len(incorrect) != len(correct):
            raise UserError(
                f"{gold}: {' '.join(key)} in voice {voice}: {len(correct)} correct and {len(incorrect)} incorrect rows; a pair is one of each"
            )
        for right, wrong in zip(correct, incorrect):
            first.setdefault(tuple(key), right)
            voices[tuple(key)].append(outcome(scores[right["filename"]], scores[wrong["filename"]]))
    return [(first[key], sum(of_voices) / len(of_voices)) for key, of_voices in voices.items()]


def outcome(right: float, wrong: float) -> float:
    return 0.5 if right == wrong else float(right > wrong)


def percent(results: Sequence[tuple[Row, float]]) -> float:
    """Mean over pairs, whatever the number of their voices."""
    return 100 * sum(score for _, score in results) / len(results)


def by_group(
    results: Sequence[tuple[Row, float]], group_of: Callable[[Row], str | None], order: Sequence[str] | None = None
) -> list[dict]:
    """One row a group: {"group", "pairs", "score"}, in ``order`` or sorted; pairs of group None are in no row."""
    groups: dict[str, list] = defaultdict(list)
    for row, score in results:
        groups[group_of(row)].append((row, score))
    groups.pop(None, None)
    names = [name for name in order if name in groups] if order else sorted(groups)
    return [{"group": name, "pairs": len(groups[name]), "score": percent(groups[name])} for name in names]


# ---- sWUGGY, sBLIMP ---------------------------------------------------------------------------------------------------------


def lexical(gold: Path, submission: Path) -> dict:
    """sWUGGY: {"pairs", "score" (%), "by_frequency", "by_length"}, frequency in LibriSpeech, length in phones, both of the word.

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


def minimal_pairs(gold: Path, submission: Path, columns: Sequence[str], same: Sequence[str]) -> list[tuple[Row, float]]:
    rows, scores = read_gold(gold, columns), read_scores(submission)
    require_same_files((row["filename"] for row in rows), scores, gold, submission)
    return pair_scores(rows, scores, same, gold)


def frequency_band(frequency: str, gold: Path) -> str | None:
    """None where the frequency is not given."""
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
        raise UserError(f"{gold}: {text!r} is no frequency and no length, a number from 0; mend it")
    return value

"""Do words that people find alike lie close together? sSIMI of the ZeroSpeech 2021 benchmark (Nguyen et al. 2020).

The dataset holds ``semantic/dev/gold.csv`` (which file is which word) and ``pairs.csv`` (what people said of two words); a submission
``semantic/dev/librispeech`` and ``semantic/dev/synthetic`` with a .npy or .txt file of each utterance, (frames, D), as ``dinosr lm-features``
writes them. The baseline takes the second hidden layer of an LSTM, pooled by the minimum over time, and the cosine distance.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from tqdm import tqdm

from ...errors import UserError
from ..table import format_table
from .pairs import Row, read_gold, require_same_files

POOLING = {"min": np.min, "max": np.max, "mean": np.mean}
TYPES = ("librispeech", "synthetic")
GOLD_COLUMNS = ("type", "filename", "word", "voice")
PAIR_COLUMNS = ("type", "dataset", "word_1", "word_2", "similarity", "relatedness")
TABLE = [
    ("type", "speech", ""),
    ("dataset", "word pairs of", ""),
    ("pairs", "pairs", "d"),
    ("correlation", "100 x Spearman", ".2f"),
]

Tokens = dict[tuple[str, str], list[tuple[str, np.ndarray]]]  # (type, word) -> (voice, pooled (D,)) of each file


def semantic(gold: Path, submission: Path, pooling: str) -> dict:
    """sSIMI of the types that the submission has a folder of.

    Args:
        gold: folder of ``gold.csv`` and ``pairs.csv``.
        submission: folder of ``librispeech`` and ``synthetic``, or of one of them.
        pooling: min, max or mean over time.

    Returns:
        {"correlations": [{"type", "dataset", "pairs", "correlation"}], "mean": {type: ...}, "weighted_mean": {type: ...}}: 100 times Spearman's
        correlation, None where all distances or judgements are equal; means over datasets, plain and weighted by their pairs.

    Raises:
        UserError: files that lack columns or rows, features that are missing, too many, of different widths, not finite or all 0.
    """
    types = [name for name in TYPES if (submission / name).is_dir()]
    if not types:
        raise UserError(
            f"{submission}: holds neither a folder librispeech nor synthetic; write them with `dinosr lm-features`"
        )
    rows = [row for row in read_gold(gold / "gold.csv", GOLD_COLUMNS) if row["type"] in types]
    tokens = pooled_tokens(rows, gold / "gold.csv", submission, types, pooling)
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in read_gold(gold / "pairs.csv", PAIR_COLUMNS):
        if row["type"] in types:
            groups[row["type"], row["dataset"]].append(row)
    found = [
        {
            "type": kind,
            "dataset": dataset,
            "pairs": len(pairs),
            "correlation": correlation(pairs, tokens, gold / "pairs.csv"),
        }
        for (kind, dataset), pairs in sorted(groups.items())
    ]
    means = {kind: [row for row in found if row["type"] == kind and row["correlation"] is not None] for kind in types}
    return {
        "correlations": found,
        "mean": {kind: average(own, weighted=False) for kind, own in means.items()},
        "weighted_mean": {kind: average(own, weighted=True) for kind, own in means.items()},
    }


def average(rows: Sequence[Mapping], weighted: bool) -> float | None:
    if not rows:
        return None
    return float(
        np.average([row["correlation"] for row in rows], weights=[row["pairs"] if weighted else 1 for row in rows])
    )


def pooled_tokens(rows: Sequence[Row], gold: Path, submission: Path, types: Sequence[str], pooling: str) -> Tokens:
    """Each word's files, in the order of the gold file."""
    files: dict[tuple[str, str], Path] = {}
    for kind in types:
        own: dict[str, Path] = {}
        for path in (submission / kind).iterdir():
            if path.suffix in (".npy", ".txt") and own.setdefault(path.stem, path) != path:
                raise UserError(f"{path}: {own[path.stem].name} is there too; remove one of them")
        require_same_files((row["filename"] for row in rows if row["type"] == kind), own, gold, submission / kind)
        files |= {(kind, name): path for name, path in own.items()}
    tokens: Tokens = defaultdict(list)
    width = None
    for row in tqdm(rows, desc=f"{pooling} over time", unit="file", disable=None):
        path = files[row["type"], row["filename"]]
        pooled = POOLING[pooling](read_features(path), axis=0)
        width = width or len(pooled)
        if len(pooled) != width:
            raise UserError(
                f"{path}: {len(pooled)} columns, another file has {width}; write all of them with one layer of one model"
            )
        if not np.isfinite(pooled).all() or not pooled.any():
            raise UserError(f"{path}: NaN, infinity or nothing but 0, which has no direction; make the features again")
        tokens[row["type"], row["word"]].append((row["voice"], pooled))
    return tokens


def read_features(path: Path) -> np.ndarray:
    """(frames, D), at least one frame. Raises UserError for anything else."""
    try:
        array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: cannot be read as an array of numbers; make it again with `dinosr lm-features`"
        ) from error
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: {array.dtype} of shape {array.shape}, not numbers (frames, D); make it again with `dinosr lm-features`"
        )
    return array


def correlation(pairs: Sequence[Row], tokens: Tokens, path: Path) -> float | None:
    """100 x Spearman's correlation of distance and minus what people said: of the column that is complete."""
    complete = [column for column in ("relatedness", "similarity") if all(row[column] for row in pairs)]
    if not complete:
        raise UserError(
            f"{path}: neither relatedness nor similarity of every pair of {pairs[0]['dataset']} ({pairs[0]['type']}); mend it"
        )
    try:
        human = [float(row[complete[0]]) for row in pairs]
    except ValueError:
        human = [math.nan]
    if not np.isfinite(human).all():
        raise UserError(
            f"{path}: {complete[0]} of {pairs[0]['dataset']} ({pairs[0]['type']}) is not a number everywhere; mend it"
        )
    distances = [distance(row, tokens, path) for row in pairs]
    if len(set(human)) < 2 or len(set(distances)) < 2:
        return None
    return 100 * float(spearmanr(-np.array(human), distances).statistic)


def distance(pair: Row, tokens: Tokens, path: Path) -> float:
    """Mean cosine distance of the two words' files: of all pairs of them; in synthetic speech of those of one voice."""
    first, second = (tokens.get((pair["type"], pair[word]), []) for word in ("word_1", "word_2"))
    if not first or not second:
        raise UserError(
            f"{path}: {pair['word_1']} and {pair['word_2']} ({pair['type']}) are not both in gold.csv; mend it"
        )
    table = cdist([pooled for _, pooled in first], [pooled for _, pooled in second], "cosine")  # (files, files)
    if pair["type"] == "synthetic":
        table = table[np.equal.outer([voice for voice, _ in first], [voice for voice, _ in second])]
        if not table.size:
            raise UserError(
                f"{path}: {pair['word_1']} and {pair['word_2']} (synthetic) have no voice in common; mend it"
            )
    return float(table.mean())


def semantic_table(found: Mapping) -> str:
    """What ``semantic`` returned, as text."""
    rows = list(found["correlations"])
    for key, name in (("mean", "mean"), ("weighted_mean", "mean, by pairs")):
        rows += [{"type": kind, "dataset": name, "correlation": value} for kind, value in found[key].items()]
    return format_table(rows, TABLE)

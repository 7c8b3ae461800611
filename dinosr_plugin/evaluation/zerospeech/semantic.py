"""sSIMI of the ZeroSpeech 2021 benchmark (Nguyen et al. 2020): are words that people judge similar close to each other?

The dataset contains ``semantic/dev/gold.csv`` (the word of each file) and ``pairs.csv`` (human judgements of pairs of
words). A submission contains ``semantic/dev/librispeech`` and ``semantic/dev/synthetic`` with a .npy or .txt file for
each utterance, (frames, D), as written by ``dinosr lm-features``. The baseline uses the second hidden layer of an LSTM,
the minimum over time, and the cosine distance.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from tqdm import tqdm

from ...data.arrays import map_array
from ...errors import UserError
from ...files import read_lines
from ..table import format_table
from .pairs import GoldRow, read_gold, require_same_files

POOLING: dict[str, Callable[..., np.ndarray]] = {"min": np.min, "max": np.max, "mean": np.mean}
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
    """sSIMI of those types of speech for which the submission contains a folder.

    Args:
        gold: folder that contains ``gold.csv`` and ``pairs.csv``.
        submission: folder that contains ``librispeech``, ``synthetic`` or both.
        pooling: min, max or mean over time.

    Returns:
        {"correlations": [{"type", "dataset", "pairs", "correlation"}], "mean": {type: ...}, "weighted_mean": {type:
        ...}}. Correlations are 100 times Spearman's; None if all distances or judgements are equal. Means are over
        datasets: unweighted, and weighted by the number of pairs.

    Raises:
        UserError: columns, rows or files are missing; there are extra files; features differ in width, are not finite
            or are all 0.
    """
    types = [name for name in TYPES if (submission / name).is_dir()]
    if not types:
        raise UserError(
            f"{submission}: contains neither a folder librispeech nor synthetic; create them with `dinosr lm-features`"
        )
    rows = [row for row in read_gold(gold / "gold.csv", GOLD_COLUMNS) if row["type"] in types]
    tokens = pooled_tokens(rows, gold / "gold.csv", submission, types, pooling)
    groups: dict[tuple[str, str], list[GoldRow]] = defaultdict(list)
    for row in read_gold(gold / "pairs.csv", PAIR_COLUMNS):
        if row["type"] in types:
            groups[row["type"], row["dataset"]].append(row)
    correlations = [
        {
            "type": kind,
            "dataset": dataset,
            "pairs": len(pairs),
            "correlation": correlation(pairs, tokens, gold / "pairs.csv"),
        }
        for (kind, dataset), pairs in sorted(groups.items())
    ]
    defined = {
        kind: [row for row in correlations if row["type"] == kind and row["correlation"] is not None] for kind in types
    }
    return {
        "correlations": correlations,
        "mean": {kind: average(rows, weighted=False) for kind, rows in defined.items()},
        "weighted_mean": {kind: average(rows, weighted=True) for kind, rows in defined.items()},
    }


def average(rows: Sequence[Mapping], weighted: bool) -> float | None:
    if not rows:
        return None
    weights = [row["pairs"] if weighted else 1 for row in rows]
    return float(np.average([row["correlation"] for row in rows], weights=weights))


def pooled_tokens(rows: Sequence[GoldRow], gold: Path, submission: Path, types: Sequence[str], pooling: str) -> Tokens:
    """Pooled features of the files of each word, in the order of the gold file."""
    files: dict[tuple[str, str], Path] = {}
    for kind in types:
        of_type: dict[str, Path] = {}
        for path in (submission / kind).iterdir():
            if path.suffix in (".npy", ".txt") and of_type.setdefault(path.stem, path) != path:
                raise UserError(f"{path}: {of_type[path.stem].name} contains the same utterance; remove one of them")
        require_same_files((row["filename"] for row in rows if row["type"] == kind), of_type, gold, submission / kind)
        files |= {(kind, name): path for name, path in of_type.items()}
    tokens: Tokens = defaultdict(list)
    width = None
    for row in tqdm(rows, desc=f"{pooling} over time", unit="file", disable=None):
        path = files[row["type"], row["filename"]]
        pooled = POOLING[pooling](read_features(path), axis=0)
        width = width or len(pooled)
        if len(pooled) != width:
            raise UserError(
                f"{path}: has {len(pooled)} columns, but another file has {width}; "
                "create all files with the same layer of the same model"
            )
        if not np.isfinite(pooled).all() or not pooled.any():
            raise UserError(
                f"{path}: contains NaN or infinity, or only zeros, which have no direction; create it again"
            )
        tokens[row["type"], row["word"]].append((row["voice"], pooled))
    return tokens


def read_features(path: Path) -> np.ndarray:
    """Read features (frames, D), at least one frame. Raises UserError for anything else."""
    remedy = "create it again with `dinosr lm-features`"
    try:
        array = map_array(path) if path.suffix == ".npy" else np.loadtxt(read_lines(path, remedy), ndmin=2)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read as an array of numbers; create it again with `dinosr lm-features`"
        ) from error
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: contains {array.dtype} of shape {array.shape} instead of numbers of shape (frames, D); "
            "create it again with `dinosr lm-features`"
        )
    return array


def correlation(pairs: Sequence[GoldRow], tokens: Tokens, path: Path) -> float | None:
    """100 x Spearman's correlation between distances and negated human judgements (of the column that is complete)."""
    complete = [column for column in ("relatedness", "similarity") if all(row[column] for row in pairs)]
    if not complete:
        raise UserError(
            f"{path}: neither relatedness nor similarity is complete for {pairs[0]['dataset']} ({pairs[0]['type']}); "
            "fill in one of the columns"
        )
    try:
        human = [float(row[complete[0]]) for row in pairs]
    except ValueError:
        human = [math.nan]
    if not np.isfinite(human).all():
        raise UserError(
            f"{path}: {complete[0]} of {pairs[0]['dataset']} ({pairs[0]['type']}) is not always a number; "
            "correct these rows"
        )
    distances = [distance(row, tokens, path) for row in pairs]
    if len(set(human)) < 2 or len(set(distances)) < 2:
        return None
    return 100 * float(spearmanr(-np.array(human), distances).statistic)


def distance(pair: GoldRow, tokens: Tokens, path: Path) -> float:
    """Mean cosine distance over pairs of files of the two words; for synthetic speech, within the same voice."""
    first, second = (tokens.get((pair["type"], pair[word]), []) for word in ("word_1", "word_2"))
    if not first or not second:
        raise UserError(
            f"{path}: {pair['word_1']} or {pair['word_2']} ({pair['type']}) is missing in gold.csv; correct the files"
        )
    table = cdist([pooled for _, pooled in first], [pooled for _, pooled in second], "cosine")  # (files, files)
    if pair["type"] == "synthetic":
        table = table[np.equal.outer([voice for voice, _ in first], [voice for voice, _ in second])]
        if not table.size:
            raise UserError(
                f"{path}: {pair['word_1']} and {pair['word_2']} (synthetic) have no voice in common; remove the pair"
            )
    return float(table.mean())


def semantic_table(result: Mapping) -> str:
    """The result of ``semantic`` as text."""
    rows = list(result["correlations"])
    for key, name in (("mean", "mean"), ("weighted_mean", "mean, by pairs")):
        rows += [{"type": kind, "dataset": name, "correlation": value} for kind, value in result[key].items()]
    return format_table(rows, TABLE)

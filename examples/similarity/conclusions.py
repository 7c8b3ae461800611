"""The first three conclusions of Chung, Belinkov and Glass (ICASSP 2021) in the figures of `dinosr similarity`.

    python examples/similarity/conclusions.py OUT/similarity1 [OUT/similarity2 ...]

Each folder has the last layers of the nine models, compared with --bootstrap: similarity.json and draws.npz. For each
conclusion and measure it prints the two similarities that the paper compares and their difference, with a 95 %
interval over utterances, and what the paper's heat maps have (WSJ).
"""

import json
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinosr_plugin.evaluation.table import Column, format_table

MEASURES = ("cka", "svcca")
Pairs = Sequence[tuple[str, str]]
MODELS = ("apc_fw_rnn", "apc_fwbw_rnn", "apc_fw_trf", "apc_fwbw_trf", "mpc_birnn", "mpc_trf")
MODELS += ("cpc_mixed_rnn", "cpc_within_rnn", "cpc_within_cnn")


def objective(model: str) -> str:
    return model.split("_")[0]


def architecture(model: str) -> str:
    return model.split("_")[-1].removeprefix("bi")


def pairs_where(condition: Callable[[str, str], bool]) -> Pairs:
    return [pair for pair in combinations(MODELS, 2) if condition(*pair)]


class Conclusion(NamedTuple):
    """Similarities of ``more`` are higher than those of ``less``, on average. ``paper``: measure -> both means."""

    text: str
    more: Pairs
    less: Pairs
    paper: dict[str, tuple[float, float]]


CONCLUSIONS = [
    Conclusion(
        "objective over architecture: same objective and another architecture, against the reverse",
        pairs_where(lambda a, b: objective(a) == objective(b) and architecture(a) != architecture(b)),
        pairs_where(lambda a, b: objective(a) != objective(b) and architecture(a) == architecture(b)),
        {"cka": (0.854, 0.514), "svcca": (0.700, 0.346)},
    ),
    Conclusion(
        "direction over building block: same direction and another block, against the reverse",
        [("apc_fw_rnn", "apc_fw_trf"), ("apc_fwbw_rnn", "apc_fwbw_trf")],
        [("apc_fw_rnn", "apc_fwbw_rnn"), ("apc_fw_trf", "apc_fwbw_trf")],
        {"cka": (0.920, 0.855), "svcca": (0.835, 0.775)},
    ),
    Conclusion(
        "negatives over architecture: the same negatives and another network, against the reverse",
        [("cpc_within_rnn", "cpc_within_cnn")],
        [("cpc_within_rnn", "cpc_mixed_rnn")],
        {"cka": (0.860, 0.830), "svcca": (0.760, 0.710)},
    ),
]
COLUMNS = [
    Column("folder", "figures"),
    Column("measure", "measure"),
    Column("more", "first", ".3f"),
    Column("less", "second", ".3f"),
    Column("difference", "difference", "+.3f"),
    Column("low", "from", "+.3f"),
    Column("high", "to", "+.3f"),
    Column("holds", "holds"),
    Column("paper", "paper"),
]


def mean_of(values: np.ndarray, place: dict[str, int], pairs: Pairs) -> np.ndarray:
    """(..., rows, columns) -> (...): the mean over pairs."""
    return np.mean([values[..., place[a], place[b]] for a, b in pairs], axis=0)


def row(folder: Path, conclusion: Conclusion, measure: str) -> dict:
    found = json.loads((folder / "similarity.json").read_text())
    place = {name: i for i, name in enumerate(found["rows"])}
    values = np.array(found["measures"][measure]["values"], dtype=float)
    draws = np.load(folder / "draws.npz")[measure]
    more, less = (mean_of(values, place, pairs) for pairs in (conclusion.more, conclusion.less))
    differences = mean_of(draws, place, conclusion.more) - mean_of(draws, place, conclusion.less)
    low, high = np.quantile(differences, [0.025, 0.975])
    return {
        "folder": folder.name,
        "measure": measure,
        "more": float(more),
        "less": float(less),
        "difference": float(more - less),
        "low": float(low),
        "high": float(high),
        "holds": "yes" if low > 0 else "no" if high < 0 else "open",
        "paper": "{:.3f} {:.3f}".format(*conclusion.paper[measure]),
    }


def main(folders: Sequence[str]) -> None:
    for conclusion in CONCLUSIONS:
        rows = [row(Path(folder), conclusion, measure) for folder in folders for measure in MEASURES]
        print(f"{conclusion.text}\n{format_table(rows, COLUMNS)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

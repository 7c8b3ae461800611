"""The first three conclusions of Chung, Belinkov and Glass (ICASSP 2021) in the figures of `dinosr similarity`.

    python examples/similarity/conclusions.py OUT/similarity

The folder has the last layers of the nine models of one or more seeds, compared with --bootstrap: similarity.json and
draws.npz. For each conclusion and measure it prints the two similarities that the paper compares and their difference,
with a 95 % interval over utterances, and what the paper's heat maps have (WSJ); then how alike the same models of two
seeds are.
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
PAPER = {  # measure -> heat map on WSJ, the part above the diagonal
    "cka": """.86 .93 .82 .66 .56 .45 .43 .41
        .83 .91 .70 .66 .40 .35 .33
        .85 .58 .63 .43 .41 .38
        .65 .71 .38 .34 .32
        .82 .39 .34 .33
        .35 .30 .29
        .83 .76
        .86""",
    "svcca": """.78 .83 .73 .49 .40 .28 .26 .24
        .74 .84 .53 .49 .23 .18 .16
        .77 .41 .46 .26 .24 .21
        .48 .54 .21 .16 .15
        .74 .22 .17 .16
        .18 .13 .12
        .71 .68
        .76""",
}


def of_paper(measure: str) -> np.ndarray:
    """(9, 9), symmetric, in the order of ``MODELS``."""
    values = np.eye(len(MODELS))
    values[np.triu_indices(len(MODELS), 1)] = [float(value) for value in PAPER[measure].split()]
    return np.maximum(values, values.T)


def objective(model: str) -> str:
    return model.split("_")[0]


def architecture(model: str) -> str:
    return model.split("_")[-1].removeprefix("bi")


def pairs_where(condition: Callable[[str, str], bool]) -> Pairs:
    return [pair for pair in combinations(MODELS, 2) if condition(*pair)]


class Conclusion(NamedTuple):
    """Similarities of ``more`` are higher than those of ``less``, on average."""

    text: str
    more: Pairs
    less: Pairs


CONCLUSIONS = [
    Conclusion(
        "objective over architecture: same objective and another architecture, against the reverse",
        pairs_where(lambda a, b: objective(a) == objective(b) and architecture(a) != architecture(b)),
        pairs_where(lambda a, b: objective(a) != objective(b) and architecture(a) == architecture(b)),
    ),
    Conclusion(
        "direction over building block: same direction and another block, against the reverse",
        [("apc_fw_rnn", "apc_fw_trf"), ("apc_fwbw_rnn", "apc_fwbw_trf")],
        [("apc_fw_rnn", "apc_fwbw_rnn"), ("apc_fw_trf", "apc_fwbw_trf")],
    ),
    Conclusion(
        "negatives over architecture: the same negatives and another network, against the reverse",
        [("cpc_within_rnn", "cpc_within_cnn")],
        [("cpc_within_rnn", "cpc_mixed_rnn")],
    ),
]
COLUMNS = [
    Column("seed", "seed"),
    Column("measure", "measure"),
    Column("more", "first", ".3f"),
    Column("less", "second", ".3f"),
    Column("difference", "difference", "+.3f"),
    Column("low", "from", "+.3f"),
    Column("high", "to", "+.3f"),
    Column("holds", "holds"),
    Column("paper", "paper"),
]


class Figures:
    """The figures in a folder. ``seeds``: beginnings of the names of models, such as ``seed1/``."""

    def __init__(self, folder: Path):
        found = json.loads((folder / "similarity.json").read_text())
        self.place = {name: i for i, name in enumerate(found["rows"])}
        self.values = {name: np.array(found["measures"][name]["values"], dtype=float) for name in MEASURES}
        self.draws = np.load(folder / "draws.npz")
        self.seeds = [name.removesuffix(MODELS[0]) for name in found["rows"] if name.endswith(MODELS[0])]

    def mean(self, values: np.ndarray, pairs: Pairs, seed: str) -> np.ndarray:
        """(..., rows, columns) -> (...): the mean over pairs of models of a seed."""
        return np.mean([values[..., self.place[seed + a], self.place[seed + b]] for a, b in pairs], axis=0)


def row(figures: Figures, conclusion: Conclusion, measure: str, seed: str) -> dict:
    sides = conclusion.more, conclusion.less
    more, less = (figures.mean(figures.values[measure], pairs, seed) for pairs in sides)
    draws = [figures.mean(figures.draws[measure], pairs, seed) for pairs in sides]
    low, high = np.quantile(draws[0] - draws[1], [0.025, 0.975])
    place = {name: i for i, name in enumerate(MODELS)}
    published = [np.mean([of_paper(measure)[place[a], place[b]] for a, b in pairs]) for pairs in sides]
    return {
        "seed": seed.strip("/") or "-",
        "measure": measure,
        "more": float(more),
        "less": float(less),
        "difference": float(more - less),
        "low": float(low),
        "high": float(high),
        "holds": "yes" if low > 0 else "no" if high < 0 else "open",
        "paper": f"{published[0]:.3f} {published[1]:.3f}",
    }


def between_seeds(figures: Figures) -> str:
    first, second = figures.seeds[:2]
    columns = [Column("model", "the same model, two seeds"), *(Column(name, name, ".3f") for name in MEASURES)]
    rows = [
        {"model": model}
        | {name: figures.values[name][figures.place[first + model], figures.place[second + model]] for name in MEASURES}
        for model in MODELS
    ]
    return format_table(rows, columns)


def main(folder: str) -> None:
    figures = Figures(Path(folder))
    for conclusion in CONCLUSIONS:
        rows = [row(figures, conclusion, measure, seed) for measure in MEASURES for seed in figures.seeds]
        print(f"{conclusion.text}\n{format_table(rows, COLUMNS)}\n")
    if len(figures.seeds) > 1:
        print(between_seeds(figures))


if __name__ == "__main__":
    main(sys.argv[1])

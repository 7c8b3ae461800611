"""Similarity of representations: which pairs are compared, the pass over the sound, and the figures.

All pairs and measures share one pass. With ``bootstrap``, utterances are dealt to at most ``GROUPS`` groups, and the
figures of resampled groups give an interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

from ...errors import UserError
from ...modules.frame_grid import SAMPLE_RATE
from ...units.batches import Progress, Utterance, hours
from ..measures.similarity.linear import best_matches
from ..measures.similarity.measure import MEASURES, Figures
from ..measures.similarity.moments import Moments
from ..measures.similarity.statistics import Statistics
from ..measuring import PairFigure
from .frame_alignment import Timing, coarsest, on_common_frames
from .representations import Representation, Supplier, Together, read_together

DEFAULT = ("cka", "cka_unbiased", "svcca", "pwcca")
LEVELS = ("frames", "utterances")
MAX_FRAMES = 40_000
CHUNK = 4096  # frames that are added at a time: matrix products of this size are fast
GROUPS = 20  # of utterances, for bootstrap intervals
CONFIDENCE = 0.95  # of intervals
SEED = 0  # of the bootstrap
MAX_BYTES = 8e9  # of the sums
ENOUGH = 10  # frames for each dimension of a pair, below which biased measures are too high


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        rows, columns: names of representations; every row is compared with every column.
        measures: names of ``MEASURES``.
        level: ``frames``, or ``utterances`` for the means of their frames.
        max_frames: every k-th frame is used, with the smallest k that gives at most so many; None: all.
        bootstrap: number of resamples; 0: no interval.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    measures: Sequence[str] = DEFAULT
    level: str = "frames"
    max_frames: int | None = MAX_FRAMES
    bootstrap: int = 0

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each pair once, in one order; a representation with itself is not among them."""
        kept: dict[frozenset[str], tuple[str, str]] = {}
        for row in self.rows:
            for column in self.columns:
                if row != column:
                    kept.setdefault(frozenset((row, column)), (row, column))
        return list(kept.values())


@dataclass(frozen=True)
class Similarity:
    """Figures.

    Attributes:
        plan: as above; ``every``: k, of every k-th frame; ``n``: frames or utterances that were compared;
            ``utterances``, ``hours``: of the speech.
        dead: representation -> number of dimensions that are the same in all frames, which are left out.
        values: measure -> (rows, columns) floats; ``std``: over samples of frames, where there are any; ``draws``:
            measure -> (bootstrap, rows, columns), the values of the resamples.
        over_models: for ``maxcorr``: row -> means over neurons of their highest (``max``) and lowest (``min``) value
            over the columns of other models.
        notes: for the user.
    """

    plan: Plan
    representations: Sequence[Representation]
    every: int
    n: int
    utterances: int
    hours: float
    dead: Mapping[str, int]
    values: Mapping[str, np.ndarray]
    std: Mapping[str, np.ndarray] = field(default_factory=dict)
    draws: Mapping[str, np.ndarray] = field(default_factory=dict)
    over_models: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def low(self) -> dict[str, np.ndarray]:
        """Measure -> (rows, columns), the lower ends of the intervals, by the percentile bootstrap."""
        return {name: np.quantile(draws, (1 - CONFIDENCE) / 2, axis=0) for name, draws in self.draws.items()}

    @property
    def high(self) -> dict[str, np.ndarray]:
        """The upper ends."""
        return {name: np.quantile(draws, (1 + CONFIDENCE) / 2, axis=0) for name, draws in self.draws.items()}


def measure_similarity(
    suppliers: Sequence[Supplier],
    utterances: Sequence[Utterance],
    plan: Plan,
    device: str | torch.device = "cpu",
) -> Similarity:
    """The figures of a plan.

    Args:
        suppliers: of all representations in the plan.
        device: where frames are compared.

    Raises:
        UserError: as ``check``; from the audio and the models; too few frames.
    """
    representations = [one for supplier in suppliers for one in supplier.representations]
    check(representations, utterances, plan)
    widths = {one.name: one.width for one in representations}
    groups = min(GROUPS, len(utterances)) if plan.bootstrap else 1
    total = count_items(representations, utterances, plan.level)
    every = 1 if plan.max_frames is None else -(-total // plan.max_frames)
    needed = {MEASURES[name].statistic for name in plan.measures} | {"moments"}  # these count constant dimensions
    require_memory(widths, plan, groups)
    statistics = Statistics(list(needed), widths, plan.pairs, total, groups, device)
    collect(statistics, suppliers, representations, utterances, plan.level, every)
    return similarity_of(statistics, representations, utterances, plan, every)


def check(representations: Sequence[Representation], utterances: Sequence[Utterance], plan: Plan) -> None:
    """Raise UserError for a plan that cannot be measured."""
    if unknown := [name for name in plan.measures if name not in MEASURES]:
        raise UserError(f"--measure {unknown[0]}: unknown; choose from {', '.join(MEASURES)}")
    for one in representations:
        if plan.level == "frames" and one.timing is None:
            raise UserError(
                f"{one.name}: has one vector for each recording and no frames; compare it with --level utterances"
            )
        if plan.level == "utterances" and one.centred:
            raise UserError(
                f"{one.name}: with --level utterances: its mean over every utterance is 0, so there is nothing to "
                "compare; give mfcc_uncentred or fbank_uncentred"
            )
    timings = {one.timing for one in representations}
    for one in representations:
        if not one.timed and len(timings) > 1:
            raise UserError(
                f"{one.name}: does not say where its frames are in time, so that they cannot be compared with frames "
                "of another rate; make it again with `dinosr features`"
            )
    if plan.bootstrap and len(utterances) < 2:
        raise UserError("--bootstrap: requires at least 2 utterances; give a larger manifest")


def require_memory(widths: Mapping[str, int], plan: Plan, groups: int) -> None:
    size = Moments.size(widths, plan.pairs, groups)
    if size > MAX_BYTES:
        remedy = "give fewer layers or models" + (", or omit --bootstrap" if groups > 1 else "")
        raise UserError(
            f"{len(plan.pairs)} pairs of up to {max(widths.values())} dimensions take {size / 1e9:.0f} GB of memory, "
            f"over {MAX_BYTES / 1e9:.0f}; {remedy}"
        )


# ---- the pass over the sound -----------------------------------------------------------------------------------------


def count_items(representations: Sequence[Representation], utterances: Sequence[Utterance], level: str) -> int:
    """Number of common frames, at most, or of utterances."""
    if level == "utterances":
        return len(utterances)
    rate = coarsest([one.timing for one in representations if one.timing]).rate
    return sum(int(one.samples * rate / SAMPLE_RATE) + 1 for one in utterances)


def collect(
    statistics: Statistics,
    suppliers: Sequence[Supplier],
    representations: Sequence[Representation],
    utterances: Sequence[Utterance],
    level: str,
    every: int,
) -> None:
    """Add every utterance to the statistics; utterance i belongs to group i mod G."""
    groups = statistics.groups
    order = [row for group in range(groups) for row in range(group, len(utterances), groups)]
    progress = Progress("similarity", hours(utterances, order))
    chunk = Chunk(statistics)
    timings = [one.timing for one in representations if one.timing]
    for together in read_together(suppliers, utterances, order):
        utterance = utterances[together.row]
        if level == "utterances":
            items = {name: array.mean(0, keepdims=True) for name, array in together.arrays.items()}
        else:
            items = common_frames(together, timings, utterance.name, every)
        chunk.add(items, together.row % groups)
        progress.update(utterance.samples)
    chunk.flush()
    progress.summary()


def common_frames(together: Together, timings: Sequence[Timing], utt: str, every: int) -> dict[str, np.ndarray]:
    aligned = on_common_frames(list(together.arrays.values()), timings, utt)
    return {name: array[::every] for name, array in zip(together.arrays, aligned)}


class Chunk:
    """Collects frames until there are enough for a large matrix product; a chunk belongs to one group."""

    def __init__(self, statistics: Statistics):
        self.statistics, self.group = statistics, 0
        self.items: list[Mapping[str, np.ndarray]] = []

    def add(self, items: Mapping[str, np.ndarray], group: int) -> None:
        if group != self.group:
            self.flush()
            self.group = group
        self.items.append(items)
        if sum(len(next(iter(one.values()))) for one in self.items) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        if self.items:
            frames = {name: np.concatenate([one[name] for one in self.items]) for name in self.items[0]}
            self.statistics.add(frames, self.group)
            self.items = []


# ---- figures ---------------------------------------------------------------------------------------------------------


def similarity_of(
    statistics: Statistics,
    representations: Sequence[Representation],
    utterances: Sequence[Utterance],
    plan: Plan,
    every: int,
) -> Similarity:
    figures = Figures(statistics)
    assert figures.totals is not None
    dead = {one.name: figures.totals.source(one.name).dead for one in representations}
    require_enough(statistics.n, representations, dead)
    measured = matrices(figures, plan)
    return Similarity(
        plan,
        representations,
        every,
        statistics.n,
        len(utterances),
        hours(utterances, range(len(utterances))),
        dead,
        {name: of_measure[..., 0] for name, of_measure in measured.items()},
        {name: of_measure[..., 1] for name, of_measure in measured.items() if MEASURES[name].statistic == "sample"},
        draw_values(statistics, plan) if plan.bootstrap else {},
        neurons_over_models(figures, representations, plan) if "maxcorr" in plan.measures else {},
        notes_of(statistics.n, representations, dead, plan, every),
    )


def matrices(figures: Figures, plan: Plan) -> dict[str, np.ndarray]:
    """Measure -> (rows, columns, 2): values and their standard deviations over samples, NaN where there are none."""
    place = {name: i for i, name in enumerate(plan.rows)}, {name: i for i, name in enumerate(plan.columns)}
    measured = {name: np.full((len(plan.rows), len(plan.columns), 2), np.nan) for name in plan.measures}

    def put(name: str, row: str, column: str, figure: PairFigure) -> None:
        std = np.nan if figure.std is None else figure.std
        measured[name][place[0][row], place[1][column]] = figure.value, std

    for name in plan.measures:
        for one in set(plan.rows) & set(plan.columns):
            put(name, one, one, PairFigure(1.0))
    for a, b in plan.pairs:
        for name in plan.measures:
            measure = MEASURES[name]
            figure = measure(figures, a, b)
            put(name, a, b, figure)
            if b in place[0] and a in place[1]:
                put(name, b, a, figure if measure.symmetric else measure(figures, b, a))
    return measured


def draw_values(statistics: Statistics, plan: Plan) -> dict[str, np.ndarray]:
    """Measure -> (bootstrap, rows, columns), values of the resamples; measures of samples of frames have none."""
    names = [name for name in plan.measures if MEASURES[name].statistic != "sample"]
    draws = resamples(statistics.groups, plan.bootstrap)
    bar = tqdm(draws, desc="bootstrap", total=plan.bootstrap, disable=None)
    values = [matrices(Figures(statistics, weights), replace(plan, measures=names)) for weights in bar]
    return {name: np.stack([of_draw[name][..., 0] for of_draw in values]) for name in names}


def resamples(groups: int, draws: int) -> Iterator[np.ndarray]:
    """(groups,) integers for each draw: how often each group was drawn, with replacement."""
    rng = np.random.default_rng(SEED)
    return (rng.multinomial(groups, np.full(groups, 1 / groups)) for _ in range(draws))


def neurons_over_models(
    figures: Figures, representations: Sequence[Representation], plan: Plan
) -> dict[str, dict[str, float]]:
    """As ``Similarity.over_models``; rows without columns of another model have none."""
    model_of = {one.name: one.model for one in representations}
    found = {}
    for row in plan.rows:
        others = [column for column in plan.columns if model_of[column] != model_of[row]]
        if others:
            scores = np.stack([best_matches(figures.pair(row, other)) for other in others])  # (others, L)
            found[row] = {"max": float(scores.max(0).mean()), "min": float(scores.min(0).mean())}
    return found


def require_enough(n: int, representations: Sequence[Representation], dead: Mapping[str, int]) -> None:
    if n < 4:
        raise UserError(f"only {n} frames or utterances to compare, at least 4 are required; give a larger manifest")
    for one in representations:
        if dead[one.name] == one.width:
            raise UserError(
                f"{one.name}: all of its {one.width} dimensions are constant; give another checkpoint, or recordings "
                "that are not silent"
            )


def notes_of(
    n: int, representations: Sequence[Representation], dead: Mapping[str, int], plan: Plan, every: int
) -> list[str]:
    notes = [
        f"{one.name}: {dead[one.name]} of {one.width} dimensions are constant; left out"
        for one in representations
        if dead[one.name]
    ]
    if every > 1 and plan.level == "frames":
        notes.append(f"one frame in {every} is used, {n:,} in all (--max-frames)")
    width = max(one.width for one in representations)
    if n < ENOUGH * 2 * width:
        what = "frames" if plan.level == "frames" else "utterances"
        notes.append(
            f"{n:,} {what} for representations of up to {width} dimensions: with fewer than {ENOUGH} for each "
            "dimension of a pair, biased CKA, CCA and linear regression are too high; give more speech, or use "
            "cka_unbiased"
        )
    return notes

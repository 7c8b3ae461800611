"""ABX: is a phone nearer to another of its kind than to a different phone? The protocol of ZeroSpeech 2021.

Items A and X are the same phone, B is another one; all three stand between the same two phones (their context). A and B are one speaker's.
Within speaker X is a second item of A's group (same context, speaker, phone); across speakers X is another speaker's. The error of a
group triple is 1 - (share of (a, b, x) with d(x, a) < d(x, b), ties counting one half). It is averaged over contexts (across: and speakers
of X), then over speakers of A and B, then over the ordered pairs of phones (A, B) that occur. 50 % is chance.

Reference: bootphon/zerospeech2021 and zerospeech-libriabx2 (mode "within context"), which derive from Libri-light's ``eval_ABX.py``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ....data.audio import default_workers
from ....errors import UserError
from ....units.frames import UtteranceArrays
from .dtw import Rectangles, edited, in_batches, warped
from .items import Item
from .score import AbxResult, Tally
from .segments import DISTANCES, Segments, cut, frame_distances, frame_vectors

MAX_GROUP, MAX_SPEAKERS = 10, 5  # ZeroSpeech 2021's
TASK_CELLS = 2**22  # frame distances that a worker holds at a time
TABLE_CELLS = 2**22  # segment distances that are held at a time, unless one context has more
COMPARED = 2**22  # comparisons made in one go


# ---- what is compared -------------------------------------------------------------------------------------------------------


@dataclass
class _Context:
    """The items of one context, sorted by speaker and phone; group g is items ``bounds[g]`` to ``bounds[g + 1]``."""

    speakers: np.ndarray  # (G,) int
    phones: np.ndarray  # (G,) int
    bounds: np.ndarray  # (G + 1,) int
    frames: list[np.ndarray]  # of each item
    within: list[int]  # groups that are A and X
    across: list[tuple[int, int]]  # groups (A, X)
    table: np.ndarray | None = (
        None  # (items, items) float32 while at work: distance of X (rows) to A or B, NaN where not asked for
    )

    @cached_property
    def beside(self) -> list[tuple[int, int]]:
        """Of each group: the first group of the same speaker, and the one after the last."""
        return [
            *zip(*(np.searchsorted(self.speakers, self.speakers, side=side).tolist() for side in ("left", "right")))
        ]

    def needed(self) -> np.ndarray:
        """(pairs, 2) int: the two items of every distance that is asked for, each pair once, the earlier item first."""
        groups = np.zeros((len(self.speakers),) * 2, dtype=bool)
        for a, x in [*((a, a) for a in self.within), *self.across]:
            low, high = self.beside[a]
            groups[x, low:high] = True
        sizes = np.diff(self.bounds)
        asked = (groups | groups.T).repeat(sizes, axis=0).repeat(sizes, axis=1)  # (items, items)
        return np.argwhere(np.triu(asked, 1))


def _contexts(
    segments: Segments, max_group: int | None, max_speakers: int | None, rng: np.random.Generator
) -> Iterator[_Context]:
    """Contexts with something to compare, in alphabetical order; the same for the same generator and items."""
    speakers, phones = ({name: i for i, name in enumerate(names)} for names in _names(segments))
    contexts: dict[tuple, dict[tuple, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, item in enumerate(segments.items):
        contexts[item.previous, item.following][speakers[item.speaker], phones[item.phone]].append(i)
    for _, groups in sorted(contexts.items()):
        keys, members = zip(*sorted(groups.items()))
        chosen = [_sample(member, max_group, rng) for member in members]
        frames = [segments.frames[i] for group in chosen for i in group]
        speaker, phone = np.array(keys).T
        context = _Context(speaker, phone, np.cumsum([0, *map(len, chosen)]), frames, [], [])
        for a in range(len(keys)):
            low, high = context.beside[a]
            if high - low < 2:  # no B
                continue
            if len(chosen[a]) > 1:
                context.within.append(a)
            others = np.flatnonzero((phone == phone[a]) & (speaker != speaker[a])).tolist()
            context.across += [(a, x) for x in _sample(others, max_speakers, rng)]
        if context.within or context.across:
            yield context


def _names(segments: Segments) -> tuple[list[str], list[str]]:
    return sorted({item.speaker for item in segments.items}), sorted({item.phone for item in segments.items})


def _sample(values: list[int], most: int | None, rng: np.random.Generator) -> list[int]:
    """At most ``most`` of the values, in their order; all of them for None."""
    if most is None or len(values) <= most:
        return values
    return [values[i] for i in np.sort(rng.choice(len(values), most, replace=False))]


# ---- distances --------------------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """The items from ``start`` to ``end`` of a context, each against all that come after it."""

    context: _Context
    start: int
    end: int
    pairs: np.ndarray  # (pairs, 2), from ``needed``: those whose first item is in the block
    cells: int


def _bundles(things: Iterable, size: Callable[..., int], most: int) -> Iterator[list]:
    """Things one after another in lists whose sizes add up to at most ``most``, or that hold a single thing."""
    bundle: list = []
    total = 0
    for thing in things:
        if bundle and total + size(thing) > most:
            yield bundle
            bundle, total = [], 0
        bundle.append(thing)
        total += size(thing)
    if bundle:
        yield bundle


def _blocks(context: _Context) -> Iterator[_Block]:
    pairs = context.needed()
    ends = np.cumsum([len(frames) for frames in context.frames])  # in frames
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted((ends - before) * (ends[-1] - before), TASK_CELLS, side="right")))
        low, high = np.searchsorted(pairs[:, 0], [start, end])
        if low < high:
            yield _Block(context, start, end, pairs[low:high], int((ends[end - 1] - before) * (ends[-1] - before)))
        start = end


def _measure(task: list[_Block], distance: str) -> None:
    """Fill in the tables of the blocks' contexts."""
    flat, rectangles, offset = [], [], 0
    for block in task:
        frames = block.context.frames[block.start :]
        vectors = frame_vectors(frames, discrete=distance != "angular")
        lengths = np.array([len(one) for one in frames])
        starts = np.cumsum(lengths) - lengths
        rows, columns = (block.pairs - block.start).T
        cells = frame_distances(vectors[: lengths[: block.end - block.start].sum()], vectors)
        first = offset + starts[rows] * len(vectors) + starts[columns]
        rectangles.append(Rectangles(first, np.full(len(first), len(vectors)), lengths[rows], lengths[columns]))
        flat.append(cells.ravel())
        offset += cells.size
    pairs = Rectangles(*map(np.concatenate, zip(*rectangles)))
    there, back = in_batches(edited if distance == "edit" else warped, np.concatenate(flat), pairs)
    _enter(task, there, back)


def _enter(task: list[_Block], there: np.ndarray, back: np.ndarray) -> None:
    """Write distances into tables. In a group the distance of the earlier to the later item stands for both, as in the published scorer."""
    done = 0
    for context, _, _, pairs, _ in task:
        assert context.table is not None  # set while its blocks are measured
        i, j = pairs.T
        one, other = there[done : done + len(pairs)], back[done : done + len(pairs)]
        group = np.searchsorted(context.bounds, pairs, side="right")  # (pairs, 2)
        context.table[i, j] = one
        context.table[j, i] = np.where(group[:, 0] == group[:, 1], one, other)
        done += len(pairs)


# ---- comparison -------------------------------------------------------------------------------------------------------------


def _compare(context: _Context, a: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups B beside A (n,), and the error of each (n,): how often x is nearer to b than to a."""
    assert context.table is not None  # set until its groups have been compared
    low, high = context.beside[a]
    bounds = context.bounds[low : high + 1]
    rows = context.table[context.bounds[x] : context.bounds[x + 1]]
    to_a, to_b = rows[:, context.bounds[a] : context.bounds[a + 1]], rows[:, bounds[0] : bounds[-1]]
    step = max(1, COMPARED // (to_a.shape[1] * to_b.shape[1]))
    nearer = np.zeros(to_b.shape[1])  # an item and itself are NaN apart, which is neither less nor equal
    for i in range(0, len(to_a), step):
        one, other = to_a[i : i + step, :, None], to_b[i : i + step, None, :]  # (x, a, 1), (x, 1, b)
        nearer += (one < other).sum(axis=(0, 1)) + 0.5 * (one == other).sum(axis=(0, 1))
    triples = (bounds[1:] - bounds[:-1]) * (to_a.size - (len(to_a) if a == x else 0))
    errors = 1 - np.add.reduceat(nearer, bounds[:-1] - bounds[0]) / triples
    groups = np.arange(low, high)
    return groups[groups != a], errors[groups != a]


def _tally(context: _Context, within: Tally, across: Tally) -> None:
    for tally, pairs in ((within, [(a, a) for a in context.within]), (across, context.across)):
        for a, x in pairs:
            b, errors = _compare(context, a, x)
            tally.add(context.speakers[a], context.phones[a], context.phones[b], errors)


# ---- everything -------------------------------------------------------------------------------------------------------------


def abx(
    features: UtteranceArrays,
    items: Sequence[Item],
    rate: float,
    distance: str,
    *,
    max_group: int | None = MAX_GROUP,
    max_speakers: int | None = MAX_SPEAKERS,
    seed: int = 0,
    skip_missing: bool = False,
    last_frame: str = "drop",
    workers: int | None = None,
) -> AbxResult:
    """ABX errors within and across speakers.

    Args:
        features: utterance -> (n, D) numbers, or (n,) whole numbers for units. Each utterance of the items is asked for once; of memory maps only
            the frames in use are in memory.
        items: from ``abx_items.read_items`` or ``make_items``.
        rate: frames a second of the features.
        distance: of two segments.
            ``"angular"``: frames are arccos(cosine) / pi apart (zero vectors: 0 from each other, 1 from all else), segments the cost of dynamic
            time warping divided by its path's length (``dtw.warped``): the published protocol for features;
            ``"onehot"``: the same with frames 0 apart where their units are equal and 1 where not: orders segments as one-hot vectors do,
            which are 0 or 1/2 apart, so that it is the published protocol for units;
            ``"edit"``: repetitions of a unit become one, then Levenshtein distance divided by the length of the longer sequence.
        max_group: at most so many items, drawn at random, of each context, speaker and phone; None: all. The published scorer draws again for
            each comparison, here a group is drawn once.
        max_speakers: at most so many other speakers' groups X, drawn at random, for each group A; None: all.
        seed: of both draws.
        skip_missing: leave out items whose utterance has no features; otherwise they are an error.
        last_frame: ``drop`` (default, the published protocol) or ``keep``, as ``segments.cut``.
        workers: threads; None: one a CPU, 16 at most. They change no figure.

    Memory, besides the features: 16 * n ** 2 bytes for the largest context, of n items, or 64 MB where that is more; and for each worker about
    80 MB (some more where most items are of one or two frames) and 8 bytes for every number of the largest context's frames.

    Raises:
        UserError: unknown distance, bad features (see ``abx_segments.cut``), or nothing to compare.
    """
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    if distance not in DISTANCES:
        raise UserError(f"distance '{distance}' is not known; choose one of {', '.join(DISTANCES)}")
    for name, value in (("max_group", max_group), ("max_speakers", max_speakers)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give a number above 0, or none to take all")
    segments = cut(features, items, rate, distance, skip_missing, last_frame)
    within, across = (Tally(*_names(segments)) for _ in range(2))
    contexts = list(_contexts(segments, max_group, max_speakers, np.random.default_rng(seed)))
    bar = tqdm(
        total=sum(len(context.frames) for context in contexts), desc=f"ABX, {distance}", unit="item", disable=None
    )
    one_each = threadpool_limits(
        1, user_api="blas"
    )  # on matrices as small as these, BLAS's own threads only wait for each other
    with (
        bar,
        one_each,
        ThreadPoolExecutor(workers or default_workers()) as pool,
    ):  # NumPy works outside the interpreter's lock
        for wave in _bundles(contexts, lambda context: len(context.frames) ** 2, TABLE_CELLS):
            for context in wave:
                context.table = np.full((len(context.frames),) * 2, np.nan, dtype=np.float32)
            blocks = (block for context in wave for block in _blocks(context))
            for _ in pool.map(
                lambda task: _measure(task, distance), _bundles(blocks, lambda block: block.cells, TASK_CELLS)
            ):
                pass
            for context in wave:
                _tally(context, within, across)
                context.table = None
                bar.update(len(context.frames))
    result = AbxResult(within.score(), across.score(), len(segments.items), segments.too_short, segments.missing)
    if not (result.within or result.across):
        raise UserError(
            f"nothing to compare in {len(segments.items)} items: no speaker has two phones in one context, one of them twice or by "
            "another speaker; give more items"
        )
    return result

"""ABX: is a phone closer to another instance of itself than to a different phone? The protocol of ZeroSpeech 2021.

Items A and X are the same phone, B is another one. All three occur between the same two phones (their context), and A
and B are from the same speaker. Within speakers, X is another item of A's group (same context, speaker and phone);
across speakers, X is from another speaker. The error of a group triple is 1 - (share of (a, b, x) with
d(x, a) < d(x, b), where ties count one half). It is averaged over contexts (across speakers: also over the speakers of
X), then over speakers of A and B, then over the ordered pairs of phones (A, B) that occur. Chance is 50 %.

Reference: bootphon/zerospeech2021 and zerospeech-libriabx2 (mode "within context"), which derive from Libri-light's
``eval_ABX.py``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ....data.audio_files import default_workers
from ....errors import UserError
from ....units.frames import UtteranceArrays
from .dtw import Rectangles, edit_distances, in_batches, warped_distances
from .items import Item
from .score import AbxResult, Tally
from .segments import DISTANCES, Segments, cut, frame_distances, frame_vectors

MAX_GROUP, MAX_SPEAKERS = 10, 5  # as in ZeroSpeech 2021
TASK_CELLS = 2**22  # frame distances in memory at a time, per worker
TABLE_CELLS = 2**22  # segment distances in memory at a time; more if a single context has more
COMPARISONS = 2**22  # comparisons computed at a time


# ---- groups ----------------------------------------------------------------------------------------------------------


@dataclass
class _Context:
    """The items of one context, sorted by speaker and phone; group g is items ``bounds[g]`` to ``bounds[g + 1]``.

    speakers, phones: (G,) int, of each group.
    bounds: (G + 1,) int.
    frames: the frames of each item.
    within: groups that serve as A and X.
    across: pairs of groups (A, X).
    distances: (items, items) float32 from X (rows) to A or B, NaN where not required; None except during computation.
    """

    speakers: np.ndarray
    phones: np.ndarray
    bounds: np.ndarray
    frames: list[np.ndarray]
    within: list[int]
    across: list[tuple[int, int]]
    distances: np.ndarray | None = None

    @cached_property
    def same_speaker(self) -> list[tuple[int, int]]:
        """For each group, the range of groups of the same speaker: the first one, and one past the last."""
        return [
            *zip(*(np.searchsorted(self.speakers, self.speakers, side=side).tolist() for side in ("left", "right")))
        ]

    def required_pairs(self) -> np.ndarray:
        """(pairs, 2) int: the two items of every required distance, each pair once, the earlier item first."""
        groups = np.zeros((len(self.speakers),) * 2, dtype=bool)
        for a, x in [*((a, a) for a in self.within), *self.across]:
            low, high = self.same_speaker[a]
            groups[x, low:high] = True
        sizes = np.diff(self.bounds)
        required = (groups | groups.T).repeat(sizes, axis=0).repeat(sizes, axis=1)  # (items, items)
        return np.argwhere(np.triu(required, 1))


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
        sampled = [_sample(member, max_group, rng) for member in members]
        frames = [segments.frames[i] for group in sampled for i in group]
        speaker, phone = np.array(keys).T
        context = _Context(speaker, phone, np.cumsum([0, *map(len, sampled)]), frames, [], [])
        for a in range(len(keys)):
            low, high = context.same_speaker[a]
            if high - low < 2:  # no B
                continue
            if len(sampled[a]) > 1:
                context.within.append(a)
            others = np.flatnonzero((phone == phone[a]) & (speaker != speaker[a])).tolist()
            context.across += [(a, x) for x in _sample(others, max_speakers, rng)]
        if context.within or context.across:
            yield context


def _names(segments: Segments) -> tuple[list[str], list[str]]:
    """Speakers and phones."""
    return sorted({item.speaker for item in segments.items}), sorted({item.phone for item in segments.items})


def _sample(values: list[int], max_count: int | None, rng: np.random.Generator) -> list[int]:
    """At most ``max_count`` of the values, in their order; all of them for None."""
    if max_count is None or len(values) <= max_count:
        return values
    return [values[i] for i in np.sort(rng.choice(len(values), max_count, replace=False))]


# ---- distances -------------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Items ``start`` to ``end`` of a context, each paired with all items after it.

    pairs: (pairs, 2), those of ``required_pairs`` whose first item is in the block.
    cells: number of frame distances.
    """

    context: _Context
    start: int
    end: int
    pairs: np.ndarray
    cells: int


def _bundles(elements: Iterable, size: Callable[..., int], max_size: int) -> Iterator[list]:
    """Consecutive elements in lists whose sizes add up to at most ``max_size``, or that contain a single element."""
    bundle: list = []
    total = 0
    for element in elements:
        if bundle and total + size(element) > max_size:
            yield bundle
            bundle, total = [], 0
        bundle.append(element)
        total += size(element)
    if bundle:
        yield bundle


def _blocks(context: _Context) -> Iterator[_Block]:
    pairs = context.required_pairs()
    ends = np.cumsum([len(frames) for frames in context.frames])  # in frames
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted((ends - before) * (ends[-1] - before), TASK_CELLS, side="right")))
        low, high = np.searchsorted(pairs[:, 0], [start, end])
        if low < high:
            yield _Block(context, start, end, pairs[low:high], int((ends[end - 1] - before) * (ends[-1] - before)))
        start = end


@contextmanager
def cancelled_by_errors(pool: ThreadPoolExecutor) -> Iterator[None]:
    """``with pool``, but after an error, Ctrl-C or a signal nothing new begins."""
    with pool:
        try:
            yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _compute_distances(task: list[_Block], distance: str) -> None:
    """Fill in ``distances`` of the blocks' contexts."""
    flat, rectangles, offset = [], [], 0
    for block in task:
        frames = block.context.frames[block.start :]
        vectors = frame_vectors(frames, discrete=distance != "angular")
        lengths = np.array([len(array) for array in frames])
        starts = np.cumsum(lengths) - lengths
        rows, columns = (block.pairs - block.start).T
        cells = frame_distances(vectors[: lengths[: block.end - block.start].sum()], vectors)
        first = offset + starts[rows] * len(vectors) + starts[columns]
        rectangles.append(Rectangles(first, np.full(len(first), len(vectors)), lengths[rows], lengths[columns]))
        flat.append(cells.ravel())
        offset += cells.size
    pairs = Rectangles(*map(np.concatenate, zip(*rectangles)))
    forward, backward = in_batches(
        edit_distances if distance == "edit" else warped_distances, np.concatenate(flat), pairs
    )
    _store_distances(task, forward, backward)


def _store_distances(task: list[_Block], forward: np.ndarray, backward: np.ndarray) -> None:
    """Write distances into ``distances`` of the blocks' contexts.

    Within a group, the distance from the earlier to the later item is used in both directions, as in the published
    scorer.
    """
    done = 0
    for context, _, _, pairs, _ in task:
        assert context.distances is not None  # set while the blocks of the context are computed
        i, j = pairs.T
        i_to_j, j_to_i = forward[done : done + len(pairs)], backward[done : done + len(pairs)]
        group = np.searchsorted(context.bounds, pairs, side="right")  # (pairs, 2)
        context.distances[i, j] = i_to_j
        context.distances[j, i] = np.where(group[:, 0] == group[:, 1], i_to_j, j_to_i)
        done += len(pairs)


# ---- comparison ------------------------------------------------------------------------------------------------------


def _compare(context: _Context, a: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """The groups B of A's speaker (n,), and the error of each (n,): the share of triples in which x is closer to b."""
    assert context.distances is not None  # set until the groups of the context have been compared
    low, high = context.same_speaker[a]
    bounds = context.bounds[low : high + 1]
    rows = context.distances[context.bounds[x] : context.bounds[x + 1]]
    to_a, to_b = rows[:, context.bounds[a] : context.bounds[a + 1]], rows[:, bounds[0] : bounds[-1]]
    step = max(1, COMPARISONS // (to_a.shape[1] * to_b.shape[1]))
    correct = np.zeros(to_b.shape[1])  # the distance of an item to itself is NaN, which is neither less nor equal
    for i in range(0, len(to_a), step):
        x_to_a, x_to_b = to_a[i : i + step, :, None], to_b[i : i + step, None, :]  # (x, a, 1), (x, 1, b)
        correct += (x_to_a < x_to_b).sum(axis=(0, 1)) + 0.5 * (x_to_a == x_to_b).sum(axis=(0, 1))
    triples = (bounds[1:] - bounds[:-1]) * (to_a.size - (len(to_a) if a == x else 0))
    errors = 1 - np.add.reduceat(correct, bounds[:-1] - bounds[0]) / triples
    groups = np.arange(low, high)
    return groups[groups != a], errors[groups != a]


def _tally(context: _Context, within: Tally, across: Tally) -> None:
    for tally, pairs in ((within, [(a, a) for a in context.within]), (across, context.across)):
        for a, x in pairs:
            b, errors = _compare(context, a, x)
            tally.add(context.speakers[a], context.phones[a], context.phones[b], errors)


# ---- all contexts ----------------------------------------------------------------------------------------------------


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
        features: utterance -> (n, D) numbers, or (n,) integers for units. Each utterance of the items is read once; of
            memory-mapped arrays, only the frames in use are in memory.
        items: from ``items.read_items`` or ``items.make_items``.
        rate: frames per second of the features.
        distance: distance between two segments.
            ``"angular"``: the distance of two frames is arccos(cosine) / pi (zero vectors: 0 to each other, 1 to all
            others); that of two segments is the cost of dynamic time warping divided by the length of its path
            (``dtw.warped_distances``). The published protocol for features.
            ``"onehot"``: the same, but the distance of two frames is 0 if their units are equal, otherwise 1. It orders
            segments as one-hot vectors do, whose distance is 0 or 1/2: the published protocol for units.
            ``"edit"``: repetitions of a unit are merged; Levenshtein distance divided by the length of the longer
            sequence.
        max_group: maximum number of items per context, speaker and phone, drawn at random; None: all. The published
            scorer draws again for each comparison; here each group is drawn once.
        max_speakers: maximum number of groups X of other speakers per group A, drawn at random; None: all.
        seed: of both draws.
        skip_missing: leave out items whose utterance has no features; otherwise they are an error.
        last_frame: ``drop`` (default, the published protocol) or ``keep``; see ``segments.cut``.
        workers: number of threads, which does not change the result; None: one per CPU, at most 16.

    Memory, in addition to the features: 16 * n ** 2 bytes for the largest context, of n items, or 64 MB if that is
    more; and per worker about 80 MB (slightly more if most items have one or two frames) and 8 bytes per value of the
    frames of the largest context.

    Raises:
        UserError: unknown distance, invalid features (see ``segments.cut``), or nothing to compare.
    """
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    if distance not in DISTANCES:
        raise UserError(f"distance '{distance}': unknown; choose one of {', '.join(DISTANCES)}")
    for name, value in (("max_group", max_group), ("max_speakers", max_speakers)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give a number above 0, or none to use all")
    segments = cut(features, items, rate, distance, skip_missing, last_frame)
    within, across = (Tally(*_names(segments)) for _ in range(2))
    contexts = list(_contexts(segments, max_group, max_speakers, np.random.default_rng(seed)))
    bar = tqdm(
        total=sum(len(context.frames) for context in contexts), desc=f"ABX, {distance}", unit="item", disable=None
    )
    one_blas_thread = threadpool_limits(1, user_api="blas")  # for matrices this small, more threads only wait
    pool = ThreadPoolExecutor(workers or default_workers())  # NumPy releases the interpreter's lock
    with bar, one_blas_thread, cancelled_by_errors(pool):
        for wave in _bundles(contexts, lambda context: len(context.frames) ** 2, TABLE_CELLS):
            for context in wave:
                context.distances = np.full((len(context.frames),) * 2, np.nan, dtype=np.float32)
            blocks = (block for context in wave for block in _blocks(context))
            tasks = _bundles(blocks, lambda block: block.cells, TASK_CELLS)
            for _ in pool.map(lambda task: _compute_distances(task, distance), tasks):
                pass
            for context in wave:
                _tally(context, within, across)
                context.distances = None
                bar.update(len(context.frames))
    result = AbxResult(within.score(), across.score(), len(segments.items), segments.too_short, segments.missing)
    if not (result.within or result.across):
        raise UserError(
            f"nothing to compare in {len(segments.items)} items: no speaker has two phones in the same context of "
            "which one occurs twice or is also said by another speaker; give more items"
        )
    return result

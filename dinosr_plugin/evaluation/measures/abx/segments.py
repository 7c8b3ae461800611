"""From features of whole utterances to the stretches that an ABX test compares, and the distances between their frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....errors import UserError
from ....units.frames import UtteranceArrays
from .items import Item

DISTANCES = ("angular", "onehot", "edit")
LAST_FRAMES = ("drop", "keep")
"""The frame whose centre is the last one inside an item: zerospeech-libriabx2, and so the published figures, drop it;
fastabx keeps it. At 50 Hz that is a frame of about eleven in a triphone."""
MOST_OUTSIDE = 0.05  # of the items may lie past the end of their features; more than that, and the rate is wrong
LEAST_COVERED, FROM_UTTERANCES = (
    0.6,
    10,
)  # of so many utterances, some item lies past this share of its features; otherwise the rate is wrong
FAR = 1e12  # puts zero vectors far from all others


@dataclass(frozen=True)
class Segments:
    """The items that have frames.

    Attributes:
        items: (N,) in the order of the item file.
        frames: of each item (n, D) floats or (n,) units, n >= 1; views of the utterance's array wherever possible.
        too_short: items without a frame, left out.
        missing: items whose utterance has no features, left out.
    """

    items: list[Item]
    frames: list[np.ndarray]
    too_short: int
    missing: int


def cut(
    features: UtteranceArrays,
    items: Sequence[Item],
    rate: float,
    distance: str,
    skip_missing: bool,
    last_frame: str = "drop",
) -> Segments:
    """Cut the items out of the features by the protocol's rule, at ``rate`` frames per second.

    From frame ``max(0, ceil(rate * onset - 0.5))`` up to ``floor(rate * offset - 0.5)``, which is left out with
    ``last_frame="drop"`` and included with ``"keep"``; never past the n frames of the utterance. The published rule
    has 100 for the rate; its scorer applies it to any other rate. An item without a frame is left out.
    For edit distance, repetitions of a unit become one.

    Raises:
        UserError: utterances without features (unless they are skipped), features of another shape, NaN or infinity in
            them, more than 5 % of the items past the end of their features, or no item left.
    """
    if last_frame not in LAST_FRAMES:
        raise UserError(f"last frame '{last_frame}': unknown; choose one of {', '.join(LAST_FRAMES)}")
    if not 0 < rate < float("inf"):
        raise UserError(f"a frame rate of {rate} Hz; give the frames a second of the features, 50 for the trunk")
    arrays = _known(features, items, skip_missing)
    _check(arrays, discrete=distance != "angular")
    kept, frames, outside = [], [], 0
    for item in items:
        if item.utt not in arrays:
            continue
        array = arrays[item.utt]
        start = max(0, math.ceil(rate * item.onset - 0.5))
        end = min(len(array), math.floor(rate * item.offset - 0.5) + (last_frame == "keep"))
        outside += start >= len(array)
        if start < end:
            kept.append(item)
            frames.append(_merged(array[start:end]) if distance == "edit" else array[start:end])
    known = sum(item.utt in arrays for item in items)
    _check_rate(arrays, items, rate, outside, known)
    if not kept:
        raise UserError(
            f"none of {known} items is as long as a frame at {rate:g} Hz; give features of a higher rate, or longer items"
        )
    return Segments(kept, frames, too_short=known - len(kept), missing=len(items) - known)


def _known(features: UtteranceArrays, items: Sequence[Item], skip_missing: bool) -> dict[str, np.ndarray]:
    """The features of the items' utterances, each asked for once."""
    utts = list(dict.fromkeys(item.utt for item in items))
    missing = [utt for utt in utts if utt not in features]
    if missing and (len(missing) == len(utts) or not skip_missing):
        more = ", ..." if len(missing) > 3 else ""
        remedy = "give those of the same corpus" + (
            "" if len(missing) == len(utts) else ", or go on without them: --skip-missing (skip_missing=True)"
        )
        raise UserError(
            f"{len(missing)} of {len(utts)} utterances of the items have no features ({', '.join(missing[:3])}{more}); {remedy}"
        )
    absent = set(missing)
    return {utt: np.asarray(features[utt]) for utt in utts if utt not in absent}


def _check(arrays: Mapping[str, np.ndarray], discrete: bool) -> None:
    first, shape = next(((utt, array.shape[1:]) for utt, array in arrays.items()), ("", ()))
    for utt, array in arrays.items():
        if discrete and (array.ndim != 1 or array.dtype.kind not in "iu"):
            raise UserError(
                f"{utt}: {array.dtype} features of shape {array.shape}; this distance takes whole numbers, one unit a frame"
            )
        if not discrete and (array.ndim != 2 or array.dtype.kind not in "fiu"):
            raise UserError(
                f"{utt}: {array.dtype} features of shape {array.shape}; the angular distance takes (frames, width) numbers"
            )
        if array.shape[1:] != shape:
            raise UserError(
                f"{utt}: features are {array.shape[1]} wide, those of {first} {shape[0]}; make all of them with the same model and layer"
            )
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise UserError(
                f"{utt}: NaN or infinity in frame {bad} of its features; make them again, or take the utterance out of the items"
            )


def _check_rate(arrays: Mapping[str, np.ndarray], items: Sequence[Item], rate: float, outside: int, known: int) -> None:
    if outside > MOST_OUTSIDE * known:
        remedy = "give the right rate (units without their repetitions have none), or the items of this corpus"
        raise UserError(f"{outside} of {known} items lie past the end of their features at {rate:g} Hz; {remedy}")
    covered = max(rate * item.offset / max(1, len(arrays[item.utt])) for item in items if item.utt in arrays)
    if covered < LEAST_COVERED and len(arrays) >= FROM_UTTERANCES:
        remedy = f"give the right rate (about {rate / covered:.0f} Hz?), or the items of this corpus"
        raise UserError(f"all {known} items lie in the first {covered:.0%} of their features at {rate:g} Hz; {remedy}")


def _merged(units: np.ndarray) -> np.ndarray:
    """[6, 6, 1, 1, 6] -> [6, 1, 6]."""
    return units[np.flatnonzero(np.append(True, units[1:] != units[:-1]))]


def frame_vectors(frames: Sequence[np.ndarray], discrete: bool) -> np.ndarray:
    """All frames of several segments, one after another, ready for ``frame_distances``: (F, D + 1) float64, or units as they are (F,).

    Vectors get length 1, and a coordinate more: a zero vector has distance 0 to other zero vectors and 1 to all else, as in the published scorer.
    """
    joined = np.concatenate(frames)
    if discrete:
        return joined
    vectors = np.empty((len(joined), joined.shape[1] + 1))
    vectors[:, :-1] = joined
    norms = np.sqrt(np.einsum("fd,fd->f", vectors[:, :-1], vectors[:, :-1]))  # (F,)
    vectors[:, :-1] /= np.where(norms > 0, norms, 1)[:, None]
    vectors[:, -1] = np.where(norms > 0, 1 / FAR, -2 * FAR)
    return vectors


def frame_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R,), (C,) units -> 0 where equal, 1 where not; (R, D), (C, D) from ``frame_vectors`` -> angle between them / pi. (R, C) float32.

    The product is taken in float64 and rounded to float32 afterwards: then equal vectors have cosine 1 and distance 0 exactly, and
    equal pairs of vectors equal distances, wherever in the product they stand. Ties, which count one half, depend on it.
    """
    if rows.ndim == 1:
        return (rows[:, None] != columns).astype(np.float32)
    cosines = (rows @ columns.T).astype(np.float32)
    np.clip(cosines, -1, 1, out=cosines)
    np.arccos(cosines, out=cosines)
    cosines /= np.float32(np.pi)
    return cosines

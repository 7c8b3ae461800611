"""Cutting the items of an ABX test out of the features of utterances, and distances between frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from ....errors import UserError, first_few
from ....units.frames import UtteranceArrays
from ....units.unit_files import dedup
from .items import Item

DISTANCES = ("angular", "onehot", "edit")
LAST_FRAMES = ("drop", "keep")
"""The last frame whose centre is inside an item: zerospeech-libriabx2, and thus the published figures, drop it; fastabx
keeps it. At 50 Hz it is one of about eleven frames of a triphone."""
MAX_OUTSIDE = 0.05  # share of items that may start past the end of their features; if it is larger, the rate is wrong
MIN_COVERED, MIN_UTTERANCES = 0.6, 10
"""With ``MIN_UTTERANCES`` or more, some item ends after this share of its features; otherwise the rate is wrong."""
FAR = 1e12  # puts zero vectors at distance 1 from all others


@dataclass(frozen=True)
class Segments:
    """The items that have frames.

    Attributes:
        items: (N,) in the order of the item file.
        frames: for each item (n, D) floats or (n,) units, n >= 1; views of the utterance's array where possible.
        too_short: number of items left out because they contain no frame.
        missing: number of items left out because their utterance has no features.
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
    """Cut the items out of the features by the rule of the protocol, at ``rate`` frames per second.

    The frames of an item are those of ``frame_bounds``, never past the n frames of the utterance. In the published
    rule the rate is 100; its scorer applies it to any rate. Items without a frame are left out. For the edit distance,
    repetitions of a unit are merged.

    Raises:
        UserError: utterances without features (unless they are skipped), features of an unexpected shape, NaN or
            infinity in them, more than 5 % of the items past the end of their features, or no items with frames.
    """
    if last_frame not in LAST_FRAMES:
        raise UserError(f"last frame '{last_frame}': unknown; choose one of {', '.join(LAST_FRAMES)}")
    if not 0 < rate < float("inf"):
        raise UserError(f"a frame rate of {rate} Hz; give the frames per second of the features, 50 for the trunk")
    arrays = _read_arrays(features, items, skip_missing)
    _require_valid(arrays, discrete=distance != "angular")
    with_frames, frames, outside = [], [], 0
    for item in items:
        if item.utt not in arrays:
            continue
        array = arrays[item.utt]
        start, end = frame_bounds(item, rate, last_frame)
        end = min(len(array), end)
        outside += start >= len(array)
        if start < end:
            with_frames.append(item)
            frames.append(dedup(array[start:end]) if distance == "edit" else array[start:end])
    n_items = sum(item.utt in arrays for item in items)
    _require_right_rate(arrays, items, rate, outside, n_items)
    if not with_frames:
        raise UserError(
            f"none of {n_items} items is as long as a frame at {rate:g} Hz; give features with a higher rate, or "
            "longer items"
        )
    return Segments(with_frames, frames, too_short=n_items - len(with_frames), missing=len(items) - n_items)


def frame_bounds(item: Item, rate: float, last_frame: str) -> tuple[int, int]:
    """First frame of an item, and the frame after its last one.

    It starts at ``max(0, ceil(rate * onset - 0.5))`` and ends at ``floor(rate * offset - 0.5)``, which is excluded with
    ``last_frame="drop"`` and included with ``"keep"``.

    Each rule is computed as in its reference: ``"drop"`` in floats (zerospeech-libriabx2), ``"keep"`` in decimals
    (fastabx). They differ where a time lies exactly on the centre of a frame, as every second multiple of 10 ms does
    at 50 Hz: 50 * 0.29 - 0.5 is 14 in decimals, but 13.999999999999998 in floats.
    """
    if last_frame == "drop":
        return max(0, math.ceil(rate * item.onset - 0.5)), math.floor(rate * item.offset - 0.5)
    exact_rate, half = Decimal(str(rate)), Decimal("0.5")
    first, last = exact_rate * Decimal(str(item.onset)) - half, exact_rate * Decimal(str(item.offset)) - half
    return max(0, math.ceil(first)), math.floor(last) + 1


def _read_arrays(features: UtteranceArrays, items: Sequence[Item], skip_missing: bool) -> dict[str, np.ndarray]:
    """The features of the items' utterances, each read once."""
    utts = list(dict.fromkeys(item.utt for item in items))
    missing = [utt for utt in utts if utt not in features]
    if missing and (len(missing) == len(utts) or not skip_missing):
        remedy = "give features of the same corpus"
        if len(missing) < len(utts):
            remedy += ", or leave these items out with --skip-missing (skip_missing=True)"
        raise UserError(
            f"{len(missing)} of {len(utts)} utterances of the items have no features ({first_few(missing)}); {remedy}"
        )
    absent = set(missing)
    return {utt: np.asarray(features[utt]) for utt in utts if utt not in absent}


def _require_valid(arrays: Mapping[str, np.ndarray], discrete: bool) -> None:
    """Raise UserError for features of an unexpected shape or dtype, and for NaN or infinity."""
    first, shape = next(((utt, array.shape[1:]) for utt, array in arrays.items()), ("", ()))
    for utt, array in arrays.items():
        if discrete and (array.ndim != 1 or array.dtype.kind not in "iu"):
            raise UserError(
                f"{utt}: {array.dtype} features of shape {array.shape}; this distance requires integers, one unit per "
                "frame"
            )
        if not discrete and (array.ndim != 2 or array.dtype.kind not in "fiu"):
            raise UserError(
                f"{utt}: {array.dtype} features of shape {array.shape}; the angular distance requires numbers of shape "
                "(frames, width)"
            )
        if array.shape[1:] != shape:
            raise UserError(
                f"{utt}: features of width {array.shape[1]}, those of {first} have width {shape[0]}; compute all "
                "of them with the same model and layer"
            )
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise UserError(
                f"{utt}: NaN or infinity in frame {bad} of its features; compute them again, or remove the utterance "
                "from the items"
            )


def _require_right_rate(
    arrays: Mapping[str, np.ndarray], items: Sequence[Item], rate: float, outside: int, n_items: int
) -> None:
    """Raise UserError if many items start past the end of their features, or if all end long before it."""
    if outside > MAX_OUTSIDE * n_items:
        remedy = "give the right rate (deduplicated units have none), or the items of this corpus"
        raise UserError(f"{outside} of {n_items} items start past the end of their features at {rate:g} Hz; {remedy}")
    covered = max(rate * item.offset / max(1, len(arrays[item.utt])) for item in items if item.utt in arrays)
    if covered < MIN_COVERED and len(arrays) >= MIN_UTTERANCES:
        remedy = f"give the right rate (about {rate / covered:.0f} Hz?), or the items of this corpus"
        raise UserError(
            f"all {n_items} items are in the first {covered:.0%} of their features at {rate:g} Hz; {remedy}"
        )


def frame_vectors(frames: Sequence[np.ndarray], discrete: bool) -> np.ndarray:
    """Concatenated frames of several segments for ``frame_distances``: (F, D + 1) float64; units unchanged, (F,).

    Vectors are scaled to length 1 and get an additional coordinate, so that a zero vector has distance 0 to other zero
    vectors and 1 to all others, as in the published scorer.
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
    """Distances (R, C) float32 of rows and columns.

    Of units (R,), (C,): 0 if equal, otherwise 1. Of vectors (R, D), (C, D) from ``frame_vectors``: their angle / pi.

    The product is computed in float64 and then rounded to float32. Equal vectors thus have cosine 1 and distance 0
    exactly, and equal pairs of vectors have equal distances, whatever their position in the product. Ties, which count
    one half, depend on it.
    """
    if rows.ndim == 1:
        return (rows[:, None] != columns).astype(np.float32)
    cosines = (rows @ columns.T).astype(np.float32)
    np.clip(cosines, -1, 1, out=cosines)
    np.arccos(cosines, out=cosines)
    cosines /= np.float32(np.pi)
    return cosines

"""Discrete units of a whole manifest: of a checkpoint's codebooks, or of k-means on features.

Units of all codebooks are kept in ``OUT/codes``, a feature folder (F, K); the text files are written from there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints.adapters import HEAD
from ..checkpoints.chunks import MAX_MINUTES
from ..checkpoints.opening import open_reader
from ..checkpoints.readers import FrameReader
from ..errors import UserError, first_few
from .batches import BATCH_SAMPLES, Progress, Utterance, hours, read_utterances, require_files
from .features import LiveFeatures, code_spec, default_device, read_rows, write_rows
from .frames import frames_of
from .kmeans import KMeans
from .store import FeatureFolder, missing_shards
from .unit_files import UnitInfo, at_rate, dedup, write_unit_files, write_units


@dataclass(frozen=True)
class Shape:
    """The form in which every sequence is written: after ``at_rate``, and then ``dedup`` if asked for."""

    info: UnitInfo  # of the written units
    apply: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, info: UnitInfo, rate: float | None, deduplicate: bool) -> "Shape":
        """``info``: of the units before. Raises UserError as ``at_rate``, at once."""
        before = info.rate
        assert before is not None  # only units after ``dedup`` have no rate
        target = before if rate is None else float(rate)
        at_rate(np.zeros(0, dtype=np.int64), before, target)
        then = info.at_rate(target)
        if deduplicate:
            return cls(
                UnitInfo(None, then.first_centre, then.size), lambda units: dedup(at_rate(units, before, target))
            )
        return cls(then, lambda units: at_rate(units, before, target))


# ---- of codebooks ----------------------------------------------------------------------------------------------------


def read_codes(
    reader: FrameReader, utterances: Sequence[Utterance], code_sets: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Set -> utterance -> codes (K, F) int32 of every utterance in order, in memory, all sets in one pass."""
    progress = Progress(f"{reader.name} units", hours(utterances, range(len(utterances))))
    by_row: dict[int, list[np.ndarray]] = {}
    for row, codes in read_rows(utterances, range(len(utterances)), reader, code_sets=code_sets):
        by_row[row] = [of_set.T.astype(np.int32) for of_set in codes]  # (F, K) -> (K, F)
        progress.update(utterances[row].samples)
    progress.summary()
    return {
        name: {utterance.name: by_row[row][place] for row, utterance in enumerate(utterances)}
        for place, name in enumerate(code_sets)
    }


def store_codes(
    reader: FrameReader,
    code_set: str,
    utterances: Sequence[Utterance],
    folder: Path,
    shard: int = 1,
    shards: int = 1,
    batch_samples: int = BATCH_SAMPLES,
    max_minutes: float = MAX_MINUTES,
) -> str:
    """Codes (F, K) of a set into a feature folder, except for what an earlier run has stored; returns a summary."""
    writers = [code_spec(reader, code_set).writer(folder, utterances, shard, shards)]

    def features(rows: list[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
        return read_rows(utterances, rows, reader, (), [code_set], (), max_minutes, batch_samples)

    return write_rows(writers, utterances, f"{reader.name} units", features).summary


def read_codebook_units(
    checkpoint: str | Path,
    manifest: str | Path,
    folder: str | Path,
    predicted: bool = False,
    codebooks: Sequence[int] | None = None,
    max_minutes: float = MAX_MINUTES,
    device: str | torch.device | None = None,
) -> tuple[dict[str, np.ndarray], UnitInfo]:
    """Utterance -> (n,) int32, units of one codebook, of every utterance of a manifest, in memory.

    Other arguments and errors as ``write_codebook_units``; ``codebooks`` must name one if the model has several.

    Args:
        folder: where the units of all codebooks are stored, so that a run that was killed resumes.
    """
    reader = open_reader(checkpoint, device=device or default_device())
    code_set = choose_code_set(reader, predicted)
    codes = reader.code_sets[code_set]
    chosen = require_codebooks(codebooks, codes.count, checkpoint)
    if len(chosen) != 1:
        raise UserError(
            f"--codebooks: {checkpoint} has codebooks 0 to {codes.count - 1}; give one, whose units are used"
        )
    utterances = read_utterances(manifest, reader.grid.field)
    require_files(utterances, manifest)
    store_codes(reader, code_set, utterances, Path(folder), max_minutes=max_minutes)
    info = UnitInfo(reader.rate, reader.first_centre, codes.size)
    return {utt: frames[:, chosen[0]].astype(np.int32) for utt, frames in FeatureFolder(folder)}, info


def require_codebooks(codebooks: Sequence[int] | None, count: int, checkpoint: str | Path) -> Sequence[int]:
    """``codebooks``, or all if None. Raises UserError for one that the checkpoint does not have."""
    chosen = range(count) if codebooks is None else codebooks
    if wrong := [k for k in chosen if not 0 <= k < count]:
        raise UserError(f"--codebooks {wrong[0]}: {checkpoint} has codebooks 0 to {count - 1}")
    return chosen


@dataclass(frozen=True)
class Written:
    """``files``: the unit files, none while shards are missing; ``summary``: how much sound in what time."""

    files: list[Path]
    summary: str


def choose_code_set(reader: FrameReader, predicted: bool = False) -> str:
    """The name of the model's default set of codes, or of its heads.

    Raises UserError for a model without codebooks, and without heads if they are asked for.
    """
    default = reader.require_codes()
    if not predicted:
        return default
    if HEAD not in reader.code_sets:
        raise UserError(f"--predicted: {reader.path} has no heads that predict units; omit the option")
    return HEAD


def write_codebook_units(
    checkpoint: str | Path,
    manifest: str | Path,
    out: str | Path,
    predicted: bool = False,
    codebooks: Sequence[int] | None = None,
    rate: float | None = None,
    deduplicate: bool = False,
    plain: bool = False,
    shard: int = 1,
    shards: int = 1,
    batch_samples: int = BATCH_SAMPLES,
    max_minutes: float = MAX_MINUTES,
    device: str | torch.device | None = None,
) -> Written:
    """Units of every utterance of a manifest: a file for each codebook, ``out/codebook_0.units`` ..., in one pass.

    A run that was killed resumes, and other codebooks or forms of the same units take no second pass.

    Args:
        predicted: the heads' predictions, of a model that has heads, instead of the codebooks' assignments.
        codebooks: which ones, from 0 (the lowest layer); None: all.
        rate: units per second, as ``at_rate``; None: the model's own.
        deduplicate: each run once, after ``rate``.
        plain: without names, ``codebook_0.txt`` ..., for ``fairseq-preprocess``.
        shard, shards, batch_samples, max_minutes, device: as ``features.extract``.

    Raises:
        UserError: from the checkpoint, the manifest, its audio, the rate, or the folder.
    """
    reader = open_reader(checkpoint, device=device or default_device())
    code_set = choose_code_set(reader, predicted)
    codes = reader.code_sets[code_set]
    chosen = require_codebooks(codebooks, codes.count, checkpoint)
    shape = Shape.of(UnitInfo(reader.rate, reader.first_centre, codes.size), rate, deduplicate)
    utterances = read_utterances(manifest, reader.grid.field)
    require_files(utterances, manifest)
    folder = Path(out) / "codes"
    summary = store_codes(reader, code_set, utterances, folder, shard, shards, batch_samples, max_minutes)
    if missing := missing_shards(folder, shards):
        still = f"shard(s) {first_few(missing)} of {shards} are missing, and the last one to end writes the unit files"
        return Written([], f"{summary}; {still}")
    paths = [Path(out) / f"codebook_{k}.{'txt' if plain else 'units'}" for k in chosen]
    stored = tqdm(FeatureFolder(folder), desc="unit files", unit="utt", disable=None)
    units = ((utt, [shape.apply(frames[:, k]) for k in chosen]) for utt, frames in stored)
    return Written(write_unit_files(paths, units, plain, shape.info), summary)


# ---- of k-means ------------------------------------------------------------------------------------------------------


def kmeans_units(features: FeatureFolder | LiveFeatures, kmeans: KMeans) -> Iterator[tuple[str, np.ndarray]]:
    """(utt, (n,) int64) for every utterance, in the manifest's order.

    Raises UserError for features of another kind than k-means was fitted on, and for NaN in them.
    """
    kmeans.require_same(features.width, features.rate, features.source)
    return ((utt, kmeans.units(frames_of(features, utt))) for utt in features.utterances)


def write_kmeans_units(
    features: FeatureFolder | LiveFeatures,
    kmeans: str | Path,
    out: str | Path,
    rate: float | None = None,
    deduplicate: bool = False,
    plain: bool = False,
) -> Path:
    """Units of every utterance from a k-means file: the unit file ``out``; other arguments as ``write_codebook_units``.

    Raises:
        UserError: from the k-means file, features of another kind than it was fitted on, the rate, or the file.
    """
    fitted = KMeans.load(kmeans)
    shape = Shape.of(UnitInfo(features.rate, features.first_centre, fitted.meta.k), rate, deduplicate)
    units: Iterable[tuple[str, np.ndarray]] = kmeans_units(features, fitted)
    units = tqdm(units, desc=Path(out).name, total=len(features), unit="utt", disable=None)
    return write_units(out, ((utt, shape.apply(ids)) for utt, ids in units), plain, shape.info)

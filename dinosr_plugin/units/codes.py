"""Discrete units: of a DinoSR checkpoint's codebooks, or of k-means on features; and the text files that hold them.

codebook_0.units   ``utt<TAB>unit ids with spaces between``, one line a row of the manifest
codebook_0.txt     the ids alone: what ``fairseq-preprocess --only-source --trainpref codebook_0.txt`` reads
codes              folder (``store``) of the units of all codebooks, which those are written from
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints.load import field_and_hop, fingerprint, ignores_padding, load_dinosr, padded_waves, require_finite
from ..data.audio import SAMPLE_RATE
from ..data.manifest import read_lines, require_writable, unwritable
from ..errors import UserError
from .features import (
    BATCH_SAMPLES,
    MAX_MINUTES,
    LiveFeatures,
    Progress,
    Utterance,
    default_device,
    hours,
    read_utterances,
    require_files,
    waves_in_batches,
    write_rows,
)
from .frames import frames_of
from .kmeans import KMeans
from .store import CODE_DTYPES, FeatureFolder, FeatureWriter, first_few, missing_shards

# ---- sequences --------------------------------------------------------------------------------------------------------------


def dedup(units: np.ndarray) -> np.ndarray:
    """(n,) -> (m,): each run of a unit once. How long it lasted is lost, so that such units have no rate any more."""
    changes = np.ones(len(units), dtype=bool)
    changes[1:] = units[1:] != units[:-1]
    return units[changes]


def at_rate(units: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """(n,) units at ``rate`` Hz -> at ``wanted`` Hz: each repeated, or every second, third ... taken.

    Repeating says the same in shorter frames. Taking every second keeps unit 0, 2, ... and forgets the rest: what is left are units that were
    found, in their places, but one that lasted a single frame may be gone. (A majority over two is a toss-up; and units that were found at 25 Hz
    in the first place, from features averaged in pairs, would be others: make features at that rate, and k-means on them.)

    Raises UserError for rates of which neither is a whole multiple of the other.
    """
    if wanted > 0 and (wanted / rate).is_integer():
        return np.repeat(units, round(wanted / rate))
    if wanted > 0 and (rate / wanted).is_integer():
        return units[:: round(rate / wanted)]
    raise UserError(
        f"--rate {wanted:g}: these units come {rate:g} times a second; give a whole multiple of that, or a whole part"
    )


def shaper(rate: float, wanted: float | None, deduplicate: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What is done to every sequence before it is written. Raises UserError as ``at_rate``, at once."""
    wanted = rate if wanted is None else float(wanted)
    at_rate(np.zeros(0, dtype=np.int64), rate, wanted)
    return lambda units: dedup(at_rate(units, rate, wanted)) if deduplicate else at_rate(units, rate, wanted)


# ---- files ------------------------------------------------------------------------------------------------------------------


class UnitWriter:
    """Text that appears under its name when it is whole: ``with UnitWriter(path) as out: out.add("utt", units)``.

    ``plain`` leaves the utterances' names out, for ``fairseq-preprocess``. Raises UserError where it cannot be written.
    """

    def __init__(self, path: str | Path, plain: bool = False):
        self.path, self.plain = Path(path), plain
        self.unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        require_writable(self.path.parent)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file: TextIO = open(self.unfinished, "w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise unwritable(self.path, error.strerror) from error

    def add(self, utt: str, units: np.ndarray) -> None:
        """One line; ``units`` (n,) integers, n may be 0."""
        try:
            self.file.write(("" if self.plain else f"{utt}\t") + " ".join(map(str, units.tolist())) + "\n")
        except OSError as error:
            raise unwritable(self.path, error.strerror) from error

    def __enter__(self) -> "UnitWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self.file.close()
            if kind is None:
                os.replace(self.unfinished, self.path)
        except OSError as error:
            raise unwritable(self.path, error.strerror) from error
        finally:
            self.unfinished.unlink(missing_ok=True)


def write_units(path: str | Path, units: Iterable[tuple[str, np.ndarray]], plain: bool = False) -> Path:
    """(utt, (n,) integers) for each utterance -> a unit file. Raises UserError where it cannot be written."""
    with UnitWriter(path, plain) as out:
        for utt, ids in units:
            out.add(utt, ids)
    return Path(path)


def read_units(path: str | Path) -> dict[str, np.ndarray]:
    """A unit file: utterance -> (n,) int64, in the file's order.

    Raises:
        UserError: no such file, no line in it, a line that is not ``utt<TAB>ids``, ids that are not whole numbers from 0, an utterance twice.
    """
    units: dict[str, np.ndarray] = {}
    for number, line in enumerate(read_lines(Path(path), "make it with `dinosr units`"), start=1):
        utt, tab, ids = line.partition("\t")
        if not utt or not tab:
            raise UserError(
                f"{path} line {number}: no `utt<TAB>unit ids`; make it with `dinosr units` (--plain and `dinosr kmeans apply` leave the names out)"
            )
        if utt in units:
            raise UserError(
                f"{path} line {number}: utterance {utt!r} stands there twice; make it again with `dinosr units`"
            )
        units[utt] = parse_ids(ids, f"{path} line {number}")
    if not units:
        raise UserError(f"{path}: no units in it; make it with `dinosr units`")
    return units


MOST_DIGITS = 18  # that int64 holds, whatever they are


def parse_ids(text: str, where: str) -> np.ndarray:
    words = text.split()
    wrong = next((word for word in words if not (word.isascii() and word.isdigit()) or len(word) > MOST_DIGITS), None)
    if wrong is not None:
        raise UserError(
            f"{where}: {wrong!r} is no unit id, a whole number from 0; make the file again with `dinosr units`"
        )
    return np.array(words, dtype=np.int64)


# ---- of codebooks -----------------------------------------------------------------------------------------------------------


class CodeReader:
    """The codebook units of a DinoSR checkpoint: the teacher's assignments, or with ``predicted`` what the student's heads say.

    Attributes:
        rate: units a second.
        n_codebooks, size: K, lowest layer first, and V: units in each.
        field, hop: samples (at 16 kHz) that one takes, and from one to the next.
        source: ``store.Meta.source`` of what it gives.

    Raises:
        UserError: as ``load_dinosr``, and for weights that are not finite.
    """

    def __init__(self, checkpoint: str | Path, predicted: bool = False, device: str | torch.device | None = None):
        self.device = device or default_device()
        model, cfg = load_dinosr(checkpoint)
        require_finite(model, checkpoint)
        self.model = model.to(self.device)
        self.codes = model.predicted_codes if predicted else model.codes
        self.name, self.normalize, self.pads = (
            Path(checkpoint).name,
            bool(cfg.task.get("normalize", False)),
            ignores_padding(model),
        )
        self.n_codebooks, self.size = model.n_codebooks, int(model.cfg.codebook_size)
        self.field, self.hop = field_and_hop(model)
        self.rate = SAMPLE_RATE / self.hop
        self.source = {
            "kind": "codes",
            "checkpoint": self.name,
            "fingerprint": fingerprint([model]),
            "weights": "student" if predicted else "teacher",
        }

    def frames(self, samples: int) -> int:
        """How many units, in each codebook, it makes of so many samples."""
        return (samples - self.field) // self.hop + 1

    def read(self, waves: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """Waveforms (T,), normalised -> for each the units (K, F), int32."""
        codes = (
            self.codes(*padded_waves(waves, self.device)).to(torch.int32).cpu().numpy()
        )  # (K, B, F), -1 where padded
        return [codes[:, row, codes[0, row] >= 0] for row in range(len(waves))]

    def rows(
        self, utterances: Sequence[Utterance], rows: Iterable[int], batch_samples: int = BATCH_SAMPLES
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(row, units (K, F)) of these rows, the longest first."""
        for batch, waves in waves_in_batches(utterances, rows, self.normalize, batch_samples, self.pads):
            yield from zip(batch, self.read(waves), strict=True)

    def stream(
        self, utterances: Sequence[Utterance], batch_samples: int = BATCH_SAMPLES
    ) -> Iterator[tuple[str, np.ndarray]]:
        """(utt, units (K, F)) of every utterance, in order, from memory; with a progress bar."""
        progress = Progress(f"{self.name} units", hours(utterances, range(len(utterances))))
        units: dict[int, np.ndarray] = {}
        for row, codes in self.rows(utterances, range(len(utterances)), batch_samples):
            units[row] = codes
            progress.update(utterances[row].samples)
        progress.summary()
        return ((utterance.name, units[row]) for row, utterance in enumerate(utterances))


@dataclass(frozen=True)
class Written:
    """files: the unit files, or none while shards are missing; summary: how much sound in what time, and what is missing."""

    files: list[Path]
    summary: str


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

    All codebooks' units lie in ``out/codes``, a feature folder (F, K); the text is written from there, once all shards are done. So a run
    that was killed goes on, and other codebooks or forms of the same units take no second pass.

    Args:
        predicted: the student heads' predictions instead of the teacher's assignments.
        codebooks: which ones, from 0 (the lowest layer); None: all.
        rate: units a second, as ``at_rate``; None: the model's own, 50.
        deduplicate: each run once, after ``rate``.
        plain: without names, ``codebook_0.txt`` ..., for ``fairseq-preprocess``.
        shard, shards, batch_samples, max_minutes, device: as ``features.extract``.

    Raises:
        UserError: from the checkpoint, the manifest, its audio, the rate, or the folder.
    """
    reader = CodeReader(checkpoint, predicted, device)
    chosen = range(reader.n_codebooks) if codebooks is None else codebooks
    if wrong := [k for k in chosen if not 0 <= k < reader.n_codebooks]:
        raise UserError(f"--codebooks {wrong[0]}: {checkpoint} has codebooks 0 to {reader.n_codebooks - 1}")
    shape = shaper(reader.rate, rate, deduplicate)
    utterances = read_utterances(manifest, reader.field, max_minutes)
    require_files(utterances, manifest)
    folder = Path(out) / "codes"
    with code_writer(reader, utterances, folder, shard, shards) as writer:
        features = lambda rows: ((row, [codes.T]) for row, codes in reader.rows(utterances, rows, batch_samples))
        summary = write_rows([writer], utterances, f"{reader.name} units", features).summary
    if missing := missing_shards(folder, shards):
        return Written(
            [],
            f"{summary}; shard(s) {first_few(missing)} of {shards} are missing, and the last one to end writes the unit files",
        )
    paths = [Path(out) / f"codebook_{k}.{'txt' if plain else 'units'}" for k in chosen]
    stored = tqdm(FeatureFolder(folder), desc="unit files", unit="utt", disable=None)
    return Written(
        write_side_by_side(paths, ((utt, [shape(codes[:, k]) for k in chosen]) for utt, codes in stored), plain),
        summary,
    )


def code_writer(
    reader: CodeReader, utterances: Sequence[Utterance], folder: Path, shard: int, shards: int
) -> FeatureWriter:
    names, lengths = (
        [utterance.name for utterance in utterances],
        [reader.frames(utterance.samples) for utterance in utterances],
    )
    return FeatureWriter(
        folder, reader.rate, reader.n_codebooks, code_dtype(reader.size), reader.source, names, lengths, shard, shards
    )


def code_dtype(size: int) -> str:
    """The smallest one that holds units 0 to ``size`` - 1."""
    return next(dtype for dtype in CODE_DTYPES if size - 1 <= np.iinfo(dtype).max)


def write_side_by_side(paths: list[Path], units: Iterable[tuple[str, Sequence[np.ndarray]]], plain: bool) -> list[Path]:
    """Several unit files at once: all of them or none."""
    with ExitStack() as stack:
        writers = [stack.enter_context(UnitWriter(path, plain)) for path in paths]
        for utt, own in units:
            for writer, ids in zip(writers, own, strict=True):
                writer.add(utt, ids)
    return paths


# ---- of k-means -------------------------------------------------------------------------------------------------------------


def kmeans_units(features: FeatureFolder | LiveFeatures, kmeans: KMeans) -> Iterator[tuple[str, np.ndarray]]:
    """(utt, (n,) int64) for every utterance, in the manifest's order. Raises UserError for features of another kind than k-means was fitted on, and for NaN in them."""
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
    shape = shaper(features.rate, rate, deduplicate)
    units = tqdm(
        kmeans_units(features, KMeans.load(kmeans)), desc=Path(out).name, total=len(features), unit="utt", disable=None
    )
    return write_units(out, ((utt, shape(ids)) for utt, ids in units), plain)

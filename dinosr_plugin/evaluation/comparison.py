"""A figure never stands alone: one table of what a model learned, and of what can be had without it.

k-means of one size on MFCC, on log-Mel, on every layer of the model with random weights and on every layer of the trained one; and for DinoSR, of the
same size, the teacher's codebooks and what the student's heads predict. k-means is fitted on ``train``, everything is measured on ``dev``.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..checkpoints.load import LayerReader
from ..data.audio import SAMPLE_RATE
from ..data.manifest import read_manifest, write_files
from ..errors import UserError
from ..units.codes import CodeReader, kmeans_units
from ..units.features import MAX_MINUTES, extract, extract_acoustic, read_utterances
from ..units.kmeans import fit_kmeans
from ..units.store import FeatureFolder
from .measures.abx.errors import abx as abx_errors
from .measures.abx.items import Item, make_items
from .measures.quality.units import count_units
from .phones import PhoneAlignment

logger = logging.getLogger(__name__)

FIT_SAMPLES = 3600 * SAMPLE_RATE  # k-means is fitted on random utterances of an hour at most
SEED = 0  # of these, of k-means and of ABX
RESTARTS = 3  # of k-means: a figure to compare with should not hang on one start
FIT_DTYPE, DEV_DTYPE = "float16", "float32"  # of features while they are stored
MUCH_DISK = 4e9  # bytes, above which a note says so
NAMES = {
    "mfcc": "MFCC",
    "fbank": "log-Mel",
    "untrained": "untrained layer",
    "layer": "layer",
    "teacher": "codebook",
    "head": "head",
}
WEIGHTS = {"untrained": "random", "layer": "student"}  # of the kinds that are layers
CODES = ("teacher", "head")


@dataclass(frozen=True)
class Setting:
    """What the rows are made from. ``speakers``: of dev. ``items``: for ABX, None for none. ``key``: digest of all that they depend on."""

    checkpoint: Path
    fit: Path
    dev: Path
    phones: PhoneAlignment
    speakers: Mapping[str, str] | None
    clusters: int
    items: list[Item] | None
    work: Path
    key: str


def compare(
    checkpoint: str | Path,
    train_tsv: str | Path,
    dev_tsv: str | Path,
    phones: PhoneAlignment,
    speakers: Mapping[str, str] | None,
    work: str | Path,
    abx: bool,
    clusters: int | None = None,
) -> list[dict]:
    """The rows of the table, in the order of ``NAMES``; the last two kinds only for a checkpoint with codebooks.

    Args:
        checkpoint: any model that ``LayerReader`` takes.
        train_tsv, dev_tsv: manifests; k-means sees random utterances of at most an hour of train, the same for every row.
        phones: alignment of dev; train needs none.
        speakers: utterance -> speaker, of dev; None where nobody knows them, then there is no ``speaker_pnmi`` and can be no ABX.
        work: folder for finished rows, a file a kind, and for features meanwhile. What a killed run has done there is not done again. Rows count as
            finished for the same checkpoint, manifests, alignment and settings, by their content; sound behind the same manifest is taken to be the same.
        abx: with ABX errors, of features by their angle and of units one-hot: figures that do not compare; triphones of the alignment, 10 a group, 5 speakers.
        clusters: of k-means; None: as many as the codebooks have units, with which it must agree.

    Returns:
        ``{"name", "kind": a key of NAMES, "index": layer or codebook from 0, None for mfcc and fbank, **UnitQuality.as_dict(),
        "abx_within", "abx_across": % of the features, "unit_abx_within", "unit_abx_across": of the units}``; ABX is None where it was not asked for,
        and of codebooks and heads, which have no features.

    Raises:
        UserError: from the checkpoint, a manifest, audio, the alignment, ``work``, too little audio for so many clusters; no ``clusters`` for a
            checkpoint without codebooks, or another number than these have; ABX without speakers.
    """
    checkpoint, work = Path(checkpoint), Path(work)
    dev = [utterance.name for utterance in read_utterances(dev_tsv)]
    phones.require(dev)
    speakers = None if speakers is None else {utt: speakers[utt] for utt in dev}
    if abx and speakers is None:
        raise UserError(
            f"{dev_tsv}: ABX needs the speakers; name the files as LibriSpeech does, or put those of each speaker into a folder"
        )
    reader = LayerReader(checkpoint)
    size = cluster_count(reader, checkpoint, clusters)
    items = make_items(phones, speakers) if abx else None
    fit = write_fit_manifest(train_tsv, work)
    inputs = [digest(path) for path in (checkpoint, Path(train_tsv), Path(dev_tsv), phones.path)]
    key = hashlib.sha256(
        json.dumps([*inputs, speakers, size, abx, FIT_SAMPLES, SEED, RESTARTS, FIT_DTYPE, DEV_DTYPE]).encode()
    ).hexdigest()
    setting = Setting(checkpoint, fit, Path(dev_tsv), phones, speakers, size, items, work, key)
    kinds = [kind for kind in NAMES if reader.codebook_size or kind not in CODES]
    if not all(read_kept(setting, kind).done for kind in kinds):
        warn_of_disk(reader, setting)
    del reader
    return [row for kind in kinds for row in finished_rows(setting, kind)]


def cluster_count(reader: LayerReader, checkpoint: Path, clusters: int | None) -> int:
    """Raises UserError as ``compare``."""
    if clusters is None and reader.codebook_size is None:
        raise UserError(
            f"{checkpoint}: has no codebooks; say with --clusters how many k-means shall find on each layer"
        )
    if None not in (clusters, reader.codebook_size) and clusters != reader.codebook_size:
        said = f"the codebooks of {checkpoint} have {reader.codebook_size} units, and figures of different sizes do not compare"
        raise UserError(f"--clusters {clusters}: {said}; leave it out")
    return clusters or reader.codebook_size


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_fit_manifest(train_tsv: str | Path, work: Path) -> Path:
    """``work/fit.tsv``: all of train, or random utterances of an hour; at least one."""
    train = read_manifest(Path(train_tsv))
    order = np.random.default_rng(SEED).permutation(len(train.utterances))
    total = np.cumsum([train.utterances[row].samples for row in order])
    chosen = sorted(order[: max(1, int(np.searchsorted(total, FIT_SAMPLES, side="right")))])
    rows = [f"{train.utterances[row].path}\t{train.utterances[row].samples}" for row in chosen]
    write_files(work, {"fit.tsv": [str(train.root), *rows]})
    return work / "fit.tsv"


def warn_of_disk(reader: LayerReader, setting: Setting) -> None:
    """Say what the features of all layers take, where that is much; those of the untrained and of the trained model are not there together."""
    frames = lambda tsv: sum(reader.frames(utterance.samples) for utterance in read_utterances(tsv))
    values = frames(setting.fit) * np.dtype(FIT_DTYPE).itemsize + frames(setting.dev) * np.dtype(DEV_DTYPE).itemsize
    size = values * reader.width * reader.n_layers
    if size > MUCH_DISK:
        logger.warning(
            f"features of {reader.n_layers} layers will take {size / 1e9:.0f} GB in {setting.work} until their rows are done"
        )


# ---- rows that are kept -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What ``work/KIND.json`` holds: rows, and whether these are all."""

    key: str
    done: bool
    rows: list[dict]


def read_kept(setting: Setting, kind: str) -> Kept:
    """Nothing where there is no such file, it is damaged, or what its rows depend on was something else."""
    try:
        kept = Kept(**json.loads((setting.work / f"{kind}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Kept(setting.key, False, [])
    return kept if kept.key == setting.key else Kept(setting.key, False, [])


def finished_rows(setting: Setting, kind: str) -> list[dict]:
    """The rows of one kind: those that are kept, then the others, each kept as soon as it is known."""
    features, kept = setting.work / f"unfinished_{kind}_{setting.key[:16]}", read_kept(setting, kind)
    for folder in setting.work.glob(f"unfinished_{kind}_*"):
        if kept.done or folder != features:  # of a run that was killed at its very end, or of one with another key
            shutil.rmtree(folder, ignore_errors=True)
    if kept.done:
        return kept.rows
    make = code_rows if kind in CODES else feature_rows
    for row in make(setting, kind, features, len(kept.rows)):
        kept.rows.append(row)
        write_kept(setting, kind, kept)
    write_kept(setting, kind, Kept(setting.key, True, kept.rows))
    shutil.rmtree(features, ignore_errors=True)
    return kept.rows


def write_kept(setting: Setting, kind: str, kept: Kept) -> None:
    write_files(setting.work, {f"{kind}.json": [json.dumps(asdict(kept), indent=1)]})


# ---- rows that are made -----------------------------------------------------------------------------------------------------


def feature_rows(setting: Setting, kind: str, folder: Path, start: int) -> Iterator[dict]:
    """k-means on features, from layer ``start`` on."""
    fit, dev = (
        extracted(setting, kind, tsv, folder / name, dtype)
        for name, tsv, dtype in (("fit", setting.fit, FIT_DTYPE), ("dev", setting.dev, DEV_DTYPE))
    )
    for index in range(start, len(dev)):
        heard, features = FeatureFolder(fit[index]), FeatureFolder(dev[index])
        kmeans = fit_kmeans(heard, setting.clusters, seed=SEED, restarts=RESTARTS, rate=heard.rate, source=heard.source)
        units = dict(kmeans_units(features, kmeans))
        yield measured(setting, kind, index if kind in WEIGHTS else None, units, features.rate, features)


def extracted(setting: Setting, kind: str, tsv: Path, folder: Path, dtype: str) -> list[Path]:
    """Feature folders of a manifest: one, or one a layer."""
    if kind in WEIGHTS:
        return extract(setting.checkpoint, tsv, folder, "all", WEIGHTS[kind], dtype).folders
    return extract_acoustic(kind, tsv, folder, dtype).folders


def code_rows(setting: Setting, kind: str, folder: Path, start: int) -> Iterator[dict]:
    """Codebooks or heads, from number ``start`` on; ``folder`` is not needed."""
    reader = CodeReader(setting.checkpoint, predicted=kind == "head")
    codes = dict(reader.stream(read_utterances(setting.dev, reader.field, MAX_MINUTES)))
    for k in range(start, reader.n_codebooks):
        units = {utt: own[k] for utt, own in codes.items()}
        yield measured(setting, kind, k, units, reader.rate)


def measured(
    setting: Setting, kind: str, index: int | None, units: Mapping, rate: float, features: FeatureFolder | None = None
) -> dict:
    """One row; ``features``: what the units were made of, where that is known."""
    row = {"name": name_of(kind, index), "kind": kind, "index": index}
    row |= count_units(units, setting.phones, setting.speakers, rate, setting.clusters).figures().as_dict()
    for prefix, compared, distance in (("", features, "angular"), ("unit_", units, "onehot")):
        asked = setting.items is not None and compared is not None
        errors = abx_errors(compared, setting.items, rate, distance, seed=SEED).as_dict() if asked else {}
        row |= {f"{prefix}abx_{condition}": errors.get(condition) for condition in ("within", "across")}
    return row


def name_of(kind: str, index: int | None) -> str:
    return NAMES[kind] if index is None else f"{NAMES[kind]} {index}"

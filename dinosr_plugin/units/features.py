"""Features of a whole manifest, from a checkpoint's layers or without learning (MFCC, log-Mel), into feature folders (``store``).

One pass, whatever the number of layers: batches of utterances of about the same length, the longest first, so that memory is at its peak at once.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    NamedTuple,
    TypeVar,
)

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ..checkpoints.load import Layer, LayerReader
from ..data.acoustic import FEATURES, FRAME_HOP, FRAME_SAMPLES, trunk_frames
from ..data.audio import SAMPLE_RATE, load_wave
from ..data.manifest import duplicate_ids, raise_problems, read_manifest, utterance_id
from ..errors import UserError
from .store import FeatureWriter, first_few, require_unmixed

BATCH_SAMPLES = 1_000_000  # about a minute of sound: 1.5 GB for a base model, on the CPU
MAX_MINUTES = (
    10.0  # of a recording that is read whole: attention takes time with the square of it, the convolutions gigabytes
)
AHEAD = 2  # batches that are read from the disk while the model works

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Utterance(NamedTuple):
    name: str  # file name without its suffix, as in label and item files
    path: Path
    samples: int


def read_utterances(manifest: str | Path, least: int = 1, max_minutes: float = math.inf) -> list[Utterance]:
    """The rows of a manifest.

    Raises UserError as ``read_manifest``, for names that occur twice, for what has less than ``least`` samples or takes more than ``max_minutes``.
    """
    split = read_manifest(Path(manifest))
    if clashes := duplicate_ids(utterance.path for utterance in split.utterances):
        raise_problems(clashes, split.root)
    short = [utterance.path for utterance in split.utterances if utterance.samples < least]
    if short:
        said = f"{len(short)} file(s) have less than the {least} samples that one frame takes ({first_few(short)})"
        raise UserError(f"{manifest}: {said}; take them out of the manifest")
    long = [utterance.path for utterance in split.utterances if utterance.samples > max_minutes * 60 * SAMPLE_RATE]
    if long:
        said = f"{len(long)} file(s) are longer than {max_minutes:g} minutes ({first_few(long)}), and a model reads each as a whole"
        raise UserError(
            f"{manifest}: {said}; cut them at pauses into files of their own (`dinosr features` and `units` have --max-minutes)"
        )
    return [
        Utterance(utterance_id(utterance.path), split.root / utterance.path, utterance.samples)
        for utterance in split.utterances
    ]


def require_files(utterances: Sequence[Utterance], manifest: str | Path) -> None:
    """Raises UserError for files that are gone, now rather than when their turn comes, hours from now."""
    missing = [utterance.path for utterance in utterances if not utterance.path.is_file()]
    if missing:
        said = f"{len(missing)} of its {len(utterances)} files are not there ({first_few(missing)})"
        raise UserError(f"{manifest}: {said}; bring them back, or make the manifest again with `dinosr manifest`")


# ---- batches ----------------------------------------------------------------------------------------------------------------


def plan_batches(utterances: Sequence[Utterance], rows: Iterable[int], most: int, padding: bool) -> list[list[int]]:
    """Rows in batches, the longest first, each of at most ``most`` samples with its padding (or of one utterance).

    Without ``padding`` only utterances of exactly the same length share a batch.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(rows, key=lambda row: -utterances[row].samples):
        samples = utterances[row].samples
        if not batches or (len(batches[-1]) + 1) * longest > most or not (padding or samples == longest):
            batches.append([])
            longest = samples
        batches[-1].append(row)
    return batches


def whole_wave(utterance: Utterance) -> np.ndarray:
    """(samples,) float32. Raises UserError as ``load_wave``, for a file of another length than the manifest says, and for NaN and infinity in it."""
    wave = load_wave(utterance.path)
    if len(wave) != utterance.samples:
        said = f"{len(wave)} samples, but the manifest says {utterance.samples}"
        raise UserError(f"{utterance.path}: {said}; make the manifest again with `dinosr manifest`")
    if not np.isfinite(wave).all():  # its units would look like any others
        raise UserError(
            f"{utterance.path}: NaN or infinity in its samples; remove it or fetch it again; `dinosr check` lists all such files"
        )
    return wave


def normalised(wave: np.ndarray, normalize: bool) -> torch.Tensor:
    """(T,) as the model wants it; as fairseq's dataset does it."""
    tensor = torch.from_numpy(wave)
    return F.layer_norm(tensor, tensor.shape) if normalize else tensor


def ahead(work: Callable[[Item], Answer], items: Iterable[Item], threads: int = 1) -> Iterator[tuple[Item, Answer]]:
    """(item, work(item)) in order; ``AHEAD`` more are being worked on meanwhile, in threads."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Item, Future[Answer]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > AHEAD:
                    item, future = waiting.popleft()
                    yield item, future.result()
            while waiting:
                item, future = waiting.popleft()
                yield item, future.result()
        finally:  # an error, or Ctrl-C: what has not begun does not
            pool.shutdown(wait=False, cancel_futures=True)


def waves_in_batches(
    utterances: Sequence[Utterance], rows: Iterable[int], normalize: bool, most: int, padding: bool
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """(rows, their waveforms (T,) float32) of every batch of ``plan_batches``."""
    return ahead(
        lambda batch: [normalised(whole_wave(utterances[row]), normalize) for row in batch],
        plan_batches(utterances, rows, most, padding),
    )


def layer_features(
    reader: LayerReader,
    utterances: Sequence[Utterance],
    rows: Iterable[int],
    layers: Sequence[Layer],
    batch_samples: int = BATCH_SAMPLES,
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(row, one (F, D) float32 array a layer) for all rows, in no order that means anything: for the disk, or for k-means at once."""
    for batch, waves in waves_in_batches(utterances, rows, reader.normalize, batch_samples, reader.pads):
        for row, given in zip(batch, reader.read(waves, layers), strict=True):
            yield row, [x.numpy() for x in given]


# ---- progress ---------------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """A bar over hours of sound that says how many go by in an hour; and what remains to be said at the end."""

    title: str
    total: float  # hours in this shard
    there: float = 0.0  # hours of them that an earlier run has done
    done: float = 0.0  # hours by this one
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self):
        form = "{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} h of sound [{elapsed}<{remaining}{postfix}]"
        self.bar = tqdm(desc=self.title, total=self.total, initial=self.there, bar_format=form, disable=None)

    @property
    def speed(self) -> float:
        """Hours of sound an hour."""
        return self.done * 3600 / max(time.perf_counter() - self.began, 1e-9)

    def update(self, samples: int) -> None:
        more = samples / SAMPLE_RATE / 3600
        self.done += more
        self.bar.set_postfix_str(f"{self.speed:.0f} h/h", refresh=False)
        self.bar.update(min(more, self.total - self.bar.n))  # rounding must not take it past the end

    def summary(self) -> str:
        self.bar.close()
        if not self.done:
            return f"all {self.there:.2f} h of sound were there already"
        seconds = time.perf_counter() - self.began
        before = f" ({self.there:.2f} h were there)" if self.there else ""
        return f"{self.done:.2f} h of sound in {seconds:.1f} s: {self.speed:.0f} hours an hour{before}"


def hours(utterances: Sequence[Utterance], rows: Iterable[int]) -> float:
    return sum(utterances[row].samples for row in rows) / SAMPLE_RATE / 3600


# ---- into folders -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extracted:
    """folders: one, or one a layer; summary: how much sound in what time."""

    folders: list[Path]
    summary: str


def write_rows(
    writers: Sequence[FeatureWriter],
    utterances: Sequence[Utterance],
    title: str,
    features: Callable[[list[int]], Iterable[tuple[int, list[np.ndarray]]]],
) -> Extracted:
    """Ask ``features`` for the rows that any writer misses, and give each writer its part: (row, one array a writer)."""
    rows = writers[0].rows
    missing = sorted({row for writer in writers for row in writer.missing()})
    progress = Progress(title, hours(utterances, rows), hours(utterances, rows) - hours(utterances, missing))
    for row, arrays in features(missing):
        for writer, array in zip(writers, arrays, strict=True):
            writer.add(row, array)
        progress.update(utterances[row].samples)
    for writer in writers:
        writer.close()
    return Extracted([writer.folder for writer in writers], progress.summary())


def extract(
    checkpoint: str | Path,
    manifest: str | Path,
    out: str | Path,
    layer: Layer = "last",
    weights: str = "student",
    dtype: str = "float32",
    shard: int = 1,
    shards: int = 1,
    batch_samples: int = BATCH_SAMPLES,
    max_minutes: float = MAX_MINUTES,
    device: str | torch.device | None = None,
) -> Extracted:
    """Features of every utterance of a manifest from a checkpoint's layers; what an earlier run has finished stays.

    Args:
        out: becomes the feature folder; with layer ``all`` a folder of them, ``layer_0`` and so on.
        layer: a number, from 0; ``last`` (``checkpoint.Layer``); ``all``.
        weights: as ``LayerReader``.
        dtype: ``float32``, or ``float16``: half the space, three digits.
        shard, shards: makes this part (from 1) of so many, which other processes may make meanwhile.
        batch_samples: sound in a batch at most; changes nothing but speed and memory.
        max_minutes: longer recordings are refused.
        device: None: the GPU if there is one.

    Raises:
        UserError: from the checkpoint, the manifest, its audio, or the folder.
    """
    reader = LayerReader(checkpoint, weights, device or default_device())
    utterances = read_utterances(manifest, reader.field, max_minutes)
    layers = which_layers(layer, reader.n_layers)
    require_files(utterances, manifest)
    require_unmixed(Path(out), layers=layer == "all")
    features = lambda rows: layer_features(reader, utterances, rows, layers, batch_samples)
    with ExitStack() as stack:
        folders = [Path(out) / f"layer_{one}" if layer == "all" else Path(out) for one in layers]
        writers = [
            layer_writer(reader, utterances, folder, one, dtype, shard, shards) for folder, one in zip(folders, layers)
        ]
        for writer in writers:
            stack.enter_context(writer)
        return write_rows(writers, utterances, f"{reader.name} layer {layer}", features)


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def which_layers(layer: Layer, n_layers: int) -> list[Layer]:
    """``all``, ``last`` or a number, also as text -> a list. Raises UserError for anything else."""
    if layer == "all":
        return list(range(n_layers))
    if layer == "last":
        return ["last"]
    if str(layer).isdecimal() and int(layer) < n_layers:
        return [int(layer)]
    raise UserError(f"--layer {layer}: the model has layers 0 to {n_layers - 1}; give one of these, last, or all")


def source_of(reader: LayerReader, layer: Layer) -> dict[str, Any]:
    """``store.Meta.source`` of what a reader gives."""
    return {
        "kind": "model",
        "checkpoint": reader.name,
        "fingerprint": reader.fingerprint,
        "weights": reader.weights,
        "layer": layer,
    }


def layer_writer(
    reader: LayerReader,
    utterances: Sequence[Utterance],
    folder: Path,
    layer: Layer,
    dtype: str,
    shard: int,
    shards: int,
) -> FeatureWriter:
    lengths = [reader.frames(utterance.samples) for utterance in utterances]
    names = [utterance.name for utterance in utterances]
    return FeatureWriter(
        folder, SAMPLE_RATE / reader.hop, reader.width, dtype, source_of(reader, layer), names, lengths, shard, shards
    )


def extract_acoustic(
    kind: str,
    manifest: str | Path,
    out: str | Path,
    dtype: str = "float32",
    shard: int = 1,
    shards: int = 1,
    threads: int = 2,
) -> Extracted:
    """MFCC (``mfcc``) or log-Mel (``fbank``) frames at the trunk's 50 Hz, ``data.acoustic``; arguments and errors as ``extract``."""
    width = acoustic_width(kind)
    utterances = read_utterances(manifest, FRAME_SAMPLES)
    require_files(utterances, manifest)
    require_unmixed(Path(out), layers=False)
    lengths, names = (
        [trunk_frames(utterance.samples) for utterance in utterances],
        [utterance.name for utterance in utterances],
    )

    def features(rows: list[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
        for row, frames in ahead(lambda row: FEATURES[kind](whole_wave(utterances[row])), rows, threads):
            yield row, [frames]

    with FeatureWriter(
        out, SAMPLE_RATE / FRAME_HOP, width, dtype, {"kind": kind}, names, lengths, shard, shards
    ) as writer:
        return write_rows([writer], utterances, kind, features)


def acoustic_width(kind: str) -> int:
    """D of ``mfcc`` or ``fbank``. Raises UserError for other names."""
    if kind not in FEATURES:
        raise UserError(f"features '{kind}' are not known; choose one of {', '.join(FEATURES)}")
    return FEATURES[kind](np.zeros(FRAME_SAMPLES, dtype=np.float32)).shape[1]


# ---- without folders --------------------------------------------------------------------------------------------------------


class LiveFeatures:
    """Features of a manifest that are computed whenever they are asked for, and stored nowhere; used as a ``FeatureFolder`` is.

        LiveFeatures.of_layer("checkpoint_last.pt", "train.tsv", layer=3)
        LiveFeatures.of_sound("mfcc", "train.tsv")

    Attributes:
        rate, width, source, utterances: as ``FeatureFolder``.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        rate: float,
        width: int,
        source: dict[str, Any],
        compute: Callable[[np.ndarray], np.ndarray],
    ):
        self.rate, self.width, self.source, self.compute = rate, width, source, compute
        self.found = {utterance.name: utterance for utterance in utterances}
        self.utterances = list(self.found)

    @classmethod
    def of_layer(
        cls,
        checkpoint: str | Path,
        manifest: str | Path,
        layer: Layer = "last",
        weights: str = "student",
        device: str | torch.device | None = None,
    ) -> "LiveFeatures":
        """One layer; arguments and errors as ``extract``."""
        reader = LayerReader(checkpoint, weights, device or default_device())
        if layer == "all":
            raise UserError("--layer all: without feature folders one layer at a time; give a number or last")
        (layer,) = which_layers(layer, reader.n_layers)
        utterances = read_utterances(manifest, reader.field, MAX_MINUTES)
        compute = lambda wave: reader.read([normalised(wave, reader.normalize)], [layer])[0][0].numpy()
        return cls(utterances, SAMPLE_RATE / reader.hop, reader.width, source_of(reader, layer), compute)

    @classmethod
    def of_sound(cls, kind: str, manifest: str | Path) -> "LiveFeatures":
        """MFCC or log-Mel; arguments and errors as ``extract_acoustic``."""
        width = acoustic_width(kind)
        return cls(
            read_utterances(manifest, FRAME_SAMPLES), SAMPLE_RATE / FRAME_HOP, width, {"kind": kind}, FEATURES[kind]
        )

    @classmethod
    def of_source(
        cls, source: Mapping[str, Any], manifest: str | Path, checkpoint: str | Path | None = None
    ) -> "LiveFeatures":
        """What a ``source`` tells of, that of a folder or of a k-means file; a model's want its checkpoint. Raises UserError as the two above."""
        kind = source.get("kind")
        if kind == "model" and checkpoint:
            return cls.of_layer(checkpoint, manifest, source["layer"], source["weights"])
        if kind in FEATURES and not checkpoint:
            return cls.of_sound(kind, manifest)
        if kind == "model":
            raise UserError(
                f"CHECKPOINT: not given; give {source['checkpoint']}, of which layer {source['layer']} is wanted, or a folder of that layer's features"
            )
        if kind in FEATURES:
            raise UserError(
                f"{checkpoint}: no folder of features, and {kind} is wanted, which needs no checkpoint; leave it out"
            )
        raise UserError("features of an unknown kind are wanted; give a folder of them")

    def __len__(self) -> int:
        return len(self.found)

    def __contains__(self, utt: str) -> bool:
        return utt in self.found

    def __getitem__(self, utt: str) -> np.ndarray:
        """(n, D) float32. Raises UserError for another name, and for audio that cannot be read."""
        if utt not in self.found:
            raise UserError(f"{utt!r}: no such utterance in the manifest that features are computed of")
        return self.compute(whole_wave(self.found[utt]))

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((utt, self[utt]) for utt in self.utterances)

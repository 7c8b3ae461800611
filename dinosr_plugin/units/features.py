"""Features of a whole manifest, from a checkpoint's layers or without learning (MFCC, log-Mel), into feature folders.

All layers, sets of codes and acoustic features that are asked for are computed in one pass over the sound.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.chunks import MAX_MINUTES, is_long
from ..checkpoints.opening import open_reader
from ..checkpoints.readers import FrameReader, Frames, Layer
from ..data.acoustic import FEATURES
from ..errors import UserError
from ..modules.frame_grid import TRUNK, FrameGrid
from .batches import (
    BATCH_SAMPLES,
    Progress,
    Utterance,
    hours,
    load_checked_wave,
    plan_batches,
    prefetch,
    read_utterances,
    require_files,
)
from .long_recordings import read_long
from .store import CODE_DTYPES, FeatureWriter, require_unmixed

# ---- what can be computed of a model and of sound --------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureSpec:
    """One kind of frames. ``grid``: their number and place in time; ``width``: D; ``source``: ``FolderInfo.source``."""

    grid: FrameGrid
    width: int
    dtype: str
    source: dict[str, Any]

    def writer(
        self, folder: str | Path, utterances: Sequence[Utterance], shard: int = 1, shards: int = 1
    ) -> FeatureWriter:
        names = [utterance.name for utterance in utterances]
        lengths = [self.grid.count(utterance.samples) for utterance in utterances]
        place = (self.grid.rate, self.grid.first_centre)
        return FeatureWriter(folder, *place, self.width, self.dtype, self.source, names, lengths, shard, shards)


def layer_spec(reader: FrameReader, layer: Layer, dtype: str = "float32") -> FeatureSpec:
    return FeatureSpec(reader.grid, reader.width_of(layer), dtype, reader.source(layer))


def code_spec(reader: FrameReader, code_set: str) -> FeatureSpec:
    """Codes of all codebooks, (F, K), in the smallest type that they fit into."""
    codes = reader.code_sets[code_set]
    dtype = next(dtype for dtype in CODE_DTYPES if codes.size - 1 <= np.iinfo(dtype).max)
    return FeatureSpec(reader.grid, codes.count, dtype, reader.code_source(code_set))


def acoustic_spec(kind: str, dtype: str = "float32") -> FeatureSpec:
    """``mfcc`` or ``fbank``, on the trunk's grid (see ``data.acoustic``). Raises UserError for other names."""
    if kind not in FEATURES:
        raise UserError(f"features '{kind}': unknown; choose one of {', '.join(FEATURES)}")
    width = FEATURES[kind](np.zeros(TRUNK.field, dtype=np.float32)).shape[1]
    return FeatureSpec(TRUNK, width, dtype, {"kind": kind})


def read_rows(
    utterances: Sequence[Utterance],
    rows: Iterable[int],
    reader: FrameReader | None = None,
    layers: Sequence[Layer] = (),
    code_sets: Sequence[str] = (),
    acoustic: Sequence[str] = (),
    max_minutes: float = MAX_MINUTES,
    batch_samples: int = BATCH_SAMPLES,
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(row, arrays): (F, D) of every layer, (F, K) of every set of codes, (F, D) of every acoustic kind, in this order.

    Rows come in no particular order. Each file is read once, by a thread that is ahead of the model; those longer than
    ``max_minutes`` in chunks, after the others.
    """
    rows = list(rows)
    in_chunks = {row for row in rows if reader and is_long(utterances[row].samples, max_minutes)}

    def load(batch: list[int]) -> tuple[list[torch.Tensor], list[list[np.ndarray]]]:
        waves = [load_checked_wave(utterances[row]) for row in batch]
        prepared = [reader.prepare(torch.from_numpy(wave)) for wave in waves] if reader else []
        return prepared, [[FEATURES[kind](wave) for kind in acoustic] for wave in waves]

    def arrays_of(frames: Frames) -> list[np.ndarray]:
        codes = [frames.codes[name].numpy().T for name in code_sets]  # (F, K) each
        return [x.numpy() for x in frames.layers] + codes  # (F, D) each

    whole = [row for row in rows if row not in in_chunks]
    batches = plan_batches(utterances, whole, batch_samples, padding=reader is not None and reader.pads)
    for batch, (waves, acoustic_frames) in prefetch(load, batches, threads=1 if reader else 2):
        read = reader.read(waves, layers, code_sets) if reader else [Frames([], {})] * len(batch)
        for row, frames, others in zip(batch, read, acoustic_frames, strict=True):
            yield row, arrays_of(frames) + others
    for row in sorted(in_chunks):
        others = [FEATURES[kind](load_checked_wave(utterances[row])) for kind in acoustic]
        assert reader is not None  # or no row would be read in chunks
        yield row, arrays_of(read_long(reader, utterances[row], layers, code_sets)) + others


# ---- into folders ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extracted:
    """``folders``: one, or one per layer; ``summary``: how much sound in what time."""

    folders: list[Path]
    summary: str


def write_rows(
    writers: Sequence[FeatureWriter],
    utterances: Sequence[Utterance],
    title: str,
    features: Callable[[list[int]], Iterable[tuple[int, list[np.ndarray]]]],
) -> Extracted:
    """Compute the rows that any writer lacks and give each writer its array: ``features(rows)`` yields
    (row, one array per writer). The writers are closed at the end; after an error they keep what was added."""
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
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
    """Features of every utterance of a manifest from a checkpoint's layers; an earlier run's work is kept.

    Args:
        out: becomes the feature folder; with layer ``all`` it contains one for each, ``layer_0`` and so on.
        layer: as ``readers.Layer``; or ``all``, every number.
        weights: as ``open_reader``.
        dtype: ``float32``, or ``float16``: half the space, three digits.
        shard, shards: compute this part (from 1) of so many; other processes may compute the others meanwhile.
        batch_samples: samples in a batch at most; changes nothing but speed and memory.
        max_minutes: longer recordings are read in chunks (``checkpoints.chunks``).
        device: None: the GPU if there is one.

    Raises:
        UserError: from the checkpoint, the manifest, its audio, or the folder.
    """
    reader = open_reader(checkpoint, weights, device or default_device())
    utterances = read_utterances(manifest, reader.grid.field)
    layers = which_layers(layer, reader)
    require_files(utterances, manifest)
    require_unmixed(Path(out), layers=layer == "all")
    writers = [
        layer_spec(reader, one, dtype).writer(
            Path(out) / f"layer_{one}" if layer == "all" else out, utterances, shard, shards
        )
        for one in layers
    ]

    def features(rows: list[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
        return read_rows(utterances, rows, reader, layers, (), (), max_minutes, batch_samples)

    return write_rows(writers, utterances, f"{reader.name} layer {layer}", features)


def extract_acoustic(
    kind: str, manifest: str | Path, out: str | Path, dtype: str = "float32", shard: int = 1, shards: int = 1
) -> Extracted:
    """MFCC (``mfcc``) or log-Mel (``fbank``), ``data.acoustic``; arguments and errors as ``extract``."""
    spec = acoustic_spec(kind, dtype)
    utterances = read_utterances(manifest, spec.grid.field)
    require_files(utterances, manifest)
    require_unmixed(Path(out), layers=False)
    writers = [spec.writer(out, utterances, shard, shards)]
    return write_rows(writers, utterances, kind, lambda rows: read_rows(utterances, rows, acoustic=[kind]))


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def which_layers(layer: Layer, reader: FrameReader) -> list[Layer]:
    """``all``, ``last``, the name of an output or a number, also as text -> a list.

    Raises UserError for anything else.
    """
    if layer == "all":
        return list(range(reader.n_layers))
    if layer in ("last", *reader.outputs):
        return [layer]
    if str(layer).isdecimal() and int(layer) < reader.n_layers:
        return [int(layer)]
    names = ", ".join(["last", *reader.outputs])
    raise UserError(
        f"--layer {layer}: the model has layers 0 to {reader.n_layers - 1}; give one of these, {names}, or all"
    )


# ---- without folders -------------------------------------------------------------------------------------------------


class LiveFeatures:
    """Features of a manifest that are computed whenever they are read, without files; used like a ``FeatureFolder``.

        LiveFeatures.of_layer("checkpoint_last.pt", "train.tsv", layer=3)
        LiveFeatures.of_sound("mfcc", "train.tsv")

    Attributes:
        rate, first_centre, width, source, utterances: as ``FeatureFolder``.
    """

    def __init__(self, utterances: Sequence[Utterance], spec: FeatureSpec, compute: Callable[[Utterance], np.ndarray]):
        self.spec, self.compute = spec, compute
        self.rate, self.first_centre = spec.grid.rate, spec.grid.first_centre
        self.width, self.source = spec.width, spec.source
        self.by_name = {utterance.name: utterance for utterance in utterances}
        self.utterances = list(self.by_name)

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
        reader = open_reader(checkpoint, weights, device or default_device())
        if layer == "all":
            raise UserError("--layer all: without feature folders one layer at a time; give a number or last")
        (layer,) = which_layers(layer, reader)
        utterances = read_utterances(manifest, reader.grid.field)

        def compute(utterance: Utterance) -> np.ndarray:
            ((_, (features,)),) = read_rows([utterance], [0], reader, [layer])
            return features

        return cls(utterances, layer_spec(reader, layer), compute)

    @classmethod
    def of_sound(cls, kind: str, manifest: str | Path) -> "LiveFeatures":
        """MFCC or log-Mel; arguments and errors as ``extract_acoustic``."""
        spec = acoustic_spec(kind)
        compute = lambda utterance: FEATURES[kind](load_checked_wave(utterance))
        return cls(read_utterances(manifest, spec.grid.field), spec, compute)

    @classmethod
    def of_source(
        cls, source: Mapping[str, Any], manifest: str | Path, checkpoint: str | Path | None = None
    ) -> "LiveFeatures":
        """What the ``source`` of a folder or a k-means file describes; a model's layer requires its checkpoint.

        Raises UserError as ``of_layer`` and ``of_sound``.
        """
        kind = source.get("kind")
        if kind == "model" and checkpoint:
            return cls.of_layer(checkpoint, manifest, source["layer"], source["weights"])
        if kind in FEATURES and not checkpoint:
            return cls.of_sound(kind, manifest)
        if kind == "model":
            raise UserError(
                f"CHECKPOINT: not given; give {source['checkpoint']}, whose layer {source['layer']} is needed, "
                "or a folder of that layer's features"
            )
        if kind in FEATURES:
            raise UserError(
                f"{checkpoint}: not a folder of features, and {kind} is needed, which takes no checkpoint; leave it out"
            )
        raise UserError("the k-means file does not say what its features are; give a folder of them")

    def __len__(self) -> int:
        return len(self.by_name)

    def __contains__(self, utt: str) -> bool:
        return utt in self.by_name

    def __getitem__(self, utt: str) -> np.ndarray:
        """(n, D) float32. Raises UserError for another name, and for audio that cannot be read."""
        if utt not in self.by_name:
            raise UserError(f"{utt!r}: no such utterance in the manifest that features are computed from")
        return self.compute(self.by_name[utt])

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((utt, self[utt]) for utt in self.utterances)

"""Representations of the same speech, read together: layers of several models, MFCC, log-Mel, feature folders.

The sound is read once for all of them, in parts of about a minute, so that memory does not grow with the corpus.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ...checkpoints.embedding import EmbeddingReader
from ...checkpoints.readers import FrameReader, Layer
from ...data.acoustic import CENTRED, FEATURES
from ...data.manifest import utterance_id
from ...errors import UserError, first_few
from ...modules.frame_grid import TRUNK
from ...units.batches import BATCH_SAMPLES, Utterance, load_checked_wave, plan_batches, prefetch
from ...units.features import acoustic_spec
from ...units.frames import all_finite
from ...units.store import EMBEDDINGS, FeatureFolder
from .frame_alignment import Timing


class Representation(NamedTuple):
    """One vector for each frame, or for each recording.

    Attributes:
        name: unique.
        model: the name of the model that it belongs to.
        kind: of the model, such as ``DinoSR``; ``sound`` for MFCC and log-Mel; ``folder``.
        width: D.
        timing: of its frames; None: it is one vector for each recording.
        timed: whether the place of its frames in time is known, and not only their rate.
        centred: whether the mean of each utterance is 0.
    """

    name: str
    model: str
    kind: str
    width: int
    timing: Timing | None
    centred: bool = False
    timed: bool = True


class Supplier(ABC):
    """Computes ``representations`` of utterances that have at least ``min_samples``."""

    representations: Sequence[Representation]
    min_samples = 1
    needs_sound = True

    def require(self, utterances: Sequence[Utterance]) -> None:  # noqa: B027  # most can read all utterances
        """Raise UserError if it has no representations of these utterances."""

    @abstractmethod
    def read(self, utterances: Sequence[Utterance], waves: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """For each utterance, with its waveform (T,) float32, an array (n, D) float32 of each representation."""


class ModelLayers(Supplier):
    """Layers of a model. ``name``: of the model."""

    def __init__(self, reader: FrameReader, name: str, layers: Sequence[Layer]):
        self.reader, self.layers, self.min_samples = reader, layers, reader.grid.field
        timing = Timing(reader.rate, reader.first_centre)
        kind = "untrained" if reader.weights == "random" else type(reader.model).__name__
        self.representations = [
            Representation(name if len(layers) == 1 else f"{name} {layer}", name, kind, reader.width_of(layer), timing)
            for layer in layers
        ]

    def read(self, utterances: Sequence[Utterance], waves: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        arrays: dict[int, list[np.ndarray]] = {}
        for batch in plan_batches(utterances, range(len(utterances)), BATCH_SAMPLES, self.reader.pads):
            prepared = [self.reader.prepare(torch.from_numpy(waves[row])) for row in batch]
            for row, frames in zip(batch, self.reader.read(prepared, self.layers), strict=True):
                arrays[row] = [x.numpy() for x in frames.layers]
        return [arrays[row] for row in range(len(utterances))]


class Embedding(Supplier):
    """The embedding of a model that has one vector for each recording."""

    def __init__(self, embedder: EmbeddingReader, name: str, kind: str):
        self.embedder, self.min_samples = embedder, embedder.min_samples
        self.representations = [Representation(name, name, kind, embedder.width, None)]

    def read(self, utterances: Sequence[Utterance], waves: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        return [[self.embedder.embed([self.embedder.prepare(torch.from_numpy(wave))]).numpy()] for wave in waves]


class Sound(Supplier):
    """MFCC or log-Mel; ``kind``: a key of ``data.acoustic.FEATURES``."""

    min_samples = TRUNK.field

    def __init__(self, kind: str, name: str):
        spec, self.function = acoustic_spec(kind), FEATURES[kind]
        timing = Timing(spec.grid.rate, spec.grid.first_centre)
        self.representations = [Representation(name, name, "sound", spec.width, timing, centred=kind in CENTRED)]

    def read(self, utterances: Sequence[Utterance], waves: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        return [[self.function(wave)] for wave in waves]


class Folder(Supplier):
    """A feature folder; utterances are found by their names."""

    needs_sound = False

    def __init__(self, folder: FeatureFolder, name: str):
        self.folder = folder
        one_each = folder.source.get("kind") == EMBEDDINGS  # whose names are those of files, with suffixes
        self.names = {utterance_id(utt) if one_each else utt: utt for utt in folder.utterances}
        timing = None if one_each else Timing(folder.rate, folder.first_centre)
        timed = folder.meta.first_centre is not None
        self.representations = [Representation(name, name, "folder", folder.width, timing, timed=timed)]

    def require(self, utterances: Sequence[Utterance]) -> None:
        if missing := [one.name for one in utterances if one.name not in self.names]:
            raise UserError(
                f"{self.folder.path}: {len(missing)} of {len(utterances)} utterances of the manifest are not in it "
                f"({first_few(missing)}); make it again from this manifest, or give the manifest that it was made from"
            )

    def read(self, utterances: Sequence[Utterance], waves: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        return [[np.asarray(self.folder[self.names[one.name]], dtype=np.float32)] for one in utterances]


@dataclass(frozen=True)
class Together:
    """One utterance: its number, and an array (n, D) float32 of each representation, by name."""

    row: int
    arrays: Mapping[str, np.ndarray]


def read_together(
    suppliers: Sequence[Supplier], utterances: Sequence[Utterance], rows: Sequence[int]
) -> Iterator[Together]:
    """The utterances of these rows, in this order. A thread that is ahead of the models reads the files.

    Raises UserError from the audio, and for NaN or infinity in a representation.
    """

    needs_sound = any(supplier.needs_sound for supplier in suppliers)

    def load(part: list[int]) -> list[np.ndarray]:
        return [load_checked_wave(utterances[row]) for row in part] if needs_sound else []

    names = [one.name for supplier in suppliers for one in supplier.representations]
    for part, waves in prefetch(load, parts(utterances, rows)):
        of_part = [utterances[row] for row in part]
        read = [supplier.read(of_part, waves) for supplier in suppliers]
        for i, row in enumerate(part):
            arrays = dict(zip(names, (array for of_supplier in read for array in of_supplier[i]), strict=True))
            for name, array in arrays.items():
                require_finite(array, name, utterances[row].name)
            yield Together(row, arrays)


def parts(utterances: Sequence[Utterance], rows: Sequence[int]) -> Iterator[list[int]]:
    """Rows, in order, in parts of at most ``BATCH_SAMPLES`` samples, or of one utterance."""
    part: list[int] = []
    samples = 0
    for row in rows:
        if part and samples + utterances[row].samples > BATCH_SAMPLES:
            yield part
            part, samples = [], 0
        part.append(row)
        samples += utterances[row].samples
    if part:
        yield part


def require_finite(array: np.ndarray, name: str, utt: str) -> None:
    if not all_finite(array):
        raise UserError(
            f"{name}: NaN or infinity in the features of {utt}; remove the utterance from the manifest, or give "
            "another checkpoint"
        )

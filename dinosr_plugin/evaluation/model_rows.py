"""The rows of a model and of its baselines: acoustic features, every layer untrained, every layer and output trained.

What all tables of a model share: the features, computed in one pass over the sound for the trained and one for the
untrained model (``layers.LayerCache``), the rows, kept as they are finished (``table.RowTable``), and their order. What
a row is measured on is up to the subclass: units of k-means (``comparison.Comparison``), or the features themselves
(``probes.rows.ProbeRows``).
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..checkpoints.readers import FrameReader, Layer
from ..data.audio import SAMPLE_RATE
from ..files import claim_folder, is_folder, temporary_folder
from ..modules.frame_grid import TRUNK
from ..units.batches import Utterance, require_frames
from .layers import MAX_BYTES, LayerCache
from .measuring import Entry, Measure, Source, measure_all
from .speech import Speech, digest_of_utterances
from .table import RowTable

FIT_SAMPLES = 3600 * SAMPLE_RATE  # what is fitted sees random utterances of at most an hour
SEED = 0  # of these utterances, and of everything else that is random
FIT_DTYPE, MEASURED_DTYPE = "float16", "float32"  # of features in the cache
MFCC, FBANK = "mfcc", "fbank"  # kinds of rows, beside those of code sets
UNTRAINED, LAYER, OUTPUT = "untrained", "layer", "output"
NAMES = {MFCC: "MFCC", FBANK: "log-Mel", UNTRAINED: "untrained layer", LAYER: "layer"}


class ModelRows(ABC):
    """The rows of a model and of its baselines.

    Args:
        reader: any model.
        fitted: the training speech, which everything that is fitted sees.
        speech: the speech to measure on.
        measures: the measures whose figures a row has.
        work: folder for finished rows, and for the cache unless ``cache`` is given; None: nothing is kept.
        cache: folder in which layers are kept for later; None: they are removed at the end.
        max_bytes: maximum size of the cache.

    Use as a context: ``with ModelRows(...) as table: rows = table.rows()``, with a subclass.

    Raises:
        UserError: from ``work``; an utterance shorter than a frame.
    """

    acoustic: ClassVar[Mapping[str, str]]
    """Kind of row -> its features, a key of ``data.acoustic.FEATURES``."""

    def __init__(
        self,
        reader: FrameReader,
        fitted: Sequence[Utterance],
        speech: Speech,
        measures: Sequence[Measure],
        work: str | Path | None = None,
        cache: str | Path | None = None,
        max_bytes: float = MAX_BYTES,
    ):
        self.reader, self.fitted, self.speech, self.measures = reader, fitted, speech, measures
        samples = {utterance.name: utterance.samples for utterance in speech.utterances}
        require_frames(samples, speech.manifest, frame_field(reader))
        self.stack, self.keep, self.max_bytes = ExitStack(), cache is not None, max_bytes
        self.work_option, self.cache_option = work, cache

    def __enter__(self):
        folder = temporary_folder() if self.work_option is None else claim_folder(self.work_option)
        self.work = self.stack.enter_context(folder)
        self.cache = Path(self.cache_option or self.work / "cache")
        self.table = RowTable(self.work / "rows.json", self.digest)
        return self

    def __exit__(self, kind, *_) -> None:
        """Remove the cache, unless it is kept or an interrupted run is to resume from it."""
        with self.stack:
            if not self.keep and kind is None:
                self.remove_caches(self.reader)
                if is_folder(self.cache) and not any(self.cache.iterdir()):
                    self.cache.rmdir()

    @property
    def settings(self) -> list[Any]:
        """What the rows depend on beside the model, the speech and the measures."""
        return [SEED, FIT_DTYPE, MEASURED_DTYPE]

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the rows depend on."""
        inputs = [self.reader.fingerprint, self.reader.normalize, digest_of_utterances(self.fitted), self.speech.digest]
        measures = [describe(measure) for measure in self.measures]
        return hashlib.sha256(json.dumps([*inputs, *self.settings, *measures]).encode()).hexdigest()

    # ---- features ----------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs that have a row."""
        return [name for name, output in self.reader.outputs.items() if output.compared]

    @property
    def code_sets(self) -> list[str]:
        """Names of the sets of codes that are computed with the layers."""
        return []

    @cached_property
    def untrained(self) -> FrameReader:
        return self.reader.untrained()

    def fit_cache(self, reader: FrameReader) -> LayerCache:
        trained = reader is self.reader
        outputs, acoustic = (self.outputs, list(self.acoustic.values())) if trained else ([], [])
        return LayerCache(self.cache, reader, self.fitted, (), outputs, acoustic, FIT_DTYPE, self.max_bytes)

    def measured_cache(self, reader: FrameReader) -> LayerCache:
        trained = reader is self.reader
        code_sets, outputs = (self.code_sets, self.outputs) if trained else ([], [])
        acoustic = list(self.acoustic.values()) if trained else []
        utterances = self.speech.utterances
        return LayerCache(self.cache, reader, utterances, code_sets, outputs, acoustic, MEASURED_DTYPE, self.max_bytes)

    @cached_property
    def caches(self) -> dict[str, LayerCache]:
        """Of the trained model: ``fit`` and ``measured``."""
        return self.open_caches(self.reader)

    @cached_property
    def untrained_caches(self) -> dict[str, LayerCache]:
        return self.open_caches(self.untrained)

    def open_caches(self, reader: FrameReader) -> dict[str, LayerCache]:
        caches = {"fit": self.fit_cache(reader), "measured": self.measured_cache(reader)}
        if self.keep:
            for cache in caches.values():
                self.stack.enter_context(cache.pin())
        return caches

    def caches_of(self, kind: str) -> dict[str, LayerCache]:
        return self.untrained_caches if kind == UNTRAINED else self.caches

    def remove_caches(self, reader: FrameReader) -> None:
        for cache in (self.fit_cache(reader), self.measured_cache(reader)):
            cache.remove()

    # ---- rows --------------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Measured: ``{"name", "kind", "index", **figures of the measures}``.

        In the order of ``kind``: ``mfcc``, ``fbank``, ``untrained``, ``layer``, ``output``, then those of the subclass.
        ``index``: the layer or codebook, from 0; None for MFCC, log-Mel and outputs.
        """
        # first the model whose features can then be removed
        untrained = self.measured(self.layer_entries(UNTRAINED))
        if "untrained" in self.__dict__ and not self.keep:
            self.remove_caches(self.untrained)
        acoustic = self.measured(self.entry(kind, None, features) for kind, features in self.acoustic.items())
        layers = self.measured(self.layer_entries(LAYER))
        outputs = self.measured(self.entry(OUTPUT, None, name) for name in self.outputs)
        return [*acoustic, *untrained, *layers, *outputs, *self.measured(self.more_entries())]

    def measured(self, entries: Iterable[Entry]) -> list[dict[str, Any]]:
        return measure_all(entries, self.speech, self.measures, self.table)

    def layer_entries(self, kind: str) -> Iterator[Entry]:
        return (self.entry(kind, layer, layer) for layer in range(self.reader.n_layers))

    def entry(self, kind: str, index: int | None, layer: Layer) -> Entry:
        """The row of a layer, an output or an acoustic kind."""
        name = str(layer) if kind == OUTPUT else name_of(kind, index)
        head = {"name": name, "kind": kind, "index": index}
        return Entry(name, head, partial(self.source, kind, layer, name))

    def more_entries(self) -> Iterator[Entry]:
        """Further rows, the last ones."""
        return iter(())

    @abstractmethod
    def source(self, kind: str, layer: Layer, name: str) -> Source:
        """What the row of a layer, an output or an acoustic kind is measured on."""


def frame_field(reader: FrameReader) -> int:
    """Samples of the shortest utterance that has a frame of the model and of MFCC and log-Mel, which have the trunk's
    frames."""
    return max(reader.grid.field, TRUNK.field)


DERIVED = ("items", "labels", "training")  # attributes of measures that follow from the speech


def describe(measure: Measure) -> str:
    """A measure and its settings."""
    settings = {name: value for name, value in vars(measure).items() if name not in DERIVED}
    return f"{type(measure).__name__} {settings}"


def random_hour(utterances: Sequence[Utterance]) -> list[Utterance]:
    """All utterances, or random ones of an hour, in order; at least one."""
    order = np.random.default_rng(SEED).permutation(len(utterances))
    total = np.cumsum([utterances[row].samples for row in order])
    chosen = sorted(order[: max(1, int(np.searchsorted(total, FIT_SAMPLES, side="right")))])
    return [utterances[row] for row in chosen]


def name_of(kind: str, index: int | None) -> str:
    return NAMES[kind] if index is None else f"{NAMES[kind]} {index}"

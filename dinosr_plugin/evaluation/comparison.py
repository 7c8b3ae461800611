"""One table of a model's units and layers, and of baselines that need no training, so that figures can be compared.

k-means of one size on MFCC, on log-Mel, on every layer of the model with random weights and on every layer and output
of the trained one; of the same size also the model's own units: DinoSR's codebooks and heads, Spin's codebook. k-means
is fitted on a training manifest, everything is measured on other speech.

The sound is read once for the untrained and once for the trained model (``layers.LayerCache``); rows are kept as they
are finished (``table.RowTable``).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.readers import CodeSet, FrameReader, Layer
from ..data.audio import SAMPLE_RATE
from ..errors import UserError
from ..files import claim_folder, is_folder, temporary_folder
from ..modules.frame_grid import TRUNK
from ..units.batches import Utterance, read_utterances, require_frames
from ..units.codes import kmeans_units
from ..units.kmeans import fit_kmeans
from ..units.store import FeatureFolder
from .layers import MAX_BYTES, LayerCache, folder_of
from .measures.abx.items import make_items
from .measures.abx.measure import AbxMeasure
from .measures.quality.measure import UnitQualityMeasure
from .measures.speaker import SpeakerProbe, require_probe
from .measuring import Entry, Measure, Source, measure_all
from .speech import Speech, digest_of_utterances
from .table import RowTable

FIT_SAMPLES = 3600 * SAMPLE_RATE  # k-means is fitted on random utterances of at most an hour
SEED = 0  # of these utterances, of k-means and of ABX
RESTARTS = 3  # of k-means, so that a figure does not depend on one start
FIT_DTYPE, MEASURED_DTYPE = "float16", "float32"  # of features in the cache
ACOUSTIC = ("mfcc", "fbank")
UNTRAINED, LAYER, OUTPUT = "untrained", "layer", "output"  # kinds of rows, beside those of ``ACOUSTIC`` and code sets
NAMES = {"mfcc": "MFCC", "fbank": "log-Mel", UNTRAINED: "untrained layer", LAYER: "layer"}


class Comparison:
    """The rows of a model and of its baselines.

    Args:
        reader: any model.
        train: manifest; k-means sees random utterances of at most an hour of it, the same ones for every row.
        speech: the speech to measure on.
        measures: the measures whose figures a row has.
        work: folder for finished rows, and for the cache unless ``cache`` is given; None: nothing is kept.
        clusters: of k-means; None: as many as the codebooks have units. Codebooks of another size have no rows, because
            figures of different sizes cannot be compared.
        cache: folder in which layers are kept for later; None: they are removed at the end.
        max_bytes: maximum size of the cache.

    Use as a context: ``with Comparison(...) as comparison: rows = comparison.rows()``.

    Raises:
        UserError: from the manifests or ``work``; an utterance shorter than a frame; no ``clusters`` for a model
            without codebooks.
    """

    def __init__(
        self,
        reader: FrameReader,
        train: str | Path,
        speech: Speech,
        measures: Sequence[Measure],
        work: str | Path | None = None,
        clusters: int | None = None,
        cache: str | Path | None = None,
        max_bytes: float = MAX_BYTES,
    ):
        self.reader, self.speech, self.measures = reader, speech, measures
        self.clusters = cluster_count(reader, clusters)
        field = max(reader.grid.field, TRUNK.field)  # MFCC and log-Mel have the trunk's frames
        require_frames({utterance.name: utterance.samples for utterance in speech.utterances}, speech.manifest, field)
        self.fitted = random_hour(read_utterances(train, field))
        self.stack, self.keep, self.max_bytes = ExitStack(), cache is not None, max_bytes
        self.work_option, self.cache_option = work, cache

    def __enter__(self) -> "Comparison":
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
    def digest(self) -> str:
        """SHA-256 of everything that the rows depend on."""
        inputs = [self.reader.fingerprint, self.reader.normalize, digest_of_utterances(self.fitted), self.speech.digest]
        settings = [self.clusters, SEED, RESTARTS, FIT_DTYPE, MEASURED_DTYPE]
        measures = [describe(measure) for measure in self.measures]
        return hashlib.sha256(json.dumps([*inputs, *settings, *measures]).encode()).hexdigest()

    # ---- features ----------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs that have a row."""
        return [name for name, output in self.reader.outputs.items() if output.compared]

    @property
    def code_sets(self) -> list[str]:
        """Names of the sets of codes that have rows."""
        return [name for name, codes in self.reader.code_sets.items() if codes.size == self.clusters]

    @cached_property
    def untrained(self) -> FrameReader:
        return self.reader.untrained()

    def fit_cache(self, reader: FrameReader) -> LayerCache:
        acoustic = ACOUSTIC if reader is self.reader else ()
        outputs = self.outputs if reader is self.reader else ()
        return LayerCache(self.cache, reader, self.fitted, (), outputs, acoustic, FIT_DTYPE, self.max_bytes)

    def measured_cache(self, reader: FrameReader) -> LayerCache:
        trained = reader is self.reader
        code_sets, outputs, acoustic = (self.code_sets, self.outputs, ACOUSTIC) if trained else ([], [], ())
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

    def remove_caches(self, reader: FrameReader) -> None:
        for cache in (self.fit_cache(reader), self.measured_cache(reader)):
            cache.remove()

    def features(self, layer: int) -> FeatureFolder:
        """(F, D) of a layer of the trained model, for each utterance of ``speech``."""
        return self.caches["measured"][f"layer_{layer}"]

    def codes(self, code_set: str) -> FeatureFolder:
        """(F, K), the codes of all codebooks of a set, for each utterance of ``speech``."""
        return self.caches["measured"][code_set]

    # ---- rows --------------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Measured: ``{"name", "kind", "index", **figures of the measures}``.

        In the order of ``kind``: ``mfcc``, ``fbank``, ``untrained``, ``layer``, ``output``, names of sets of codes.
        ``index``: the layer or codebook, from 0; None for MFCC, log-Mel and outputs.
        """
        # first the model whose features can then be removed
        untrained = self.measured(self.layer_entries(UNTRAINED))
        if "untrained" in self.__dict__ and not self.keep:
            self.remove_caches(self.untrained)
        acoustic = self.measured(self.entry(kind, None, kind) for kind in ACOUSTIC)
        layers = self.measured(self.layer_entries(LAYER))
        outputs = self.measured(self.entry(OUTPUT, None, name) for name in self.outputs)
        codes = self.measured(entry for name in self.code_sets for entry in self.code_entries(name))
        return [*acoustic, *untrained, *layers, *outputs, *codes]

    def measured(self, entries: Iterable[Entry]) -> list[dict[str, Any]]:
        return measure_all(entries, self.speech, self.measures, self.table)

    def layer_entries(self, kind: str) -> Iterator[Entry]:
        return (self.entry(kind, layer, layer) for layer in range(self.reader.n_layers))

    def entry(self, kind: str, index: int | None, layer: Layer) -> Entry:
        """The row of a layer, an output or an acoustic kind."""
        name = str(layer) if kind == OUTPUT else name_of(kind, index)
        head = {"name": name, "kind": kind, "index": index}
        return Entry(name, head, partial(self.clustered, kind, layer, name))

    def code_entries(self, code_set: str) -> Iterator[Entry]:
        for k in range(self.reader.code_sets[code_set].count):
            name = code_name(self.reader.code_sets[code_set], k)
            yield Entry(name, {"name": name, "kind": code_set, "index": k}, partial(self.code_source, code_set, k))

    def clustered(self, kind: str, layer: Layer, name: str) -> Source:
        """Features of a layer, an output or an acoustic kind, and k-means on them."""
        caches = self.untrained_caches if kind == UNTRAINED else self.caches
        folder = folder_of(layer)
        fit, features = caches["fit"][folder], caches["measured"][folder]
        kmeans = fit_kmeans(fit, self.clusters, seed=SEED, restarts=RESTARTS, rate=fit.rate, source=fit.source)
        units = dict(kmeans_units(features, kmeans))
        place = (features.rate, features.first_centre)
        return Source(name, *place, features, units, self.clusters, centred=kind in ACOUSTIC)

    def code_source(self, code_set: str, k: int) -> Source:
        codes = self.codes(code_set)
        units = {utt: frames[:, k] for utt, frames in codes}
        name = code_name(self.reader.code_sets[code_set], k)
        return Source(name, codes.rate, codes.first_centre, units=units, n_codes=self.clusters)


def measures_for(speech: Speech, abx: bool, speakers: bool = False) -> list[Measure]:
    """Unit quality and, if asked for, ABX of the alignment's triphones and the speaker probe.

    Raises UserError for ABX without speakers, and as ``require_probe``.
    """
    probe: list[Measure] = []
    if speakers:
        require_probe(speech)
        probe = [SpeakerProbe()]
    if not abx:
        return [UnitQualityMeasure(), NoAbx(), *probe]
    if speech.speakers is None:
        raise UserError(
            f"{speech.manifest}: ABX requires the speakers; name the files as LibriSpeech does, "
            "or put the files of each speaker into a folder"
        )
    items = make_items(speech.phones, {utt: speech.speakers[utt] for utt in speech.names})
    return [UnitQualityMeasure(), AbxMeasure(items, seed=SEED), *probe]


class NoAbx:
    """The columns of ABX, empty."""

    columns = AbxMeasure.columns

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        return dict.fromkeys(column.key for column in self.columns)


def describe(measure: Measure) -> str:
    """A measure and its settings; items of ABX follow from the speech."""
    settings = {name: value for name, value in vars(measure).items() if name != "items"}
    return f"{type(measure).__name__} {settings}"


def cluster_count(reader: FrameReader, clusters: int | None) -> int:
    """Raises UserError as ``Comparison``."""
    if clusters is not None:
        return clusters
    if not reader.code_sets:
        raise UserError(f"{reader.path}: has no codebooks; give the number of clusters for k-means with --clusters")
    return reader.code_sets[reader.require_codes()].size


def random_hour(utterances: Sequence[Utterance]) -> list[Utterance]:
    """All utterances, or random ones of an hour, in order; at least one."""
    order = np.random.default_rng(SEED).permutation(len(utterances))
    total = np.cumsum([utterances[row].samples for row in order])
    chosen = sorted(order[: max(1, int(np.searchsorted(total, FIT_SAMPLES, side="right")))])
    return [utterances[row] for row in chosen]


def name_of(kind: str, index: int | None) -> str:
    return NAMES[kind] if index is None else f"{NAMES[kind]} {index}"


def code_name(codes: CodeSet, k: int) -> str:
    """``codebook 0``; without a number if there is only one."""
    return codes.noun if codes.count == 1 else f"{codes.noun} {k}"

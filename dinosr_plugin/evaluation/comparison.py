"""One table of a model's units and layers, and of baselines that need no training, so that figures can be compared.

k-means of one size on MFCC, on log-Mel, on every layer of the model with random weights and on every layer and output
of the trained one; of the same size also the model's own units: DinoSR's codebooks and heads, Spin's codebook. k-means
is fitted on a training manifest, everything is measured on other speech.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints.readers import CodeSet, FrameReader, Layer
from ..errors import UserError
from ..units.batches import read_utterances
from ..units.codes import kmeans_units
from ..units.kmeans import fit_kmeans
from ..units.store import FeatureFolder
from .layers import MAX_BYTES, folder_of
from .measures.abx.items import Item, items_of_speech, make_items
from .measures.abx.measure import AbxMeasure
from .measures.quality.measure import UnitQualityMeasure
from .measures.speaker import SpeakerProbe, require_probe
from .measuring import Entry, Measure, Source
from .model_rows import FBANK, MFCC, SEED, ModelRows, frame_field, random_hour
from .speech import Speech

RESTARTS = 3  # of k-means, so that a figure does not depend on one start


class Comparison(ModelRows):
    """The rows of a model and of its baselines, k-means on each, and those of the model's own units.

    Args:
        train: manifest; k-means sees random utterances of at most an hour of it.
        clusters: of k-means; None: as many as the codebooks have units. Codebooks of another size have no rows, because
            figures of different sizes cannot be compared.
        reader, speech, measures, work, cache, max_bytes: as ``ModelRows``.

    Raises:
        UserError: as ``ModelRows``, and from the manifest; no ``clusters`` for a model without codebooks.
    """

    acoustic = {MFCC: MFCC, FBANK: FBANK}

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
        self.clusters = cluster_count(reader, clusters)
        fitted = random_hour(read_utterances(train, frame_field(reader)))
        super().__init__(reader, fitted, speech, measures, work, cache, max_bytes)

    @property
    def settings(self) -> list[Any]:
        return [*super().settings, self.clusters, RESTARTS]

    @property
    def code_sets(self) -> list[str]:
        """Names of the sets of codes that have rows."""
        return [name for name, codes in self.reader.code_sets.items() if codes.size == self.clusters]

    def features(self, layer: int) -> FeatureFolder:
        """(F, D) of a layer of the trained model, for each utterance of ``speech``."""
        return self.caches["measured"][folder_of(layer)]

    def codes(self, code_set: str) -> FeatureFolder:
        """(F, K), the codes of all codebooks of a set, for each utterance of ``speech``."""
        return self.caches["measured"][code_set]

    def source(self, kind: str, layer: Layer, name: str) -> Source:
        """Features of a layer, an output or an acoustic kind, and k-means on them."""
        caches = self.caches_of(kind)
        fit, features = (caches[part][folder_of(layer)] for part in ("fit", "measured"))
        kmeans = fit_kmeans(fit, self.clusters, seed=SEED, restarts=RESTARTS, rate=fit.rate, source=fit.source)
        units = dict(kmeans_units(features, kmeans))
        place = (features.rate, features.first_centre)
        return Source(name, *place, features, units, self.clusters, centred=kind in self.acoustic)

    def more_entries(self) -> Iterator[Entry]:
        return (entry for name in self.code_sets for entry in self.code_entries(name))

    def code_entries(self, code_set: str) -> Iterator[Entry]:
        for k in range(self.reader.code_sets[code_set].count):
            name = code_name(self.reader.code_sets[code_set], k)
            yield Entry(name, {"name": name, "kind": code_set, "index": k}, partial(self.code_source, code_set, k))

    def code_source(self, code_set: str, k: int) -> Source:
        codes = self.codes(code_set)
        units = {utt: frames[:, k] for utt, frames in codes}
        name = code_name(self.reader.code_sets[code_set], k)
        return Source(name, codes.rate, codes.first_centre, units=units, n_codes=self.clusters)


def measures_for(
    speech: Speech, abx: bool, speakers: bool = False, items: Sequence[Item] | None = None
) -> list[Measure]:
    """Unit quality and, if asked for, ABX and the speaker probe.

    ``items``: of ABX; None: the triphones of the alignment.

    Raises UserError as ``abx_measure`` and ``require_probe``.
    """
    probe: list[Measure] = []
    if speakers:
        require_probe(speech)
        probe = [SpeakerProbe()]
    return [UnitQualityMeasure(), abx_measure(speech, items) if abx else NoAbx(), *probe]


def abx_measure(speech: Speech, items: Sequence[Item] | None = None) -> AbxMeasure:
    """Raises UserError for items of other speech; without items, if there are no phones, speakers or triphones."""
    if items is not None:
        chosen = items_of_speech(items, set(speech.names), speech.manifest)
        return AbxMeasure(chosen, seed=SEED, content=hashlib.sha256(repr(chosen).encode()).hexdigest())
    if speech.phones is None:
        raise UserError("ABX requires a phone alignment (--phones) or items (--items); give one, or leave out ABX")
    if speech.speakers is None:
        raise UserError(
            f"{speech.manifest}: ABX requires the speakers; name the files as LibriSpeech does, "
            "or put the files of each speaker into a folder"
        )
    return AbxMeasure(make_items(speech.phones, {utt: speech.speakers[utt] for utt in speech.names}), seed=SEED)


class NoAbx:
    """The columns of ABX, empty."""

    columns = AbxMeasure.columns

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        return dict.fromkeys(column.key for column in self.columns)


def cluster_count(reader: FrameReader, clusters: int | None) -> int:
    """Raises UserError as ``Comparison``."""
    if clusters is not None:
        return clusters
    if not reader.code_sets:
        raise UserError(f"{reader.path}: has no codebooks; give the number of clusters for k-means with --clusters")
    return reader.code_sets[reader.require_codes()].size


def code_name(codes: CodeSet, k: int) -> str:
    """``codebook 0``; without a number if there is only one."""
    return codes.noun if codes.count == 1 else f"{codes.noun} {k}"

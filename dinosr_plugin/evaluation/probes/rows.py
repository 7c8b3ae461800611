"""The rows of probes: features of training and of test speech, for every layer of a model and for its baselines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...checkpoints.embedding import EmbeddingReader
from ...checkpoints.readers import Layer
from ...data.acoustic import FEATURES
from ...data.manifest import utterance_id
from ...files import claim_folder, temporary_folder
from ...modules.frame_grid import TRUNK
from ...units.batches import Utterance, load_checked_wave
from ...units.frames import UtteranceArrays
from ...units.store import FeatureFolder
from ..layers import folder_of
from ..measuring import Entry, Measure, Source, measure_all
from ..model_rows import FBANK, LAYER, MFCC, NAMES, ModelRows, describe
from ..speakers.extraction import embed_recordings
from ..speakers.recordings import read_recordings
from ..speech import Speech, digest_of_utterances
from ..table import RowTable

WEIGHTED, EMBEDDING = "weighted", "embedding"  # further kinds of rows
ACOUSTIC = {MFCC: "mfcc_uncentred", FBANK: "fbank_uncentred"}


class StackedLayers:
    """(n, L, D) of each utterance: its features in several folders of one width."""

    def __init__(self, folders: Sequence[FeatureFolder]):
        self.folders = folders

    def __contains__(self, utt: str) -> bool:
        return utt in self.folders[0]

    def __getitem__(self, utt: str) -> np.ndarray:
        return np.stack([folder[utt] for folder in self.folders], axis=1)


class ProbeRows(ModelRows):
    """Rows whose sources have the features of the training speech, too; the last one is a weighted sum of all layers.

    MFCC and log-Mel are those with their means, which contain the speaker and the level.
    """

    acoustic: ClassVar[Mapping[str, str]] = ACOUSTIC

    def source(self, kind: str, layer: Layer, name: str) -> Source:
        fit, features = (self.caches_of(kind)[part][folder_of(layer)] for part in ("fit", "measured"))
        return Source(name, features.rate, features.first_centre, features, training=fit)

    def more_entries(self) -> Iterator[Entry]:
        if self.reader.n_layers > 1:
            name = "weighted sum of layers"
            yield Entry(name, {"name": name, "kind": WEIGHTED, "index": None}, partial(self.weighted, name))

    def weighted(self, name: str) -> Source:
        fit, features = (
            StackedLayers([self.caches[part][folder_of(layer)] for layer in range(self.reader.n_layers)])
            for part in ("fit", "measured")
        )
        return Source(name, self.reader.rate, self.reader.first_centre, features, training=fit)


class TrainedRows(ProbeRows):
    """The rows of the layers alone, without baselines."""

    acoustic: ClassVar[Mapping[str, str]] = {}

    def rows(self) -> list[dict[str, Any]]:
        return self.measured(self.layer_entries(LAYER))


class EmbeddingRows:
    """The rows of a model that embeds whole recordings: means of MFCC and log-Mel, and the embedding.

    Arguments and use as ``ModelRows``; ``train``: the manifest of ``fitted``.
    """

    def __init__(
        self,
        reader: EmbeddingReader,
        train: Path,
        fitted: Sequence[Utterance],
        speech: Speech,
        measures: Sequence[Measure],
        work: str | Path | None = None,
        baselines: bool = True,
    ):
        self.reader, self.train, self.fitted, self.speech, self.measures = reader, train, fitted, speech, measures
        self.stack, self.work_option, self.baselines = ExitStack(), work, baselines

    def __enter__(self) -> "EmbeddingRows":
        folder = temporary_folder() if self.work_option is None else claim_folder(self.work_option)
        self.work = self.stack.enter_context(folder)
        speech = [digest_of_utterances(self.fitted), self.speech.digest]
        self.table = RowTable(
            self.work / "rows.json", repr([self.reader.source, *speech, *map(describe, self.measures)])
        )
        return self

    def __exit__(self, *_) -> None:
        self.stack.close()

    def rows(self) -> list[dict[str, Any]]:
        """Measured, as ``ModelRows.rows``: kinds ``mfcc``, ``fbank``, ``embedding``."""
        acoustic = [self.entry(kind, NAMES[kind], partial(self.means, kind)) for kind in ACOUSTIC]
        embedding = self.entry(EMBEDDING, EMBEDDING, self.embeddings)
        entries: Iterable[Entry] = [*(acoustic if self.baselines else []), embedding]
        return measure_all(entries, self.speech, self.measures, self.table)

    def entry(self, kind: str, name: str, make) -> Entry:
        return Entry(name, {"name": name, "kind": kind, "index": None}, make)

    def means(self, kind: str) -> Source:
        compute = FEATURES[ACOUSTIC[kind]]
        training, features = (
            {one.name: compute(load_checked_wave(one)).mean(axis=0, keepdims=True) for one in utterances}
            for utterances in (self.fitted, self.speech.utterances)
        )
        return Source(NAMES[kind], TRUNK.rate, TRUNK.first_centre, features, training=training)

    def embeddings(self) -> Source:
        assert self.speech.manifest is not None
        training = self.embedded(self.train, self.fitted, "train")
        features = self.embedded(self.speech.manifest, self.speech.utterances, "test")
        return Source(EMBEDDING, 1.0, 0.0, features, training=training)

    def embedded(self, manifest: Path, utterances: Sequence[Utterance], part: str) -> UtteranceArrays:
        """Utterance -> (1, W)."""
        names = {utterance.name for utterance in utterances}
        recordings = [one for one in read_recordings(manifest) if utterance_id(one.name) in names]
        folder = (
            self.work
            / "cache"
            / f"{part}-{digest_of_utterances(utterances)[:16]}-{self.reader.source['fingerprint'][:16]}"
        )
        embed_recordings(self.reader, recordings, manifest, folder)
        return {utterance_id(name): vector for name, vector in FeatureFolder(folder)}

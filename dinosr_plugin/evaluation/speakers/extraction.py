"""From recordings to embedding folders: of MFCC, of a layer of a model, or of a model with its own embeddings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoints.chunks import MAX_MINUTES
from ...checkpoints.embedding import EmbeddingReader, statistics
from ...checkpoints.opening import open_embedder
from ...checkpoints.readers import Layer
from ...data.acoustic import cepstra
from ...modules.frame_grid import TRUNK
from ...units.batches import BATCH_SAMPLES, Utterance, plan_batches, prefetch, require_files
from ...units.features import Extracted, default_device, write_rows
from ...units.store import EMBEDDINGS, FeatureWriter, require_unmixed
from ..speech import digest_of_utterances
from .recordings import Recording, read_recordings, require_lengths, select
from .trials import names_of, read_trials


class MfccStatistics(EmbeddingReader):
    """Mean and standard deviation of 13 MFCC (``data.acoustic.cepstra``) over the frames of a recording.

    A baseline without learning. The means depend on the speaker and on the channel. The first ones are the largest, so
    that they count most in a cosine.
    """

    name, width, min_samples, pads = "MFCC", 26, TRUNK.field, True

    @property
    def source(self) -> dict[str, Any]:
        return {"features": "mfcc", "statistics": "mean, standard deviation"}

    def run(self, waves: list[Tensor]) -> Tensor:
        return torch.stack([statistics(torch.from_numpy(cepstra(wave.numpy()))) for wave in waves])


def embed_manifest(
    checkpoint: str | Path | None,
    manifest: str | Path,
    out: str | Path,
    trials: str | Path | None = None,
    layer: Layer | None = None,
    max_minutes: float = MAX_MINUTES,
    batch_samples: int = BATCH_SAMPLES,
    device: str | torch.device | None = None,
) -> Extracted:
    """An embedding of every recording of a manifest; an earlier run's work is kept.

    Args:
        checkpoint: None: ``MfccStatistics``.
        out: becomes the embedding folder.
        trials: a trial list: only the recordings and parts that occur in it.
        layer: as ``open_embedder``.
        max_minutes: longer recordings and parts are refused.
        batch_samples: samples in a batch at most; changes nothing but speed and memory.
        device: None: the GPU if there is one.

    Raises:
        UserError: from the checkpoint, the manifest, the list, the audio, or the folder.
    """
    recordings = read_recordings(manifest)
    if trials is not None:
        recordings = select(recordings, names_of(read_trials(trials)), f"{trials}")
    embedder = MfccStatistics() if checkpoint is None else open_embedder(checkpoint, layer, device or default_device())
    return embed_recordings(embedder, recordings, manifest, out, max_minutes, batch_samples)


def embed_recordings(
    embedder: EmbeddingReader,
    recordings: Sequence[Recording],
    manifest: str | Path,
    out: str | Path,
    max_minutes: float = MAX_MINUTES,
    batch_samples: int = BATCH_SAMPLES,
) -> Extracted:
    """As ``embed_manifest``, of recordings in a manifest."""
    require_lengths(recordings, manifest, embedder.min_samples, max_minutes)
    utterances = [Utterance(one.name, one.path, one.samples) for one in recordings]
    require_files(utterances, manifest)
    require_unmixed(Path(out), layers=False)
    rows = lambda missing: embed_rows(embedder, recordings, missing, batch_samples)
    return write_rows([writer_of(embedder, utterances, out)], utterances, f"{embedder.name} embeddings", rows)


def writer_of(embedder: EmbeddingReader, utterances: Sequence[Utterance], out: str | Path) -> FeatureWriter:
    """One row for each recording; the rate, which the format needs, means nothing."""
    source = {**embedder.source, "kind": EMBEDDINGS, "speech": digest_of_utterances(utterances)}
    names = [utterance.name for utterance in utterances]
    return FeatureWriter(out, 1.0, 0.0, embedder.width, "float32", source, names, [1] * len(names))


def embed_rows(
    embedder: EmbeddingReader, recordings: Sequence[Recording], rows: Sequence[int], batch_samples: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(row, [(1, W) float32 of norm 1]), in no particular order. A thread that is ahead of the model reads the files.

    Cosines do not depend on the norm, and k-means then clusters directions (SSRL, arXiv 2401.01473). An embedding of 0,
    which has no direction, stays 0; ``Embeddings`` refuses it.
    """

    def load(batch: list[int]) -> list[Tensor]:
        return [embedder.prepare(torch.from_numpy(recordings[row].load())) for row in batch]

    batches = plan_batches(recordings, rows, batch_samples, padding=embedder.pads)
    for batch, waves in prefetch(load, batches):
        for row, embedding in zip(batch, F.normalize(embedder.embed(waves)).numpy(), strict=True):
            yield row, [embedding[None]]

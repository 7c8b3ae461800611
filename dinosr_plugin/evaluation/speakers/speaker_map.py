"""The map of recordings: a sample of embeddings, balanced over speakers, in two dimensions."""

from typing import NamedTuple

import numpy as np

from ..projection import Projection, balanced, project
from .embeddings import Embeddings
from .recordings import speaker_of_name

RECORDINGS = 2000


class SpeakerMap(NamedTuple):
    """``speakers``: (N,) of each point, by its folders; all "" if a recording is in no folder."""

    projection: Projection
    speakers: np.ndarray

    @property
    def method(self) -> str:
        return "t-SNE" if self.projection.variance is None else "PCA"


def speaker_map(embeddings: Embeddings, seed: int = 0) -> SpeakerMap:
    """At most ``RECORDINGS`` embeddings; the same for the same seed."""
    speakers = np.array([speaker_of_name(name) for name in embeddings.names])
    if not speakers.all():
        speakers = np.full(len(speakers), "")
    sample = balanced(speakers, RECORDINGS, np.random.default_rng(seed))
    return SpeakerMap(project(embeddings.vectors[sample], seed), speakers[sample])

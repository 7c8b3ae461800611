"""Five utterances with known frames, and a writer of feature folders for them."""

from pathlib import Path

import numpy as np

from dinosr_plugin.units.store import FeatureWriter

NAMES, LENGTHS = ["c", "a", "é b", "none", "d"], [5, 3, 8, 0, 4]
FRAMES = [np.random.default_rng(row).normal(size=(length, 6)).astype(np.float32) for row, length in enumerate(LENGTHS)]


def writer(
    folder: Path,
    shard: int = 1,
    shards: int = 1,
    width: int = 6,
    dtype: str = "float32",
    source: dict | None = None,
    lengths=LENGTHS,
) -> FeatureWriter:
    """A writer for features of the five utterances, by default MFCC at 50 frames per second."""
    return FeatureWriter(folder, 50, 0.0125, width, dtype, source or {"kind": "mfcc"}, NAMES, lengths, shard, shards)

"""Embedding folders: the format of ``units.store`` with one row for each recording or part."""

from pathlib import Path

import numpy as np

from ...errors import UserError
from ...files import is_folder
from ...units.store import EMBEDDINGS, FeatureFolder

CREATE = "create it with `dinosr speaker embed`"


class Embeddings:
    """Embeddings of norm 1.

    Attributes:
        path: of the folder.
        source: what they are of, as ``FolderInfo.source``.
        names: of the recordings and parts, in the folder's order.
        row_of: name -> row.
        vectors: (N, W) float32, each of norm 1, so that products are cosines.

    Raises:
        UserError: as ``FeatureFolder``; features of frames; an embedding that is NaN, infinite or 0, which has no
            direction.
    """

    def __init__(self, path: str | Path):
        if not is_folder(path):
            raise UserError(f"{path}: no such folder; {CREATE}")
        folder = FeatureFolder(path)
        if folder.source.get("kind") != EMBEDDINGS or not (folder.lengths == 1).all():
            raise UserError(f"{path}: contains features of frames, not embeddings of recordings; {CREATE}")
        self.path, self.source = Path(path), folder.source
        self.names, self.row_of = folder.utterances, folder.row_of
        vectors = np.concatenate(folder.shards).astype(np.float64)  # squares of float32 may overflow
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if bad := [self.names[row] for row in np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))]:
            raise UserError(f"{path}: the embedding of {bad[0]} is 0 or not finite; remove the folder and {CREATE}")
        self.vectors = (vectors / norms).astype(np.float32)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

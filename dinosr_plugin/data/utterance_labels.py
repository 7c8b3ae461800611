"""Labels of utterances: a text file with one integer, such as the utterance's cluster, for every row of a manifest."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..files import read_lines
from .manifest import is_number, shorten

if TYPE_CHECKING:
    from torch import Tensor


def read_utterance_labels(
    path: Path,
    n_utterances: int,
    n_clusters: int | None = None,
    skipped: Collection[int] = (),
    manifest: str | None = None,
    remedy: str | None = None,
) -> tuple["Tensor", int]:
    """Reads the cluster of each utterance.

    Args:
        path: the file, such as ``train.cluster`` for ``train.tsv``.
        n_utterances: N, rows of the manifest that are used.
        n_clusters: K; None: one more than the largest label.
        skipped: rows of the manifest, from 0, that are not used; their labels are left out.
        manifest: what messages call the manifest; None: the file of the same name.
        remedy: what they advise; None: to correct the labels.

    Returns:
        (N,) int64 labels in the manifest's order, and K.

    Raises:
        UserError: missing file, number of lines different from the number of rows, a line that is not an integer from 0
            to K - 1, or fewer utterances than clusters.
    """
    manifest = manifest or f"{path.stem}.tsv"
    remedy = remedy or f"give it one cluster, an integer from 0, for each row of {manifest}"
    rows, row, labels = n_utterances + len(skipped), -1, []
    for row, line in enumerate(read_lines(path, remedy)):
        if row in skipped or row >= rows:
            continue
        label = line.strip()
        if not is_number(label):
            raise UserError(f"{path} line {row + 1}: {shorten(label)!r} is not one integer from 0; {remedy}")
        if n_clusters is not None and int(label) >= n_clusters:
            raise UserError(f"{path} line {row + 1}: there is no cluster {label}; clusters are 0 to {n_clusters - 1}")
        labels.append(int(label))
    if row + 1 != rows:
        raise UserError(f"{path}: {row + 1} lines for the {rows} rows of {manifest}; {remedy}")
    if n_clusters is None:
        n_clusters = 1 + max(labels, default=-1)
    if n_utterances < n_clusters:
        raise UserError(
            f"{path}: {n_utterances} utterances are fewer than the {n_clusters} clusters; number clusters from 0 "
            "without gaps, and use fewer of them"
        )
    import torch

    return torch.from_numpy(np.array(labels, dtype=np.int64)), n_clusters

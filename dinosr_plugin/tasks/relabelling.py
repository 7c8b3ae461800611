"""Refreshed labels (``task.relabel_every``): clusters of one of the model's layers, at the start of every Nth epoch.

HuBERT (Hsu et al. 2021) ends training, clusters, and trains another model with a new head. Here training of the same
model continues, and its head stays useful, because every new cluster gets the number of the old cluster with which it
shares most frames: the matching that leaves most labels unchanged.

All ranks take part and have the same labels afterwards, whatever their number, because the features of an utterance do
not depend on who computes them. Labels are saved in ``<save_dir>/labels``, and checkpoints record which of these files
they were trained on, so that a run that was killed before, during or after a refresh resumes as if it had not been. A
signal that stops the run interrupts a refresh, which starts again when the run resumes.
Validation splits get labels from the same clusters.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from fairseq.logging import metrics
from torch import Tensor

from ..checkpoints.opening import reader_of
from ..data.audio import SAMPLE_RATE
from ..data.dataset import SpeechDataset
from ..data.labels import FrameLabels, label_lines, read_labels
from ..errors import UserError
from ..files import is_file, write_files
from ..models.objective import Objective
from ..runs import stopping
from ..units.batches import BATCH_SAMPLES, Progress, plan_batches, prefetch
from ..units.clustering import SAMPLE, SAMPLE_AT_LEAST, assign, cluster
from ..units.frames import standardize
from ..units.matching import changed_share, count_pairs, matching, normalised_mutual_information
from .config import RelabellingConfig

logger = logging.getLogger(__name__)

SPREAD = 4
"""k-means draws its frames from utterances with this many times as many frames, and thus from more speakers."""


# ---- when, and which labels a checkpoint was trained on --------------------------------------------------------------


class Relabelling:
    """Called at the start of each epoch, including the one in which a run resumes.

    Attributes:
        epoch: the epoch at whose start the labels in memory were computed; 0: they are those of the label files.
    """

    def __init__(self, cfg: RelabellingConfig):
        self.cfg = cfg
        self.epoch = 0

    def begin_epoch(
        self, epoch: int, model: Objective, splits: dict[str, SpeechDataset], trained_on: str, state: dict[str, Any]
    ) -> None:
        """Give all splits the labels of this epoch.

        Args:
            splits: datasets with labels, by name. ``trained_on``: the name of the one that is clustered.
            state: saved in checkpoints. ``relabelled``: ``{"epoch": ..., "digests": {split: ...}}`` of the current
                labels.

        Raises:
            UserError: the labels that a checkpoint was trained on are missing, or were computed by another run.
        """
        due = self.due(epoch)
        saved = state.get("relabelled", {"epoch": 0, "digests": {}})
        if saved["epoch"] > epoch:
            state.pop("relabelled")  # a new run that starts from a checkpoint of an old one
        elif saved["epoch"] > self.epoch == 0:  # a run that resumes, perhaps with another relabel_every
            self.epoch = saved["epoch"]
            for split, dataset in splits.items():
                self.restore(self.path(split), dataset, saved["digests"].get(split))
        if self.epoch < due:
            relabel(model, splits, trained_on, self.cfg.relabel_layer, self.cfg.relabel_normalize, [self.cfg.seed, due])
            state["relabelled"] = {
                "epoch": due,
                "digests": {split: digest(dataset.labels[0]) for split, dataset in splits.items()},
            }
            self.epoch = due
            if rank() == 0:
                lines = {
                    self.path(split).name: label_lines(dataset.labels[0], dataset.skipped_indices)
                    for split, dataset in splits.items()
                }
                write_files(self.path(trained_on).parent, lines, "checkpoint.save_dir")

    def due(self, epoch: int) -> int:
        """The last epoch up to this one at whose start labels are refreshed; 0: none so far."""
        if self.cfg.relabel_every == 0:
            return 0
        last = epoch - (epoch - 1) % self.cfg.relabel_every
        return last if last > 1 else 0

    def path(self, split: str) -> Path:
        return Path(self.cfg.save_dir, "labels", f"{split}.epoch{self.epoch}.km")

    @staticmethod
    def restore(path: Path, dataset: SpeechDataset, expected: str | None) -> None:
        remedy = (
            "put back the labels that the checkpoint was trained on, or start from the label files in another "
            "checkpoint.save_dir"
        )
        if not is_file(path):
            raise UserError(f"{path}: no such file; {remedy}")
        labels = read_labels(
            path, dataset.labels[0].classes, dataset.sizes, dataset.label_rate, dataset.skipped_indices
        )
        if digest(labels) != expected:
            raise UserError(f"{path}: not the labels that the checkpoint was trained on; {remedy}")
        dataset.labels[0].values.copy_(labels.values)


def digest(labels: FrameLabels) -> str:
    """SHA-256 of the labels' values."""
    return hashlib.sha256(labels.values.numpy()).hexdigest()


# ---- new labels ------------------------------------------------------------------------------------------------------


def relabel(
    model: Objective, splits: dict[str, SpeechDataset], trained_on: str, layer: int, normalize: bool, seed: list[int]
) -> None:
    """Overwrite the first label set of every split with clusters of a layer's output, matched to the old labels.

    There are as many clusters as labels before. An utterance whose file cannot be read (``skip_bad_audio``) keeps its
    labels.
    """
    training, train = model.training, splits[trained_on]
    model.eval()
    k = train.labels[0].classes
    centroids = new_centroids(model, train, layer, normalize, k, seed)
    clusters = {split: cluster_labels(model, dataset, layer, normalize, centroids) for split, dataset in splits.items()}
    model.train(training)
    counts = count_pairs(train.labels[0].values.numpy(), clusters[trained_on], k)
    number_of = matching(counts)
    for split, dataset in splits.items():
        computed = clusters[split] >= 0
        dataset.labels[0].values[torch.from_numpy(computed)] = torch.from_numpy(
            number_of[clusters[split][computed]]
        ).to(dataset.labels[0].values.dtype)
    changed, shared = changed_share(counts, number_of), normalised_mutual_information(counts)
    logger.info(f"new labels from layer {layer}: {changed:.1%} changed, NMI with the old ones {shared:.3f}")
    metrics.log_scalar("labels_changed", changed, round=4)
    metrics.log_scalar("labels_nmi", shared, round=4)


def new_centroids(
    model: Objective, dataset: SpeechDataset, layer: int, normalize: bool, k: int, seed: list[int]
) -> np.ndarray:
    """(k, D) float32, the same on all ranks: k-means, on rank 0, of a random sample of frames computed by all ranks."""
    rows, places = draw_frames(frame_counts(model, dataset), max(SAMPLE * k, SAMPLE_AT_LEAST), seed)
    # the last column is 1 for the frames that were computed
    sample = torch.zeros(sum(len(place) for _, place in places.values()), reader_of(model).width + 1)
    for row, frames in layer_frames(model, dataset, rows, layer, normalize, "frames for k-means"):
        positions, place = places[row]
        sample[place] = torch.cat([torch.from_numpy(frames[positions]), torch.ones(len(place), 1)], dim=1)
    sample = sum_over_ranks(sample, model)
    sample = sample[sample[:, -1] == 1, :-1].numpy()
    if len(sample) < k:
        raise UserError(
            f"task.relabel_every: {len(sample)} frames are too few for the {k} clusters of the labels; train on more "
            "audio"
        )
    if not np.isfinite(sample).all():
        raise UserError(
            f"task.relabel_layer={layer}: returns NaN or infinity; the model has diverged, lower optimization.lr"
        )
    centroids = torch.zeros(k, sample.shape[1])
    if rank() == 0:
        centroids = torch.from_numpy(cluster(sample, k, seed)[0])
    return sum_over_ranks(centroids, model).numpy()  # the others add zeros


def draw_frames(
    counts: np.ndarray, n_frames: int, seed: list[int]
) -> tuple[list[int], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Random frames of random utterances, without replacement.

    Args:
        counts: (utterances,) frames of each.
        n_frames: frames to draw; fewer if there are no more.

    Returns:
        The utterances, and for each (its frames, their places in the sample, which is in random order).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(counts))
    ends = np.cumsum(counts[order])
    n_utterances = min(len(order), 1 + int(np.searchsorted(ends, SPREAD * n_frames)))
    n_available = ends[n_utterances - 1]
    drawn = rng.choice(n_available, min(n_frames, n_available), replace=False)
    owner = np.searchsorted(ends[:n_utterances], drawn, side="right")
    position = drawn - (ends - counts[order])[owner]
    places = {}
    for i in np.unique(owner):
        (place,) = np.nonzero(owner == i)
        places[int(order[i])] = (position[place], place)
    return sorted(places), places


def cluster_labels(
    model: Objective, dataset: SpeechDataset, layer: int, normalize: bool, centroids: np.ndarray
) -> np.ndarray:
    """The cluster of every label's frame, (n,) int32 in the order of the first label set's values, on all ranks.

    -1 for utterances that cannot be read.
    """
    labels, hop = dataset.labels[0], reader_of(model).grid.hop
    result = torch.zeros(len(labels.values), dtype=torch.int32)
    for row, frames in layer_frames(model, dataset, range(len(dataset)), layer, normalize, "new labels"):
        clusters = assign(frames, centroids)
        end = int(labels.ends[row])
        length = end - (int(labels.ends[row - 1]) if row else 0)
        result[end - length : end] = torch.from_numpy(
            clusters[frames_of_labels(length, len(frames), dataset.label_rate, hop)] + 1
        )
    return sum_over_ranks(result, model).numpy() - 1


def frames_of_labels(n_labels: int, n_frames: int, rate: int, hop: int) -> np.ndarray:
    """(n_labels,) the frame that begins closest to each label: the inverse of ``modules.frame_labels``."""
    i = np.arange(n_labels)
    return np.minimum((2 * SAMPLE_RATE * i + rate * hop) // (2 * rate * hop), n_frames - 1)


# ---- features, by all ranks ------------------------------------------------------------------------------------------


def frame_counts(model: Objective, dataset: SpeechDataset) -> np.ndarray:
    """(utterances,) int64, frames of each."""
    return reader_of(model).grid.counts(torch.from_numpy(dataset.sizes)).numpy()


class Samples(NamedTuple):
    """The attribute of an utterance that ``plan_batches`` uses."""

    samples: int


@torch.no_grad()
def layer_frames(
    model: Objective, dataset: SpeechDataset, rows: Iterable[int], layer: int, normalize: bool, title: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row, features (F, D) float32) for this rank's share of the rows, in any order.

    Files that cannot be read are left out, and so are the remaining ones once this rank has received a signal.
    ``normalize``: with ``standardize``. Batches are planned for all ranks together, so that the composition of a batch
    does not depend on their number.
    """
    reader, sizes = reader_of(model), {row: Samples(int(dataset.sizes[row])) for row in rows}
    batches = plan_batches(sizes, sizes, BATCH_SAMPLES, reader.pads)[rank() :: n_ranks()]
    progress = Progress(title, sum(sizes[row].samples for batch in batches for row in batch) / SAMPLE_RATE / 3600)
    for batch, sources in prefetch(lambda batch: [dataset[row]["source"] for row in batch], batches):
        waves = {row: wave for row, wave in zip(batch, sources) if wave is not None}
        if waves:
            for row, frames in zip(waves, reader.read(list(waves.values()), [layer])):
                x = frames.layers[0].numpy()  # (F, D)
                yield row, standardize(x) if normalize else x
        progress.update(sum(sizes[row].samples for row in batch))
        if stopping.received():
            break  # sum_over_ranks, which comes next, tells the other ranks
    logger.info(f"{title}: {progress.summary()}")


def device_of(model: Objective) -> torch.device:
    return next(model.parameters()).device


def sum_over_ranks(values: Tensor, model: Objective) -> Tensor:
    """Sum a CPU tensor over all ranks; it is communicated on the device of the model, and returned on the CPU.

    Raises ``stopping.Interrupted`` on all ranks if one of them has received a signal.
    """
    signals = torch.tensor([stopping.received()], device=device_of(model))
    if n_ranks() > 1:
        dist.all_reduce(signals)
    stopping.interrupt(bool(signals))
    if n_ranks() == 1:
        return values
    on_device = values.to(device_of(model))
    dist.all_reduce(on_device)
    return on_device.cpu()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def n_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1

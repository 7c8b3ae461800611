"""Pseudo-labels that a teacher refreshes during training (SSRL, Cai et al. 2025): labels, their history and weights.

Every utterance has a label, one of K clusters. In each epoch the teacher assigns it a new one, which joins the queue of
its latest labels. At the end of the epoch the most frequent label of the queue becomes the label, clusters without
utterances are removed, and each utterance gets a weight that says how likely its label is to be right. This module
knows nothing about models:

    pseudo = PseudoLabels(labels, n_clusters)
    for epoch in 1, 2, ...:
        for each update:
            train the student on pseudo.labels[utterances] with pseudo.weights[utterances], without pseudo.removed
            if pseudo.teacher_active(epoch):
                t = clusters that the teacher assigns, not those of pseudo.removed
                losses = cross entropies of the teacher with pseudo.voted(utterances, t, epoch)
                pseudo.observe(*gather_observations(utterances, t, losses))
        figures = pseudo.finish_epoch(epoch)

Epochs are counted from 1, as in fairseq; epoch n is the paper's e = n - 1.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UserError
from .clean_weights import clean_weights, require_scikit_learn
from .relabelling import n_ranks, rank

TIE_RULES = ("newest", "oldest")
STATE = ("labels", "queue", "weights", "removed", "initial", "seen_label", "seen_loss")
GATHERED = 512  # utterances of a rank that are gathered in one collective


class PseudoLabels:
    """Labels of N utterances and K clusters. The state is the same on all ranks if ``observe`` gets the same.

    Args:
        labels: (N,) int64, the first labels, from 0 to K - 1.
        n_clusters: K.
        fixed_epochs: epochs with the first labels; labels are first updated at the end of the last of them.
        queue_length: L, how many labels of an utterance vote.
        update_freq: labels are updated at the end of every epoch (1), every second epoch (2), ...
        tie_rule: which of several equally frequent labels wins: that which occurs latest in the queue ("newest"), or
            that which occurs first ("oldest", as in the released code with Python 3.8 or later).
        seed: of the mixture of losses.
        weighted: weights come from this mixture; otherwise they are always 1.

    Attributes:
        labels: (N,) int64, the current labels.
        queue: (N, L) int64, the latest labels, the newest last; -1, in front, for empty places.
        weights: (N,) float32, how likely each label is to be right; 1 at the start.
        removed: (K,) bool, clusters of the first labels that no utterance has now. Student and teacher must not predict
            them. A cluster returns if older labels in queues are the most frequent ones again.
        initial: (K,) bool, clusters of the first labels.
        seen_label: (N,) int64, what the teacher has assigned in this epoch; -1: nothing yet.
        seen_loss: (N,) float64, the teacher's loss in this epoch; NaN: none yet.
        epoch: the last one that was finished; 0: none.

    Raises:
        UserError: scikit-learn is not installed.
    """

    def __init__(
        self,
        labels: Tensor,
        n_clusters: int,
        fixed_epochs: int = 5,
        queue_length: int = 5,
        update_freq: int = 1,
        tie_rule: str = "newest",
        seed: int = 0,
        weighted: bool = True,
    ):
        require_scikit_learn()
        if tie_rule not in TIE_RULES:
            raise ValueError(f"tie_rule={tie_rule}: must be one of {TIE_RULES}")
        self.fixed_epochs, self.update_freq, self.tie_rule, self.seed = fixed_epochs, update_freq, tie_rule, seed
        self.weighted = weighted
        self.labels = labels.long().clone()
        self.queue = torch.full((len(labels), queue_length), -1, device=labels.device)
        copies = queue_length // 2
        self.queue[:, queue_length - copies :] = self.labels[:, None]  # (N, L // 2)
        self.weights = torch.ones(len(labels), device=labels.device)
        self.initial = clusters_in_use(self.labels, n_clusters)
        self.removed = torch.zeros_like(self.initial)
        self.seen_label = torch.full_like(self.labels, -1)
        self.seen_loss = torch.full_like(self.labels, torch.nan, dtype=torch.float64)
        self.epoch = 0

    # -- when ----------------------------------------------------------------------------------------------------------

    def teacher_active(self, epoch: int) -> bool:
        """Whether the teacher assigns clusters in this epoch: so early that the queue is full at the first update."""
        return epoch >= self.fixed_epochs - self.queue.size(1) // 2

    def updates_labels(self, epoch: int) -> bool:
        """Whether labels are updated at the end of this epoch."""
        return epoch >= self.fixed_epochs and (epoch - self.fixed_epochs) % self.update_freq == 0

    # -- an update -----------------------------------------------------------------------------------------------------

    def voted(self, utterances: Tensor, teacher_labels: Tensor, epoch: int) -> Tensor:
        """The labels for which the teacher's loss is computed: (n,) int64.

        The most frequent of an utterance's latest L labels, the teacher's included; before the first update of labels,
        and where the winner is a removed cluster, the teacher's.

        Args:
            utterances: (n,) int64, numbers of the utterances.
            teacher_labels: (n,) int64, the clusters that the teacher assigns to them.
        """
        if epoch < self.fixed_epochs:
            return teacher_labels
        votes = most_frequent(with_newest(self.queue[utterances], teacher_labels), self.tie_rule)
        return torch.where(self.removed[votes], teacher_labels, votes)

    def observe(self, utterances: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Record an update, with the utterances of all ranks (``gather_observations``).

        Args:
            utterances: (n,) int64, each once.
            labels: (n,) int64, the clusters that the teacher assigns.
            losses: (n,) float, the teacher's losses with the labels of ``voted``.
        """
        self.seen_label[utterances] = labels
        self.seen_loss[utterances] = losses.double()

    # -- the end of an epoch -------------------------------------------------------------------------------------------

    def finish_epoch(self, epoch: int) -> dict[str, float]:
        """Update queues, labels, removed clusters and weights; called once for each epoch, on all ranks.

        Queues and weights change for utterances that were seen in this epoch. All weights are fitted on rank 0.

        Returns:
            Figures for the log. ``clusters``: how many are in use. ``largest_cluster``: share of the utterances in the
            largest one. ``labels_changed``: share of the utterances whose label has changed. ``labels_nmi``: normalised
            mutual information with the labels before. ``mean_weight``: mean of all weights. ``clean_share``: share of
            the weights above 0.5.
        """
        if epoch <= self.epoch:
            raise ValueError(f"epoch {epoch} is finished already")
        seen, before = self.seen_label >= 0, self.labels
        self.queue[seen] = with_newest(self.queue[seen], self.seen_label[seen])
        if self.updates_labels(epoch):
            votes = most_frequent(self.queue, self.tie_rule)
            self.labels = torch.where(votes >= 0, votes, self.labels)  # a queue of length 1 may be empty
            self.removed = self.initial & ~clusters_in_use(self.labels, len(self.initial))
        if self.weighted and seen.any():
            self.weights[seen] = self.fit_weights(self.seen_loss[seen])
        self.seen_label.fill_(-1)
        self.seen_loss.fill_(torch.nan)
        self.epoch = epoch
        return self.figures(before)

    def fit_weights(self, losses: Tensor) -> Tensor:
        """(n,) float64 -> (n,) float32, computed by rank 0."""
        weights = torch.ones(len(losses))
        if rank() == 0:
            weights = torch.from_numpy(clean_weights(losses.cpu().numpy(), self.seed))
        if n_ranks() > 1:
            weights = weights.to(communication_device())
            dist.broadcast(weights, 0)
        return weights.to(losses.device)

    def figures(self, before: Tensor) -> dict[str, float]:
        """Those of ``finish_epoch``; ``before``: (N,) labels."""
        # The table of pairs in units.matching is dense, too large for 8000 clusters; this one is sparse.
        from sklearn.metrics import normalized_mutual_info_score

        sizes = torch.bincount(self.labels.cpu(), minlength=len(self.initial))  # (K,)
        return {
            "clusters": int((sizes > 0).sum()),
            "largest_cluster": int(sizes.max()) / len(self.labels),
            "labels_changed": float((self.labels != before).double().mean()),
            "labels_nmi": float(normalized_mutual_info_score(before.cpu().numpy(), self.labels.cpu().numpy())),
            "mean_weight": float(self.weights.double().mean()),
            "clean_share": float((self.weights > 0.5).double().mean()),
        }

    # -- where the state is --------------------------------------------------------------------------------------------

    def to(self, device: torch.device | str) -> "PseudoLabels":
        """Move the state to the device of the tensors that the methods get, that of the model. Returns self."""
        for name in STATE:
            setattr(self, name, getattr(self, name).to(device))
        return self

    def state_dict(self) -> dict[str, Any]:
        """All of the state at this moment: copies of the tensors, on the CPU, and ``epoch``."""
        return {name: getattr(self, name).to("cpu", copy=True) for name in STATE} | {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state. Raises UserError if it is of other utterances, clusters or queues."""
        for name, what in (("labels", "utterances"), ("removed", "clusters"), ("queue", "labels in a queue")):
            expected, found = getattr(self, name).size(-1), state[name].size(-1)
            if found != expected:
                raise UserError(
                    f"the checkpoint has pseudo-labels with {found} {what}, not {expected}; resume with the data and "
                    "settings of the first start, or start a new run in another checkpoint.save_dir"
                )
        for name in STATE:
            setattr(self, name, state[name].to(self.labels.device, copy=True))
        self.epoch = int(state["epoch"])


def clusters_in_use(labels: Tensor, n_clusters: int) -> Tensor:
    """(N,) int64 -> (K,) bool."""
    return torch.zeros(n_clusters, dtype=torch.bool, device=labels.device).index_fill_(0, labels, True)


def with_newest(queue: Tensor, labels: Tensor) -> Tensor:
    """Append labels (n,) to queues (n, L) and drop the oldest entries: (n, L)."""
    return torch.cat([queue[:, 1:], labels[:, None]], dim=1)


def most_frequent(queue: Tensor, tie_rule: str) -> Tensor:
    """The most frequent label of each queue (n, L), oldest first: (n,) int64; -1 if all places are empty."""
    length = queue.size(1)
    counts = sum((queue == queue[:, i, None]).long() for i in range(length))  # (n, L), how often each label occurs
    places = torch.arange(length, device=queue.device)
    preference = places if tie_rule == "newest" else length - 1 - places
    score = (counts * length + preference).masked_fill(queue < 0, -1)  # (n, L)
    return queue.gather(1, score.argmax(1, keepdim=True)).squeeze(1)


# ---- several ranks ---------------------------------------------------------------------------------------------------


def communication_device() -> torch.device:
    """Where collectives take their tensors from: with NCCL the GPU of this rank, with other backends the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def gather_observations(utterances: Tensor, labels: Tensor, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of ``PseudoLabels.observe`` of all ranks, joined in the order of the ranks.

    Called by all ranks at the same time. Each may have another number of utterances, also none. There is one
    collective, and a second one if any rank has more than ``GATHERED`` utterances. With several ranks it waits for the
    GPU once, because they need to know how many utterances each has.

    Args:
        utterances: (n,) int64. ``labels``: (n,) int64. ``losses``: (n,) float. All on one device.

    Returns:
        (m,) int64, (m,) int64, (m,) float64 on the same device.
    """
    rows = torch.stack([utterances.double(), labels.double(), losses.double()], dim=1)  # (n, 3), exact below 2^53
    if n_ranks() > 1:
        rows = gather_rows(rows.to(communication_device())).to(rows.device)
    utterances, labels, losses = rows.unbind(1)
    return utterances.long(), labels.long(), losses


def gather_rows(rows: Tensor) -> Tensor:
    """(n, C) float64 on each rank -> (sum of n, C)."""
    padded, counts = gather_padded(rows, GATHERED)
    if max(counts) > GATHERED:
        padded, _ = gather_padded(rows, max(counts))
    return torch.cat([part[:count] for part, count in zip(padded, counts)])


def gather_padded(rows: Tensor, size: int) -> tuple[list[Tensor], list[int]]:
    """The first ``size`` rows of each rank, padded with zeros to that number, and how many rows each rank has."""
    message = rows.new_zeros(1 + size, rows.size(1))
    message[0] = len(rows)
    message[1 : 1 + len(rows)] = rows[:size]
    received = [torch.empty_like(message) for _ in range(n_ranks())]
    dist.all_gather(received, message)
    counts = torch.stack([one[0, 0] for one in received]).long().tolist()
    return [one[1:] for one in received], counts

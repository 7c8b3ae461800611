"""DINO's loss between crops of an utterance (Caron et al. 2021, arXiv 2104.14294, section 3)."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .codebook import distributed


class DinoLosses(NamedTuple):
    """Figures of each utterance, (B,) float32 in nats.

    Both figures without gradient show a collapse. If ``divergence`` goes to 0, the targets no longer depend on the
    utterance: they are uniform if ``entropy`` goes to log(V), and concentrated on one output if it goes to 0.

    Attributes:
        loss: cross-entropy between teacher and student, the mean over pairs of crops.
        entropy: of the teacher's targets, the mean over its crops; detached.
        divergence: Kullback-Leibler divergence of the student from the targets, the mean over pairs: loss - entropy;
            detached.
    """

    loss: Tensor
    entropy: Tensor
    divergence: Tensor


class DinoLoss(nn.Module):
    """Cross-entropy of the student's predictions for the targets of the teacher, which are centred and sharpened.

    The centre is a moving average of the teacher's outputs. As with ``Codebooks``, ``forward`` only collects them (in
    training), and ``step_`` moves the centre, once for each update, so that several micro-batches and several ranks
    give the result of one large batch. Everything is computed in float32, in any precision of the model.

    Buffers: ``centre`` (V,).

    Args:
        n_outputs: V.
        student_temperature, teacher_temperature: logits are divided by them.
        centre_decay: weight of the old centre.
    """

    centre: Tensor

    def __init__(
        self,
        n_outputs: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        centre_decay: float = 0.9,
    ):
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.centre_decay = centre_decay
        self.register_buffer("centre", torch.zeros(n_outputs))
        self.pending: Tensor | None = None  # (V + 1,): sum and number of the teacher's outputs since the last step

    def _apply(self, fn, recurse=True):
        # follow the model's device, but not its dtype: in half precision a moving average would not move
        return super()._apply(lambda t: t.to(fn(t).device), recurse)

    def forward(self, global_crops: Tensor, local_crops: Tensor, teacher: Tensor, counted: bool = True) -> DinoLosses:
        """Each of the teacher's G crops is the target of all crops but itself: G (G - 1 + L) pairs.

        Args:
            global_crops: (G, B, V) the student's logits of the global crops, G >= 2.
            local_crops: (L, B, V) the student's logits of the local crops, L >= 0.
            teacher: (G, B, V) the teacher's logits of the same global crops, in the same order; used without gradient.
            counted: whether the outputs are part of the centre; False for a dummy batch.
        """
        with torch.autocast(teacher.device.type, enabled=False):
            targets = self.targets(teacher)
            if self.training and counted:
                self.collect(teacher)
            of_global = cross_entropies(targets, self.log_probs(global_crops))  # (B, G, G)
            of_local = cross_entropies(targets, self.log_probs(local_crops))  # (B, G, L)
        G, L = len(global_crops), len(local_crops)
        itself = torch.eye(G, dtype=torch.bool, device=targets.device)
        loss = (of_global.masked_fill(itself, 0).sum((1, 2)) + of_local.sum((1, 2))) / (G * (G - 1 + L))
        entropy = torch.special.entr(targets).sum(2).mean(0)
        return DinoLosses(loss, entropy, loss.detach() - entropy)

    def log_probs(self, student: Tensor) -> Tensor:
        return (student.float() / self.student_temperature).log_softmax(-1)

    @torch.no_grad()
    def targets(self, teacher: Tensor) -> Tensor:
        """The teacher's logits (..., V) -> probabilities (..., V) float32 with the present centre."""
        return ((teacher.float() - self.centre) / self.teacher_temperature).softmax(-1)

    @torch.no_grad()
    def collect(self, teacher: Tensor):
        """Add the teacher's logits (..., V) to the statistics of this update."""
        rows = teacher.float().flatten(0, -2)  # (N, V)
        statistics = torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])
        self.pending = statistics if self.pending is None else self.pending + statistics

    def forget_(self):
        """Drop the statistics collected since the last step."""
        self.pending = None

    @torch.no_grad()
    def step_(self):
        """Move the centre towards the mean of the outputs collected on all ranks, in one collective.

        Ranks that collected nothing take part; without any output the centre stays.
        """
        pending = self.centre.new_zeros(len(self.centre) + 1) if self.pending is None else self.pending
        self.forget_()
        if distributed():
            dist.all_reduce(pending)
        count = pending[-1]
        moved = self.centre_decay * self.centre + (1 - self.centre_decay) * pending[:-1] / count.clamp(min=1)
        self.centre.copy_(torch.where(count > 0, moved, self.centre))


def cross_entropies(targets: Tensor, log_probs: Tensor) -> Tensor:
    """Of every pair of crops: targets (G, B, V) and log probabilities (S, B, V) -> (B, G, S)."""
    return -(targets.transpose(0, 1) @ log_probs.permute(1, 2, 0))  # (B, G, V) @ (B, V, S)

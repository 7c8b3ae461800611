"""From a model's loss dictionary to fairseq's loss, sample size and log."""

from dataclasses import dataclass, field
from typing import Dict

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from ..modules.codebook_figures import FIGURES

SUMS = "codebook_"
"""Prefix of the sums over codebooks in a logging output. Meters get an underscore in front: fairseq does not print those."""

SINGLY = ("loss", "accuracy", "target_ppl", "pred_ppl", "active_codes")
"""Figures that are logged for each codebook too, as ``loss_0``, ``loss_1``, ...; all are logged as the mean over codebooks."""


@dataclass
class DinoSRCriterionConfig(FairseqDataclass):
    loss_weights: Dict[str, float] = field(
        default_factory=dict, metadata={"help": "weight of each loss by name; a loss that is not named has weight 1"}
    )


@register_criterion("dinosr", dataclass=DinoSRCriterionConfig)
class DinoSRCriterion(FairseqCriterion):
    """For every objective of the plug-in: the model returns ``losses`` (summed), ``sample_size``, and what to log: scalars, and
    ``codebook_sums`` as ``modules.codebook_figures`` has them."""

    def __init__(self, task, loss_weights=None):
        super().__init__(task)
        self.loss_weights = loss_weights or {}

    def forward(self, model, sample, reduce=True):
        """-> (loss summed over frames, frames, logging output), as fairseq's trainer wants it."""
        output = model(**sample["net_input"])
        losses = {name: self.loss_weights.get(name, 1.0) * loss for name, loss in output["losses"].items()}
        loss = sum(losses.values())
        sample_size = output["sample_size"]
        log = {
            "loss": loss.detach(),
            "sample_size": sample_size,
            "ntokens": sample_size,
            "nsentences": sample["id"].numel(),
            "samples": sample["net_input"]["source"].numel(),
        }
        if len(losses) > 1:
            log.update({f"loss_{name}": value.detach() for name, value in losses.items()})
        for name in self.scalars(output):  # weighted by frames, so that ranks and micro-batches average rightly
            log[f"mean_{name}"] = output[name] * sample_size
        log.update({SUMS + name: value for name, value in output.get("codebook_sums", {}).items()})
        return loss, sample_size, log

    @staticmethod
    def scalars(output: dict) -> list[str]:
        return [
            k
            for k, v in output.items()
            if k != "sample_size" and (isinstance(v, float) or torch.is_tensor(v) and v.dim() == 0)
        ]

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict]) -> None:
        """Sum over ranks and micro-batches; losses are nats per masked frame."""

        def total(key):
            return sum(log.get(key, 0) for log in logging_outputs)

        frames = max(utils.item(total("sample_size")), 1)
        for key in logging_outputs[0]:
            if key == "loss" or key.startswith("loss_"):
                metrics.log_scalar(key, utils.item(total(key)) / frames, frames, round=4)
            elif key.startswith("mean_"):
                metrics.log_scalar(key[len("mean_") :], utils.item(total(key)) / frames, frames, round=6)
        log_codebooks(codebook_sums(logging_outputs))
        seconds = utils.item(total("samples")) / 16000
        metrics.log_scalar("masked_frames", utils.item(total("sample_size")), round=1)
        metrics.log_scalar("audio_seconds", seconds, round=1)
        metrics.log_speed("audio_seconds_per_second", seconds, round=1)

    def logging_outputs_can_be_summed(self) -> bool:
        """Yes: fairseq adds them up over ranks in the collective that it needs for the sample size anyway."""
        return True


def codebook_sums(logging_outputs: list[dict]) -> dict[str, Tensor]:
    """The model's sums over frames, over micro-batches and ranks, on the CPU; empty where it has none."""
    return {
        key[len(SUMS) :]: sum(log[key] for log in logging_outputs).cpu()
        for key in logging_outputs[0]
        if key.startswith(SUMS)
    }


def log_codebooks(sums: dict[str, Tensor]) -> None:
    """Figures of all frames between two lines of the log, or of a whole validation: sums add up, and the figures are made when fairseq asks.

    Args:
        sums: as ``codebook_sums``, on the CPU; empty for a model without codebooks.
    """
    for name, value in sums.items():
        metrics.log_scalar(f"_{SUMS}{name}", value)
    if not sums:
        return
    names = list(sums)

    def logged(figure: str, codebook: slice):
        def value(meters) -> float:
            totals = {name: meters[f"_{SUMS}{name}"].sum[codebook] for name in names}
            return round(FIGURES[figure](totals).mean().item(), 4)

        return value

    for figure in FIGURES:
        if figure != "loss":  # logged above, as fairseq's own
            metrics.log_derived(figure, logged(figure, slice(None)))
        if figure in SINGLY:
            for k in range(len(sums["frames"])):
                metrics.log_derived(f"{figure}_{k}", logged(figure, slice(k, k + 1)))

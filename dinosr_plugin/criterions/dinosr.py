"""From a model's loss dictionary to fairseq's loss, sample size and log."""

from dataclasses import dataclass, field
from typing import Dict, List

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics


@dataclass
class DinoSRCriterionConfig(FairseqDataclass):
    loss_weights: Dict[str, float] = field(
        default_factory=dict, metadata={"help": "weight of each loss by name; a loss that is not named has weight 1"}
    )


@register_criterion("dinosr", dataclass=DinoSRCriterionConfig)
class DinoSRCriterion(FairseqCriterion):
    """For every objective of the plug-in: the model returns ``losses`` (summed), ``sample_size``, and scalars to log."""

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
        return loss, sample_size, log

    @staticmethod
    def scalars(output: Dict) -> List[str]:
        return [k for k, v in output.items() if k != "sample_size" and (isinstance(v, float) or torch.is_tensor(v) and v.dim() == 0)]

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict]) -> None:
        """Sum over ranks and micro-batches; losses are nats per masked frame."""

        def total(key):
            return utils.item(sum(log.get(key, 0) for log in logging_outputs))

        frames = max(total("sample_size"), 1)
        for key in logging_outputs[0]:
            if key == "loss" or key.startswith("loss_"):
                metrics.log_scalar(key, total(key) / frames, frames, round=4)
            elif key.startswith("mean_"):
                metrics.log_scalar(key[len("mean_") :], total(key) / frames, frames, round=5)
        metrics.log_scalar("masked_frames", total("sample_size"), round=1)
        metrics.log_scalar("audio_seconds", total("samples") / 16000, round=1)

    def logging_outputs_can_be_summed(self) -> bool:
        """Yes: one small reduction instead of a gather."""
        return True

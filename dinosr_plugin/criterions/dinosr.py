"""From the ``Output`` of an objective to fairseq's loss, sample size and log."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Dict

from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from ..modules.codebook_figures import FIGURES
from ..modules.frame_grid import SAMPLE_RATE
from ..modules.output import Output
from ..ranges import WEIGHT

MEAN, UNITS, SUMS = "mean_", "units_", "codebook_"
"""Prefixes in a logging output: of scalars times sample size, of the number of units, and of sums over codebooks."""

SINGLY = ("loss", "accuracy", "target_ppl", "pred_ppl", "active_codes")
"""Figures also logged for each codebook, as ``loss_0``, ``loss_1``, ...; all are logged as means over codebooks."""


@dataclass
class DinoSRCriterionConfig(FairseqDataclass):
    loss_weights: Dict[str, float] = field(
        default_factory=dict,
        metadata={"range": WEIGHT, "help": "weight of each loss by name; a loss that is not named has weight 1"},
    )


@register_criterion("dinosr", dataclass=DinoSRCriterionConfig)
class DinoSRCriterion(FairseqCriterion):
    """The criterion of every objective of the plug-in, whose model returns an ``Output``."""

    def __init__(self, task, loss_weights=None):
        super().__init__(task)
        self.loss_weights = loss_weights or {}

    def forward(self, model, sample, reduce=True):
        """-> (loss summed over units, number of units, logging output), as fairseq's trainer expects."""
        output: Output = model(**sample["net_input"])
        losses = {name: self.loss_weights.get(name, 1.0) * loss for name, loss in output.losses.items()}
        loss = sum(losses.values())
        log = {
            "loss": loss.detach(),
            "ntokens": output.sample_size,  # fairseq's name
            "nsentences": sample["id"].numel(),
            "samples": count_samples(sample["net_input"]["source"]),
            f"{UNITS}{output.unit}": output.sample_size,
        }
        if len(losses) > 1:
            log |= {f"loss_{name}": value.detach() for name, value in losses.items()}
        # weighted by units, so that the average over ranks and micro-batches is that over units
        log |= {f"{MEAN}{name}": value * output.sample_size for name, value in output.scalars.items()}
        log |= {f"{SUMS}{name}": value for name, value in output.codebook_sums.items()}
        return loss, output.sample_size, log

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict]) -> None:
        """Log the sums over ranks and micro-batches; losses are nats per unit."""

        def total(key):
            return utils.item(sum(log.get(key, 0) for log in logging_outputs))

        sample_size = max(total("ntokens"), 1)
        for key in logging_outputs[0]:
            if key == "loss" or key.startswith("loss_"):
                metrics.log_scalar(key, total(key) / sample_size, sample_size, round=4)
            elif key.startswith(MEAN):
                metrics.log_scalar(key.removeprefix(MEAN), total(key) / sample_size, sample_size, round=6)
            elif key.startswith(UNITS):
                metrics.log_scalar(key.removeprefix(UNITS), total(key), round=1)
        log_codebooks(logged_codebook_sums(logging_outputs))
        seconds = total("samples") / SAMPLE_RATE
        metrics.log_scalar("audio_seconds", seconds, round=1)
        metrics.log_speed("audio_seconds_per_second", seconds, round=1)

    def logging_outputs_can_be_summed(self) -> bool:
        """Yes: fairseq sums them over ranks in the collective that it needs for the sample size anyway."""
        return True


def count_samples(source: Tensor | list[Tensor]) -> int:
    """Samples of audio in a batch, with padding: of a (B, T) tensor, or of all views of a ``ViewDataset``."""
    return sum(view.numel() for view in source) if isinstance(source, list) else source.numel()


def logged_codebook_sums(logging_outputs: list[dict]) -> dict[str, Tensor]:
    """The model's sums over frames, over micro-batches and ranks, on the CPU; empty for a model without codebooks."""
    return {
        key[len(SUMS) :]: sum(log[key] for log in logging_outputs).cpu()
        for key in logging_outputs[0]
        if key.startswith(SUMS)
    }


def logged_means(logging_outputs: list[dict], names: Sequence[str]) -> dict[str, float]:
    """Means of scalars over the units of an update, over micro-batches and ranks.

    Empty without any unit, and for a model without these scalars.
    """
    keys = ["ntokens", *(f"{MEAN}{name}" for name in names)]
    if not logging_outputs[0].keys() >= {*keys}:
        return {}
    units, *totals = (utils.item(sum(log[key] for log in logging_outputs)) for key in keys)
    return {name: total / units for name, total in zip(names, totals)} if units else {}


def log_codebooks(sums: dict[str, Tensor]) -> None:
    """Log the sums, from which the figures are computed when fairseq asks for them.

    So the figures are those of all frames between two lines of the log, or of a whole validation.

    Args:
        sums: as ``logged_codebook_sums``, on the CPU; empty for a model without codebooks.
    """
    for name, value in sums.items():
        metrics.log_scalar(f"_{SUMS}{name}", value)  # fairseq does not print meters that begin with an underscore
    if not sums:
        return
    names = list(sums)

    def logged(figure: str, codebook: slice):
        def value(meters) -> float:
            totals = {name: meters[f"_{SUMS}{name}"].sum[codebook] for name in names}
            return round(FIGURES[figure](totals).mean().item(), 4)

        return value

    for figure in FIGURES:
        if figure != "loss":  # fairseq's own figure of this name is logged above
            metrics.log_derived(figure, logged(figure, slice(None)))
        if figure in SINGLY:
            for k in range(len(sums["frames"])):
                metrics.log_derived(f"{figure}_{k}", logged(figure, slice(k, k + 1)))

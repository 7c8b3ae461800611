"""Whether anything is learned.

Codebooks may have one code left, or the same prediction for all frames. The targets of DINO may be uniform, or the same
for all utterances. The student of either may guess. One cluster of pseudo-labels may have most utterances. The loss of
any model may be NaN.
"""

import logging
import math

import torch
from torch import Tensor

from ..models.objective import Objective
from ..modules.codebook_figures import FIGURES
from ..runs import stopping

logger = logging.getLogger(__name__)

ONE_CODE = 1.1
"""Perplexity of the codes below which (nearly) all frames have one code."""

SAME_PREDICTION = 0.01
"""Variance of the predictions, in units of 1 / V, below which they do not depend on the frame; untrained: about 0.3."""

GUESSING = 0.02
"""Distance of a cross-entropy from ln V, that of guessing among equally frequent codes, in units of ln V, below which
nothing is learned. Early in a training the loss may be higher: predictions that are wrong and sure."""

UNIFORM = 0.01
"""Distance of the entropy of targets from ln V, the highest one, in units of ln V, below which they are uniform."""

SAME_TARGETS = 0.01
"""Divergence of the student from the targets, in units of ln V, below which they are the same for all utterances: it
could not know those of other crops so well. Small trainings that collapsed had 0.002 to 0.006, those that learned at
least 0.08."""

DOMINANT = 0.5
"""Share of the utterances above which a cluster of pseudo-labels is no speaker."""

TARGET_FIGURES = ("target_entropy", "divergence", "log_outputs")
"""What ``TargetWatch`` looks at, of ``Output.scalars``."""


def describe(sums: dict[str, Tensor]) -> str:
    """One line of figures for each codebook, as in the log."""
    figures = {name: figure(sums).tolist() for name, figure in FIGURES.items()}
    return "; ".join(
        f"codebook {k}: " + ", ".join(f"{name} {values[k]:.4g}" for name, values in figures.items())
        for k in range(len(sums["frames"]))
    )


class Watch:
    """Counts for how many updates in a row something is wrong.

    Args:
        action: "warn" logs it every ``patience`` updates; "stop" ends the run. The figures are sums over ranks, so that
            all ranks stop after the same update.
        patience: updates.

    Attributes:
        remedy, guessing_remedy: what the message advises, as in ``Objective``.
    """

    def __init__(self, action: str, patience: int):
        self.action = action
        self.patience = patience
        self.remedy = Objective.collapse_remedy
        self.guessing_remedy = Objective.guessing_remedy

    def report(self, message: str, figures: str) -> None:
        """Log a warning with further figures, and stop after this update if that is the action."""
        logger.warning(f"{message}. {figures}")
        if self.action == "stop":
            stopping.agree_on_error(f"{message}; stopped because of task.on_collapse=stop")


class CollapseWatch(Watch):
    """A ``Watch`` over codebooks: each one, or its prediction, may have collapsed."""

    def __init__(self, action: str, patience: int):
        super().__init__(action, patience)
        self.updates = None  # (K,) int64

    def update(self, sums: dict[str, Tensor], number: int, files: list[str]) -> None:
        """Look at an update.

        Args:
            sums: its sums over frames of all ranks, as of ``modules.codebook_figures``.
            number: its number, from 1.
            files: those of this rank's last batch.
        """
        n_codes = sums["codes"].size(-1)
        one_code = FIGURES["target_ppl"](sums) < ONE_CODE
        same = FIGURES["pred_variance"](sums) < SAME_PREDICTION / n_codes
        collapsed = one_code | same
        distance = (FIGURES["loss"](sums) / math.log(n_codes) - 1).abs()
        guessing = (distance < GUESSING) & (self.guessing_remedy is not None)
        nothing_learned = ((collapsed | guessing) & (sums["frames"] > 0)).cpu()
        self.updates = torch.where(nothing_learned, (0 if self.updates is None else self.updates) + 1, 0)
        for k in (nothing_learned & (self.updates % self.patience == 0)).nonzero().flatten().tolist():
            what = "all frames have one code" if one_code[k] else "the prediction is the same for every frame"
            what, remedy = f"has collapsed ({what}", self.remedy
            if not collapsed[k]:
                what = f"learns nothing (its loss is {guessing_text(n_codes)}"
                remedy = self.guessing_remedy
            message = f"update {number}: codebook {k} {what}, for {self.updates[k]} updates); {remedy}"
            self.report(message, f"{describe(sums)}. Last batch: {', '.join(files)}")


class TargetWatch(Watch):
    """A ``Watch`` over distributions that a teacher gives as targets (DINO), and over pseudo-labels of utterances."""

    def __init__(self, action: str, patience: int):
        super().__init__(action, patience)
        self.updates = 0

    def update(self, figures: dict[str, float], number: int, files: list[str]) -> None:
        """Look at an update.

        Args:
            figures: ``TARGET_FIGURES``, in nats: means over the utterances of all ranks.
            number: its number, from 1.
            files: those of this rank's last batch.
        """
        fault = self.fault(**figures)
        self.updates = self.updates + 1 if fault else 0
        if fault and self.updates % self.patience == 0:
            what, reason, remedy = fault
            message = f"update {number}: {what} ({reason}, for {self.updates} updates); {remedy}"
            text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.report(message, f"{text}. Last batch: {', '.join(files)}")

    def fault(self, target_entropy: float, divergence: float, log_outputs: float) -> tuple[str, str, str | None] | None:
        """(what is wrong, the figure that shows it, a remedy), or None; also if figures are NaN."""
        loss, outputs = target_entropy + divergence, round(math.exp(log_outputs))
        limit = f"ln {outputs} = {log_outputs:.4g}"
        if target_entropy > (1 - UNIFORM) * log_outputs:
            return "the targets are uniform", f"their entropy is {target_entropy:.4g} of at most {limit}", self.remedy
        if divergence < SAME_TARGETS * log_outputs:
            reason = f"the student's divergence from them is {divergence:.4g}, with {limit}"
            return "the targets are the same for all utterances", reason, self.remedy
        if abs(loss / log_outputs - 1) < GUESSING:
            return "nothing is learned", f"the loss is {loss:.4g}; {guessing_text(outputs)}", self.guessing_remedy
        return None

    def check_clusters(self, figures: dict[str, float], epoch: int) -> None:
        """Look at new pseudo-labels. ``figures``: of ``PseudoLabels.finish_epoch``."""
        clusters, largest = int(figures["clusters"]), figures["largest_cluster"]
        if largest <= DOMINANT:
            return
        share = f"one of {clusters} clusters has {largest:.1%} of the utterances"
        what = share if clusters > 1 else "one cluster has all utterances"
        message = f"epoch {epoch}: the labels of utterances have collapsed ({what}); {self.remedy}"
        self.report(message, ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def guessing_text(outputs: int) -> str:
    return f"ln {outputs} = {math.log(outputs):.4g}, that of guessing"


def warn_of_bad_loss(loss: float, sums: dict[str, Tensor], number: int, files: list[str]) -> None:
    """Name the files of a batch with a NaN or infinite loss. fairseq skips such an update (fp16) or stops all ranks."""
    figures = f" {describe(sums)}." if sums else ""
    logger.warning(
        f"update {number}: the loss is {loss}.{figures} Files: {', '.join(files)}; "
        "`dinosr check MANIFEST` shows whether they are valid"
    )

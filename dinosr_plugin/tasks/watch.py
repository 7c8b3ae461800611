"""Whether anything is learned: codebooks with one code left, the same prediction everywhere, guessing, NaN."""

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


def describe(sums: dict[str, Tensor]) -> str:
    """One line of figures for each codebook, as in the log."""
    figures = {name: figure(sums).tolist() for name, figure in FIGURES.items()}
    return "; ".join(
        f"codebook {k}: " + ", ".join(f"{name} {values[k]:.4g}" for name, values in figures.items())
        for k in range(len(sums["frames"]))
    )


class CollapseWatch:
    """Counts for how many updates in a row nothing was learned of each codebook: it, or its prediction, has collapsed.

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
                what = f"learns nothing (its loss is ln {n_codes} = {math.log(n_codes):.4g}, that of guessing"
                remedy = self.guessing_remedy
            message = f"update {number}: codebook {k} {what}, for {self.updates[k]} updates); {remedy}"
            logger.warning(f"{message}. {describe(sums)}. Last batch: {', '.join(files)}")
            if self.action == "stop":
                stopping.agree_on_error(f"{message}; stopped because of task.on_collapse=stop")


def warn_of_bad_loss(loss: float, sums: dict[str, Tensor], number: int, files: list[str]) -> None:
    """Name the files of a batch with a NaN or infinite loss. fairseq skips such an update (fp16) or stops all ranks."""
    figures = f" {describe(sums)}." if sums else ""
    logger.warning(
        f"update {number}: the loss is {loss}.{figures} Files: {', '.join(files)}; "
        "`dinosr check MANIFEST` shows whether they are valid"
    )

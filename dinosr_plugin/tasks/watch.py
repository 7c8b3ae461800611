"""What a loss does not show: codebooks with one code left, a student with the same prediction everywhere, NaN."""

import logging

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


def describe(sums: dict[str, Tensor]) -> str:
    """One line of figures for each codebook, as in the log."""
    figures = {name: figure(sums).tolist() for name, figure in FIGURES.items()}
    return "; ".join(
        f"codebook {k}: " + ", ".join(f"{name} {values[k]:.4g}" for name, values in figures.items())
        for k in range(len(sums["frames"]))
    )


class CollapseWatch:
    """Counts for how many updates in a row each codebook, or the prediction of its codes, has been collapsed.

    Args:
        action: "warn" logs it every ``patience`` updates; "stop" ends the run. The figures are sums over ranks, so that
            all ranks stop after the same update.
        patience: updates.

    Attributes:
        remedy: what the message advises, ``Objective.collapse_remedy``.
    """

    def __init__(self, action: str, patience: int):
        self.action = action
        self.patience = patience
        self.remedy = Objective.collapse_remedy
        self.updates = None  # (K,) int64

    def update(self, sums: dict[str, Tensor], number: int, files: list[str]) -> None:
        """Look at an update.

        Args:
            sums: its sums over frames of all ranks, as of ``modules.codebook_figures``.
            number: its number, from 1.
            files: those of this rank's last batch.
        """
        one_code = FIGURES["target_ppl"](sums) < ONE_CODE
        same = FIGURES["pred_variance"](sums) < SAME_PREDICTION / sums["codes"].size(-1)
        collapsed = ((one_code | same) & (sums["frames"] > 0)).cpu()
        self.updates = torch.where(collapsed, (0 if self.updates is None else self.updates) + 1, 0)
        for k in (collapsed & (self.updates % self.patience == 0)).nonzero().flatten().tolist():
            what = "all frames have one code" if one_code[k] else "the prediction is the same for every frame"
            message = (
                f"update {number}: codebook {k} has collapsed ({what}, for {self.updates[k]} updates); {self.remedy}"
            )
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

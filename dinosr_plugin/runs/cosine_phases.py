"""A learning rate of several phases, each half a cosine from its highest to its lowest value (SSRL, arXiv 2401.01473).

SSRL trains with first labels, from 1e-4 to 1e-5, and then from 5e-4 to 1e-5 with labels that are updated. fairseq's
``cosine`` schedule has one lowest value for all periods, as a share of the highest.
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from ..errors import UserError, setting
from ..ranges import COUNT, COUNT_OR_0, WEIGHT, check_ranges


@dataclass
class CosinePhasesConfig(FairseqDataclass):
    lr: list[float] = field(
        default=II("optimization.lr"), metadata={"range": WEIGHT, "help": "highest value of each phase"}
    )
    min_lr: float = field(default=0.0, metadata={"range": WEIGHT, "help": "value at the end of each phase"})
    phase_updates: list[int] = field(
        default_factory=list,
        metadata={"range": COUNT, "help": "updates of each phase; after the last one the learning rate stays"},
    )
    warmup_updates: int = field(
        default=0, metadata={"range": COUNT_OR_0, "help": "updates at the start with a linear rise from min_lr to lr"}
    )


@register_lr_scheduler("cosine_phases", dataclass=CosinePhasesConfig)
class CosinePhases(FairseqLRScheduler):
    """In update s (from 0) of a phase of n: min_lr + (lr - min_lr) (1 + cos(pi s / n)) / 2.

    ``warmup_updates`` precede the first phase and are not part of it.
    """

    def __init__(self, cfg: CosinePhasesConfig, optimizer: Any):
        super().__init__(cfg, optimizer)
        check_ranges(cfg, CosinePhasesConfig, "lr_scheduler")
        if not cfg.phase_updates or len(cfg.phase_updates) != len(cfg.lr):
            raise UserError(
                f"{setting('lr_scheduler.phase_updates', list(cfg.phase_updates))}: give one number of updates for "
                f"each of the {len(cfg.lr)} learning rates in {setting('optimization.lr')}"
            )
        self.ends = list(accumulate(cfg.phase_updates))
        self.step_update(0)

    def value(self, n_updates: int) -> float:
        """The learning rate after so many updates."""
        cfg, step = self.cfg, n_updates - self.cfg.warmup_updates
        if step < 0:
            return cfg.min_lr + (cfg.lr[0] - cfg.min_lr) * n_updates / cfg.warmup_updates
        for highest, length, end in zip(cfg.lr, cfg.phase_updates, self.ends):
            if step < end:
                share = 1 - (end - step) / length
                return cfg.min_lr + (highest - cfg.min_lr) * (1 + math.cos(math.pi * share)) / 2
        return cfg.min_lr

    def step_update(self, num_updates: int) -> float:
        self.optimizer.set_lr(self.value(num_updates))
        return self.optimizer.get_lr()

"""Adam with an L2 penalty, as SSRL uses it (Cai et al., arXiv 2401.01473, released code).

fairseq's ``adam`` decays the weights apart from the gradient, as AdamW does. Here the penalty is part of the gradient:
what Adam divides by grows with it, so that it counts most for parameters with small gradients.
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import nn

from ..ranges import SHARE, WEIGHT, check_ranges

NAME = "adam_l2"


@dataclass
class AdamL2Config(FairseqDataclass):
    """Its fields have the names of fairseq's ``adam``."""

    adam_betas: Any = field(
        default="(0.9,0.999)", metadata={"help": "decay of the two moments per update, two numbers below 1"}
    )
    adam_eps: float = field(
        default=1e-8, metadata={"range": SHARE, "help": "added to the root of the second moment, after its correction"}
    )
    weight_decay: float = field(
        default=5e-5, metadata={"range": WEIGHT, "help": "factor of the parameters that are added to their gradient"}
    )
    lr: list[float] = field(
        default=II("optimization.lr"), metadata={"range": WEIGHT, "help": "learning rate; the schedule changes it"}
    )


@register_optimizer(NAME, dataclass=AdamL2Config)
class AdamL2(FairseqOptimizer):
    """``torch.optim.Adam``."""

    supports_flat_params = True

    def __init__(self, cfg: AdamL2Config, params: Iterable[nn.Parameter]):
        super().__init__(cfg)
        check_ranges(cfg, AdamL2Config, "optimizer")
        betas = ast.literal_eval(cfg.adam_betas) if isinstance(cfg.adam_betas, str) else cfg.adam_betas
        self._optimizer = torch.optim.Adam(
            params, lr=cfg.lr[0], betas=tuple(betas), eps=cfg.adam_eps, weight_decay=cfg.weight_decay
        )

"""SGD as DINO uses it: the gradient of each parameter is clipped separately, and vectors have no weight decay.

Caron et al. 2021 (arXiv 2104.14294, released code), and the first stage of SSRL (Cai et al., arXiv 2401.01473).
fairseq's ``sgd`` has one weight decay for all parameters, and ``optimization.clip_norm`` limits the norm of all
gradients together.
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor, nn

from ..compat.wrapping import wrap_once
from ..ranges import DROPOUT, WEIGHT, Range, check_ranges

NAME = "dino_sgd"
EPSILON = 1e-6  # added to a norm before the limit is divided by it, as in DINO's code


@dataclass
class DinoSgdConfig(FairseqDataclass):
    momentum: float = field(default=0.9, metadata={"range": DROPOUT, "help": "weight of the earlier steps"})
    weight_decay: float = field(
        default=5e-5,
        metadata={
            "range": WEIGHT,
            "help": "L2 penalty on matrices and convolutions; biases and the weights of norms, which are vectors, have "
            "none",
        },
    )
    clip_each: float = field(
        default=3.0,
        metadata={
            "range": Range(0, 1e9),
            "help": "highest norm of the gradient of each parameter, to which a larger one is scaled; 0: no limit. "
            "optimization.clip_norm limits all gradients together",
        },
    )
    lr: list[float] = field(
        default=II("optimization.lr"), metadata={"range": WEIGHT, "help": "learning rate; the schedule changes it"}
    )


@register_optimizer(NAME, dataclass=DinoSgdConfig)
class DinoSgd(FairseqOptimizer):
    """``torch.optim.SGD`` with two groups of parameters, and a limit for each gradient.

    The limit applies to the gradient of the whole update: the mean over its utterances, summed over micro-batches and
    ranks, without the loss scale of fp16. A parameter without a gradient stays, with its momentum.
    """

    def __init__(self, cfg: DinoSgdConfig, params: Iterable[nn.Parameter]):
        super().__init__(cfg)
        check_ranges(cfg, DinoSgdConfig, "optimizer")
        params = list(params)
        groups = [
            {"params": [p for p in params if p.dim() > 1], "weight_decay": cfg.weight_decay},
            {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.SGD(groups, lr=cfg.lr[0], momentum=cfg.momentum)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Make an update with the gradients as they are."""
        if self.cfg.clip_each > 0:
            clip_each([p.grad for p in self.params if p.grad is not None], self.cfg.clip_each)
        super().step(*args, **kwargs)


@torch.no_grad()
def clip_each(gradients: list[Tensor], max_norm: float) -> None:
    """Scale each gradient whose norm is above ``max_norm`` to it, without waiting for the GPU."""
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients))  # (number of parameters,)
        factors = (max_norm / (norms + EPSILON)).clamp(max=1)
        torch._foreach_mul_(gradients, list(factors))


def keep_parameters_separate():
    """Training in half precision has a float32 copy of each parameter with this optimiser.

    fairseq otherwise joins all copies in one vector, in which neither norms nor vectors can be told apart.
    """
    from fairseq.optim.fp16_optimizer import FP16Optimizer

    def make(previous):
        def build(cfg, params, **kwargs):
            if cfg.optimizer._name == NAME:
                cfg = copy.deepcopy(cfg)
                cfg.common.fp16_no_flatten_grads = True
            return previous(cfg, params, **kwargs)

        return build

    wrap_once(FP16Optimizer, "build_optimizer", make)

"""fairseq's Adam by torch's fused kernel."""

from collections import defaultdict

import torch

from ..compat.wrapping import wrap_once


def fused_adam():
    """fairseq's Adam is eight operators for each parameter, on a GPU half of all that a training update launches. torch's fused kernel does the same to
    all parameters at once, without memory of its own: the same numbers but for rounding, the same state in checkpoints.

    Parameters in half precision and ``amsgrad`` (memory_efficient_fp16, other projects) are left to fairseq.
    """
    from fairseq.optim.adam import Adam

    wrap_once(Adam, "step", one_kernel)


def one_kernel(previous):
    def step(self, closure=None):
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        if closure is not None or not all(can_be_fused(group, p) for group, parameters in groups for p in parameters):
            return previous(self, closure)
        for group, parameters in groups:
            for number, those in by_step(self.state, parameters).items():
                update(self.state, group, those, number)

    return step


def can_be_fused(group: dict, p: torch.Tensor) -> bool:
    return (
        p.dtype == p.grad.dtype == torch.float32 and p.grad.stride() == p.stride() and not group.get("amsgrad", False)
    )


def by_step(state: dict, parameters: list) -> dict:
    """Number of this step -> its parameters: one that had no gradient at times has made fewer. Their state is begun, or brought to where they are."""
    groups = defaultdict(list)
    for p in parameters:
        own = state[p]
        own["step"] = own.get("step", 0) + 1
        for name in ("exp_avg", "exp_avg_sq"):
            own[name] = own[name].to(p) if name in own else torch.zeros_like(p)
        groups[own["step"]].append(p)
    return groups


@torch.no_grad()
def update(state: dict, group: dict, parameters: list, step: int):
    """fairseq adds eps to the root of the second moment before its correction for the first steps, torch after it."""
    torch._fused_adamw_(
        parameters,
        [p.grad for p in parameters],
        [state[p]["exp_avg"] for p in parameters],
        [state[p]["exp_avg_sq"] for p in parameters],
        [],
        [torch.full((), float(step), device=parameters[0].device)] * len(parameters),  # filled there: no waiting
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"] / (1 - group["betas"][1] ** step) ** 0.5,
        amsgrad=False,
        maximize=False,
    )

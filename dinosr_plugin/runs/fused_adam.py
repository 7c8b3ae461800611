"""fairseq's Adam with torch's fused kernel."""

from collections import defaultdict

import torch

from ..compat.wrapping import wrap_once


def use_fused_adam():
    """Replace the step of fairseq's Adam with torch's fused kernel.

    fairseq's Adam launches eight operators for each parameter, on a GPU half of all launches of a training update. The
    fused kernel updates all parameters at once and allocates no memory. The results are the same except for rounding,
    and so is the state in checkpoints.

    Parameters in half precision and ``amsgrad`` (memory_efficient_fp16, other projects) are left to fairseq.
    """
    from fairseq.optim.adam import Adam

    wrap_once(Adam, "step", fused_step)


def fused_step(previous):
    def step(self, closure=None):
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        if closure is not None or not all(can_be_fused(group, p) for group, parameters in groups for p in parameters):
            return previous(self, closure)
        for group, parameters in groups:
            for step_number, same_step in group_by_step(self.state, parameters).items():
                update(self.state, group, same_step, step_number)

    return step


def can_be_fused(group: dict, p: torch.Tensor) -> bool:
    return (
        p.dtype == p.grad.dtype == torch.float32 and p.grad.stride() == p.stride() and not group.get("amsgrad", False)
    )


def group_by_step(state: dict, parameters: list) -> dict:
    """Step number -> parameters for which this is that step; one without a gradient in some updates has made fewer.

    Creates the state of parameters that have none, and moves loaded state to the device of its parameter.
    """
    groups = defaultdict(list)
    for p in parameters:
        p_state = state[p]
        p_state["step"] = p_state.get("step", 0) + 1
        for name in ("exp_avg", "exp_avg_sq"):
            p_state[name] = p_state[name].to(p) if name in p_state else torch.zeros_like(p)
        groups[p_state["step"]].append(p)
    return groups


@torch.no_grad()
def update(state: dict, group: dict, parameters: list, step: int):
    """fairseq adds eps to the root of the second moment before the bias correction, torch after it: eps is scaled."""
    torch._fused_adamw_(
        parameters,
        [p.grad for p in parameters],
        [state[p]["exp_avg"] for p in parameters],
        [state[p]["exp_avg_sq"] for p in parameters],
        [],
        [torch.full((), float(step), device=parameters[0].device)] * len(parameters),  # filled on the device: no sync
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"] / (1 - group["betas"][1] ** step) ** 0.5,
        amsgrad=False,
        maximize=False,
    )

"""The cost of work, independent of the machine's load: operators, bytes, FLOPs, collectives.

The same work always has the same cost. The operators and FLOPs inside code compiled by torch.compile are not counted,
only the operators that it calls.
"""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    conv_flop_count,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

aten = torch.ops.aten


def convolution_backward(
    grad, x, w, _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, wanted, out_shape=None, **_
) -> int:
    """Each of the two gradients costs as much as the forward pass. torch's own formula ignores the groups."""
    return (wanted[0] + wanted[1]) * conv_flop_count(x, w, grad, transposed)


FORMULAS = flop_registry | {  # torch 2.13 has none for attention on a CPU
    aten.convolution_backward: shape_wrapper(convolution_backward),
    aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


class Calls(TorchDispatchMode):
    """Counts the operators that torch dispatches to a device, except views, which do no work.

    The backward pass and custom autograd Functions are included. torch's own ``FlopCounterMode`` also tracks modules,
    which fails when a model under ``no_grad`` receives an input that requires a gradient.

    Attributes:
        operators: number of operators.
        flops: of all matrix products, convolutions and attentions; a multiplication and an addition count as two.
            Element-wise operators have none.
        allocated: bytes of new output tensors; not the temporary memory inside an operator.
        collectives, collective_bytes: calls of torch.distributed, and the bytes of the tensors passed to them.
    """

    def __init__(self):
        super().__init__()
        self.operators = self.flops = self.allocated = self.collectives = self.collective_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # done by autograd, except in inference mode
            output = func.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        output = func(*args, **kwargs)
        given = tensors((args, kwargs))
        if func.namespace == "c10d":
            self.collectives += 1
            self.collective_bytes += sum(tensor.nbytes for tensor in given)
        elif not func.is_view:
            self.operators += 1
            old = {tensor.untyped_storage()._cdata for tensor in given}
            made = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors(output)}
            self.allocated += sum(size for storage, size in made.items() if storage not in old)
        if func.overloadpacket in FORMULAS:
            self.flops += FORMULAS[func.overloadpacket](*args, **kwargs, out_val=output)
        return output


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def count(work: Callable[[], None]) -> dict[str, int]:
    """The attributes of ``Calls``, of doing it once."""
    with Calls() as calls:
        work()
    return {
        name: getattr(calls, name) for name in ("operators", "flops", "allocated", "collectives", "collective_bytes")
    }

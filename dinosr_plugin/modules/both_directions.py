"""Two layers over the same frames: one reads them forward in time, the other backward."""

import torch
from torch import Tensor, nn


def reverse(x: Tensor, padding: Tensor | None) -> Tensor:
    """x (B, F, D) with the frames of each utterance in reverse order; padded frames stay where they are.

    padding (B, F) bool, true past the end of an utterance, or None.
    """
    if padding is None:
        return x.flip(1)
    position = torch.arange(x.size(1), device=x.device)
    last = (~padding).sum(1, keepdim=True) - 1  # (B, 1)
    places = torch.where(padding, position, last - position)  # (B, F)
    return x.gather(1, places.unsqueeze(-1).expand_as(x))


class BothDirections(nn.Module):
    """(B, F, C) -> (B, F, 2 D): the outputs (B, F, D) of a forward layer, then those of a backward layer.

    Args:
        ahead, back: layers that are called as ``layer(x, padding)``. ``back`` gets the frames of each utterance in
            reverse order; its outputs are put back in order.
        separate: ``ahead`` reads the first half of the C channels and ``back`` the second; else both read all of them.
            Stacked separate layers are two models that share nothing; layers that read all of the other direction too
            are those of a bidirectional recurrent network.
    """

    def __init__(self, ahead: nn.Module, back: nn.Module, separate: bool):
        super().__init__()
        self.ahead, self.back, self.separate = ahead, back, separate

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        first, second = x.chunk(2, dim=-1) if self.separate else (x, x)
        backward = reverse(self.back(reverse(second, padding), padding), padding)
        return torch.cat([self.ahead(first, padding), backward], dim=-1)

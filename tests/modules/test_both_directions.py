"""Forward and backward layers over padded utterances, against torch's bidirectional GRU."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dinosr_plugin.modules.both_directions import BothDirections, reverse

SIZES = torch.tensor([7, 3, 5])
PADDING = torch.arange(7) >= SIZES.unsqueeze(1)


class GRU(nn.GRU):
    def forward(self, x, padding):
        return super().forward(x)[0]


def frames(width: int) -> torch.Tensor:
    return torch.randn(3, 7, width, generator=torch.Generator().manual_seed(0))


def layers(before: int, width: int) -> list[GRU]:
    torch.manual_seed(0)
    return [GRU(before, width, batch_first=True) for _ in range(2)]


def test_valid_frames_are_reversed_and_padded_ones_stay():
    x = frames(2)
    reversed_frames = reverse(x, PADDING)
    for row, size in enumerate(SIZES):
        assert torch.equal(reversed_frames[row, :size], x[row, :size].flip(0))
        assert torch.equal(reversed_frames[row, size:], x[row, size:])
    assert torch.equal(reverse(reversed_frames, PADDING), x) and torch.equal(reverse(x, None), x.flip(1))


@pytest.mark.parametrize("padded", [True, False])
def test_layers_that_read_all_are_a_bidirectional_network(padded):
    x, parts, whole = frames(4), layers(4, 5), nn.GRU(4, 5, batch_first=True, bidirectional=True)
    for part, suffix in zip(parts, ("", "_reverse")):
        for name, value in part.named_parameters():
            getattr(whole, name + suffix).data.copy_(value)
    ours = BothDirections(*parts, separate=False)(x, PADDING if padded else None)
    if not padded:
        torch.testing.assert_close(ours, whole(x)[0])
        return
    packed = pack_padded_sequence(x, SIZES, batch_first=True, enforce_sorted=False)
    theirs, _ = pad_packed_sequence(whole(packed)[0], batch_first=True)
    torch.testing.assert_close(ours[~PADDING], theirs[~PADDING])


def test_separate_layers_share_nothing():
    """A change of one half of the channels leaves the output of the other direction as it was."""
    both, x = BothDirections(*layers(4, 5), separate=True), frames(8)
    before = both(x, PADDING)
    for changed, same, different in (
        (slice(0, 4), slice(5, 10), slice(0, 5)),
        (slice(4, 8), slice(0, 5), slice(5, 10)),
    ):
        other = x.clone()
        other[..., changed] += 1
        after = both(other, PADDING)
        assert torch.equal(after[..., same], before[..., same])
        assert not torch.equal(after[..., different], before[..., different])

"""ECAPA-TDNN, the encoder of speakers (Desplanques et al., Interspeech 2020, arXiv 2005.07143)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pooling import AttentiveStatistics
from .synced_batch_norm import SyncedBatchNorm1d


class EcapaTdnn(nn.Module):
    """Mel frames (B, n_mels, F) -> embeddings (B, embedding_dim).

    A convolution; SE-Res2Net blocks; a convolution over the outputs of all blocks together; attentive statistics with
    global context; batch norm and a linear layer. With the default sizes, those of SSRL (arXiv 2401.01473), it has
    22,733,952 parameters.

    All rows of a batch have the same number of frames. Convolutions keep it: frames are reflected at both ends, so that
    there must be more of them than half a kernel covers (at least 5 with the default sizes).

    Args:
        channels: of the first convolution, of each block (the same number), and of the last convolution.
        kernels, dilations: of these layers; kernels are odd.
        res2net_scale: groups of channels in a block.
        se_width: width of the hidden layer of squeeze-and-excitation.
        attention_width: width of the hidden layer of the attention.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        n_mels: int = 80,
        channels: Sequence[int] = (1024, 1024, 1024, 1024, 3072),
        kernels: Sequence[int] = (5, 3, 3, 3, 1),
        dilations: Sequence[int] = (1, 2, 3, 4, 1),
        res2net_scale: int = 8,
        se_width: int = 128,
        attention_width: int = 128,
        embedding_dim: int = 512,
    ):
        super().__init__()
        first, *inner, last = channels
        if not len(channels) == len(kernels) == len(dilations):
            raise ValueError(f"channels={channels}, kernels={kernels}, dilations={dilations}: not of the same length")
        if not inner or set(inner) != {first}:
            raise ValueError(f"channels={channels}: all but the last must be equal, and there must be a block")
        if first % res2net_scale:
            raise ValueError(f"channels={channels}: {first} is not a multiple of res2net_scale={res2net_scale}")
        self.first = ConvReluNorm(n_mels, first, kernels[0], dilations[0])
        self.blocks = nn.ModuleList(
            SERes2NetBlock(first, kernel, dilation, res2net_scale, se_width)
            for kernel, dilation in zip(kernels[1:-1], dilations[1:-1])
        )
        self.last = ConvReluNorm(first * len(inner), last, kernels[-1], dilations[-1])
        self.pooling = AttentiveStatistics(last, attention_width)
        self.norm = SyncedBatchNorm1d(2 * last)
        self.embedding = nn.Linear(2 * last, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.last(torch.cat(outputs, dim=1))  # (B, last, F)
        pooled = self.pooling(x)  # (B, 2 last), float32
        return self.embedding(self.norm(pooled.to(self.norm.weight.dtype)))


class ConvReluNorm(nn.Module):
    """Convolution, ReLU, batch norm, in this order: (B, C, F) -> (B, D, F)."""

    def __init__(self, channels: int, out_channels: int, kernel: int, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(
            channels,
            out_channels,
            kernel,
            padding="same",
            dilation=dilation,
            padding_mode="reflect" if kernel > 1 else "zeros",  # reflecting by 0 frames would copy the input
        )
        self.norm = SyncedBatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x)))


class SERes2NetBlock(nn.Module):
    """(B, C, F) -> (B, C, F): convolution, Res2Net, convolution, squeeze-and-excitation, and the input added."""

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int, se_width: int):
        super().__init__()
        self.before = ConvReluNorm(channels, channels, 1)
        self.res2net = Res2Net(channels, kernel, dilation, scale)
        self.after = ConvReluNorm(channels, channels, 1)
        self.excitation = SqueezeExcitation(channels, se_width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.excitation(self.after(self.res2net(self.before(x))))


class Res2Net(nn.Module):
    """Convolutions of ``scale`` groups of channels (Gao et al. 2019, arXiv 1904.01169): (B, C, F) -> (B, C, F).

    The first group is passed on. From the third on, the output of the group before is added to the input of a group.
    """

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int):
        super().__init__()
        width = channels // scale
        self.groups = nn.ModuleList(ConvReluNorm(width, width, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.chunk(len(self.groups) + 1, dim=1)  # (B, C / scale, F) each
        outputs = [first]
        for i, (convolve, group) in enumerate(zip(self.groups, rest)):
            outputs.append(convolve(group if i == 0 else group + outputs[-1]))
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a factor between 0 and 1 that depends on the means of all channels over time.

    (B, C, F) -> (B, C, F); Hu et al. 2018, arXiv 1709.01507.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, width), nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.excite(F.relu(self.squeeze(x.mean(2)))).sigmoid()  # (B, C)
        return x * factors.unsqueeze(2)

"""The encoder of APC and MPC: GRU or Transformer layers over log-Mel frames, causal or not.

Those that Chung, Belinkov and Glass compare (ICASSP 2021, arXiv 2010.11481).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.modules import SamePad, SinusoidalPositionalEmbedding
from torch import Tensor, nn

from ..ranges import DROPOUT, FRAMES, LAYERS, WIDTH, Range
from .encoder import TransformerLayer
from .objective import ObjectiveConfig

RNN, TRANSFORMER = "rnn", "transformer"
SINUSOIDAL, CONVOLUTION = "sinusoidal", "convolution"


@dataclass
class PredictiveConfig(ObjectiveConfig):
    n_mels: int = field(default=80, metadata={"range": Range(1, 1_000), "help": "Mel bins of the log-Mel frames"})
    encoder: ChoiceEnum([RNN, TRANSFORMER]) = field(
        default=RNN, metadata={"help": "kind of layers: rnn: GRU; transformer: Transformer layers"}
    )
    layers: int = field(default=3, metadata={"range": LAYERS, "help": "layers of the encoder"})
    width: int = field(default=512, metadata={"range": WIDTH, "help": "width of the layers"})
    heads: int = field(default=8, metadata={"range": WIDTH, "help": "encoder=transformer: attention heads"})
    feed_forward: int = field(
        default=2048, metadata={"range": WIDTH, "help": "encoder=transformer: width of the feed-forward blocks"}
    )
    positions: ChoiceEnum([SINUSOIDAL, CONVOLUTION]) = field(
        default=SINUSOIDAL,
        metadata={
            "help": "encoder=transformer: sinusoidal: as in the papers; a model that was trained on crops has seen no "
            "positions after their end, so that it reads whole utterances badly. convolution: over the frames around "
            "(the earlier ones in a forward model), as in wav2vec 2.0: for training on crops, and for few updates, "
            "since neighbours need not be found by attention first"
        },
    )
    conv_pos: int = field(
        default=32, metadata={"range": FRAMES, "help": "positions=convolution: frames that it covers, its kernel"}
    )
    conv_pos_groups: int = field(
        default=16, metadata={"range": WIDTH, "help": "positions=convolution: groups of channels"}
    )
    dropout: float = field(
        default=0.1,
        metadata={
            "range": DROPOUT,
            "help": "dropout between GRU layers, or below the first Transformer layer and at the end of each block",
        },
    )


class GRULayer(nn.Module):
    """x (B, F, C) -> (B, F, D): dropout, then a recurrent layer forward in time. Padding follows all that it reads."""

    def __init__(self, before: int, width: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(before, width, batch_first=True)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        return self.gru(self.dropout(x))[0]


class AttentionLayer(TransformerLayer):
    """The trunk's Transformer layer, post-LN, without dropout of attention weights: x (B, F, D) -> (B, F, D)."""

    def __init__(self, cfg: PredictiveConfig, causal: bool):
        super().__init__(
            embedding_dim=cfg.width,
            ffn_embedding_dim=cfg.feed_forward,
            num_attention_heads=cfg.heads,
            dropout=cfg.dropout,
            attention_dropout=0.0,
            activation_dropout=0.0,
            activation_fn="gelu",
            layer_norm_first=False,
        )
        self.causal = causal

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        return super().forward(x, padding)[0]


class SinusoidalPositions(SinusoidalPositionalEmbedding):
    """x (B, F, D) -> (B, F, D): sines and cosines of the number of the frame, zero for padded frames."""

    def __init__(self, cfg: PredictiveConfig):
        super().__init__(cfg.width, padding_idx=0)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        exists = x.new_ones(x.shape[:2], dtype=torch.long) if padding is None else (~padding).long()
        return super().forward(exists)  # it counts what is not 0


class ConvolutionalPositions(nn.Module):
    """x (B, F, D) -> (B, F, D): a grouped convolution over frames and GELU, as in wav2vec 2.0 but without weight norm.

    A frame depends on itself and the conv_pos - 1 frames before it if ``causal``, else on those on both sides.
    """

    def __init__(self, cfg: PredictiveConfig, causal: bool):
        super().__init__()
        self.causal, kernel = causal, cfg.conv_pos
        zeros = kernel - 1 if causal else kernel // 2
        self.convolution = nn.Conv1d(cfg.width, cfg.width, kernel, padding=zeros, groups=cfg.conv_pos_groups)
        self.cut = SamePad(kernel, causal=causal)  # the frames past the end that padding both ends has made
        nn.init.normal_(self.convolution.weight, std=(4 / (kernel * cfg.width)) ** 0.5)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        if padding is not None and not self.causal:
            x = x.masked_fill(padding.unsqueeze(-1), 0.0)
        return F.gelu(self.cut(self.convolution(x.transpose(1, 2)))).transpose(1, 2)  # (B, D, F) for the convolution


class FirstAttentionLayer(nn.Module):
    """x (B, F, C) -> (B, F, D): a linear projection, to which positions are added, dropout, an ``AttentionLayer``."""

    def __init__(self, before: int, cfg: PredictiveConfig, causal: bool):
        super().__init__()
        self.project = nn.Linear(before, cfg.width)
        sinusoidal = str(cfg.positions) == SINUSOIDAL
        self.positions = SinusoidalPositions(cfg) if sinusoidal else ConvolutionalPositions(cfg, causal)
        self.dropout = nn.Dropout(cfg.dropout)
        self.layer = AttentionLayer(cfg, causal)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = self.project(x)
        return self.layer(self.dropout(x + self.positions(x, padding)), padding)


class FrameEncoder(nn.Module):
    """A stack of layers, each a module that is called as ``layer(x, padding)`` and whose output can be read."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, padding: Tensor | None, layer: int | None = None) -> tuple[Tensor, list]:
        """Frames (B, F, C), padding (B, F) bool or None -> output (B, F, D) of ``layer``, from 0; None: of the last.

        Also for each layer (output (F, B, D), None, None) as in the trunk.
        """
        layer_results = []
        for one in self.layers[: None if layer is None else layer + 1]:
            x = one(x, padding)
            layer_results.append((x.transpose(0, 1), None, None))
        return x, layer_results


def one_direction(cfg: PredictiveConfig, number: int, causal: bool, width: int) -> nn.Module:
    """Layer ``number``, from 0, of an encoder whose layers read frames of ``width`` and have that width."""
    if str(cfg.encoder) == RNN:
        return GRULayer(cfg.n_mels if number == 0 else cfg.width, width, cfg.dropout if number else 0.0)
    return AttentionLayer(cfg, causal) if number else FirstAttentionLayer(cfg.n_mels, cfg, causal)

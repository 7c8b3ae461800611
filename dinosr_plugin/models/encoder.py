"""The encoder of the trunk: positional convolutions and Transformer layers; and the settings of the trunk.

Parameter names are those of fairseq's wav2vec 2.0 and data2vec audio models. Unlike in fairseq's encoder, features do
not depend on padding (every positional convolution sees zeros past the end, as it does for an unpadded utterance), and
LayerDrop draws from torch's generator, so that a seed determines it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from fairseq import utils
from fairseq.dataclass import ChoiceEnum
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer, make_conv_pos
from fairseq.modules import LayerNorm, SamePad, TransposeLast
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..modules.conv_spec import parse_conv_layers
from ..modules.fast.attention import attention
from ..modules.fast.dropout import dropout
from ..modules.fast.gelu_linear import gelu_linear
from ..ranges import DROPOUT, FRAMES, LAYERS, SHARE, WEIGHT, WIDTH, Range, check_ranges
from .objective import ObjectiveConfig


@dataclass
class TrunkConfig(ObjectiveConfig):
    front_end: ChoiceEnum(["conv", "fbank"]) = field(
        default="conv",
        metadata={
            "help": "conv: convolutions on the waveform, as in the paper; fbank: log-Mel frames, "
            "for small data and small machines"
        },
    )
    n_mels: int = field(default=80, metadata={"range": Range(1, 1_000), "help": "Mel bins of front_end=fbank"})
    extractor_mode: ChoiceEnum(["default", "layer_norm"]) = field(
        default="layer_norm",
        metadata={
            "help": "normalisation in front_end=conv: layer_norm: layer norm after every layer; "
            "default: one group norm after the first layer"
        },
    )
    conv_feature_layers: str = field(
        default="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        metadata={"help": "front_end=conv: list of (channels, kernel, stride)"},
    )
    conv_bias: bool = field(default=False, metadata={"help": "bias in the convolutions of front_end=conv"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"range": WEIGHT, "help": "factor on the gradient of the front end; 0: it is not trained"}
    )
    dropout_input: float = field(
        default=0.0, metadata={"range": DROPOUT, "help": "dropout after the projection of the front end's features"}
    )

    encoder_layers: int = field(default=12, metadata={"range": LAYERS, "help": "Transformer layers"})
    encoder_embed_dim: int = field(default=768, metadata={"range": WIDTH, "help": "width of the Transformer"})
    encoder_ffn_embed_dim: int = field(
        default=3072, metadata={"range": WIDTH, "help": "width of the feed-forward blocks"}
    )
    encoder_attention_heads: int = field(default=12, metadata={"range": WIDTH, "help": "attention heads"})
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(
        default="gelu", metadata={"help": "activation of the feed-forward blocks"}
    )
    layer_norm_first: bool = field(
        default=False, metadata={"help": "LayerNorm before (true) or after (false) each block"}
    )
    dropout: float = field(default=0.1, metadata={"range": DROPOUT, "help": "dropout in the Transformer"})
    attention_dropout: float = field(default=0.1, metadata={"range": DROPOUT, "help": "dropout of attention weights"})
    activation_dropout: float = field(
        default=0.0, metadata={"range": DROPOUT, "help": "dropout after the activation of the feed-forward blocks"}
    )
    encoder_layerdrop: float = field(
        default=0.0, metadata={"range": DROPOUT, "help": "probability that a Transformer layer is skipped in training"}
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass to save memory"}
    )

    conv_pos: int = field(
        default=128,
        metadata={
            "range": FRAMES,
            "help": "total kernel of the positional convolutions, divided among pos_conv_depth layers",
        },
    )
    conv_pos_groups: int = field(default=16, metadata={"range": WIDTH, "help": "groups of the positional convolutions"})
    pos_conv_depth: int = field(
        default=1, metadata={"range": LAYERS, "help": "number of stacked positional convolutions"}
    )

    mask_prob: float = field(
        default=0.65, metadata={"range": SHARE, "help": "share of frames to mask (counted without overlap of spans)"}
    )
    mask_length: int = field(default=10, metadata={"range": FRAMES, "help": "frames in a masked span"})
    require_same_masks: bool = field(
        default=True, metadata={"help": "mask the same number of frames in every row of a batch"}
    )
    mask_channel_prob: float = field(
        default=0.0, metadata={"range": SHARE, "help": "share of channels to set to zero (fine-tuning)"}
    )
    mask_channel_length: int = field(
        default=10, metadata={"range": WIDTH, "help": "channels in a masked span; less than encoder_embed_dim"}
    )


class Encoder(nn.Module):
    """Positional convolutions and Transformer layers: (B, F, D) -> (B, F, D), post-LN or pre-LN."""

    def __init__(self, cfg: TrunkConfig):
        super().__init__()
        self.pos_conv = positional_convolutions(cfg)
        self.pos_conv_depth = cfg.pos_conv_depth
        self.layers = nn.ModuleList(transformer_layer(cfg) for _ in range(cfg.encoder_layers))
        self.layer_norm_first = cfg.layer_norm_first
        self.layer_norm = LayerNorm(cfg.encoder_embed_dim)
        self.dropout = cfg.dropout
        self.layerdrop = cfg.encoder_layerdrop
        self.checkpoint_activations = cfg.checkpoint_activations
        self.apply(init_bert_params)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, layer: int | None = None):
        """x (B, F, D), padding_mask (B, F) bool -> (x, layer_results).

        ``layer`` (from 0) stops after that layer. layer_results: for each layer a tuple (output (F, B, D), None, output
        of the feed-forward block before the residual sum (F, B, D)), which is fairseq's convention; for a layer skipped
        by LayerDrop the output is its input, and the feed-forward output is None.
        """
        x = self.add_positions(x, padding_mask)
        if not self.layer_norm_first:
            x = self.layer_norm(x)
        x = dropout(x, self.dropout, self.training)
        x, layer_results = self.transform(x, padding_mask, layer)
        if self.layer_norm_first and layer is None:
            x = self.layer_norm(x)
        return x, layer_results

    def last_norm(self) -> nn.Module:
        """The LayerNorm that comes last: no feed-forward output depends on it."""
        last = f"layers.{len(self.layers) - 1}.final_layer_norm"
        return self.get_submodule("layer_norm" if self.layer_norm_first else last)

    def qkv_biases(self) -> Iterator[nn.Parameter]:
        """The biases of queries, keys and values."""
        for layer in self.layers:
            attention = layer.get_submodule("self_attn")
            for name in ("q_proj", "k_proj", "v_proj"):
                yield attention.get_parameter(f"{name}.bias")

    def add_positions(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """x (B, F, D) plus the output of the positional convolutions, in which padded frames count as zeros."""
        keep = None if padding_mask is None else (~padding_mask).unsqueeze(-1).to(x.dtype)
        x = x if keep is None else x * keep
        position = x
        for conv in self.pos_conv if self.pos_conv_depth > 1 else [self.pos_conv]:
            position = conv(position.transpose(1, 2)).transpose(1, 2)  # (B, D, F) for the convolution, then (B, F, D)
            position = position if keep is None else position * keep
        return x + position

    def transform(self, x: Tensor, padding_mask: Tensor | None, last: int | None):
        """x (B, F, D) through the Transformer layers up to ``last`` -> (x, layer_results) as ``forward``."""
        layer_results = []
        for i, layer in enumerate(self.layers):
            feed_forward = None
            if not (self.training and self.layerdrop > 0 and torch.rand(()).item() <= self.layerdrop):
                x, feed_forward = self.run(layer, x, padding_mask)
                feed_forward = feed_forward.transpose(0, 1)  # (F, B, D)
            layer_results.append((x.transpose(0, 1), None, feed_forward))  # x as (F, B, D)
            if i == last:
                break
        return x, layer_results

    def run(self, layer: nn.Module, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """What ``layer`` returns; with ``checkpoint_activations``, its backward pass recomputes the activations.

        torch's way and not fairseq's, which gives no gradient to a layer whose input needs none (above frozen layers).
        """
        if self.checkpoint_activations:
            return checkpoint(layer, x, padding_mask, use_reentrant=False)
        return layer(x, padding_mask)


def positional_convolutions(cfg: TrunkConfig) -> nn.Sequential:
    """One convolution with weight norm (wav2vec 2.0), or ``pos_conv_depth`` with LayerNorm and GELU (data2vec)."""
    kernel = positional_kernel(cfg)
    if cfg.pos_conv_depth == 1:
        return make_conv_pos(cfg.encoder_embed_dim, kernel, cfg.conv_pos_groups)
    return nn.Sequential(
        *[
            nn.Sequential(
                nn.Conv1d(
                    cfg.encoder_embed_dim,
                    cfg.encoder_embed_dim,
                    kernel,
                    padding=kernel // 2,
                    groups=cfg.conv_pos_groups,
                ),
                SamePad(kernel),
                TransposeLast(),
                LayerNorm(cfg.encoder_embed_dim, elementwise_affine=False),
                TransposeLast(),
                nn.GELU(),
            )
            for _ in range(cfg.pos_conv_depth)
        ]
    )


def positional_kernel(cfg: TrunkConfig) -> int:
    """Kernel of each positional convolution, in frames."""
    return cfg.conv_pos if cfg.pos_conv_depth == 1 else max(3, cfg.conv_pos // cfg.pos_conv_depth)


class TransformerLayer(TransformerSentenceEncoderLayer):
    """fairseq's layer with its parameters, their names and their initial values, for tensors (B, F, D).

    Attributes:
        causal: a frame attends to itself and to earlier frames only.
    """

    causal = False

    def forward(self, x: Tensor, padding_mask: Tensor | None):
        """x (B, F, D), padding_mask (B, F) bool or None -> output, and the feed-forward output before the residual sum.

        Both are (B, F, D).
        """
        if self.layer_norm_first:
            x = x + self.drop(self.attend(self.self_attn_layer_norm(x), padding_mask))
            y = self.feed_forward(self.final_layer_norm(x))
            return x + self.drop(y), y
        x = self.self_attn_layer_norm(x + self.drop(self.attend(x, padding_mask)))
        y = self.feed_forward(x)
        return self.final_layer_norm(x + self.drop(y)), y

    def attend(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Self-attention: x (B, F, D) -> (B, F, D)."""
        projections = (self.self_attn.q_proj, self.self_attn.k_proj, self.self_attn.v_proj)
        # (B, F, D) -> (B, H, F, D / H)
        q, k, v = (project(x).unflatten(2, (self.self_attn.num_heads, -1)).transpose(1, 2) for project in projections)
        dropped = self.self_attn.dropout_module.p if self.training else 0.0
        attended = attention(q, k, v, padding_mask, dropped, self.causal)
        return self.self_attn.out_proj(attended.transpose(1, 2).flatten(2))  # (B, H, F, D / H) -> (B, F, D)

    def feed_forward(self, x: Tensor) -> Tensor:
        """x (B, F, D) -> (B, F, D), before the residual sum."""
        x = self.fc1(x)
        if self.activation_fn is utils.get_activation_fn("gelu") and not (
            self.training and self.activation_dropout > 0
        ):
            return gelu_linear(x, self.fc2.weight, self.fc2.bias)
        return self.fc2(dropout(self.activation_fn(x), self.activation_dropout, self.training))

    def drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


def transformer_layer(cfg: TrunkConfig) -> TransformerLayer:
    """A ``TransformerLayer`` with these settings."""
    return TransformerLayer(
        embedding_dim=cfg.encoder_embed_dim,
        ffn_embedding_dim=cfg.encoder_ffn_embed_dim,
        num_attention_heads=cfg.encoder_attention_heads,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        activation_fn=cfg.activation_fn,
        layer_norm_first=cfg.layer_norm_first,
    )


def check_trunk_config(cfg: TrunkConfig):
    """Raise UserError for numbers out of range and for settings that cannot work together, naming the field."""
    check_ranges(cfg, TrunkConfig, "model")
    for name in ("encoder_attention_heads", "conv_pos_groups"):
        parts = getattr(cfg, name)
        if cfg.encoder_embed_dim % parts:
            raise UserError(
                f"model.encoder_embed_dim={cfg.encoder_embed_dim} is not a multiple of model.{name}={parts}; change one"
            )
    if cfg.mask_channel_prob > 0 and cfg.mask_channel_length >= cfg.encoder_embed_dim:
        raise UserError(
            f"model.mask_channel_length={cfg.mask_channel_length} must be less than the model's width "
            f"{cfg.encoder_embed_dim}; lower it, or set model.mask_channel_prob=0"
        )
    if cfg.front_end == "conv":
        try:
            parse_conv_layers(cfg.conv_feature_layers)
        except ValueError as error:
            raise UserError(f"model.{error}") from None

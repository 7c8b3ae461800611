"""The trunk: waveform -> front end -> projection -> mask -> positional convolutions -> Transformer.

It is shared by all objectives with masked prediction. Parameter names are those of fairseq's wav2vec 2.0 and data2vec
audio models, so that released checkpoints load. Unlike in fairseq's encoder, features do not depend on padding (every
positional convolution sees zeros past the end, as it does for an unpadded utterance), and LayerDrop draws from torch's
generator, so that a seed determines it.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq import utils
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer, make_conv_pos
from fairseq.modules import GradMultiply, LayerNorm, SamePad, TransposeLast
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..modules.conv_spec import parse_conv_layers
from ..modules.fast.attention import attention
from ..modules.fast.dropout import dropout
from ..modules.fast.extractor import ConvExtractor
from ..modules.fast.gelu_linear import gelu_linear
from ..modules.frame_grid import TRUNK, FrameGrid
from ..modules.log_mel import LogMel
from ..modules.masking import row_generators, span_mask
from ..ranges import DROPOUT, FRAMES, LAYERS, SHARE, WEIGHT, WIDTH, Range, check_ranges
from .objective import Objective, ObjectiveConfig, require_same_fields


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
    """fairseq's layer with its parameters, their names and their initial values, for tensors (B, F, D)."""

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
        attended = attention(q, k, v, padding_mask, self.self_attn.dropout_module.p if self.training else 0.0)
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


@dataclass(frozen=True)
class FrameMasks:
    """Which frames of a batch exist, and which are masked.

    ``valid`` and ``masked`` are on the CPU: frames are selected by index there, so that a GPU is never waited for.

    Attributes:
        valid: (B, F) bool, frames before the end of their utterance.
        masked: (B, F) bool, frames to mask, a part of ``valid``.
        padding: (B, F) bool on the device of the model, frames that are not valid.
        any_padding: whether there are any.
    """

    valid: Tensor
    masked: Tensor
    padding: Tensor
    any_padding: bool


class Trunk(Objective):
    """The trunk; a subclass adds an objective: its heads, its targets and its loss."""

    # waveforms stay float32 in any precision of the model: compat.training.keep_waveforms_float32
    takes_float32 = True

    def __init__(self, cfg: TrunkConfig):
        super().__init__()
        check_trunk_config(cfg)
        self.cfg = cfg
        self.feature_extractor: LogMel | ConvExtractor
        if cfg.front_end == "fbank":
            self.feature_extractor = LogMel(cfg.n_mels)
            dim = self.feature_extractor.dim
            self.grid = TRUNK
        else:
            self.conv_layers = parse_conv_layers(cfg.conv_feature_layers)
            self.feature_extractor = ConvExtractor(self.conv_layers, cfg.extractor_mode, cfg.conv_bias)
            dim = self.conv_layers[-1][0]
            self.grid = FrameGrid.of_convolutions(self.conv_layers)
        self.post_extract_proj = nn.Linear(dim, cfg.encoder_embed_dim)
        self.mask_emb = nn.Parameter(torch.empty(cfg.encoder_embed_dim).uniform_())
        self.encoder = Encoder(cfg)
        # log-Mel frames are normalised already; a LayerNorm over their bins would remove the frame's energy
        self.layer_norm = LayerNorm(dim) if cfg.front_end == "conv" else nn.Identity()
        self.dropout_input = nn.Dropout(cfg.dropout_input)

    # ---- the training protocol -----------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        return len(self.encoder.layers)

    def check(self, task_cfg: Any) -> None:
        """Raise UserError if utterances may have fewer than two frames, one to mask and one to leave."""
        for name, samples in (
            ("min_sample_size", task_cfg.min_sample_size or 0),
            ("max_sample_size", task_cfg.max_sample_size),
        ):
            if samples is not None and self.grid.count(samples) < 2:
                raise UserError(
                    f"task.{name}={samples} allows utterances of fewer than 2 frames, too few to mask one; "
                    "raise it (720 is enough for the usual front ends)"
                )

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Take over front end, projection, mask embedding and encoder of another trunk of the same size."""
        trunk = require_trunk(source, file, type(self).__name__)
        require_same_fields(file, trunk_sizes(trunk), trunk_sizes(self))
        for name in ("feature_extractor", "layer_norm", "post_extract_proj", "encoder"):
            self.get_submodule(name).load_state_dict(trunk.get_submodule(name).state_dict())
        self.mask_emb.data.copy_(trunk.mask_emb)

    def structure(self) -> dict[str, Any]:
        return trunk_sizes(self)

    # ---- frames --------------------------------------------------------------------------------------------------

    def frame_counts(self, samples: Tensor) -> Tensor:
        """Number of frames of utterances of so many samples; int64 in and out, 0 for one that is too short."""
        return self.grid.counts(samples)

    def n_frames(self, source: Tensor) -> int:
        """F of a waveform (B, T)."""
        return self.grid.count(source.size(1))

    def frame_padding(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """padding_mask (B, T) over samples, or None -> (B, F) bool over frames."""
        B, T = source.shape
        n_samples = source.new_full((B,), T, dtype=torch.long) if padding_mask is None else (~padding_mask).sum(1)
        return torch.arange(self.n_frames(source), device=source.device) >= self.frame_counts(n_samples).unsqueeze(1)

    def frame_sizes(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Number of frames of each utterance, (B,) int64 on the CPU.

        A GPU is waited for only if there is a padding_mask.
        """
        n_samples = torch.full((len(source),), source.size(1)) if padding_mask is None else (~padding_mask).sum(1).cpu()
        return self.frame_counts(n_samples)

    def extract_frames(self, source: Tensor, padding: Tensor) -> Tensor:
        """Waveform (B, T), padding (B, F) bool -> frames of the front end (B, F, C)."""
        if self.cfg.front_end == "fbank":
            return self.feature_extractor(source, padding).transpose(1, 2).to(self.mask_emb.dtype)
        source = source.to(self.mask_emb.dtype)
        if self.cfg.feature_grad_mult > 0:
            return GradMultiply.apply(self.feature_extractor(source), self.cfg.feature_grad_mult)
        with torch.no_grad():
            return self.feature_extractor(source)

    def project(self, frames: Tensor) -> Tensor:
        """Frames of the front end (B, F, C) -> (B, F, D)."""
        return self.post_extract_proj(self.layer_norm(frames))

    # ---- masks ---------------------------------------------------------------------------------------------------

    def draw_mask(self, sizes: Tensor, n_frames: int, utterances: Tensor | None = None) -> Tensor:
        """Random spans of valid frames: sizes (B,) int64 on the CPU -> (B, n_frames) bool on the CPU.

        With ``utterances`` (B,) int64, the spans of a row depend only on its number and the last torch.manual_seed
        (fairseq sets a new seed for every update), so that they are the same for any number of ranks and micro-batches
        and in a resumed run. In training with ``require_same_masks``, every row keeps only as many masked frames as the
        row with the fewest.
        """
        generators = None if utterances is None else row_generators(torch.initial_seed(), utterances.tolist())
        same_count = self.cfg.require_same_masks and self.training
        return span_mask(sizes, n_frames, self.cfg.mask_prob, self.cfg.mask_length, same_count, generators)

    def frame_masks(
        self, source: Tensor, padding_mask: Tensor | None, mask_indices: Tensor | None, utterances: Tensor | None
    ) -> FrameMasks:
        """The masks of a batch. ``mask_indices`` (B, F) bool: frames to mask instead of random ones."""
        sizes, n_frames = self.frame_sizes(source, padding_mask), self.n_frames(source)
        valid = torch.arange(n_frames) < sizes.unsqueeze(1)
        masked = self.draw_mask(sizes, n_frames, utterances) if mask_indices is None else mask_indices.cpu() & valid
        return FrameMasks(valid, masked, self.frame_padding(source, padding_mask), not bool(valid.all()))

    def apply_mask(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Replace masked frames by the learned vector and masked channels by zero.

        x (B, F, D), mask (B, F) bool or None (no frame is masked) -> (B, F, D).
        """
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_emb, x)
        if self.cfg.mask_channel_prob > 0:
            width = torch.full((x.size(0),), x.size(2))
            channels = span_mask(
                width, x.size(2), self.cfg.mask_channel_prob, self.cfg.mask_channel_length, same_count=False
            )
            x = x.masked_fill(channels.to(x.device).unsqueeze(1), 0)
        return x

    # ---- the encoder ---------------------------------------------------------------------------------------------

    def encode_masked(self, inputs: Tensor, masks: FrameMasks) -> tuple[Tensor, list]:
        """Projected frames (B, F, D) -> output of the encoder for masked input, (B, F, D), and its layer results."""
        masked = masks.masked.to(inputs.device, non_blocking=True)
        x = self.apply_mask(self.dropout_input(inputs), masked)
        return self.encoder(x, masks.padding if masks.any_padding else None)

    def extract_features(
        self, source: Tensor, padding_mask: Tensor | None = None, mask: bool = False, layer: int | None = None
    ) -> dict[str, Any]:
        """Features for fine-tuning and analysis.

        Args:
            source: (B, T) float waveform at 16 kHz, normalised as in training.
            padding_mask: (B, T) bool, true past the end of an utterance, or None.
            mask: mask frames and channels (fine-tuning).
            layer: stop after this Transformer layer, from 0; None runs all.

        Returns:
            ``x`` (B, F, D); ``padding_mask`` (B, F) bool, or None if nothing is padded; ``layer_results`` as of
            ``Encoder``.
        """
        frame_padding, sizes = self.frame_padding(source, padding_mask), self.frame_sizes(source, padding_mask)
        x = self.dropout_input(self.project(self.extract_frames(source, frame_padding)))
        if mask:
            x = self.apply_mask(x, self.draw_mask(sizes, x.size(1)).to(x.device) if self.cfg.mask_prob > 0 else None)
        padding = frame_padding if bool((sizes < x.size(1)).any()) else None
        x, layer_results = self.encoder(x, padding, layer)
        return {"x": x, "padding_mask": padding, "layer_results": layer_results}


def require_trunk(source: BaseFairseqModel, file: str, model: str) -> Trunk:
    """``source``, the model in the checkpoint ``file``. Raises UserError if ``model`` cannot start from it."""
    if not isinstance(source, Trunk):
        raise UserError(
            f"model.start_from={file}: contains {type(source).__name__}, which does not have the trunk of {model}; "
            "give a checkpoint of dinosr, dinosr_hubert, spin, wav2vec 2.0, HuBERT or data2vec"
        )
    return source


def trunk_sizes(trunk: Trunk) -> dict[str, Any]:
    """The settings that determine a trunk's parameters and what it computes from them; name of the field -> value."""
    cfg = trunk.cfg
    sizes: dict[str, Any] = {"front_end": str(cfg.front_end)}
    if cfg.front_end == "fbank":
        sizes["n_mels"] = cfg.n_mels
    else:
        sizes |= {"extractor_mode": str(cfg.extractor_mode), "conv_feature_layers": trunk.conv_layers}
        sizes["conv_bias"] = cfg.conv_bias
    sizes |= {"encoder_layers": trunk.n_layers, "activation_fn": str(cfg.activation_fn)}
    for name in ("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "layer_norm_first"):
        sizes[name] = getattr(cfg, name)
    sizes |= {"pos_conv_depth": cfg.pos_conv_depth, "conv_pos_groups": cfg.conv_pos_groups}
    return sizes | {"conv_pos": cfg.pos_conv_depth * positional_kernel(cfg)}

"""The trunk that all objectives share: waveform -> front end -> projection -> mask -> positional convolutions -> Transformer.

Parameter names are those of fairseq's wav2vec 2.0 / data2vec audio models, so that released checkpoints load. Unlike
fairseq's encoder, features do not depend on padding (every positional convolution sees zeros past the end, as it does for
an utterance alone) and LayerDrop draws from torch's generator (so that a seed fixes it).
"""

from dataclasses import dataclass, field

import torch
from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer, make_conv_pos
from fairseq.modules import GradMultiply, LayerNorm, SamePad, TransposeLast
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import Tensor, nn

from ..errors import UserError
from ..modules.conv_spec import parse_conv_layers
from ..modules.fast.attention import attention
from ..modules.fast.dropout import dropout
from ..modules.fast.extractor import ConvExtractor
from ..modules.fast.gelu_linear import gelu_linear
from ..modules.log_mel import LogMel
from ..modules.masking import row_generators, span_mask


@dataclass
class TrunkConfig(FairseqDataclass):
    front_end: ChoiceEnum(["conv", "fbank"]) = field(
        default="conv",
        metadata={
            "help": "conv: convolutions on the waveform, as in the paper; fbank: log-Mel frames, for small data and machines"
        },
    )
    n_mels: int = field(default=80, metadata={"help": "Mel bins of front_end=fbank"})
    extractor_mode: ChoiceEnum(["default", "layer_norm"]) = field(
        default="layer_norm",
        metadata={
            "help": "normalisation of front_end=conv: layer_norm after every layer, or default: one group norm after the first"
        },
    )
    conv_feature_layers: str = field(
        default="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        metadata={"help": "front_end=conv: list of (channels, kernel, stride)"},
    )
    conv_bias: bool = field(default=False, metadata={"help": "bias in the convolutions of front_end=conv"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"help": "factor on the gradient that reaches the front end; 0: not trained"}
    )
    dropout_input: float = field(
        default=0.0, metadata={"help": "dropout after the projection of the front end's features"}
    )

    encoder_layers: int = field(default=12, metadata={"help": "Transformer layers"})
    encoder_embed_dim: int = field(default=768, metadata={"help": "width of the Transformer"})
    encoder_ffn_embed_dim: int = field(default=3072, metadata={"help": "width of the feed-forward blocks"})
    encoder_attention_heads: int = field(default=12, metadata={"help": "attention heads"})
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(
        default="gelu", metadata={"help": "activation of the feed-forward blocks"}
    )
    layer_norm_first: bool = field(
        default=False, metadata={"help": "LayerNorm before (true) or after (false) each block"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout in the Transformer"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout after the activation of the feed-forward blocks"}
    )
    encoder_layerdrop: float = field(
        default=0.0, metadata={"help": "probability that a Transformer layer is left out in training"}
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass to save memory"}
    )

    conv_pos: int = field(
        default=128, metadata={"help": "positional convolutions: total kernel, shared out among pos_conv_depth layers"}
    )
    conv_pos_groups: int = field(default=16, metadata={"help": "groups of the positional convolutions"})
    pos_conv_depth: int = field(default=1, metadata={"help": "number of stacked positional convolutions"})

    mask_prob: float = field(
        default=0.65, metadata={"help": "share of frames to mask (counted without overlap of spans)"}
    )
    mask_length: int = field(default=10, metadata={"help": "frames in a masked span"})
    require_same_masks: bool = field(default=True, metadata={"help": "as many masked frames in every row of a batch"})
    mask_channel_prob: float = field(default=0.0, metadata={"help": "share of channels to set to zero (fine-tuning)"})
    mask_channel_length: int = field(
        default=10, metadata={"help": "channels in a masked span; less than encoder_embed_dim"}
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
        self.apply(init_bert_params)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, layer: int | None = None):
        """x (B, F, D), padding_mask (B, F) bool -> (x, layer_results).

        ``layer`` (from 0) stops after that layer. layer_results: for each layer a tuple (output (F, B, D), None, feed-forward
        block's output before the residual sum (F, B, D)), fairseq's convention; a layer that LayerDrop left out gives what
        went into it, and None.
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
        keep = None if padding_mask is None else (~padding_mask).unsqueeze(-1).to(x.dtype)
        x = x if keep is None else x * keep
        position = x
        for conv in self.pos_conv if self.pos_conv_depth > 1 else [self.pos_conv]:
            position = conv(position.transpose(1, 2)).transpose(1, 2)
            position = position if keep is None else position * keep
        return x + position

    def transform(self, x: Tensor, padding_mask: Tensor | None, last: int | None):
        layer_results = []
        for i, layer in enumerate(self.layers):
            feed_forward = None
            if not (self.training and self.layerdrop > 0 and torch.rand(()).item() <= self.layerdrop):
                x, feed_forward = layer(x, padding_mask)
                feed_forward = feed_forward.transpose(0, 1)
            layer_results.append((x.transpose(0, 1), None, feed_forward))
            if i == last:
                break
        return x, layer_results


def positional_convolutions(cfg: TrunkConfig) -> nn.Module:
    """One weight-normed convolution (wav2vec 2.0), or ``pos_conv_depth`` plain ones, each with LayerNorm and GELU (data2vec)."""
    if cfg.pos_conv_depth == 1:
        return make_conv_pos(cfg.encoder_embed_dim, cfg.conv_pos, cfg.conv_pos_groups)
    kernel = max(3, cfg.conv_pos // cfg.pos_conv_depth)
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


class TransformerLayer(TransformerSentenceEncoderLayer):
    """fairseq's layer, its parameters, names and initial values, on (B, F, D)."""

    def forward(self, x: Tensor, padding_mask: Tensor | None):
        """x (B, F, D), padding_mask (B, F) bool or None -> (output (B, F, D), feed-forward block's output before the residual sum (B, F, D))."""
        if self.layer_norm_first:
            x = x + self.drop(self.attend(self.self_attn_layer_norm(x), padding_mask))
            y = self.feed_forward(self.final_layer_norm(x))
            return x + self.drop(y), y
        x = self.self_attn_layer_norm(x + self.drop(self.attend(x, padding_mask)))
        y = self.feed_forward(x)
        return self.final_layer_norm(x + self.drop(y)), y

    def attend(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        projections = (self.self_attn.q_proj, self.self_attn.k_proj, self.self_attn.v_proj)
        heads = (
            project(x).unflatten(2, (self.self_attn.num_heads, -1)).transpose(1, 2) for project in projections
        )  # (B, H, F, D / H)
        attended = attention(*heads, padding_mask, self.self_attn.dropout_module.p if self.training else 0.0)
        return self.self_attn.out_proj(attended.transpose(1, 2).flatten(2))

    def feed_forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.activation_fn is utils.get_activation_fn("gelu") and not (
            self.training and self.activation_dropout > 0
        ):
            return gelu_linear(x, self.fc2.weight, self.fc2.bias)
        return self.fc2(dropout(self.activation_fn(x), self.activation_dropout, self.training))

    def drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


def transformer_layer(cfg: TrunkConfig) -> nn.Module:
    layer = TransformerLayer(
        embedding_dim=cfg.encoder_embed_dim,
        ffn_embedding_dim=cfg.encoder_ffn_embed_dim,
        num_attention_heads=cfg.encoder_attention_heads,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        activation_fn=cfg.activation_fn,
        layer_norm_first=cfg.layer_norm_first,
    )
    return checkpoint_wrapper(layer) if cfg.checkpoint_activations else layer


def check_trunk_config(cfg: TrunkConfig):
    """Raises UserError for settings that cannot work, naming the field."""
    if cfg.encoder_attention_heads < 1 or cfg.encoder_embed_dim % cfg.encoder_attention_heads:
        raise UserError(
            f"model.encoder_embed_dim={cfg.encoder_embed_dim} is no multiple of model.encoder_attention_heads={cfg.encoder_attention_heads}: change one"
        )
    if cfg.conv_pos_groups < 1 or cfg.encoder_embed_dim % cfg.conv_pos_groups:
        raise UserError(
            f"model.encoder_embed_dim={cfg.encoder_embed_dim} is no multiple of model.conv_pos_groups={cfg.conv_pos_groups}: change one"
        )
    if not 0 <= cfg.mask_prob <= 1 or cfg.mask_length < 1:
        raise UserError(
            f"model.mask_prob={cfg.mask_prob} must lie in [0, 1] and model.mask_length={cfg.mask_length} be at least 1"
        )
    if cfg.mask_channel_prob > 0 and not 0 < cfg.mask_channel_length < cfg.encoder_embed_dim:
        raise UserError(
            f"model.mask_channel_length={cfg.mask_channel_length} must be less than the model's width {cfg.encoder_embed_dim}: lower it, or set model.mask_channel_prob=0"
        )
    if cfg.front_end == "conv":
        try:
            parse_conv_layers(cfg.conv_feature_layers)
        except ValueError as error:
            raise UserError(f"model.{error}") from None


class Trunk(BaseFairseqModel):
    """What every objective builds on; an objective adds its heads, its targets and its loss."""

    takes_float32 = True  # waveforms, whatever the precision of the model: compat.training.keep_waveforms_float32

    def __init__(self, cfg: TrunkConfig):
        super().__init__()
        check_trunk_config(cfg)
        self.cfg = cfg
        if cfg.front_end == "fbank":
            self.feature_extractor = LogMel(cfg.n_mels)
            dim = self.feature_extractor.dim
            self.conv_layers = [(dim, 400, 320)]  # its rate and field, for frame_counts
        else:
            self.conv_layers = parse_conv_layers(cfg.conv_feature_layers)
            self.feature_extractor = ConvExtractor(self.conv_layers, cfg.extractor_mode, cfg.conv_bias)
            dim = self.conv_layers[-1][0]
        self.post_extract_proj = nn.Linear(dim, cfg.encoder_embed_dim)
        self.mask_emb = nn.Parameter(torch.empty(cfg.encoder_embed_dim).uniform_())
        self.encoder = Encoder(cfg)
        # log-Mel frames are normalised already; a LayerNorm over their bins would take away the frame's energy
        self.layer_norm = LayerNorm(dim) if cfg.front_end == "conv" else nn.Identity()
        self.dropout_input = nn.Dropout(cfg.dropout_input)

    @classmethod
    def build_model(cls, cfg: TrunkConfig, task=None):
        """Build a new model instance (fairseq's entry point)."""
        return cls(cfg)

    def frame_counts(self, samples: Tensor) -> Tensor:
        """Number of frames that an utterance of so many samples has; int64 in and out, 0 where it is too short for one."""
        for _, kernel, stride in self.conv_layers:
            samples = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
        return samples.clamp(min=0)

    def frame_padding(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """padding_mask (B, T) over samples, or None -> (B, F) bool over frames."""
        B, T = source.shape
        n_samples = source.new_full((B,), T, dtype=torch.long) if padding_mask is None else (~padding_mask).sum(1)
        return torch.arange(self.n_frames(source), device=source.device) >= self.frame_counts(n_samples).unsqueeze(1)

    def n_frames(self, source: Tensor) -> int:
        """F of a waveform (B, T)."""
        return int(self.frame_counts(torch.tensor(source.size(1))))

    def frame_sizes(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Number of frames of each utterance, (B,) int64 on the CPU: a GPU is waited for only where there is a padding_mask."""
        n_samples = torch.full((len(source),), source.size(1)) if padding_mask is None else (~padding_mask).sum(1).cpu()
        return self.frame_counts(n_samples)

    def extract_frames(self, source: Tensor, padding: Tensor) -> Tensor:
        """Waveform (B, T) -> front end's frames (B, F, C)."""
        if self.cfg.front_end == "fbank":
            frames = self.feature_extractor(source, padding).transpose(1, 2).to(self.mask_emb.dtype)
        elif self.cfg.feature_grad_mult > 0:
            frames = GradMultiply.apply(
                self.feature_extractor(source.to(self.mask_emb.dtype)), self.cfg.feature_grad_mult
            )
        else:
            with torch.no_grad():
                frames = self.feature_extractor(source.to(self.mask_emb.dtype))
        return frames

    def project(self, frames: Tensor) -> Tensor:
        """Front end's frames (B, F, C) -> (B, F, D)."""
        return self.post_extract_proj(self.layer_norm(frames))

    def draw_mask(self, sizes: Tensor, n_frames: int, utterances: Tensor | None = None) -> Tensor:
        """Random spans of valid frames: sizes (B,) int64 on the CPU -> (B, n_frames) bool on the CPU.

        With ``utterances`` (B,) int64 a row's spans depend on its number and the last torch.manual_seed only (fairseq sets
        that anew in every update), so that neither ranks nor micro-batches nor a resumed run draw others; only as many of
        them as other rows have stay where ``require_same_masks`` says so, in training.
        """
        generators = None if utterances is None else row_generators(torch.initial_seed(), utterances.tolist())
        same_count = self.cfg.require_same_masks and self.training
        return span_mask(sizes, n_frames, self.cfg.mask_prob, self.cfg.mask_length, same_count, generators)

    def apply_mask(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Masked frames become the learned vector, masked channels zero: x (B, F, D), mask (B, F) bool or None (no frame masked)."""
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_emb, x)
        if self.cfg.mask_channel_prob > 0:
            width = torch.full((x.size(0),), x.size(2))
            channels = span_mask(
                width, x.size(2), self.cfg.mask_channel_prob, self.cfg.mask_channel_length, same_count=False
            )
            x = x.masked_fill(channels.to(x.device).unsqueeze(1), 0)
        return x

    def extract_features(
        self, source: Tensor, padding_mask: Tensor | None = None, mask: bool = False, layer: int | None = None
    ):
        """Features for fine-tuning and analysis.

        Args:
            source: (B, T) float waveform at 16 kHz, normalised as in training.
            padding_mask: (B, T) bool, true past the end of an utterance, or None.
            mask: mask frames and channels (fine-tuning).
            layer: stop after this Transformer layer, from 0; None runs all.

        Returns: ``x`` (B, F, D); ``padding_mask`` (B, F) bool or None where nothing is padded; ``layer_results`` as ``Encoder``.
        """
        padding, sizes = self.frame_padding(source, padding_mask), self.frame_sizes(source, padding_mask)
        x = self.dropout_input(self.project(self.extract_frames(source, padding)))
        if mask:
            x = self.apply_mask(x, self.draw_mask(sizes, x.size(1)).to(x.device) if self.cfg.mask_prob > 0 else None)
        padding = padding if bool((sizes < x.size(1)).any()) else None
        x, layer_results = self.encoder(x, padding, layer)
        return {"x": x, "padding_mask": padding, "layer_results": layer_results}

"""The trunk: waveform -> front end -> projection -> mask -> encoder.

Parameter names are those of fairseq's wav2vec 2.0 and data2vec audio models, so that released checkpoints load.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import BaseFairseqModel
from fairseq.modules import GradMultiply, LayerNorm
from torch import Tensor, nn

from ..errors import UserError
from ..modules.conv_spec import parse_conv_layers
from ..modules.ema import tensors_of
from ..modules.fast.extractor import ConvExtractor
from ..modules.frame_grid import TRUNK, FrameGrid
from ..modules.frame_padding import frame_padding, frame_sizes
from ..modules.log_mel import LogMel
from ..modules.masking import row_generators, span_mask
from .encoder import Encoder, TrunkConfig, check_trunk_config, positional_kernel
from .objective import Objective, require_same_fields

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Heads:
    """Parts of a model that only pre-training needs. Fine-tuning removes them.

    Attributes:
        names: the attributes of the model that hold them, modules or parameters.
        fields: settings that determine their sizes and their meaning. A model takes them over only if these agree.
        untrained: end of the warning if they do not, such as "projection and codebook start untrained".
    """

    names: tuple[str, ...]
    fields: tuple[str, ...]
    untrained: str

    def are_in(self, model: "Trunk") -> bool:
        """Whether the model declares these heads and they were not removed."""
        return self in model.pretraining_heads and all(getattr(model, name) is not None for name in self.names)

    def settings(self, model: "Trunk") -> dict[str, Any]:
        """Name of a field -> its value."""
        return {name: getattr(model.cfg, name) for name in self.fields}


class Trunk(Objective):
    """The trunk; a subclass adds an objective: its heads, its targets and its loss.

    Attributes:
        pretraining_heads: its groups of heads. Each is taken over as a whole.
        new_heads: whether they start untrained, although those of ``model.start_from`` may fit
            (``model.start_codebooks=new``).
    """

    pretraining_heads: tuple[Heads, ...] = ()
    new_heads = False
    finetuning_fields = (
        *("mask_prob", "mask_channel_prob", "feature_grad_mult", "layerdrop"),
        *("dropout", "dropout_input", "attention_dropout", "activation_dropout"),
    )

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
        """Raise UserError if utterances may have fewer than two frames, one to mask and one to leave.

        Also for ``model.start_codebooks=new`` without a model to start from.
        """
        if self.new_heads and self.cfg.start_from is None:
            raise UserError(
                "model.start_codebooks=new: without model.start_from all codebooks are new; set model.start_from=FILE, "
                "or model.start_codebooks=warm"
            )
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
        """Take over front end, projection, mask embedding and encoder of another trunk of the same size.

        Heads that the source has too are taken over if their settings agree, and not with ``new_heads``; else they
        start untrained, which is logged.
        """
        trunk = require_trunk(source, file, type(self).__name__)
        require_same_fields(file, trunk_sizes(trunk), trunk_sizes(self))
        for name in ("feature_extractor", "layer_norm", "post_extract_proj", "encoder"):
            self.get_submodule(name).load_state_dict(trunk.get_submodule(name).state_dict())
        self.mask_emb.data.copy_(trunk.mask_emb)
        for heads in self.pretraining_heads:
            if self.new_heads:
                logger.info(f"{file}: {heads.untrained} (model.start_codebooks=new)")
            elif heads.are_in(trunk):
                self.take_over_heads(heads, trunk, file)

    def take_over_heads(self, heads: Heads, source: "Trunk", file: str) -> None:
        """Copy the heads of ``source``, the model in the checkpoint ``file``, or log which settings differ."""
        theirs, ours = heads.settings(source), heads.settings(self)
        differing = ", ".join(f"model.{name}={value}" for name, value in theirs.items() if value != ours[name])
        if differing:
            logger.warning(f"{file}: was trained with {differing}, so that {heads.untrained}")
            return
        values = tensors_of(source)
        for name, tensor in tensors_of(self).items():
            if name.split(".")[0] in heads.names:
                tensor.copy_(values[name])

    def structure(self) -> dict[str, Any]:
        fields = trunk_sizes(self)
        for heads in self.pretraining_heads:
            fields |= heads.settings(self)
        return fields

    # ---- frames --------------------------------------------------------------------------------------------------

    def frame_counts(self, samples: Tensor) -> Tensor:
        """Number of frames of utterances of so many samples; int64 in and out, 0 for one that is too short."""
        return self.grid.counts(samples)

    def n_frames(self, source: Tensor) -> int:
        """F of a waveform (B, T)."""
        return self.grid.count(source.size(1))

    def frame_padding(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """padding_mask (B, T) over samples, or None -> (B, F) bool over frames."""
        return frame_padding(self.grid, source, padding_mask)

    def frame_sizes(self, source: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Number of frames of each utterance, (B,) int64 on the CPU.

        A GPU is waited for only if there is a padding_mask.
        """
        return frame_sizes(self.grid, source, padding_mask)

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

    # ---- fine-tuning ---------------------------------------------------------------------------------------------

    @property
    def feature_width(self) -> int:
        return self.cfg.encoder_embed_dim

    @property
    def pretraining_modules(self) -> tuple[str, ...]:
        return tuple(name for heads in self.pretraining_heads for name in heads.names)

    def remove_pretraining_modules(self, last_layer: int | None = None) -> None:
        """Remove the heads and the layers above ``last_layer``; all that is left can be trained."""
        super().remove_pretraining_modules()
        if last_layer is not None:
            self.encoder.layers = self.encoder.layers[: last_layer + 1]


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

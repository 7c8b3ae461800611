"""APC and MPC: prediction of log-Mel frames, from the past or from the frames around a mask.

Autoregressive predictive coding (Chung et al. 2019, arXiv 1904.03240; with Transformers Chung and Glass 2020, arXiv
1910.12607) predicts the frame n steps ahead. Masked predictive coding (Jiang et al. 2019, arXiv 1910.09932)
reconstructs masked frames. Both have the L1 loss, and the encoders that Chung, Belinkov and Glass compare (ICASSP 2021,
arXiv 2010.11481).

The input of both, and their target, are log-Mel frames, 100 per second; each bin has mean 0 and variance 1 over the
utterance (or over the crop that a model is trained on). A forward encoder is causal, but this normalisation looks at
the whole utterance.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from ..errors import UserError
from ..modules import frame_grid
from ..modules.both_directions import BothDirections
from ..modules.frame_padding import frame_padding, frame_sizes
from ..modules.log_mel import LogMel
from ..modules.masking import row_generators, span_mask
from ..ranges import FRAMES, SHARE, check_ranges
from .objective import Objective, Output, require_same_fields
from .predictive_encoder import CONVOLUTION, RNN, TRANSFORMER, FrameEncoder, PredictiveConfig, one_direction

FORWARD, BOTH = "forward", "both"


@dataclass
class APCConfig(PredictiveConfig):
    direction: ChoiceEnum([FORWARD, BOTH]) = field(
        default=FORWARD,
        metadata={
            "help": "forward: predict later frames from earlier ones; both: also a backward model of the same size, "
            "which shares nothing with it; a layer's output is that of both, side by side"
        },
    )
    shift: int = field(default=3, metadata={"range": FRAMES, "help": "n: how many frames ahead the predicted frame is"})


@dataclass
class MPCConfig(PredictiveConfig):
    mask_prob: float = field(
        default=0.15, metadata={"range": SHARE, "help": "share of frames to mask (counted without overlap of spans)"}
    )
    mask_length: int = field(default=7, metadata={"range": FRAMES, "help": "frames in a masked span"})


# ---- what both objectives share --------------------------------------------------------------------------------------


class Predictive(Objective):
    """Log-Mel frames, their encoder, and linear layers ``post_nets`` that predict frames from its output.

    Attributes:
        grid: number and place of the frames: frame i covers samples 160 i to 160 i + 399.
        width: D of every layer.
    """

    model_name: ClassVar[str]
    finetuning_fields = ("dropout",)
    grid = frame_grid.MEL
    # waveforms stay float32 in any precision of the model: compat.training.keep_waveforms_float32
    takes_float32 = True

    def __init__(self, cfg: PredictiveConfig, layers: list[nn.Module], n_predictors: int):
        super().__init__()
        self.cfg = cfg
        self.log_mel = LogMel(cfg.n_mels, stacked=1)
        self.encoder = FrameEncoder(layers)
        self.post_nets = nn.ModuleList(nn.Linear(cfg.width, cfg.n_mels) for _ in range(n_predictors))
        self.width = n_predictors * cfg.width

    @property
    @abstractmethod
    def shortest(self) -> int:
        """Frames that an utterance must have, so that there is something to predict."""

    def check(self, task_cfg: Any) -> None:
        """Raise UserError if utterances may be too short."""
        needed = self.grid.field + (self.shortest - 1) * self.grid.hop
        for name, samples in (
            ("min_sample_size", task_cfg.min_sample_size or 0),
            ("max_sample_size", task_cfg.max_sample_size),
        ):
            if samples is not None and samples < needed:
                raise UserError(
                    f"task.{name}={samples}: allows utterances of fewer than {self.shortest} frames, in which there is "
                    f"nothing to predict; set it to {needed} or more"
                )

    def sizes(self) -> dict[str, Any]:
        """The settings that determine the parameters and what is computed from them; name of the field -> value."""
        cfg = self.cfg
        sizes: dict[str, Any] = {"n_mels": cfg.n_mels, "encoder": str(cfg.encoder), "layers": cfg.layers}
        sizes["width"] = cfg.width
        if str(cfg.encoder) == TRANSFORMER:
            sizes |= {"heads": cfg.heads, "feed_forward": cfg.feed_forward, "positions": str(cfg.positions)}
            if str(cfg.positions) == CONVOLUTION:
                sizes |= {"conv_pos": cfg.conv_pos, "conv_pos_groups": cfg.conv_pos_groups}
        return sizes

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Take over all weights of a model of the same kind and size."""
        if not isinstance(source, type(self)):
            raise UserError(
                f"model.start_from={file}: contains {type(source).__name__}; give a checkpoint of "
                f"model={self.model_name}, or set model.start_from=null"
            )
        require_same_fields(file, source.sizes(), self.sizes())
        self.load_state_dict(source.state_dict())

    def structure(self) -> dict[str, Any]:
        return self.sizes()

    @property
    def feature_width(self) -> int:
        return self.width

    @property
    def pretraining_modules(self) -> tuple[str, ...]:
        return ("post_nets",)

    def frames(self, source: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Waveforms (B, T) -> log-Mel frames (B, F, n_mels) float32, and their padding (B, F) bool.

        The padding is None without a padding_mask.
        """
        padding = frame_padding(self.grid, source, padding_mask)
        return self.log_mel(source, padding).transpose(1, 2), None if padding_mask is None else padding

    def encode(self, frames: Tensor, padding: Tensor | None, layer: int | None = None) -> tuple[Tensor, list]:
        """As ``FrameEncoder.forward``, in the precision of the model."""
        return self.encoder(frames.to(next(self.parameters()).dtype), padding, layer)

    def extract_features(
        self, source: Tensor, padding_mask: Tensor | None = None, mask: bool = False, layer: int | None = None
    ) -> dict[str, Any]:
        """Features for fine-tuning and analysis. They do not depend on padding.

        Args:
            source: (B, T) float waveform at 16 kHz, T at least 400.
            padding_mask: (B, T) bool, true past the end of an utterance, or None.
            mask: ignored; nothing is masked.
            layer: stop after this layer, from 0; None runs all.

        Returns:
            ``x`` (B, F, D), output of that layer; ``features`` (B, F, n_mels), the log-Mel frames; ``padding_mask``
            (B, F) bool, or None without the argument; ``layer_results`` as of ``FrameEncoder``.
        """
        frames, padding = self.frames(source, padding_mask)
        x, layer_results = self.encode(frames, padding, layer)
        return {"x": x, "features": frames, "padding_mask": padding, "layer_results": layer_results}


def l1_sum(predicted: Tensor | float, frames: Tensor, chosen: Tensor) -> Tensor:
    """Mean absolute difference over bins, summed over frames, float32.

    predicted and frames (B, F, n_mels), chosen (B, F) bool, the frames that count.
    """
    return (frames - predicted).abs().mean(-1).masked_fill(~chosen, 0.0).sum()


# ---- APC -------------------------------------------------------------------------------------------------------------


@register_model("apc", dataclass=APCConfig)
class APC(Predictive):
    """Predicts frame t + n from frames 0 .. t; with direction=both also frame t - n from the frames from t on."""

    model_name = "apc"

    def __init__(self, cfg: APCConfig):
        check_config(cfg, APCConfig)
        both = str(cfg.direction) == BOTH

        def layer(number: int) -> nn.Module:
            make = lambda: one_direction(cfg, number, True, cfg.width)
            return BothDirections(make(), make(), separate=number > 0) if both else make()

        super().__init__(cfg, [layer(number) for number in range(cfg.layers)], 1 + both)

    @property
    def shortest(self) -> int:
        return self.cfg.shift + 1

    def sizes(self) -> dict[str, Any]:
        return super().sizes() | {"direction": str(self.cfg.direction)}

    def structure(self) -> dict[str, Any]:
        return super().structure() | {"shift": self.cfg.shift}

    def forward(self, source: Tensor, padding_mask: Tensor | None = None, utterances: Tensor | None = None) -> Output:
        """One prediction of every frame that has a frame n steps before it; with direction=both one more, backward.

        Args:
            source: (B, T) float waveform at 16 kHz.
            padding_mask: (B, T) bool or None.
            utterances: not used; nothing is random but dropout.

        Returns:
            ``losses`` {"apc": L1, the mean over bins, summed over predicted frames}. ``sample_size``: predicted frames,
            those of both directions. ``scalars``, means over predicted frames of what the loss would be without a
            model: ``copy_loss``, if the last frame that is known were the prediction; ``mean_loss``, if the mean of
            the utterance were. With direction=both also ``forward_loss`` and ``backward_loss``.
        """
        n, width = self.cfg.shift, self.cfg.width
        frames, padding = self.frames(source, padding_mask)
        x, _ = self.encode(frames, padding)  # (B, F, D)
        early, late = frames[:, :-n], frames[:, n:]  # (B, F - n, n_mels) each
        exists = torch.ones_like(late[..., 0], dtype=torch.bool) if padding is None else ~padding[:, n:]  # (B, F - n)
        pairs = int((frame_sizes(self.grid, source, padding_mask) - n).clamp(min=0).sum())
        losses = {"forward": l1_sum(self.post_nets[0](x[:, :-n, :width]), late, exists)}
        means = l1_sum(0.0, late, exists)
        if len(self.post_nets) > 1:
            losses["backward"] = l1_sum(self.post_nets[1](x[:, n:, width:]), early, exists)
            means = means + l1_sum(0.0, early, exists)
        scalars: dict[str, Tensor | float] = {
            "copy_loss": l1_sum(early, late, exists) / max(pairs, 1),
            "mean_loss": means / max(pairs * len(losses), 1),
        }
        if len(losses) > 1:
            scalars |= {f"{name}_loss": loss.detach() / max(pairs, 1) for name, loss in losses.items()}
        loss = torch.stack([*losses.values()]).sum()
        return Output({"apc": loss}, pairs * len(losses), "predicted_frames", scalars)


# ---- MPC -------------------------------------------------------------------------------------------------------------


@register_model("mpc", dataclass=MPCConfig)
class MPC(Predictive):
    """Reconstructs masked frames from all others, with bidirectional layers.

    A recurrent layer has half of its width for each direction, so that all layers are as wide as Transformer layers.
    """

    model_name = "mpc"

    def __init__(self, cfg: MPCConfig):
        check_config(cfg, MPCConfig)
        if str(cfg.encoder) == RNN and cfg.width % 2:
            raise UserError(f"model.width={cfg.width}: must be even, because each direction has half of it; change it")

        def layer(number: int) -> nn.Module:
            if str(cfg.encoder) == TRANSFORMER:
                return one_direction(cfg, number, False, cfg.width)
            make = lambda: one_direction(cfg, number, False, cfg.width // 2)
            return BothDirections(make(), make(), separate=False)

        super().__init__(cfg, [layer(number) for number in range(cfg.layers)], 1)

    @property
    def shortest(self) -> int:
        return 2  # one to mask and one to leave

    def check(self, task_cfg: Any) -> None:
        """Raise UserError if nothing is masked, too."""
        super().check(task_cfg)
        if self.cfg.mask_prob == 0:
            raise UserError(
                f"model.mask_prob={self.cfg.mask_prob} masks nothing to predict; raise it (0.15 by default)"
            )

    def forward(self, source: Tensor, padding_mask: Tensor | None = None, utterances: Tensor | None = None) -> Output:
        """One reconstruction.

        Args:
            source: (B, T) float waveform at 16 kHz.
            padding_mask: (B, T) bool or None.
            utterances: (B,) int64, numbers of the utterances. Their masks depend only on these and on the last
                torch.manual_seed (fairseq sets a new seed for every update). Default: 0, 1, ...

        Returns:
            ``losses`` {"mpc": L1, the mean over bins, summed over masked frames}. ``sample_size``: masked frames.
            ``scalars``: ``mean_loss``, what the loss would be if the mean of the utterance were the prediction.
        """
        frames, padding = self.frames(source, padding_mask)
        sizes = frame_sizes(self.grid, source, padding_mask)
        masks = self.draw_mask(sizes, frames.size(1), torch.arange(len(source)) if utterances is None else utterances)
        masked = masks.to(frames.device, non_blocking=True)
        x, _ = self.encode(frames.masked_fill(masked.unsqueeze(-1), 0.0), padding)  # (B, F, D)
        loss = l1_sum(self.post_nets[0](x), frames, masked)
        sample_size = int(masks.sum())
        mean_loss = l1_sum(0.0, frames, masked) / max(sample_size, 1)
        return Output({"mpc": loss}, sample_size, "masked_frames", {"mean_loss": mean_loss})

    def draw_mask(self, sizes: Tensor, n_frames: int, utterances: Tensor) -> Tensor:
        """Random spans of valid frames: sizes (B,) int64, utterances (B,) int64 -> (B, n_frames) bool, on the CPU."""
        generators = row_generators(torch.initial_seed(), utterances.tolist())
        return span_mask(sizes, n_frames, self.cfg.mask_prob, self.cfg.mask_length, False, generators)


def check_config(cfg: PredictiveConfig, config_class: type[PredictiveConfig]) -> None:
    """Raise UserError for numbers out of range and for settings that cannot work together, naming the field."""
    check_ranges(cfg, config_class, "model")
    if str(cfg.encoder) == RNN:
        return
    if cfg.width < 4:
        raise UserError(f"model.width={cfg.width}: must be at least 4 with model.encoder=transformer; raise it")
    for name in ("heads", *(["conv_pos_groups"] if str(cfg.positions) == CONVOLUTION else [])):
        if cfg.width % getattr(cfg, name):
            raise UserError(
                f"model.width={cfg.width} is not a multiple of model.{name}={getattr(cfg, name)}; change one"
            )

"""CPC: contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748).

It follows CPC_audio (Riviere et al. 2020, arXiv 2002.02848). Convolutions turn the waveform into frames z_t, 100 per
second; a recurrent network summarises frames 0 .. t in c_t; from c_t, K predictors predict z_{t+1} .. z_{t+K}, each of
which must be distinguished from frames of other times. c_t are the features: they do not depend on the future.

For comparisons with APC and MPC (Chung, Belinkov and Glass, ICASSP 2021, arXiv 2010.11481), frames z_t may also come
from log-Mel frames, and c_t from causal convolutions.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from ..errors import UserError
from ..modules import frame_grid
from ..modules.causal_transformer import CausalTransformerLayer
from ..modules.channel_norm import ChannelNorm
from ..modules.infonce import draw_negatives, infonce_logits
from ..modules.log_mel import LogMel
from ..modules.masking import row_generators
from ..ranges import DROPOUT, FRAMES, LAYERS, WIDTH, Range, check_ranges
from .objective import DataNeeds, Objective, ObjectiveConfig, Output, require_same_fields

logger = logging.getLogger(__name__)

CONVOLUTIONS = [(10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1)]  # kernel, stride, zeros at either end
FRAME_WISE = [(1, 1, 0)] * 2  # above log-Mel frames
WAVEFORM, LOG_MEL = "waveform", "log_mel"
NORMS = {
    "channel": ChannelNorm,
    # Running averages over about 100 batches. A batch has one speaker; with torch's momentum of 0.1, which means about
    # 10 batches, they would be the averages of the last few speakers.
    "batch": lambda channels: nn.BatchNorm1d(channels, momentum=0.01),
    "instance": lambda channels: nn.InstanceNorm1d(channels, affine=True),
    "none": lambda channels: nn.Identity(),
}
PREDICTOR_HEADS = 8
PREDICTOR_FEED_FORWARD = 8  # width of the feed-forward block, in units of the predictor's width
CONTEXTS = ("lstm", "gru", "cnn")
CNN_KERNEL = 9  # frames; 3 layers see 25 frames, 250 ms, a little more than those of wav2vec (arXiv 1904.05862)
SIZE_FIELDS = ("front_end", "encoder_channels", "encoder_norm", "context", "context_layers", "context_dim")
"""Settings that a model must share with the one that it starts from ..."""
PREDICTOR_FIELDS = {
    "linear": ("predictor", "steps"),
    "transformer": ("predictor", "steps", "predictor_positions"),
    "none": (),
}
"""... and those of the predictors, by their kind in the source."""


@dataclass
class CPCConfig(ObjectiveConfig):
    front_end: ChoiceEnum([WAVEFORM, LOG_MEL]) = field(
        default=WAVEFORM,
        metadata={
            "help": "z_t from waveform: five convolutions; log_mel: two layers above each log-Mel frame by itself. "
            "Log-Mel frames are normalised over the window, so that windows should be long: 80000 samples, 5 s; "
            "features are those of the whole utterance"
        },
    )
    n_mels: int = field(default=80, metadata={"range": Range(1, 1_000), "help": "Mel bins of front_end=log_mel"})
    encoder_channels: int = field(
        default=256, metadata={"range": WIDTH, "help": "channels of the front end's layers: the width of z_t"}
    )
    encoder_norm: ChoiceEnum(list(NORMS)) = field(
        default="channel",
        metadata={
            "help": "normalisation after every layer of the front end: channel: each frame over its channels; batch: "
            "over the batch, on each rank separately; instance: over time, which is not causal; none"
        },
    )
    context: ChoiceEnum(list(CONTEXTS)) = field(
        default="lstm",
        metadata={
            "help": "what summarises z_0 .. z_t in c_t: lstm, gru: a recurrent network; cnn: causal convolutions over "
            f"{CNN_KERNEL} frames with residual connections"
        },
    )
    context_layers: int = field(default=2, metadata={"range": LAYERS, "help": "layers of the context network"})
    context_dim: int = field(
        default=256, metadata={"range": WIDTH, "help": "width of the context network, and so of c_t"}
    )
    predictor: ChoiceEnum(["linear", "transformer", "none"]) = field(
        default="linear",
        metadata={
            "help": "what predicts z_{t+k} from c_t (linear) or from c_0 .. c_t (transformer: one causal layer), one "
            "for each k; none: for checkpoints of CPC_audio with other kinds of predictors, which give features but "
            "cannot be trained"
        },
    )
    predictor_dropout: float = field(
        default=0.1, metadata={"range": DROPOUT, "help": "dropout of predictor=transformer"}
    )
    predictor_positions: int = field(
        default=116,
        metadata={
            "range": FRAMES,
            "help": "predictor=transformer: largest number of anchors, which is frames of a window minus steps",
        },
    )
    steps: int = field(default=12, metadata={"range": LAYERS, "help": "K: number of future frames that are predicted"})
    n_negatives: int = field(default=128, metadata={"range": FRAMES, "help": "negative frames for each positive one"})
    cpc_reduction: ChoiceEnum(["sum", "mean"]) = field(
        default="sum",
        metadata={"help": "how the losses of the K steps are combined: sum: as in the released code; mean: the paper"},
    )


def check_config(cfg: CPCConfig):
    """Raise UserError for numbers out of range and for settings that cannot work together, naming the field."""
    check_ranges(cfg, CPCConfig, "model")
    if cfg.predictor == "transformer" and (
        cfg.context_dim != cfg.encoder_channels or cfg.context_dim % PREDICTOR_HEADS
    ):
        raise UserError(
            f"model.predictor=transformer: model.context_dim={cfg.context_dim} must be equal to "
            f"model.encoder_channels={cfg.encoder_channels} and a multiple of {PREDICTOR_HEADS}; change one of them, "
            "or set model.predictor=linear"
        )


class ConvEncoder(nn.Module):
    """Waveform (B, T) -> frames z (B, F, C), F = floor((T + 1) / 160): five times convolution, normalisation, ReLU."""

    def __init__(
        self, channels: int, norm: str, before: int = 1, shapes: Sequence[tuple[int, int, int]] = CONVOLUTIONS
    ):
        super().__init__()
        widths = [before] + [channels] * len(shapes)
        self.shapes = shapes
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride, padding)
            for before, after, (kernel, stride, padding) in zip(widths, widths[1:], shapes)
        )
        self.norms = nn.ModuleList(NORMS[norm](channels) for _ in shapes)

    def forward(self, source: Tensor, sizes: Tensor | None = None) -> Tensor:
        """``sizes`` (B,) int64: samples of each row, with zeros after them."""
        return self.convolve(source.unsqueeze(1), sizes)

    def convolve(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """x (B, channels of the input, T) with valid lengths ``sizes`` (B,) -> (B, F, C).

        Past the end of an utterance every layer is zero, just as the convolutions pad an utterance by itself.
        """
        x = x.to(next(self.convolutions.parameters()).dtype)
        for convolution, norm, shape in zip(self.convolutions, self.norms, self.shapes):
            x = convolution(x)  # (B, C, F of this layer)
            if sizes is None:
                x = torch.relu(norm(x))
            else:
                sizes = lengths_after(sizes, *shape)
                valid = torch.arange(x.size(2), device=x.device) < sizes.unsqueeze(1)  # (B, F)
                x = torch.relu(normalize_valid(norm, x, valid)) * valid.unsqueeze(1)
        return x.transpose(1, 2)  # (B, F, C)


class MelEncoder(ConvEncoder):
    """Waveform (B, T) -> log-Mel frames -> frames z (B, F, C), F = 1 + (T - 400) // 160.

    Twice a linear layer, normalisation and ReLU, on each frame by itself. Each Mel bin has mean 0 and variance 1 over
    the row: a window in training, an utterance otherwise. So z_t depends, through these two numbers, on all samples.
    """

    # waveforms stay float32 in any precision of the model: compat.training.keep_waveforms_float32
    takes_float32 = True

    def __init__(self, n_mels: int, channels: int, norm: str):
        super().__init__(channels, norm, n_mels, FRAME_WISE)
        self.log_mel = LogMel(n_mels, stacked=1)

    def forward(self, source: Tensor, sizes: Tensor | None = None) -> Tensor:
        B, T = source.shape
        counts = frame_grid.MEL.counts(source.new_full((B,), T, dtype=torch.long) if sizes is None else sizes)
        padding = torch.arange(frame_grid.MEL.count(T), device=source.device) >= counts.unsqueeze(1)  # (B, F)
        return self.convolve(self.log_mel(source, padding), None if sizes is None else counts)


def normalize_valid(norm: nn.Module, x: Tensor, valid: Tensor) -> Tensor:
    """norm(x) (B, C, F), in which the averages of batch norm over a training batch are those of valid frames (B, F)."""
    if not (isinstance(norm, nn.BatchNorm1d) and norm.training):
        return norm(x)
    frames = x.transpose(1, 2)  # (B, F, C)
    normalized = torch.zeros_like(frames)
    normalized[valid] = norm(frames[valid])  # (N, C), the valid ones
    return normalized.transpose(1, 2)


def lengths_after(lengths: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Numbers of frames (B,) int64 after a convolution with ``padding`` zeros at either end."""
    return (torch.div(lengths + 2 * padding - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)


class CausalConvolution(nn.Module):
    """x (F, B, C) -> (x + ReLU(convolution of LayerNorm(x)) (F, B, D), None), as torch's recurrent layers.

    Frame t sees frames t - 8 .. t, with zeros before the first. LayerNorm normalises each frame over its channels;
    wav2vec's GroupNorm would do it over time, later frames included. Where C is not D, a matrix maps x in the sum.
    """

    def __init__(self, before: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(before)
        self.convolution = nn.Conv1d(before, width, CNN_KERNEL)
        self.residual = nn.Identity() if before == width else nn.Linear(before, width, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        past = F.pad(self.norm(x).permute(1, 2, 0), (CNN_KERNEL - 1, 0))  # (B, C, F + 8)
        return self.residual(x) + torch.relu(self.convolution(past)).permute(2, 0, 1), None  # (F, B, D)


CONTEXT_LAYERS: dict[str, Callable[[int, int], nn.Module]] = dict(zip(CONTEXTS, (nn.LSTM, nn.GRU, CausalConvolution)))


class Context(nn.Module):
    """Recurrent or convolutional layers, each a module whose output can be read; every row starts with a zero state."""

    def __init__(self, kind: str, layers: int, before: int, width: int):
        super().__init__()
        make = CONTEXT_LAYERS[kind]
        self.layers = nn.ModuleList(make(before if i == 0 else width, width) for i in range(layers))

    def forward(self, x: Tensor, layer: int | None = None):
        """x (B, F, C) -> c (B, F, D), and for each layer (output (F, B, D), None, None) as in the trunk."""
        x, layer_results = x.transpose(0, 1), []  # (F, B, C)
        for one in self.layers[: None if layer is None else layer + 1]:
            x, _ = one(x)
            layer_results.append((x, None, None))
        return x.transpose(0, 1), layer_results


class LinearPredictors(nn.Module):
    """c (B, W, D) -> (K, B, W, C): K matrices without bias, in one matrix product."""

    def __init__(self, cfg: CPCConfig):
        super().__init__()
        self.steps = cfg.steps
        self.project = nn.Linear(cfg.context_dim, cfg.steps * cfg.encoder_channels, bias=False)

    def forward(self, c: Tensor) -> Tensor:
        return self.project(c).unflatten(-1, (self.steps, -1)).permute(2, 0, 1, 3)  # (B, W, K, C) -> (K, B, W, C)


class TransformerPredictors(nn.Module):
    """c (B, W, D) -> (K, B, W, D): K causal Transformer layers."""

    def __init__(self, cfg: CPCConfig):
        super().__init__()
        feed_forward = PREDICTOR_FEED_FORWARD * cfg.context_dim
        self.layers = nn.ModuleList(
            CausalTransformerLayer(
                cfg.context_dim, PREDICTOR_HEADS, feed_forward, cfg.predictor_dropout, cfg.predictor_positions
            )
            for _ in range(cfg.steps)
        )

    def forward(self, c: Tensor) -> Tensor:
        return torch.stack([layer(c) for layer in self.layers])


PREDICTORS: dict[str, Callable[[CPCConfig], nn.Module | None]] = {
    "linear": LinearPredictors,
    "transformer": TransformerPredictors,
    "none": lambda cfg: None,
}


@register_model("cpc", dataclass=CPCConfig)
class CPC(Objective):
    """Encoder, context network and predictors.

    Attributes:
        grid: number and place of the frames. With front_end=waveform frame t is centred on samples 160 t ..
            160 t + 158; it depends on samples 160 t - 153 .. 160 t + 311. With log_mel it is computed from samples
            160 t .. 160 t + 399 (see ``MelEncoder``).
    """

    needs = DataNeeds(windows=True)

    def __init__(self, cfg: CPCConfig):
        super().__init__()
        check_config(cfg)
        self.cfg = cfg
        self.encoder: ConvEncoder
        if cfg.front_end == LOG_MEL:
            self.encoder, self.grid = MelEncoder(cfg.n_mels, cfg.encoder_channels, cfg.encoder_norm), frame_grid.MEL
        else:
            self.encoder, self.grid = ConvEncoder(cfg.encoder_channels, cfg.encoder_norm), frame_grid.CPC
        self.context = Context(cfg.context, cfg.context_layers, cfg.encoder_channels, cfg.context_dim)
        self.predictors = PREDICTORS[cfg.predictor](cfg)

    # ---- the training protocol -----------------------------------------------------------------------------------

    def check(self, task_cfg: Any) -> None:
        """Raise UserError if the windows are too short or too long."""
        self.count_anchors(task_cfg.window_samples)

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Take over encoder, context network and predictors of a CPC model of the same size."""
        if not isinstance(source, CPC):
            raise UserError(
                f"model.start_from={file}: contains {type(source).__name__}, which is not a CPC model; "
                "give a checkpoint of model=cpc or of CPC_audio"
            )
        names = fields_of(source)
        theirs, ours = ({name: getattr(model.cfg, name) for name in names} for model in (source, self))
        require_same_fields(file, theirs, ours)
        if source.predictors is None:
            logger.warning(
                f"{file}: has no predictors of a kind that model=cpc has; encoder and context network are taken over, "
                "and new predictors start untrained"
            )
        state = self.state_dict()
        shared = {name: value for name, value in source.state_dict().items() if name in state}
        self.load_state_dict({**state, **shared})

    def structure(self) -> dict[str, Any]:
        return {name: getattr(self.cfg, name) for name in fields_of(self)}

    @property
    def feature_width(self) -> int:
        return self.cfg.context_dim

    @property
    def pretraining_modules(self) -> tuple[str, ...]:
        return ("predictors",)

    # ---- the contrast --------------------------------------------------------------------------------------------

    def frame_counts(self, samples: Tensor) -> Tensor:
        """Number of frames of utterances of so many samples; int64 in and out."""
        return self.grid.counts(samples)

    def count_anchors(self, samples: int) -> int:
        """W: how many frames of a window of so many samples have K frames after them.

        Raises UserError if there are none, or more than the predictors accept.
        """
        if self.predictors is None:
            raise UserError(
                "model.predictor=none: nothing is predicted, so nothing learned; set model.predictor=linear"
            )
        frames, steps = self.grid.count(samples), self.cfg.steps
        limit = steps + self.cfg.predictor_positions if self.cfg.predictor == "transformer" else frames
        if not steps < frames <= limit:
            raise UserError(
                f"task.window_samples={samples}: {frames} frames, but at least model.steps + 1 = {steps + 1} are "
                "required, and with predictor=transformer at most model.steps + model.predictor_positions; change one"
            )
        return frames - steps

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        mask: bool = False,
        features_only: bool = False,
        layer: int | None = None,
        utterances: Tensor | None = None,
        **targets,
    ) -> Output | dict:
        """One contrast; with ``features_only``, ``extract_features``.

        Args:
            source: (B, T) float waveform at 16 kHz: windows without padding.
            padding_mask: (B, T) bool or None, for features only.
            mask: ignored; nothing is masked.
            layer: as in ``extract_features``.
            utterances: (B,) int64, numbers of the windows. Their negatives depend only on these and on the last
                torch.manual_seed (fairseq sets a new seed for every update). Default: 0, 1, ...
            targets: further arguments of ``learn`` in a subclass.

        Returns:
            ``losses`` {"cpc": scalar, summed over anchors, summed or averaged over steps}. ``sample_size``: anchors, B
            times W = F - K. ``scalars``: ``loss_k`` and ``accuracy_k`` for steps k from 1, means over anchors, and
            ``accuracy``, their mean.

        Raises:
            UserError: the windows are too short for an anchor, or the model has no predictors.
        """
        if features_only:
            return self.extract_features(source, padding_mask, layer=layer)
        anchors = self.count_anchors(source.size(1))
        z = self.encoder(source)  # (B, F, C)
        c, _ = self.context(z)  # (B, F, D)
        utterances = torch.arange(len(source)) if utterances is None else utterances
        return self.learn(z, c[:, :anchors], utterances, **targets)

    def learn(self, z: Tensor, c: Tensor, utterances: Tensor) -> Output:
        """Frames z (B, F, C) and contexts c (B, W, D) of the anchors -> what ``forward`` returns."""
        assert self.predictors is not None  # otherwise `count_anchors` has raised an error
        anchors = c.size(1)
        generators = row_generators(torch.initial_seed(), utterances.tolist())
        negatives = draw_negatives(z.size(1), anchors, self.cfg.n_negatives, generators).to(z.device)
        logits = infonce_logits(self.predictors(c), z, negatives)  # (K, B, W, 1 + N), the positive first
        nll = (logits.logsumexp(-1) - logits[..., 0]).sum((1, 2))  # (K,)
        accuracy = (logits.detach().argmax(-1) == 0).float().mean((1, 2))  # (K,)
        sample_size = logits[0, ..., 0].numel()
        scalars: dict[str, Tensor | float] = {}
        for k in range(self.cfg.steps):
            scalars |= {f"loss_{k + 1}": nll[k].detach() / sample_size, f"accuracy_{k + 1}": accuracy[k]}
        scalars["accuracy"] = accuracy.mean()
        losses = {"cpc": nll.sum() if self.cfg.cpc_reduction == "sum" else nll.mean()}
        return Output(losses, sample_size, "anchors", scalars)

    def extract_features(
        self, source: Tensor, padding_mask: Tensor | None = None, mask: bool = False, layer: int | None = None
    ) -> dict[str, Any]:
        """Features of whole utterances for fine-tuning and analysis.

        They do not depend on padding, except with encoder_norm=instance.

        Args:
            source: (B, T) float waveform at 16 kHz, not normalised.
            padding_mask: (B, T) bool, true past the end of an utterance, or None.
            mask: ignored; nothing is masked.
            layer: stop after this layer of the context network, from 0; None runs all.

        Returns:
            ``x`` (B, F, D), c_t of that layer; ``features`` (B, F, C), z_t; ``padding_mask`` (B, F) bool, or None if
            nothing is padded; ``layer_results`` as of ``Context``.
        """
        sizes = None if padding_mask is None else (~padding_mask).sum(1)
        z = self.encoder(source, sizes)
        x, layer_results = self.context(z, layer)
        padding = None
        if sizes is not None:
            padding = torch.arange(z.size(1), device=z.device) >= self.frame_counts(sizes).unsqueeze(1)
            padding = padding if bool(padding.any()) else None
        return {"x": x, "features": z, "padding_mask": padding, "layer_results": layer_results}


def fields_of(model: CPC) -> tuple[str, ...]:
    """The settings that determine the parameters of a model and what is computed from them."""
    mels = ("n_mels",) if model.cfg.front_end == LOG_MEL else ()
    return SIZE_FIELDS + mels + PREDICTOR_FIELDS[str(model.cfg.predictor)]

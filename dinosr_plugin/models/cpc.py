"""CPC: contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748), as CPC_audio has it (Riviere et al. 2020, arXiv 2002.02848).

Convolutions turn the waveform into frames z_t, 100 a second; a recurrent network sums up frames 0 .. t in c_t; K predictors say z_{t+1} .. z_{t+K}
from c_t, and must tell each from frames of other times. c_t are the features: they see nothing of the future.
"""

from dataclasses import dataclass, field

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from ..errors import UserError
from ..modules.causal_transformer import CausalTransformerLayer
from ..modules.channel_norm import ChannelNorm
from ..modules.infonce import draw_negatives, infonce_logits
from ..modules.masking import row_generators

CONVOLUTIONS = [(10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1)]  # kernel, stride, zeros at either end
NORMS = {
    "channel": ChannelNorm,
    # averages over some 100 batches: each is of one speaker, and over torch's 10 they would be those of the last few speakers
    "batch": lambda channels: nn.BatchNorm1d(channels, momentum=0.01),
    "instance": lambda channels: nn.InstanceNorm1d(channels, affine=True),
    "none": lambda channels: nn.Identity(),
}
RECURRENT = {"lstm": nn.LSTM, "gru": nn.GRU}
PREDICTOR_HEADS = 8
PREDICTOR_FEED_FORWARD = 8  # times the width


@dataclass
class CPCConfig(FairseqDataclass):
    encoder_channels: int = field(default=256, metadata={"help": "channels of the five convolutions: the width of z_t"})
    encoder_norm: ChoiceEnum(list(NORMS)) = field(
        default="channel",
        metadata={
            "help": "after every convolution: channel: each frame over its channels; batch: over the batch, of each rank by itself; instance: over time, not causal; none"
        },
    )
    context: ChoiceEnum(list(RECURRENT)) = field(default="lstm", metadata={"help": "the recurrent network"})
    context_layers: int = field(default=2, metadata={"help": "its layers"})
    context_dim: int = field(default=256, metadata={"help": "its width: that of c_t"})
    predictor: ChoiceEnum(["linear", "transformer", "none"]) = field(
        default="linear",
        metadata={
            "help": "what says z_{t+k} from c_t (linear) or from c_0 .. c_t (transformer: one causal layer), one for each k; "
            "none: of checkpoints of CPC_audio whose predictors are of other kinds: they give features, and nothing is learned with it"
        },
    )
    predictor_dropout: float = field(default=0.1, metadata={"help": "dropout of predictor=transformer"})
    predictor_positions: int = field(
        default=116, metadata={"help": "predictor=transformer: the most anchors, frames of a window less steps"}
    )
    steps: int = field(default=12, metadata={"help": "K: how many frames ahead are predicted"})
    n_negatives: int = field(default=128, metadata={"help": "false frames against each true one"})
    cpc_reduction: ChoiceEnum(["sum", "mean"]) = field(
        default="sum",
        metadata={"help": "of the K steps' losses: sum: as the released code; mean: as the paper's equation"},
    )


def check_config(cfg: CPCConfig):
    """Raises UserError for settings that cannot work, naming the field."""
    for name in ("encoder_channels", "context_layers", "context_dim", "steps", "n_negatives"):
        if getattr(cfg, name) < 1:
            raise UserError(f"model.{name}={getattr(cfg, name)} must be at least 1")
    if cfg.predictor == "transformer" and (
        cfg.context_dim != cfg.encoder_channels or cfg.context_dim % PREDICTOR_HEADS
    ):
        raise UserError(
            f"model.predictor=transformer: model.context_dim={cfg.context_dim} must be the same as model.encoder_channels={cfg.encoder_channels}, "
            f"a multiple of {PREDICTOR_HEADS}; change one, or take predictor=linear"
        )
    if not 0 <= cfg.predictor_dropout < 1:
        raise UserError(f"model.predictor_dropout={cfg.predictor_dropout} must be 0 or more and below 1")


class ConvEncoder(nn.Module):
    """Waveform (B, T) -> frames z (B, F, C), F = floor((T + 1) / 160): five times convolution, normalisation, ReLU."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        widths = [1] + [channels] * len(CONVOLUTIONS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride, padding)
            for before, after, (kernel, stride, padding) in zip(widths, widths[1:], CONVOLUTIONS)
        )
        self.norms = nn.ModuleList(NORMS[norm](channels) for _ in CONVOLUTIONS)

    def forward(self, source: Tensor, sizes: Tensor | None = None) -> Tensor:
        """``sizes`` (B,) int64: samples of each row, zeros after them. What lies past an utterance's end stays zero in every layer, as the
        convolutions pad an utterance alone."""
        x = source.unsqueeze(1).to(self.convolutions[0].weight.dtype)
        for convolution, norm, shape in zip(self.convolutions, self.norms, CONVOLUTIONS):
            x = torch.relu(norm(convolution(x)))
            if sizes is not None:
                sizes = lengths_after(sizes, *shape)
                x = x * (torch.arange(x.size(2), device=x.device) < sizes.unsqueeze(1)).unsqueeze(1)
        return x.transpose(1, 2)


def lengths_after(lengths: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    return (torch.div(lengths + 2 * padding - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)


class Context(nn.Module):
    """Recurrent layers, each a module of its own so that its output can be read; the state is zero at the start of every row."""

    def __init__(self, kind: str, layers: int, before: int, width: int):
        super().__init__()
        self.layers = nn.ModuleList(RECURRENT[kind](before if i == 0 else width, width) for i in range(layers))

    def forward(self, x: Tensor, layer: int | None = None):
        """x (B, F, C) -> (c (B, F, D), layer_results), the latter as the trunk's: for each layer (output (F, B, D), None, None)."""
        x, layer_results = x.transpose(0, 1), []
        for recurrent in self.layers[: None if layer is None else layer + 1]:
            x, _ = recurrent(x)
            layer_results.append((x, None, None))
        return x.transpose(0, 1), layer_results


class LinearPredictors(nn.Module):
    """c (B, W, D) -> (K, B, W, C): K matrices without bias, in one product."""

    def __init__(self, cfg: CPCConfig):
        super().__init__()
        self.steps = cfg.steps
        self.project = nn.Linear(cfg.context_dim, cfg.steps * cfg.encoder_channels, bias=False)

    def forward(self, c: Tensor) -> Tensor:
        return self.project(c).unflatten(-1, (self.steps, -1)).permute(2, 0, 1, 3)


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


PREDICTORS = {"linear": LinearPredictors, "transformer": TransformerPredictors, "none": lambda cfg: None}


@register_model("cpc", dataclass=CPCConfig)
class CPC(BaseFairseqModel):
    """Encoder, context network and predictors.

    Attributes:
        field: samples that give a first frame. Frame t stands for samples 160 t .. 160 t + 158; it sees 160 t - 153 .. 160 t + 311.
        hop: samples from one frame to the next.
    """

    field, hop = 159, 160

    def __init__(self, cfg: CPCConfig):
        super().__init__()
        check_config(cfg)
        self.cfg = cfg
        self.encoder = ConvEncoder(cfg.encoder_channels, cfg.encoder_norm)
        self.context = Context(cfg.context, cfg.context_layers, cfg.encoder_channels, cfg.context_dim)
        self.predictors = PREDICTORS[cfg.predictor](cfg)

    @classmethod
    def build_model(cls, cfg: CPCConfig, task=None):
        """Build a new model instance (fairseq's entry point)."""
        return cls(cfg)

    def frame_counts(self, samples: Tensor) -> Tensor:
        """Number of frames that an utterance of so many samples has: floor((n + 1) / 160); int64 in and out."""
        return torch.div(samples + 1, self.hop, rounding_mode="floor")

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        mask: bool = False,
        features_only: bool = False,
        layer: int | None = None,
        utterances: Tensor | None = None,
        **targets,
    ) -> dict:
        """One contrast; ``features_only`` gives ``extract_features`` instead.

        Args:
            source: (B, T) float waveform at 16 kHz: windows, all of speech.
            padding_mask: (B, T) bool or None, for features only.
            mask: ignored: nothing is masked here.
            layer: as in ``extract_features``.
            utterances: (B,) int64, numbers of the windows: their negatives depend on these and the last torch.manual_seed only
                (fairseq sets that anew in every update). Without them all rows count as number 0, 1, ...
            targets: what ``learn`` of a subclass takes.

        Returns: ``losses`` {"cpc": scalar, summed over anchors, summed or averaged over steps}; ``sample_size``, anchors: B times W = F - K;
        ``loss_k`` and ``accuracy_k`` for steps k from 1, means over anchors, and ``accuracy``, their mean.
        Raises UserError for windows too short for an anchor, and for a model without predictors.
        """
        if features_only:
            return self.extract_features(source, padding_mask, layer=layer)
        anchors = self.count_anchors(source.size(1))
        z = self.encoder(source)
        c, _ = self.context(z)
        utterances = torch.arange(len(source)) if utterances is None else utterances
        return self.learn(z, c[:, :anchors], utterances, **targets)

    def count_anchors(self, samples: int | None) -> int:
        """W, frames of a window that have K frames after them. Raises UserError where there is none, or more than the predictors take."""
        if self.predictors is None:
            raise UserError(
                "model.predictor=none: nothing is predicted, so nothing learned; take model.predictor=linear"
            )
        if samples is None:
            raise UserError(
                "task.window_samples: not given, and this model learns from windows of one length; set it, to 20480 in the papers"
            )
        frames = int(self.frame_counts(torch.tensor(samples)))
        least, most = (
            self.cfg.steps + 1,
            self.cfg.steps + self.cfg.predictor_positions if self.cfg.predictor == "transformer" else frames,
        )
        if not least <= frames <= most:
            raise UserError(
                f"task.window_samples={samples}: {frames} frames, where at least {least} are wanted, one more than model.steps, and with predictor=transformer "
                "at most model.predictor_positions more; change one of these"
            )
        return frames - self.cfg.steps

    def learn(self, z: Tensor, c: Tensor, utterances: Tensor) -> dict:
        """Frames z (B, F, C) and contexts c (B, W, D) of the anchors -> what ``forward`` returns."""
        anchors = c.size(1)
        generators = row_generators(torch.initial_seed(), utterances.tolist())
        negatives = draw_negatives(z.size(1), anchors, self.cfg.n_negatives, generators).to(z.device)
        logits = infonce_logits(self.predictors(c), z, negatives)  # (K, B, W, 1 + N)
        nll = (logits.logsumexp(-1) - logits[..., 0]).sum((1, 2))  # (K,)
        right = (logits.detach().argmax(-1) == 0).float().mean((1, 2))  # (K,)
        sample_size = logits[0, ..., 0].numel()
        output = {
            "losses": {"cpc": nll.sum() if self.cfg.cpc_reduction == "sum" else nll.mean()},
            "sample_size": sample_size,
        }
        for k in range(self.cfg.steps):
            output |= {f"loss_{k + 1}": nll[k].detach() / sample_size, f"accuracy_{k + 1}": right[k]}
        return {**output, "accuracy": right.mean()}

    def extract_features(
        self, source: Tensor, padding_mask: Tensor | None = None, mask: bool = False, layer: int | None = None
    ):
        """Features for analysis: of whole utterances, whatever they are padded to (but with encoder_norm=instance).

        Args:
            source: (B, T) float waveform at 16 kHz, as it is: not normalised.
            padding_mask: (B, T) bool, true past the end of an utterance, or None.
            mask: ignored: nothing is masked here.
            layer: stop after this recurrent layer, from 0; None runs all.

        Returns: ``x`` (B, F, D), c_t of that layer; ``features`` (B, F, C), z_t; ``padding_mask`` (B, F) bool or None where nothing is padded;
        ``layer_results`` as ``Context``.
        """
        sizes = None if padding_mask is None else (~padding_mask).sum(1)
        z = self.encoder(source, sizes)
        x, layer_results = self.context(z, layer)
        padding = (
            None if sizes is None else torch.arange(z.size(1), device=z.device) >= self.frame_counts(sizes).unsqueeze(1)
        )
        padding = padding if padding is not None and bool(padding.any()) else None
        return {"x": x, "features": z, "padding_mask": padding, "layer_results": layer_results}

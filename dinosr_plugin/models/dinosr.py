"""DinoSR: self-distillation and online clustering (Liu, Chang, Auli, Hsu and Glass, NeurIPS 2023, arXiv 2305.10005).

A student sees masked speech; a teacher, the moving average of the student, sees the same speech unmasked. Each of the
teacher's top K layers is clustered online by its own codebook. At masked frames the student predicts, for every
codebook, the codeword of the teacher's frame.

SpidR (Poli et al. 2025, arXiv 2512.20308) is the same model with ``head_layers=matching_ffn``,
``ema_schedule=exponential`` and ``qkv_bias=false``: each head reads, in the student, what its codebook clusters in the
teacher.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from ..errors import UserError
from ..modules.codebook import Codebooks
from ..modules.codebook_figures import codebook_sums
from ..modules.ema import EmaTeacher, annealed_decay, exponential_decay
from ..modules.instance_norm import instance_norm
from ..ranges import COUNT_OR_0, COUNT_OR_NEVER, LAYERS, MANY, SHARE, WEIGHT, Range, check_ranges
from .encoder import Encoder, TrunkConfig
from .objective import Output
from .trunk import Heads, Trunk

logger = logging.getLogger(__name__)

OUTPUT, FFN = 0, 2  # places in the encoder's layer results

HEADS = Heads(
    names=("heads", "codebooks"),
    fields=("average_top_k_layers", "codebook_size", "target", "instance_norm_target_layer", "head_layers"),
    untrained="codebooks and prediction heads start untrained",
)


@dataclass
class DinoSRConfig(TrunkConfig):
    qkv_bias: bool = field(
        default=True,
        metadata={
            "help": "train the biases of the attention's queries, keys and values; false: they stay 0, as if there "
            "were none (SpidR)"
        },
    )
    average_top_k_layers: int = field(
        default=8,
        metadata={"range": LAYERS, "help": "K: the teacher's top K layers are the targets, with one codebook each"},
    )
    codebook_size: int = field(default=256, metadata={"range": Range(2, 65_536), "help": "V: codewords in a codebook"})
    codebook_init_decay: float = field(
        default=0.9, metadata={"range": SHARE, "help": "decay of the codebooks' moving averages at the start"}
    )
    codebook_end_decay: float = field(
        default=0.9, metadata={"range": SHARE, "help": "decay of the codebooks from codebook_end_decay_step on"}
    )
    codebook_end_decay_step: int = field(
        default=0,
        metadata={
            "range": COUNT_OR_0,
            "help": "update at which the decay of the codebooks, which changes linearly, ends",
        },
    )
    codebook_update: ChoiceEnum(["per_update", "per_forward"]) = field(
        default="per_update",
        metadata={
            "help": "when the codebooks move: per_update: once, with the frames of all micro-batches (update_freq); "
            "per_forward: after every micro-batch, as in the released code"
        },
    )
    codebook_init: ChoiceEnum(["normal", "frames"]) = field(
        default="normal",
        metadata={
            "help": "normal: random codewords (the paper); frames: k-means on the first batch, which leaves few "
            "codewords unused"
        },
    )
    start_codebooks: ChoiceEnum(["warm", "new"]) = field(
        default="warm",
        metadata={
            "help": "with start_from: warm: codebooks and prediction heads are those of the checkpoint, if it has them "
            "in the same size; new: heads start untrained, and codewords by k-means on the first batch, in the "
            "frames of the checkpoint's teacher"
        },
    )
    revive_after: int = field(
        default=0,
        metadata={
            "range": COUNT_OR_0,
            "help": "a codeword that received no frames for this many updates moves to a random frame; "
            "0: never (the paper)",
        },
    )
    head_layers: ChoiceEnum(["last", "matching", "matching_ffn"]) = field(
        default="last",
        metadata={
            "help": "input of the prediction heads: last: the student's last layer (the paper); matching: for each "
            "head the output of the layer of its codebook; matching_ffn: the feed-forward output of that layer (SpidR)"
        },
    )
    target: ChoiceEnum(["ffn", "layer"]) = field(
        default="ffn",
        metadata={"help": "what is clustered: ffn: the feed-forward output of a layer (the paper); layer: its output"},
    )
    unmasked_weight: float = field(
        default=0.0,
        metadata={
            "range": WEIGHT,
            "help": "weight of the loss of an unmasked frame relative to a masked one; if it is above 0, unmasked "
            "frames move the codebooks too; 0: only masked frames are learned from (the paper)",
        },
    )
    instance_norm_target_layer: bool = field(
        default=True, metadata={"help": "normalise the targets of each utterance over time"}
    )
    ema_decay: float = field(default=0.999, metadata={"range": SHARE, "help": "decay of the teacher at the start"})
    ema_schedule: ChoiceEnum(["linear", "exponential"]) = field(
        default="linear",
        metadata={
            "help": "how the decay of the teacher changes: linear: to ema_end_decay (the paper); exponential: to 1, "
            "with the time constant ema_timescale (SpidR)"
        },
    )
    ema_end_decay: float = field(
        default=0.9999,
        metadata={"range": SHARE, "help": "ema_schedule=linear: decay of the teacher from ema_anneal_end_step on"},
    )
    ema_anneal_end_step: int = field(
        default=30000,
        metadata={
            "range": COUNT_OR_0,
            "help": "ema_schedule=linear: update at which the decay of the teacher stops changing",
        },
    )
    ema_timescale: float = field(
        default=20000,
        metadata={
            "range": Range(1, MANY),
            "help": "ema_schedule=exponential: updates in which the distance of the teacher's decay from 1 falls to "
            "1/e; the teacher stops at a distance of 1e-7",
        },
    )
    freeze_teacher_step: int = field(
        default=200001,
        metadata={
            "range": COUNT_OR_NEVER,
            "help": "update from which on the teacher does not move; -1: it is never frozen",
        },
    )
    freeze_pre_enc_modules: bool = field(
        default=True,
        metadata={"help": "freeze front end, its LayerNorm and projection as well from freeze_teacher_step on"},
    )


def check_config(cfg: DinoSRConfig):
    """Raise UserError for numbers out of range and for settings that cannot work together, naming the field."""
    check_ranges(cfg, DinoSRConfig, "model")
    if cfg.average_top_k_layers > cfg.encoder_layers:
        raise UserError(
            f"model.average_top_k_layers={cfg.average_top_k_layers} must be between 1 and "
            f"model.encoder_layers={cfg.encoder_layers}"
        )
    if cfg.head_layers == "matching_ffn" and cfg.encoder_layerdrop > 0:
        raise UserError(
            f"model.head_layers=matching_ffn: a layer that model.encoder_layerdrop={cfg.encoder_layerdrop} skips has "
            "no feed-forward output to predict from; set model.encoder_layerdrop=0"
        )
    if cfg.mask_prob == 0:
        raise UserError(
            f"model.mask_prob={cfg.mask_prob} masks nothing, and only masked frames are learned from; "
            "raise it (0.8 in the paper)"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class DinoSROutput(Output):
    """``Output`` with ``codes`` and ``predictions`` (K, N) int64: of the teacher and of the student, masked frames."""

    codes: Tensor
    predictions: Tensor


@register_model("dinosr", dataclass=DinoSRConfig)
class DinoSR(Trunk):
    """The student (the parameters of this module), its teacher and their codebooks."""

    reports_codebooks = True
    pretraining_heads = (HEADS,)
    collapse_remedy = (
        "lower the learning rate, slow down the teacher (model.ema_decay), or start the codebooks from frames "
        "(model.codebook_init=frames)"
    )

    def __init__(self, cfg: DinoSRConfig):
        super().__init__(cfg)
        check_config(cfg)
        self.n_codebooks = cfg.average_top_k_layers
        self.heads = nn.ModuleList(nn.Linear(cfg.encoder_embed_dim, cfg.codebook_size) for _ in range(self.n_codebooks))
        for parameter in self.untrained():
            parameter.requires_grad_(False)
        self.teacher = EmaTeacher(Encoder(cfg), self.encoder, copied=["pos_conv."])
        self.codebooks = Codebooks(self.n_codebooks, cfg.codebook_size, cfg.encoder_embed_dim, cfg.revive_after)
        self.new_heads = cfg.start_codebooks == "new"
        # whether the first batch of a run sets the codewords
        self.places_codewords = self.new_heads or cfg.codebook_init == "frames"
        self.num_updates = 0
        self.update_begun = False  # a batch of training came since the last begin_update or end_update
        self.batch_skipped = False
        self.held: list[tuple[nn.Parameter, Tensor]] | None = None  # frozen parameters and their values

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        mask: bool = True,
        mask_indices: Tensor | None = None,
        features_only: bool = False,
        layer: int | None = None,
        utterances: Tensor | None = None,
    ) -> DinoSROutput | dict:
        """One masked prediction; with ``features_only``, ``extract_features``.

        Args:
            source: (B, T) float waveform at 16 kHz.
            padding_mask: (B, T) bool or None.
            mask: with ``features_only``, mask frames; a prediction always masks.
            mask_indices: (B, F) bool, the frames to mask; None draws them.
            layer: as in ``extract_features``.
            utterances: (B,) int64, numbers of the utterances, as in ``draw_mask``.

        Returns:
            ``losses``: "dinosr", summed over masked frames and averaged over codebooks, and, if ``unmasked_weight`` is
            above 0, "unmasked", summed over the other frames and weighted. ``sample_size``: masked frames.
            ``codebook_sums`` over masked frames.
        """
        if features_only:
            return self.extract_features(source, padding_mask, mask=mask, layer=layer)
        masks = self.frame_masks(source, padding_mask, mask_indices, utterances)
        learned = masks.masked if self.cfg.unmasked_weight == 0 else masks.valid  # (B, F), N of them true
        frames = learned.flatten().nonzero().squeeze(1).to(source.device, non_blocking=True)  # (N,)
        inputs = self.encoder_inputs(source, masks.padding)
        student = self.head_inputs(*self.encode_masked(inputs, masks))  # (1 or K, B, F, D)
        targets = self.targets(inputs.detach(), masks.padding if masks.any_padding else None)  # (K, B, F, D)
        student, targets = (x.flatten(1, 2).index_select(1, frames) for x in (student, targets))  # (1 or K, N, D)
        codes = self.assign_codes(targets)
        return self.losses(self.logits(student), codes, masks.masked[learned])

    def untrained(self) -> Iterator[nn.Parameter]:
        """Parameters of the student that keep their initial values."""
        if not self.cfg.qkv_bias:
            yield from self.encoder.qkv_biases()
        if self.cfg.head_layers == "matching_ffn":
            # no head depends on it: weight decay would shrink it, and with it the output of the last layer
            yield from self.encoder.last_norm().parameters()

    def encoder_inputs(self, source: Tensor, padding: Tensor) -> Tensor:
        """Projected frames (B, F, D), shared by student and teacher; without gradient once they are frozen."""
        frozen = self.is_frozen(self.num_updates + 1) and self.cfg.freeze_pre_enc_modules
        if frozen and self.training and self.held is None:
            modules = (self.feature_extractor, self.layer_norm, self.post_extract_proj)
            self.held = [(p, p.detach().clone()) for module in modules for p in module.parameters()]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.project(self.extract_frames(source, padding))

    def head_inputs(self, x: Tensor, layer_results: list) -> Tensor:
        """Output x (B, F, D) and layer results of the student -> (1, B, F, D), or (K, B, F, D) for matching layers."""
        if self.cfg.head_layers == "last":
            return x.unsqueeze(0)
        part = FFN if self.cfg.head_layers == "matching_ffn" else OUTPUT
        return torch.stack([result[part] for result in layer_results[-self.n_codebooks :]]).transpose(1, 2)

    @torch.no_grad()
    def targets(self, inputs: Tensor, padding: Tensor | None) -> Tensor:
        """The teacher's top K layers, lowest first, instance-normalised: (K, B, F, D) float32."""
        part = FFN if self.cfg.target == "ffn" else OUTPUT
        x = torch.stack([result[part] for result in self.teacher.model(inputs, padding)[1][-self.n_codebooks :]])
        x = x.transpose(1, 2).float()  # (K, F, B, D) -> (K, B, F, D)
        return instance_norm(x, padding) if self.cfg.instance_norm_target_layer else x

    def assign_codes(self, targets: Tensor) -> Tensor:
        """Targets (K, N, D) -> their codes (K, N) int64; in training the codebooks collect them."""
        if self.training and self.places_codewords and self.num_updates == 0 and not self.update_begun:
            self.codebooks.start_from_(targets)
        codes = self.codebooks.assign(targets)
        if self.training:
            self.learn_codes(targets, codes)
        return codes

    def learn_codes(self, targets: Tensor, codes: Tensor):
        """Add targets (K, N, D) with codes (K, N) to the codebooks, which move at once if codebook_update says so."""
        if self.batch_skipped:  # every rank takes part in the sum over ranks, with nothing to add
            targets, codes = targets[:, :0], codes[:, :0]
        self.codebooks.collect(targets, codes)
        self.update_begun = True
        if self.cfg.codebook_update == "per_forward":
            self.codebooks.step_(self.codebook_decay(self.num_updates + 1))

    def logits(self, x: Tensor) -> Tensor:
        """Student's frames (1 or K, ..., D) -> (K, ..., V) float32."""
        x = x.expand(self.n_codebooks, *x.shape[1:])
        return torch.stack([head(frames) for head, frames in zip(self.heads, x)]).float()

    def losses(self, logits: Tensor, codes: Tensor, masked: Tensor) -> DinoSROutput:
        """Cross-entropy of logits (K, N, V) against codes (K, N).

        masked (N,) bool, on the CPU: which of the frames are masked.
        """
        log_probs = F.log_softmax(logits, dim=-1)
        nll = -log_probs.gather(-1, codes.unsqueeze(-1)).squeeze(-1).mean(0)  # (N,)
        losses = {}
        if self.cfg.unmasked_weight > 0:
            masked, others = (
                which.nonzero().squeeze(1).to(nll.device, non_blocking=True) for which in (masked, ~masked)
            )
            losses["unmasked"] = self.cfg.unmasked_weight * nll[others].sum()
            nll, log_probs, codes = nll[masked], log_probs[:, masked], codes[:, masked]
        return DinoSROutput(
            losses={"dinosr": nll.sum(), **losses},
            sample_size=codes.size(1),
            unit="masked_frames",
            scalars={
                "ema_decay": self.ema_decay(self.num_updates + 1),
                "codebook_decay": self.codebook_decay(self.num_updates + 1),
            },
            codebook_sums=codebook_sums(log_probs.detach(), codes),
            codes=codes,
            predictions=log_probs.detach().argmax(-1),
        )

    # ---- updates -------------------------------------------------------------------------------------------------

    def is_frozen(self, update: int) -> bool:
        """Whether the teacher no longer moves at the end of this update (from 1)."""
        return 0 <= self.cfg.freeze_teacher_step <= update

    def ema_decay(self, update: int) -> float:
        """Decay of the teacher at the end of this update (from 1)."""
        if self.is_frozen(update):
            return 1.0
        if self.cfg.ema_schedule == "exponential":
            return exponential_decay(self.cfg.ema_decay, self.cfg.ema_timescale, update)
        return annealed_decay(self.cfg.ema_decay, self.cfg.ema_end_decay, update, self.cfg.ema_anneal_end_step)

    def codebook_decay(self, update: int) -> float:
        """Decay of the codebooks at the end of this update (from 1)."""
        return annealed_decay(
            self.cfg.codebook_init_decay, self.cfg.codebook_end_decay, update, self.cfg.codebook_end_decay_step
        )

    def set_num_updates(self, num_updates: int):
        """Note the number of updates made so far."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def begin_update(self):
        self.codebooks.forget_()
        self.update_begun = False

    def skip_batch(self, skipped: bool):
        self.batch_skipped = skipped

    def end_update(self, n_updates: int):
        """Move codebooks and teacher, so that a checkpoint saved now contains those of this update."""
        self.set_num_updates(n_updates)
        self.update_begun = False
        # optimisers move parameters without gradient too, with momentum or weight decay
        for p, value in self.held or []:
            p.data.copy_(value)
        self.codebooks.step_(self.codebook_decay(n_updates))
        if self.ema_decay(n_updates) < 1:
            self.teacher.step_(self.encoder, self.ema_decay(n_updates))

    # ---- starting from a checkpoint, fine-tuning -----------------------------------------------------------------

    def start_from(self, source: BaseFairseqModel, file: str) -> None:
        """Also take over the teacher; from another kind of model it starts as a copy of the student."""
        super().start_from(source, file)
        if not isinstance(source, DinoSR) or source.teacher is None:
            self.teacher.restore_(self.encoder.state_dict())
            logger.info(f"{file}: has no teacher and no codebooks; the teacher starts as a copy of the student")
            return
        self.teacher.restore_(source.teacher.average())
        if not self.new_heads and HEADS.settings(source) == HEADS.settings(self):  # the codebooks were taken over
            self.places_codewords = False

    def remove_pretraining_modules(self, last_layer: int | None = None):
        """Also remove the teacher."""
        super().remove_pretraining_modules(last_layer)
        self.teacher = None  # type: ignore[assignment]  # nothing uses it from now on

    # ---- codes ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def codes(self, source: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The teacher's codes of unmasked speech: source (B, T) -> (K, B, F) int64; -1 for padded frames."""
        padding = self.frame_padding(source, padding_mask)
        targets = self.targets(self.encoder_inputs(source, padding), padding if bool(padding.any()) else None)
        K, B, n_frames, D = targets.shape
        codes = self.codebooks.assign(targets.reshape(K, B * n_frames, D)).view(K, B, n_frames)
        return codes.masked_fill(padding, -1)

    @torch.no_grad()
    def predicted_codes(self, source: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The codes that the student predicts for unmasked speech: source (B, T) -> (K, B, F) int64; -1 for padding."""
        features = self.extract_features(source, padding_mask)
        codes = self.logits(self.head_inputs(features["x"], features["layer_results"])).argmax(-1)
        return codes if features["padding_mask"] is None else codes.masked_fill(features["padding_mask"], -1)

    # ---- checkpoints: the names of the released ones, `_ema` (nested), `_codebook{k}` and `_codebook_cnts{k}` -----

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.teacher is None:
            return
        destination[prefix + "_ema"] = self.teacher.average()
        for k in range(self.n_codebooks):
            destination[f"{prefix}_codebook{k}"] = self.codebooks.sums[k]
            destination[f"{prefix}_codebook_cnts{k}"] = self.codebooks.counts[k]
        if self.codebooks.revive_after:
            destination[prefix + "_codebook_idle"] = self.codebooks.idle

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        if self.teacher is None:
            for key in [key for key in state_dict if key.startswith((prefix + "_codebook", prefix + "_ema"))]:
                del state_dict[key]
        else:
            self.held = None
            self.teacher.load_(state_dict, prefix + "_ema", missing_keys, error_msgs)
            self._load_codebooks(state_dict, prefix, missing_keys, error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _load_codebooks(self, state_dict, prefix, missing_keys, error_msgs):
        buffers: dict[str, Tensor] = {}
        for k in range(self.n_codebooks):
            buffers |= {f"_codebook{k}": self.codebooks.sums[k], f"_codebook_cnts{k}": self.codebooks.counts[k]}
        if prefix + "_codebook_idle" in state_dict:  # only with revive_after
            buffers["_codebook_idle"] = self.codebooks.idle
        for name, buffer in buffers.items():
            value = state_dict.pop(prefix + name, None)
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != buffer.shape:
                error_msgs.append(f"{name}: {tuple(value.shape)} in the checkpoint, {tuple(buffer.shape)} in the model")
            else:
                buffer.copy_(value)

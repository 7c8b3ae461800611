"""DinoSR: self-distillation and online clustering (Liu, Chang, Auli, Hsu, Glass; NeurIPS 2023, arXiv 2305.10005).

A student sees masked speech; an EMA teacher sees the same speech unmasked. Each of the teacher's top K layers is clustered
online by its own codebook; the student predicts, at masked frames, the codeword of the teacher's frame in every codebook.
"""

import logging
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from torch import Tensor, nn

from ..errors import UserError
from ..modules.codebook import Codebooks
from ..modules.codebook_figures import codebook_sums
from ..modules.ema import EmaTeacher, annealed_decay
from ..modules.instance_norm import instance_norm
from .encoder import Encoder, Trunk, TrunkConfig

logger = logging.getLogger(__name__)


@dataclass
class DinoSRConfig(TrunkConfig):
    average_top_k_layers: int = field(
        default=8, metadata={"help": "K: the teacher's top K layers are targets, one codebook each"}
    )
    codebook_size: int = field(default=256, metadata={"help": "V: codewords in a codebook"})
    codebook_init_decay: float = field(
        default=0.9, metadata={"help": "decay of the codebooks' moving averages at the start"}
    )
    codebook_end_decay: float = field(default=0.9, metadata={"help": "the same at codebook_end_decay_step"})
    codebook_end_decay_step: int = field(
        default=0, metadata={"help": "update at which the codebooks' decay has gone linearly to its end"}
    )
    codebook_update: ChoiceEnum(["per_update", "per_forward"]) = field(
        default="per_update",
        metadata={
            "help": "when the codebooks move: per_update: once, by the frames of all micro-batches (update_freq); "
            "per_forward: after every micro-batch, as the released code does"
        },
    )
    codebook_init: ChoiceEnum(["normal", "frames"]) = field(
        default="normal",
        metadata={
            "help": "normal: random codewords (the paper); frames: k-means on the first batch, which leaves few codewords unused"
        },
    )
    revive_after: int = field(
        default=0,
        metadata={
            "help": "a codeword without frames for so many updates moves to a random frame; 0: never (the paper)"
        },
    )
    head_layers: ChoiceEnum(["last", "matching"]) = field(
        default="last",
        metadata={
            "help": "last: all heads read the student's last layer (the paper); matching: the layer of their codebook (SpidR)"
        },
    )
    target: ChoiceEnum(["ffn", "layer"]) = field(
        default="ffn",
        metadata={
            "help": "what is clustered: ffn: a layer's feed-forward output (the paper); layer: the layer's output"
        },
    )
    unmasked_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of a frame that is not masked beside one that is; it then moves the codebooks too; 0: not learned from (the paper)"
        },
    )
    instance_norm_target_layer: bool = field(default=True, metadata={"help": "instance norm over time of the targets"})
    ema_decay: float = field(default=0.999, metadata={"help": "decay of the teacher at the start"})
    ema_end_decay: float = field(default=0.9999, metadata={"help": "decay of the teacher at ema_anneal_end_step"})
    ema_anneal_end_step: int = field(
        default=30000, metadata={"help": "update at which the teacher's decay has gone linearly to its end"}
    )
    freeze_teacher_step: int = field(
        default=200001, metadata={"help": "from this update on the teacher does not move; -1: never frozen"}
    )
    freeze_pre_enc_modules: bool = field(
        default=True,
        metadata={"help": "from freeze_teacher_step on, front end, its LayerNorm and projection do not move either"},
    )


def check_config(cfg: DinoSRConfig):
    """Raises UserError for settings that cannot work, naming the field."""
    if not 1 <= cfg.average_top_k_layers <= cfg.encoder_layers:
        raise UserError(
            f"model.average_top_k_layers={cfg.average_top_k_layers} must lie between 1 and model.encoder_layers={cfg.encoder_layers}"
        )
    if cfg.codebook_size < 2:
        raise UserError(f"model.codebook_size={cfg.codebook_size} must be at least 2")
    if cfg.mask_prob <= 0:
        raise UserError(
            f"model.mask_prob={cfg.mask_prob} masks nothing, and only masked frames are learned from: raise it (0.8 in the paper)"
        )
    for name in ("codebook_init_decay", "codebook_end_decay", "ema_decay", "ema_end_decay"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise UserError(f"model.{name}={getattr(cfg, name)} must lie between 0 and 1")


@register_model("dinosr", dataclass=DinoSRConfig)
class DinoSR(Trunk):
    """The student (this module's parameters), its teacher and their codebooks."""

    def __init__(self, cfg: DinoSRConfig):
        super().__init__(cfg)
        check_config(cfg)
        self.n_codebooks = cfg.average_top_k_layers
        self.heads = nn.ModuleList(nn.Linear(cfg.encoder_embed_dim, cfg.codebook_size) for _ in range(self.n_codebooks))
        self.teacher = EmaTeacher(Encoder(cfg), self.encoder, copied=["pos_conv."])
        self.codebooks = Codebooks(self.n_codebooks, cfg.codebook_size, cfg.encoder_embed_dim, cfg.revive_after)
        self.num_updates = 0
        self.held = None  # (parameter, its value) of what was frozen
        self.update_begun = False  # a forward pass of training has been since the last update ended
        self.ignores_batch = False

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        mask: bool = True,
        mask_indices: Tensor | None = None,
        features_only: bool = False,
        layer: int | None = None,
        utterances: Tensor | None = None,
        **_,
    ) -> dict:
        """One masked prediction; ``features_only`` gives ``extract_features`` instead.

        Args:
            source: (B, T) float waveform at 16 kHz.
            padding_mask: (B, T) bool or None.
            mask: with ``features_only``, mask frames; a prediction always does.
            mask_indices: (B, F) bool, the frames to mask; None draws them.
            layer: as in ``extract_features``.
            utterances: (B,) int64, their numbers in the manifest; as in ``draw_mask``.

        Returns: ``losses`` {"dinosr": scalar, summed over masked frames, mean over codebooks} and, where ``unmasked_weight`` is not 0,
        "unmasked", summed over the others and weighted; ``sample_size`` masked frames; ``codes`` and ``predictions`` (K, N) int64 of the
        masked frames; ``codebook_sums`` over them, as ``modules.codebook_figures``; and scalars to log.
        """
        if features_only:
            return self.extract_features(source, padding_mask, mask=mask, layer=layer)
        padding, sizes = self.frame_padding(source, padding_mask), self.frame_sizes(source, padding_mask)
        inputs = self.encoder_inputs(source, padding)
        n_frames = inputs.size(1)
        masked = self.draw_mask(sizes, n_frames, utterances) if mask_indices is None else mask_indices.cpu()
        learned = (
            masked if self.cfg.unmasked_weight == 0 else torch.arange(n_frames) < sizes.unsqueeze(1)
        )  # (B, F), N of them true
        frames = (
            learned.flatten().nonzero().squeeze(1).to(inputs.device, non_blocking=True)
        )  # (N,): found on the CPU, so that a GPU is never waited for
        padding = padding if bool((sizes < n_frames).any()) else None
        student = (
            self.student(inputs, masked.to(inputs.device, non_blocking=True), padding)
            .flatten(1, 2)
            .index_select(1, frames)
        )  # (1 or K, N, D)
        targets = self.targets(inputs.detach(), padding).flatten(1, 2).index_select(1, frames)  # (K, N, D)
        if self.training and self.starts_codebooks():
            self.codebooks.start_from_(targets)
        codes = self.codebooks.assign(targets)
        if self.training:
            self.learn_codes(targets, codes)
        return self.losses(self.logits(student), codes, masked[learned])

    def encoder_inputs(self, source: Tensor, padding: Tensor) -> Tensor:
        """Projected features (B, F, D), shared by student and teacher; without gradient once they are frozen."""
        frozen = self.is_frozen(self.num_updates + 1) and self.cfg.freeze_pre_enc_modules
        if frozen and self.training and self.held is None:
            modules = (self.feature_extractor, self.layer_norm, self.post_extract_proj)
            self.held = [(p, p.detach().clone()) for module in modules for p in module.parameters()]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.project(self.extract_frames(source, padding))

    def student(self, inputs: Tensor, masked: Tensor, padding: Tensor | None) -> Tensor:
        """What the heads read, for the masked input: (1, B, F, D), or (K, B, F, D) if each head reads its own layer."""
        return self.head_inputs(*self.encoder(self.apply_mask(self.dropout_input(inputs), masked), padding))

    def head_inputs(self, x: Tensor, layer_results) -> Tensor:
        """Output x (B, F, D) and layer results of the student -> (1 or K, B, F, D)."""
        if self.cfg.head_layers == "last":
            return x.unsqueeze(0)
        return torch.stack([output for output, _, _ in layer_results[-self.n_codebooks :]]).transpose(1, 2)

    @torch.no_grad()
    def targets(self, inputs: Tensor, padding: Tensor | None) -> Tensor:
        """The teacher's top K layers, lowest first, instance-normalised: (K, B, F, D) float32."""
        part = 2 if self.cfg.target == "ffn" else 0
        x = torch.stack([result[part] for result in self.teacher.model(inputs, padding)[1][-self.n_codebooks :]])
        x = x.transpose(1, 2).float()  # (K, F, B, D) -> (K, B, F, D)
        return instance_norm(x, padding) if self.cfg.instance_norm_target_layer else x

    def logits(self, x: Tensor) -> Tensor:
        """Student's frames (1 or K, ..., D) -> (K, ..., V) float32."""
        return torch.stack(
            [head(own) for head, own in zip(self.heads, x.expand(self.n_codebooks, *x.shape[1:]))]
        ).float()

    def starts_codebooks(self) -> bool:
        """Whether this is the first forward pass of a run whose codewords start from frames."""
        return self.cfg.codebook_init == "frames" and self.num_updates == 0 and not self.update_begun

    def learn_codes(self, targets: Tensor, codes: Tensor):
        """Codebooks take note of targets (K, N, D) and their codes (K, N), and move if they do so with every forward pass."""
        if self.ignores_batch:  # every rank takes part in the sum over ranks, with nothing to add
            targets, codes = targets[:, :0], codes[:, :0]
        self.codebooks.collect(targets, codes)
        self.update_begun = True
        if self.cfg.codebook_update == "per_forward":
            self.codebooks.step_(self.codebook_decay(self.num_updates + 1))

    def losses(self, logits: Tensor, codes: Tensor, masked: Tensor) -> dict:
        """Cross-entropy of logits (K, N, V) against codes (K, N), of which masked (N,) bool, on the CPU, are masked, and what to watch."""
        log_probs = F.log_softmax(logits, dim=-1)
        nll = -log_probs.gather(-1, codes.unsqueeze(-1)).squeeze(-1).mean(0)  # (N,)
        losses = {}
        if self.cfg.unmasked_weight > 0:
            chosen, others = (
                which.nonzero().squeeze(1).to(nll.device, non_blocking=True) for which in (masked, ~masked)
            )
            losses["unmasked"] = self.cfg.unmasked_weight * nll[others].sum()
            nll, log_probs, codes = nll[chosen], log_probs[:, chosen], codes[:, chosen]
        losses = {"dinosr": nll.sum(), **losses}
        sample_size = codes.size(1)
        return {
            "losses": losses,
            "sample_size": sample_size,
            "codes": codes,
            "predictions": log_probs.detach().argmax(-1),
            "codebook_sums": codebook_sums(log_probs.detach(), codes),
            "ema_decay": self.ema_decay(self.num_updates + 1),
            "codebook_decay": self.codebook_decay(self.num_updates + 1),
        }

    def is_frozen(self, update: int) -> bool:
        return 0 <= self.cfg.freeze_teacher_step <= update

    def ema_decay(self, update: int) -> float:
        """Decay of the teacher at the end of this update (from 1)."""
        if self.is_frozen(update):
            return 1.0
        return annealed_decay(self.cfg.ema_decay, self.cfg.ema_end_decay, update, self.cfg.ema_anneal_end_step)

    def codebook_decay(self, update: int) -> float:
        """Decay of the codebooks at the end of this update (from 1)."""
        return annealed_decay(
            self.cfg.codebook_init_decay, self.cfg.codebook_end_decay, update, self.cfg.codebook_end_decay_step
        )

    def begin_update(self):
        """What an update that never ended has collected is dropped: one skipped for an fp16 overflow, or out of memory."""
        self.codebooks.forget_()
        self.update_begun = False

    def ignore_batch(self, ignored: bool):
        """Whether the next batch is a dummy, which fairseq gives a rank that has none left in an epoch: codebooks learn nothing from it."""
        self.ignores_batch = ignored

    def set_num_updates(self, num_updates: int):
        """Updates done so far. Where their number changes after a training step, that update ends: teacher and codebooks move.

        fairseq calls this before every forward pass, several times in an update with ``update_freq`` > 1, and when it loads a
        checkpoint; ``dinosr_pretraining`` calls it after the optimiser's step, so that checkpoints hold the update's end.
        """
        super().set_num_updates(num_updates)
        ends = self.update_begun and num_updates != self.num_updates and self.teacher is not None
        self.num_updates = num_updates
        if not ends:
            return
        self.update_begun = False
        for p, value in (
            self.held or ()
        ):  # optimisers move parameters without gradient too: momentum, weight decay (fp16, DDP)
            p.data.copy_(value)
        self.codebooks.step_(self.codebook_decay(num_updates))
        if self.ema_decay(num_updates) < 1:
            self.teacher.step_(self.encoder, self.ema_decay(num_updates))

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
        """The student heads' codes of unmasked speech: source (B, T) -> (K, B, F) int64; -1 for padded frames."""
        features = self.extract_features(source, padding_mask)
        codes = self.logits(self.head_inputs(features["x"], features["layer_results"])).argmax(-1)
        return codes if features["padding_mask"] is None else codes.masked_fill(features["padding_mask"], -1)

    def remove_pretraining_modules(self, last_layer: int | None = None):
        """What fine-tuning does not need goes: heads, teacher, codebooks, and the layers above ``last_layer``."""
        self.heads = self.teacher = self.codebooks = None
        if last_layer is not None:
            self.encoder.layers = self.encoder.layers[: last_layer + 1]

    # Checkpoints have the names of the released ones: `_ema` (nested), `_codebook{k}` and `_codebook_cnts{k}`.

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
            for key in [
                key for key in state_dict if key.startswith((prefix + "heads.", prefix + "_codebook", prefix + "_ema"))
            ]:
                del state_dict[key]
        else:
            self.held = None
            self._load_teacher(state_dict, prefix, missing_keys, error_msgs)
            self._load_codebooks(state_dict, prefix, missing_keys, error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _load_teacher(self, state_dict, prefix, missing_keys, error_msgs):
        average = state_dict.pop(prefix + "_ema", None)
        if average is None:
            missing_keys.append(prefix + "_ema")
            return
        try:
            self.teacher.restore_(average)
        except (KeyError, RuntimeError) as error:
            error_msgs.append(f"teacher (_ema): {error}")

    def _load_codebooks(self, state_dict, prefix, missing_keys, error_msgs):
        buffers = {}
        for k in range(self.n_codebooks):
            buffers |= {f"_codebook{k}": self.codebooks.sums[k], f"_codebook_cnts{k}": self.codebooks.counts[k]}
        if prefix + "_codebook_idle" in state_dict:  # of training with revive_after only
            buffers["_codebook_idle"] = self.codebooks.idle
        for name, buffer in buffers.items():
            value = state_dict.pop(prefix + name, None)
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != buffer.shape:
                error_msgs.append(f"{name}: {tuple(value.shape)} in the checkpoint, {tuple(buffer.shape)} in the model")
            else:
                buffer.copy_(value)

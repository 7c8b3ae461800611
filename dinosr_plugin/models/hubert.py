"""HuBERT-style masked prediction of offline cluster labels (Hsu et al., IEEE/ACM TASLP 2021, arXiv 2106.07447).

Every frame of the training speech has a label, the number of a cluster that k-means found beforehand: in MFCC first, then in what a
model trained so has learned. The model sees masked speech and predicts the labels of the masked frames (section II.B); the probability
of a label is a softmax over the cosines between the projected frame and the embedding of every label (equation 3).

Names and shapes of the parameters are those of fairseq's ``hubert``, so that its checkpoints load.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, List

import torch
import torch.nn.functional as F
from fairseq.models import register_model
from fairseq.models.hubert.hubert import HubertConfig as FairseqHubertConfig
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..errors import UserError
from ..modules.codebook_figures import codebook_sums
from ..modules.frame_labels import labels_of_frames
from .encoder import Trunk, TrunkConfig


@dataclass
class HubertConfig(TrunkConfig):
    num_classes: List[int] = field(
        default_factory=list,
        metadata={"help": "number of labels in each label set; empty: as many as dict.LABELS.txt of task.labels has"},
    )
    final_dim: int = field(default=256, metadata={"help": "dimensions in which frames and labels are compared"})
    untie_final_proj: bool = field(
        default=True, metadata={"help": "a projection for each label set (true), or one for all"}
    )
    logit_temp: float = field(default=0.1, metadata={"help": "temperature that cosines are divided by"})
    pred_masked_weight: float = field(default=1.0, metadata={"help": "weight of the loss of masked frames"})
    pred_nomask_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the loss of frames that are not masked; 0: not learned from (the paper), but logged"
        },
    )
    skip_masked: bool = field(default=False, metadata={"help": "leave masked frames out; wants pred_masked_weight=0"})
    skip_nomask: bool = field(
        default=False,
        metadata={"help": "leave frames that are not masked out, of the log too; wants pred_nomask_weight=0"},
    )


def check_config(cfg: HubertConfig):
    """Raises UserError for settings that cannot work, naming the field."""
    if not cfg.num_classes or min(cfg.num_classes) < 2:
        raise UserError(
            f"model.num_classes={list(cfg.num_classes)}: give at least 2 for every label set, or leave it empty and give task.labels"
        )
    if cfg.mask_prob <= 0:
        raise UserError(f"model.mask_prob={cfg.mask_prob} masks nothing to predict: raise it (0.8 in the paper)")
    if cfg.final_dim < 1 or cfg.logit_temp <= 0:
        raise UserError(
            f"model.final_dim={cfg.final_dim} must be at least 1 and model.logit_temp={cfg.logit_temp} above 0"
        )
    for frames in ("masked", "nomask"):
        weight, skipped = getattr(cfg, f"pred_{frames}_weight"), getattr(cfg, f"skip_{frames}")
        if weight < 0 or (skipped and weight > 0):
            raise UserError(
                f"model.pred_{frames}_weight={weight} must be 0 with model.skip_{frames}=true, and is never negative"
            )
    if cfg.pred_masked_weight == cfg.pred_nomask_weight == 0:
        raise UserError(
            "model.pred_masked_weight and model.pred_nomask_weight are both 0: nothing is learned; raise one"
        )


@register_model("dinosr_hubert", dataclass=HubertConfig)
class Hubert(Trunk):
    """The trunk, a projection of its output, and an embedding for every label."""

    def __init__(self, cfg: HubertConfig):
        super().__init__(cfg)
        check_config(cfg)
        self.num_classes = list(cfg.num_classes)
        n_projections = len(self.num_classes) if cfg.untie_final_proj else 1
        self.final_proj = nn.Linear(cfg.encoder_embed_dim, n_projections * cfg.final_dim)
        self.label_embs_concat = nn.Parameter(torch.empty(sum(self.num_classes), cfg.final_dim).uniform_())

    def forward(
        self,
        source: Tensor,
        padding_mask: Tensor | None = None,
        labels: Tensor | None = None,
        label_starts: Tensor | None = None,
        label_rate: int = 50,
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
            labels, label_starts, label_rate: labels of the whole utterances, (S, B, L) int64 padded with -1, the first sample (B,) of
                each crop, and labels a second; as in ``modules.frame_labels``.
            mask: with ``features_only``, mask frames; a prediction always does.
            mask_indices: (B, F) bool, the frames to mask; None draws them.
            layer: as in ``extract_features``.
            utterances: (B,) int64, their numbers in the manifest; as in ``draw_mask``.

        Returns: ``losses``: "hubert" and, where ``pred_nomask_weight`` is not 0, "unmasked": weighted cross-entropies summed over frames and
        label sets; with front_end=conv "features_pen", the mean square of the front end's features times ``sample_size``.
        ``sample_size``: frames learned from. ``codebook_sums`` of the masked frames (of the others with ``skip_masked``), a codebook being
        a label set, as ``modules.codebook_figures``; and scalars to log.
        """
        if features_only:
            return self.extract_features(source, padding_mask, mask=mask, layer=layer)
        padding, sizes = self.frame_padding(source, padding_mask), self.frame_sizes(source, padding_mask)
        frames = self.extract_frames(source, padding)  # (B, F, C)
        valid = torch.arange(frames.size(1)) < sizes.unsqueeze(
            1
        )  # (B, F) on the CPU, as all that chooses frames: so that a GPU is never waited for
        masked = (
            self.draw_mask(sizes, frames.size(1), utterances) if mask_indices is None else mask_indices.cpu() & valid
        )
        hop = math.prod(stride for _, _, stride in self.conv_layers)
        targets = labels_of_frames(labels, label_starts, label_rate, hop, frames.size(1))  # (S, B, F)
        inputs = self.apply_mask(self.dropout_input(self.project(frames)), masked.to(frames.device, non_blocking=True))
        x, _ = self.encoder(inputs, None if bool(valid.all()) else padding)
        output = self.losses(x, targets, masked, valid & ~masked)
        if self.cfg.front_end == "conv":
            output["losses"]["features_pen"] = (
                chosen_frames(frames, valid).float().pow(2).mean() * output["sample_size"]
            )
        return output

    def losses(self, x: Tensor, targets: Tensor, masked: Tensor, unmasked: Tensor) -> dict:
        """Trunk's output x (B, F, D), labels (S, B, F), the masked and the other valid frames (B, F) bool, on the CPU -> ``forward``'s output."""
        output: dict[str, Any] = {"losses": {}, "sample_size": 0}
        parts = [("hubert", masked, self.cfg.pred_masked_weight, self.cfg.skip_masked)]
        parts += [("unmasked", unmasked, self.cfg.pred_nomask_weight, self.cfg.skip_nomask)]
        for name, chosen, weight, skipped in parts:
            if skipped:
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
                log_probs = F.log_softmax(self.logits(chosen_frames(x, chosen)), dim=-1)  # (S, N, V)
            codes = chosen_frames(targets.movedim(0, 2), chosen).t()  # (S, N)
            if weight > 0:
                output["losses"][name] = -weight * log_probs.gather(-1, codes.unsqueeze(-1)).sum()
                output["sample_size"] += codes.size(1)
            if "codebook_sums" in output:
                output["unmasked_accuracy"] = (log_probs.argmax(-1) == codes).float().mean().nan_to_num()
            else:
                output["codebook_sums"] = codebook_sums(log_probs.detach(), codes)
        return output

    def logits(self, x: Tensor) -> Tensor:
        """Frames (N, D) -> (S, N, V) float32, V of the largest label set; -inf for labels that a smaller set does not have."""
        n_sets = len(self.num_classes)
        projected = self.final_proj(x).float().unflatten(-1, (-1, self.cfg.final_dim)).transpose(0, 1)  # (S or 1, N, E)
        frames = F.normalize(projected, dim=-1).expand(n_sets, -1, -1)
        embeddings = F.normalize(self.label_embs_concat.float(), dim=-1).split(self.num_classes)  # S of (V_s, E)
        cosines = [own @ labels.t() for own, labels in zip(frames, embeddings)]
        V = max(self.num_classes)
        return torch.stack(
            [F.pad(cosine / self.cfg.logit_temp, (0, V - cosine.size(-1)), value=float("-inf")) for cosine in cosines]
        )

    def remove_pretraining_modules(self, last_layer: int | None = None):
        """What fine-tuning does not need goes: projection, label embeddings, and the layers above ``last_layer``."""
        self.final_proj = self.label_embs_concat = None
        if last_layer is not None:
            self.encoder.layers = self.encoder.layers[: last_layer + 1]

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if self.final_proj is None:  # fine-tuning: what was removed is in the pre-training checkpoint
            for name in ("final_proj.weight", "final_proj.bias", "label_embs_concat"):
                state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def chosen_frames(x: Tensor, chosen: Tensor) -> Tensor:
    """x (B, F, ...), chosen (B, F) bool on the CPU, N of them true -> (N, ...)."""
    return x.flatten(0, 1).index_select(0, chosen.flatten().nonzero().squeeze(1).to(x.device, non_blocking=True))


# ---- fairseq's own checkpoints ----------------------------------------------------------------------------------------------


def adopt_fairseqs_hubert(state: dict[str, Any]) -> dict[str, Any]:
    """What is in a checkpoint; where that is of fairseq's ``hubert``, its config becomes this plug-in's, so that it fine-tunes as all others do.

    fairseq's ``wav2vec_ctc`` cannot take its own HuBERT: that wants the label files of its pre-training, and answers in another form.

    Raises UserError for one whose trunk is not that of the released models.
    """
    model = state["cfg"].model if state.get("cfg") is not None else {}
    if model.get("_name") != "hubert":
        return state
    usual = {"layer_type": "transformer", "conv_pos_batch_norm": False}
    differs = [f"{name}={model[name]}" for name in usual if model.get(name, usual[name]) != usual[name]]
    differs += [
        f"no {name}" for name in ("post_extract_proj.weight", "label_embs_concat") if name not in state["model"]
    ]
    if differs:
        raise UserError(
            f"model.w2v_path: a HuBERT with {', '.join(differs)}, which cannot be fine-tuned here; give one like the released models"
        )
    known = {own.name for own in fields(HubertConfig)}
    ours = {
        theirs.name: model.get(theirs.name, theirs.default)
        for theirs in fields(FairseqHubertConfig)
        if theirs.name in known
    }
    embeddings = state["model"][
        "label_embs_concat"
    ]  # fine-tuning throws them away: to how many sets they belong does not matter
    ours |= {"_name": "dinosr_hubert", "num_classes": [embeddings.size(0)], "final_dim": embeddings.size(1)}
    state["cfg"].model = OmegaConf.create(ours)
    state["cfg"].task = OmegaConf.create(
        {"_name": "dinosr_pretraining", "data": state["cfg"].task.data, "normalize": state["cfg"].task.normalize}
    )
    return state

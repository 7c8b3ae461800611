"""DinoSR in its plainest form, in place of the released code: the reference of ``dinosr bench step``.

It uses fairseq's feature extractor, Transformer and moving average, and a loop over codebooks, each with a one-hot row
of V for every frame and with its own collectives and perplexities (32 collectives for 8 codebooks). The codebooks are
updated in the forward pass. With the same weights and mask, and without dropout, its loss and codebooks equal ours.
Unlike in the released code, frames are not padded to an even number, which would change the result.
"""

import dinosr_plugin.tasks  # noqa: F401  # isort: skip  (registers them; before fairseq, which it imports quietly)
import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairseq.data.data_utils import compute_mask_indices
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel, TransformerEncoder, Wav2Vec2Config
from fairseq.modules import EMAModule, EMAModuleConfig, LayerNorm
from fairseq.utils import index_put
from torch import Tensor, nn

from dinosr_plugin.models.dinosr import DinoSRConfig
from dinosr_plugin.models.objective import Objective, Output
from dinosr_plugin.modules.conv_spec import parse_conv_layers
from dinosr_plugin.modules.ema import annealed_decay
from dinosr_plugin.modules.log_mel import LogMel


class PlainDinoSR(Objective):
    """Does not support ``head_layers=matching``; ignores ``codebook_init`` and ``revive_after``, which cost little."""

    def __init__(self, cfg: DinoSRConfig):
        super().__init__()
        assert cfg.head_layers == "last", cfg.head_layers
        self.cfg = cfg
        self.feature_extractor, width = front_end(cfg)
        self.layer_norm = LayerNorm(width) if cfg.front_end == "conv" else nn.Identity()
        self.post_extract_proj = nn.Linear(width, cfg.encoder_embed_dim)
        self.mask_emb = nn.Parameter(torch.empty(cfg.encoder_embed_dim).uniform_())
        self.encoder = TransformerEncoder(wav2vec2_config(cfg))
        self.heads = nn.ModuleList(
            nn.Linear(cfg.encoder_embed_dim, cfg.codebook_size) for _ in range(cfg.average_top_k_layers)
        )
        shape = (cfg.codebook_size, cfg.encoder_embed_dim)
        self.sums = [F.instance_norm(torch.randn(shape).t().unsqueeze(0))[0].t() for _ in self.heads]  # (V, D) each
        self.counts = [torch.ones(cfg.codebook_size) for _ in self.heads]
        self.teacher, self.num_updates = None, 0

    def set_num_updates(self, num_updates: int):
        super().set_num_updates(num_updates)
        if self.teacher is None:
            encoder = TransformerEncoder(wav2vec2_config(self.cfg)).to(self.mask_emb)
            encoder.load_state_dict(self.encoder.state_dict())
            encoder.requires_grad_(False)
            copied = {f"pos_conv.{name}" for name, _ in encoder.pos_conv.named_parameters()}
            self.teacher = EMAModule(encoder, EMAModuleConfig(ema_fp32=True), copy_model=False, skip_keys=copied)
        elif self.training and num_updates != self.num_updates:
            self.teacher.set_decay(
                annealed_decay(self.cfg.ema_decay, self.cfg.ema_end_decay, num_updates, self.cfg.ema_anneal_end_step)
            )
            self.teacher.step(self.encoder)
        self.num_updates = num_updates

    def end_update(self, n_updates: int):
        self.set_num_updates(n_updates)

    def forward(self, source: Tensor, mask_indices: Tensor | None = None, **_) -> Output:
        """source (B, T), mask_indices (B, F) bool or None -> losses and what to log, as ours; nothing is padded."""
        features = self.feature_extractor(source.to(self.mask_emb.dtype)).transpose(1, 2)
        features = self.post_extract_proj(self.layer_norm(features))
        unmasked = features.clone()
        if mask_indices is None:
            settings = (self.cfg.mask_prob, self.cfg.mask_length, "static", 0.0)
            mask_indices = compute_mask_indices(
                features.shape[:2], None, *settings, min_masks=1, require_same_masks=self.cfg.require_same_masks
            )
            mask_indices = torch.from_numpy(mask_indices).to(features.device)
        x, _ = self.encoder(index_put(features, mask_indices, self.mask_emb))
        learned = mask_indices if self.cfg.unmasked_weight == 0 else torch.ones_like(mask_indices)
        return self.losses(
            x[learned], [target[learned] for target in self.targets(unmasked.detach())], mask_indices[learned]
        )

    @torch.no_grad()
    def targets(self, features: Tensor) -> list[Tensor]:
        """The teacher's top K layers, instance-normalised: (B, F, D) float32 each."""
        self.teacher.model.eval()
        _, layer_results = self.teacher.model.extract_features(
            features, None, min_layer=self.cfg.encoder_layers - len(self.heads)
        )
        part = 2 if self.cfg.target == "ffn" else 0
        targets = [result[part].permute(1, 2, 0).float() for result in layer_results]  # (B, D, F)
        if self.cfg.instance_norm_target_layer:
            targets = [F.instance_norm(target) for target in targets]
        return [target.transpose(1, 2) for target in targets]

    def losses(self, x: Tensor, targets: list[Tensor], masked: Tensor) -> dict:
        """Student's frames (N, D), teacher's frames (N, D) of each codebook, which of them are masked (N,) bool."""
        cfg = self.cfg
        decay = annealed_decay(
            cfg.codebook_init_decay, cfg.codebook_end_decay, self.num_updates + 1, cfg.codebook_end_decay_step
        )
        loss, target_ppl, pred_ppl = 0, 0, 0
        for k, target in enumerate(targets):
            self.sums[k], self.counts[k] = self.sums[k].to(x.device), self.counts[k].to(x.device)
            one_hot = nearest(target, self.sums[k] / self.counts[k].unsqueeze(1))
            log_probs = F.log_softmax(self.heads[k](x).float(), dim=-1)
            loss = loss - (one_hot * log_probs).sum(-1)  # (N,)
            with torch.no_grad():
                target_ppl = target_ppl + perplexity(one_hot[masked])
                pred_ppl = pred_ppl + perplexity(log_probs[masked].exp())
            if self.training:
                self.sums[k], self.counts[k] = moved(self.sums[k], self.counts[k], target, one_hot, decay)
        loss = loss / len(targets)
        losses = {"dinosr": loss[masked].sum()}
        if self.cfg.unmasked_weight > 0:
            losses["unmasked"] = self.cfg.unmasked_weight * loss[~masked].sum()
        perplexities = {"target_ppl": target_ppl / len(targets), "pred_ppl": pred_ppl / len(targets)}
        return Output(losses, int(masked.sum()), "masked_frames", perplexities)


@torch.no_grad()
def nearest(frames: Tensor, centroids: Tensor) -> Tensor:
    """Frames (N, D), centroids (V, D) -> one-hot (N, V) float32."""
    distances = frames.pow(2).sum(1, keepdim=True) + centroids.pow(2).sum(1) - 2 * frames @ centroids.t()
    one_hot = torch.zeros_like(distances)
    one_hot[torch.arange(len(frames)), distances.argmin(1)] = 1.0
    return one_hot


@torch.no_grad()
def moved(sums: Tensor, counts: Tensor, frames: Tensor, one_hot: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Sums (V, D) and counts (V,) after frames (N, D) of these codes (N, V); of all ranks."""
    count, total = one_hot.sum(0), one_hot.t() @ frames
    if dist.is_initialized():
        dist.all_reduce(count)
        dist.all_reduce(total)
    decay = torch.where(count > 0, decay, 1.0)
    return decay.unsqueeze(1) * sums + (1 - decay).unsqueeze(1) * total, decay * counts + (1 - decay) * count


def perplexity(probs: Tensor) -> Tensor:
    """Of the mean of (N, V), over all ranks."""
    mean = probs.mean(0)
    if dist.is_initialized():
        dist.all_reduce(mean)
        mean = mean / dist.get_world_size()
    return torch.exp(-torch.sum(mean * torch.log(mean + 1e-7)))


class LogMelFrontEnd(LogMel):
    """Log-Mel frames where fairseq's models have convolutions: (B, T) -> (B, C, F), nothing padded."""

    def forward(self, source: Tensor) -> Tensor:
        padding = torch.zeros(len(source), 1 + (source.size(1) - 400) // 320, dtype=torch.bool, device=source.device)
        return super().forward(source, padding).to(source.dtype)


def front_end(cfg: DinoSRConfig) -> tuple[nn.Module, int]:
    """(waveform (B, T) -> frames (B, C, F), C)."""
    if cfg.front_end == "fbank":
        return LogMelFrontEnd(cfg.n_mels), 2 * cfg.n_mels
    layers = parse_conv_layers(cfg.conv_feature_layers)
    return ConvFeatureExtractionModel(
        conv_layers=layers, dropout=0.0, mode=cfg.extractor_mode, conv_bias=cfg.conv_bias
    ), layers[-1][0]


def wav2vec2_config(cfg: DinoSRConfig) -> Wav2Vec2Config:
    """Of the same size."""
    same = {
        name: getattr(cfg, name)
        for name in Wav2Vec2Config.__dataclass_fields__
        if name != "_name" and hasattr(cfg, name)
    }
    return Wav2Vec2Config(**same, required_seq_len_multiple=1)

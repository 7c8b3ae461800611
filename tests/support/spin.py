"""A tiny Spin checkpoint, as fairseq's trainer writes it, without training."""

from pathlib import Path

import torch
from fairseq import tasks
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from dinosr_plugin.models.spin import Spin, SpinConfig

SIZES = dict(
    front_end="fbank",
    n_mels=8,
    encoder_layers=3,
    encoder_embed_dim=16,
    encoder_ffn_embed_dim=16,
    encoder_attention_heads=2,
    conv_pos=4,
    conv_pos_groups=2,
    projection_dim=6,
    codebook_size=8,
    start_from=None,
)
UPDATES = 7


def spin(seed: int = 1, **settings) -> Spin:
    """Three layers of 16, a projection of 6 dimensions, 8 codes; in eval mode."""
    torch.manual_seed(seed)
    return Spin(SpinConfig(**{**SIZES, **settings})).eval()


def spin_checkpoint(path: Path, **settings) -> Spin:
    """Writes a checkpoint of ``spin(**settings)``; returns the model."""
    model = spin(**settings)
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(FairseqConfig), enum_to_str=True))
    cfg.model = {"_name": "spin", **SIZES, **settings}
    cfg.task = {"_name": "dinosr_pretraining", "data": "/a/folder", "views": "clean/perturb", "normalize": False}
    history = [{"num_updates": UPDATES, "criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}]
    state = {"args": None, "cfg": OmegaConf.to_container(cfg), "model": model.state_dict()}
    state |= {"task_state": tasks.setup_task(cfg.task).state_dict(), "optimizer_history": history}
    torch.save({**state, "criterion": None, "last_optimizer_state": None, "extra_state": {}}, path)
    return model

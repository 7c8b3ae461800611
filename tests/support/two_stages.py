"""Pre-training and fine-tuning of a tiny recogniser on noise with words, through fairseq's trainer in this process."""

import shutil
from pathlib import Path

import numpy as np
import soundfile
from fairseq_cli.hydra_train import _hydra_main

from dinosr_plugin.cli import main as dinosr
from support.paths import PLUGIN
from support.training import read_config

CONFIG_NAMES = {"pretraining": "dinosr_tiny", "finetuning": "tiny"}
SMALL = [
    "encoder_layers=2",
    "average_top_k_layers=2",
    "encoder_embed_dim=16",
    "encoder_ffn_embed_dim=16",
    "encoder_attention_heads=2",
]
SMALL += ["codebook_size=4", "conv_pos=4", "conv_pos_groups=2"]
PRETRAINING = [f"model.{setting}" for setting in SMALL] + ["task.min_sample_size=8000", "dataset.max_tokens=40000"]
FINETUNING = ["dataset.valid_subset=train", "model.mask_channel_prob=0"]


def write_noise_with_words(folder: Path) -> Path:
    """Writes six sounds of 1 to 1.2 s with words, and their manifest train.tsv; returns ``folder``."""
    rng = np.random.default_rng(0)
    (folder / "corpus").mkdir(parents=True)
    for n in range(6):
        soundfile.write(folder / f"corpus/u{n}.wav", rng.normal(0, 0.1, 16000 + 500 * n), 16000)
        (folder / f"corpus/u{n}.txt").write_text("AB BA")
    assert dinosr(["manifest", "folder", str(folder / "corpus"), "--out", str(folder), "--valid-share", "0"]) == 0
    return folder


def stage_overrides(stage: str, data: Path, more=()) -> list[str]:
    """Hydra overrides for 20 updates, with checkpoints in ``data/STAGE``; ``DATA`` in ``more`` is the folder."""
    common = [
        f"common.user_dir={PLUGIN}",
        f"task.data={data}",
        f"checkpoint.save_dir={data}/{stage}",
        "common.tensorboard_logdir=null",
    ]
    sizes = PRETRAINING if stage == "pretraining" else FINETUNING
    return [
        *common,
        "optimization.max_update=20",
        "dataset.num_workers=0",
        *sizes,
        *(setting.replace("DATA", str(data)) for setting in more),
    ]


def train_stage(stage: str, data: Path, more=()) -> Path:
    """Trains like ``fairseq-hydra-train`` with the stage's small config; returns the last checkpoint."""
    _hydra_main(read_config(stage, CONFIG_NAMES[stage], stage_overrides(stage, data, more)))
    return data / stage / "checkpoint_last.pt"


def write_checkpoints(folder: Path) -> None:
    """Writes ``pretraining.pt`` and ``finetuning.pt``; their data in ``folder/data`` is deleted."""
    data = write_noise_with_words(folder / "data")
    pretrained = train_stage("pretraining", data)
    finetuned = train_stage("finetuning", data, [f"model.w2v_path={pretrained}"])
    shutil.copy(pretrained, folder / "pretraining.pt")
    shutil.copy(finetuned, folder / "finetuning.pt")
    shutil.rmtree(data)

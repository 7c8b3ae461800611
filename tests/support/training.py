"""Training through fairseq's own entry point, in this process or in two others, on a few seconds of sound."""

import functools
import logging
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import fairseq_cli.train
import numpy as np
import soundfile
import torch
import torch._dynamo  # otherwise every forked process that trains imports it, which takes two seconds
from fairseq.dataclass.initialize import hydra_init
from fairseq.trainer import Trainer
from fairseq_cli.hydra_train import _hydra_main
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from dinosr_plugin.runs import stopping
from support.paths import CONFIGS, PLUGIN

SMALL = [
    "encoder_layers=2",
    "average_top_k_layers=2",
    "encoder_embed_dim=16",
    "encoder_ffn_embed_dim=32",
    "encoder_attention_heads=2",
]
SMALL += ["codebook_size=8", "conv_pos=4", "conv_pos_groups=2", "dropout=0.0", "revive_after=0"]
ONLY_DINOSR = ("average_top_k_layers", "codebook_size", "revive_after")
SMALL_SPIN = [
    *(f"+model.{setting}" for setting in SMALL if not setting.startswith((*ONLY_DINOSR, "dropout"))),
    *("+model.front_end=fbank", "+model.n_mels=20", "model.start_from=null", "model.dropout=0.0"),
    *("model.projection_dim=8", "model.codebook_size=8", "model.trained_layers=[-1]", "task.views=clean/equalizer"),
]
SMALL_SPEAKER = ["channels=[8,8,8,16]", "kernels=[5,3,3,1]", "dilations=[1,2,3,1]", "res2net_scale=4", "se_width=4"]
SMALL_SPEAKER += ["attention_width=4", "embedding_dim=8"]
SMALL_PREDICTIVE = ["n_mels=10", "layers=2", "width=16", "heads=2", "feed_forward=32", "conv_pos=4"]
SMALL_CPC = ["encoder_channels=16", "encoder_norm=channel", "context_dim=16", "steps=4", "n_negatives=8"]


def write_corpus(folder: Path, split: str = "train", lengths: Sequence[int] = (16000,) * 14) -> Path:
    """Writes SPLIT.tsv and a file of each length (samples) into ``folder`` and returns it.

    The sounds are tones that change every 100 ms, which gives structure to cluster.
    """
    (folder / "sounds").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(split))
    rows = [str(folder)]
    for n, length in enumerate(lengths):
        pitch = np.repeat(rng.choice([200, 400, 900, 2000, 4000], size=length // 1600 + 1), 1600)[:length]
        sound = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000) + rng.normal(0, 0.01, length)
        soundfile.write(folder / f"sounds/{split}{n}.wav", sound, 16000)
        rows.append(f"sounds/{split}{n}.wav\t{length}")
    (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def settings(data: Path, save_dir: Path, *overrides: str, config: str = "dinosr_tiny") -> list[str]:
    """Overrides that make ``dinosr_tiny``, or another of the tiny configs, even smaller."""
    common = [
        f"common.user_dir={PLUGIN}",
        f"task.data={data}",
        f"checkpoint.save_dir={save_dir}",
        "common.tensorboard_logdir=null",
    ]
    common += ["dataset.num_workers=0", "common.log_interval=1"]
    if config.startswith(("cpc", "deepcluster")):
        return [
            *common,
            "task.window_samples=3200",
            "dataset.batch_size=2",
            *(f"model.{setting}" for setting in SMALL_CPC),
            *overrides,
        ]
    if config.startswith(("apc", "mpc")):
        small = [f"model.{setting}" for setting in SMALL_PREDICTIVE]
        return [*common, "task.min_sample_size=8000", "dataset.batch_size=2", *small, *overrides]
    if config.startswith(("dino_speaker", "ssrl_speaker")):
        small = [f"model.{setting}" for setting in SMALL_SPEAKER]
        return [*common, "task.min_sample_size=8000", "dataset.batch_size=4", *small, *overrides]
    sizes = ["task.min_sample_size=8000", "dataset.max_tokens=32000"]
    if config.startswith(("spin", "r_spin")):
        return [*common, *sizes, *SMALL_SPIN, *overrides]
    small = [setting for setting in SMALL if config == "dinosr_tiny" or not setting.startswith(ONLY_DINOSR)]
    return [*common, *sizes, *(f"model.{setting}" for setting in small), *overrides]


def command(data: Path, save_dir: Path, *overrides: str) -> list[str]:
    """The installed ``fairseq-hydra-train`` with all its arguments."""
    program = Path(sys.executable).with_name("fairseq-hydra-train")
    return [
        str(program),
        "--config-dir",
        str(CONFIGS / "pretraining"),
        "--config-name",
        "dinosr_tiny",
        *settings(data, save_dir, *overrides),
    ]


ConfigStore.__deepcopy__ = lambda store, memo: store
"""Hydra copies its global store, with all configs of fairseq, each time it reads a config, and never changes the copy.
Copying takes a third of the time of a training of a few updates."""

register_configs = functools.cache(hydra_init)


def read_config(stage: str, name: str, overrides: Sequence[str]) -> DictConfig:
    """The config of ``fairseq-hydra-train --config-path pkg://dinosr_plugin.config.STAGE --config-name NAME``."""
    register_configs(name)
    with initialize_config_dir(version_base="1.1", config_dir=str(CONFIGS / stage)):
        return compose(name, overrides=list(overrides))


def train(data: Path, save_dir: Path, *overrides: str, config: str = "dinosr_tiny") -> Trainer:
    """Runs ``command`` in this process; returns fairseq's trainer as it is after training."""
    cfg = read_config("pretraining", config, settings(data, save_dir, *overrides, config=config))
    # fills common.log_file; pytest keeps it at WARNING
    logging.getLogger("fairseq.logging.progress_bar").setLevel(logging.INFO)
    trainers = []

    def remember(*args, **kwargs):
        trainers.append(Trainer(*args, **kwargs))
        return trainers[-1]

    with mock.patch.object(fairseq_cli.train, "Trainer", remember), mock.patch.object(stopping, "_agreed", None):
        _hydra_main(cfg)
    return trainers[-1]


def fine_tune(data: Path, save_dir: Path, w2v_path: Path, *overrides: str) -> Path:
    """A few updates of ``finetuning/tiny.yaml`` in this process; returns the checkpoint."""
    setting = [
        f"common.user_dir={PLUGIN}",
        "dataset.num_workers=0",
        "common.tensorboard_logdir=null",
        f"task.data={data}",
        f"model.w2v_path={w2v_path}",
        f"checkpoint.save_dir={save_dir}",
        "dataset.valid_subset=train",
        "model.mask_channel_prob=0",
        "optimization.max_update=4",
    ]
    _hydra_main(read_config("finetuning", "tiny", [*setting, *overrides]))
    return save_dir / "checkpoint_last.pt"


def _rank(rank: int, data: Path, save_dir: Path, overrides: Sequence[str], config: str) -> None:
    torch.set_num_threads(1)  # the threads of the parent do not survive a fork
    init = [
        f"distributed_init_method=file://{save_dir}/meeting",
        "distributed_world_size=2",
        f"distributed_rank={rank}",
    ]
    init += ["distributed_no_spawn=true", "distributed_backend=gloo"]
    trainer = train(data, save_dir, *(f"distributed_training.{setting}" for setting in init), *overrides, config=config)
    torch.save(trainer.get_model().state_dict(), save_dir / f"rank{rank}.pt")


def start_two_ranks(data: Path, save_dir: Path, *overrides: str, config: str = "dinosr_tiny") -> list:
    """Starts two processes that train together, as ``train`` would; returns them."""
    save_dir.mkdir(parents=True, exist_ok=True)
    (save_dir / "meeting").unlink(missing_ok=True)
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_rank, args=(rank, data, save_dir, overrides, config)) for rank in range(2)]
    for process in ranks:
        process.start()
    return ranks


def train_on_two_ranks(data: Path, save_dir: Path, *overrides: str, config: str = "dinosr_tiny") -> list[dict]:
    """Trains with two processes; returns the model's state at the end of each.

    Raises RuntimeError with their exit statuses unless both are 0.
    """
    ranks = start_two_ranks(data, save_dir, *overrides, config=config)
    for process in ranks:
        process.join(240)
    if any(process.exitcode for process in ranks):
        raise RuntimeError(f"exit statuses {[process.exitcode for process in ranks]}")
    return [torch.load(save_dir / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def tensors(state, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors and numbers in nested dictionaries and lists, by path."""
    if torch.is_tensor(state):
        return {name: state}
    if isinstance(state, (int, float)):
        return {name: torch.tensor(state)}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {key: value for part, inner in items for key, value in tensors(inner, f"{name}/{part}").items()}


def differences(a, b, **tolerance) -> list[str]:
    """Names of tensors that differ: in any bit, or by more than ``rtol`` and ``atol`` if these are given."""
    a, b = tensors(a), tensors(b)
    same = torch.allclose if tolerance else torch.equal
    return sorted(
        name
        for name in a.keys() | b.keys()
        if name not in a or name not in b or not same(a[name], b[name], **tolerance)
    )


def checkpoint(save_dir: Path, name: str = "checkpoint_last.pt") -> dict:
    """The state that training resumes from: parameters, teacher, codebooks, optimiser, position in the data."""
    state = torch.load(save_dir / name, weights_only=False)
    keep = {key: state[key] for key in ("model", "last_optimizer_state")}
    return {
        **keep,
        "updates": state["optimizer_history"][-1]["num_updates"],
        "train_iterator": state["extra_state"]["train_iterator"],
    }

"""Checkpoints of a run written without training, ways to damage them, and two ranks in one process."""

import os
from pathlib import Path
from types import SimpleNamespace

import torch
from fairseq.dataclass.configs import CheckpointConfig
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf


def config(folder: Path, task: str = "dinosr_pretraining", **checkpoint):
    """The parts of fairseq's config that saving and resuming read."""
    checkpoint = {**vars(CheckpointConfig()), "save_dir": str(folder), "model_parallel_size": 1, **checkpoint}
    optimization = {"max_update": 8, "max_epoch": 0, "stop_time_hours": 0.0}
    parts = {"checkpoint": checkpoint, "optimization": optimization}
    return OmegaConf.create({**parts, "task": {"_name": task}, "model": {"_name": "dinosr"}})


def state_of(updates: int, cfg) -> dict:
    cfg = OmegaConf.to_container(cfg)
    history = [{"num_updates": updates, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}]
    return {"model": {"w": torch.randn(50, 50)}, "optimizer_history": history, "extra_state": {}, "cfg": cfg}


def put(path: Path, updates: int, **fields) -> Path:
    """Writes a checkpoint after ``updates`` updates; ``fields`` are those of ``config``."""
    torch.save(state_of(updates, config(path.parent, **fields)), path)
    return path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def punch_a_hole(path: Path) -> None:
    """Replaces 4096 bytes in the middle with zeros, as after a power failure; the size stays right."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


class Ranks:
    """fairseq's broadcast between two ranks that take turns in this process."""

    def __init__(self, monkeypatch):
        self.rank, self.sent = 0, []
        monkeypatch.setattr(distributed_utils, "get_rank", lambda group: self.rank)
        monkeypatch.setattr(distributed_utils, "broadcast", self.broadcast)

    def broadcast(self, tensor, src, group):
        if self.rank == src:
            self.sent.append(tensor.flatten().clone())
        else:
            tensor.view(-1).copy_(self.sent.pop(0))

    def trainer(self, cfg, loaded: list) -> SimpleNamespace:
        """The part of fairseq's trainer that loading needs; ``loaded`` receives the paths."""
        return SimpleNamespace(
            checkpoint_suffix="",
            tpu=False,
            data_parallel_world_size=2,
            data_parallel_process_group=None,
            data_parallel_rank=self.rank,
            device=torch.device("cpu"),
            cfg=cfg,
            get_model=lambda: torch.nn.Linear(1, 1),
            lr_step=lambda epoch: None,
            load_checkpoint=lambda path, *_, **__: loaded.append(path),
            get_train_iterator=lambda **_: SimpleNamespace(epoch=1),
        )

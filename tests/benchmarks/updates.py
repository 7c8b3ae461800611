"""Whole training updates by fairseq's trainer, of the models of this plug-in and of those that they are compared with.

An update resets the gradients, runs forward and backward pass, computes the norm of the gradients, and steps the
optimiser, the teacher and the codebooks. Its input is synthetic and always the same. LayerDrop is off, because with it
no two updates do the same work. All other fields are those of the config of that size.
"""

import dinosr_plugin.tasks  # noqa: F401  # isort: skip  (registers them; before fairseq, which it imports quietly)
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from fairseq import metrics, models, tasks, utils
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.distributed import utils as distributed
from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel
from fairseq.optim.adam import Adam
from fairseq.trainer import Trainer
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from plain_dinosr import PlainDinoSR

import dinosr_plugin
from dinosr_plugin.errors import UserError

CONFIGS = Path(dinosr_plugin.__file__).parent / "config/pretraining"  # of the checkout that is measured
CONFIG_OF = {  # by model and size
    "ours": {"base": "dinosr_base", "tiny": "dinosr_tiny"},
    "plain": {"base": "dinosr_base", "tiny": "dinosr_tiny"},
    "data2vec": {"base": "dinosr_base"},
    "hubert": {"base": "hubert_base_it2", "tiny": "hubert_tiny"},
    "cpc": {"base": "cpc_big", "tiny": "cpc_tiny"},
}
ADAM = {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-6, "weight_decay": 0.01}
TASK = {"_name": "audio_pretraining", "data": "none"}
INSTEAD = {  # parts of the config that are replaced: peers train with fairseq's own Adam and task
    "plain": {"optimizer": ADAM, "task": TASK},
    "data2vec": {"optimizer": ADAM, "task": TASK, "criterion": {"_name": "model"}},
}
LABELS = 500  # classes of HuBERT


@dataclass
class Update:
    """What to measure: a model, its batch, and its number format and device.

    Attributes:
        model: a key of ``CONFIG_OF``.
        fields: fields of the config to change, such as ``model.dropout=0``.
        rank, meeting: rank in a training of two processes, and the file through which they connect; None: one process.
    """

    model: str
    size: str
    rows: int
    seconds: float
    precision: str
    device: str
    threads: int
    fields: tuple = ()
    rank: int = 0
    meeting: str | None = None


def make_update(job: dict) -> Callable[[], None]:
    """Returns a function that makes one update. ``job``: the fields of ``Update``."""
    update = Update(**job)
    cfg = config(update)
    metrics.reset()
    np.random.seed(cfg.common.seed)
    utils.set_torch_seed(cfg.common.seed)
    if update.meeting:
        distributed.distributed_init(cfg)
        torch.Tensor.cuda = lambda self: self  # fairseq's data2vec assumes a GPU if there are ranks
    if update.model in INSTEAD:
        Adam.step = inspect.unwrap(Adam.step)
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, build_model(update.model, cfg, task), task.build_criterion(cfg.criterion))
    trainer.save_checkpoint = lambda *_: None  # fairseq saves one after a crash
    trainer.begin_epoch(1)  # what a task does before the first update
    sample = batch(update, cfg)

    def work():
        if trainer.train_step([sample]) is None:
            raise UserError(f"{update.model}: no update was made (overflow of {update.precision}, or out of memory)")

    return work


def config(update: Update):
    """The training config of that size."""
    name = CONFIG_OF[update.model].get(update.size)
    if name is None:
        raise UserError(f"{update.model}: has no size {update.size}; omit this model")
    return composed(name, [*settings(update), *update.fields], INSTEAD.get(update.model, {}))


def composed(name: str, fields: Sequence[str], instead: Mapping[str, dict] = MappingProxyType({})):
    """A training config, composed as in ``fairseq-hydra-train``, with these fields set and these parts replaced.

    Raises UserError for an unknown config, or an unknown field.
    """
    hydra_init(name)
    try:
        with initialize_config_dir(version_base="1.1", config_dir=str(CONFIGS)):
            cfg = compose(name, overrides=list(fields))
    except HydraException as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from None
    OmegaConf.set_struct(cfg, False)
    for part, its in instead.items():
        cfg[part] = OmegaConf.create(its)
    add_defaults(cfg)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def settings(update: Update) -> list[str]:
    """The fields of the config that the benchmark sets."""
    precision = [f"common.{name}={str(name == update.precision).lower()}" for name in ("fp16", "bf16")]
    fields = [
        "task.data=none",
        "common.tensorboard_logdir=null",
        f"common.cpu={str(update.device == 'cpu').lower()}",
        *precision,
    ]
    if update.meeting:
        ranks = {
            "init_method": f"file://{update.meeting}",
            "world_size": 2,
            "rank": update.rank,
            "no_spawn": "true",
            "backend": "gloo",
        }
        fields += [f"distributed_training.distributed_{name}={value}" for name, value in ranks.items()]
    else:
        fields += ["distributed_training.distributed_world_size=1", "distributed_training.distributed_init_method=null"]
    if update.model != "cpc":
        fields += ["model.encoder_layerdrop=0"]
    if update.model == "hubert":
        fields += [f"model.num_classes=[{LABELS}]"]
    return fields


def build_model(name: str, cfg, task):
    if name == "plain":
        return PlainDinoSR(cfg.model)
    if name == "data2vec":
        return data2vec(cfg)
    return models.build_model(cfg.model, task)  # not task.build_model, which requires data


def data2vec(cfg):
    """fairseq's data2vec at the size of DinoSR's config: with the values of all fields that both have."""
    same = {
        name: cfg.model[name]
        for name in Data2VecAudioConfig.__dataclass_fields__
        if name != "_name" and name in cfg.model
    }
    return Data2VecAudioModel(Data2VecAudioConfig(**same, max_update=cfg.optimization.max_update))


def batch(update: Update, cfg) -> dict:
    """Noise of unit variance, like normalised speech; with random labels for HuBERT, cut into windows for CPC."""
    noise = torch.Generator().manual_seed(0)
    rows, samples = update.rows, round(16_000 * update.seconds)
    if update.model == "cpc":
        rows, samples = max(1, rows * samples // cfg.task.window_samples), cfg.task.window_samples
    inputs = {"source": torch.randn(rows, samples, generator=noise)}
    if update.model == "hubert":
        labels = torch.randint(LABELS, (1, rows, samples // 320 + 1), generator=noise)
        inputs |= {"labels": labels, "label_starts": torch.zeros(rows, dtype=torch.long)}
    return {"id": torch.arange(rows), "numbers": list(range(rows)), "net_input": inputs}

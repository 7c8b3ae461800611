"""The settings of a run, checked as a whole before anything is read or built.

The ranges of this plug-in's numbers are declared beside the fields; those of fairseq's are in ``fairseq_ranges``.
"""

import ast
import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ..compat.wrapping import wrap_once
from ..errors import UserError, setting
from ..ranges import DROPOUT, check_ranges
from . import adam_l2, dino_sgd
from .adjusting import adjust
from .fairseq_ranges import FAIRSEQ

logger = logging.getLogger(__name__)


# ---- the checks ------------------------------------------------------------------------------------------------------


def check_settings(cfg: DictConfig) -> None:
    """Raise UserError for the first setting of a whole config that cannot work.

    Args:
        cfg: the config of a training or of a generation, with fairseq's defaults.
    """
    for group, config in configs_of(cfg):
        check_ranges(cfg[group], config, group, FAIRSEQ)


def configs_of(cfg: DictConfig) -> Iterator[tuple[str, type]]:
    """(group, dataclass) of the parts of a whole config, in fairseq's order; those without a dataclass are left out.

    Raises UserError for a name that is not registered.
    """
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    registries: dict[str, tuple[Any, Any]] = {
        "task": (TASK_REGISTRY, TASK_DATACLASS_REGISTRY),
        "model": ({**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}, MODEL_DATACLASS_REGISTRY),
        **{name: (known["registry"], known["dataclass_registry"]) for name, known in REGISTRIES.items()},
    }
    for group, declared in FairseqConfig.__dataclass_fields__.items():
        if cfg.get(group) is None:
            continue
        if group not in registries:
            if hasattr(declared.type, "__dataclass_fields__"):
                yield group, declared.type
            continue
        known, configs = registries[group]
        name = getattr(cfg[group], "_name", None)
        if isinstance(name, str) and name not in known:
            raise UserError(f"{setting(f'{group}._name', name)}: there is no such {group}{similar(name, known)}")
        config = configs.get(ARCH_MODEL_NAME_REGISTRY.get(name, name) if group == "model" else name)
        if config is not None:
            yield group, config


def similar(name: str, known: Any) -> str:
    """``; did you mean dinosr?`` if there is a similar name in ``known``."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def check_training(cfg: DictConfig) -> None:
    """Raise UserError if a training with this config cannot start or would fail in its learning rate schedule."""
    for group in ("task", "model", "criterion", "optimizer"):
        if not cfg.get(group):
            raise UserError(f"{setting(group)}: not given; add it to the config, as in those of `dinosr path configs`")
    check_settings(cfg)
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        raise UserError(
            f"{setting('dataset.max_tokens')} and {setting('dataset.batch_size')}: both are missing; give the size of "
            "a batch in samples of audio, or in utterances"
        )
    for name in ("lr", "update_freq"):
        if not cfg.optimization[name]:
            raise UserError(f"{setting(f'optimization.{name}')}: empty; give at least one number in brackets")
    if str(cfg.optimizer._name) in ("adam", adam_l2.NAME):
        check_betas(cfg.optimizer.adam_betas)
    check_precision(cfg)
    schedule = CHECK_SCHEDULE.get(str(getattr(cfg.lr_scheduler, "_name", None)))
    if schedule is not None:
        schedule(cfg)


def check_betas(betas: Any) -> None:
    """Raise UserError unless ``optimizer.adam_betas``, a string such as ``(0.9,0.98)`` or a list, is two numbers."""
    try:
        numbers = list(ast.literal_eval(betas) if isinstance(betas, str) else betas)
        valid = len(numbers) == 2 and all(number in DROPOUT for number in numbers)
    except (ValueError, SyntaxError, TypeError):
        valid = False
    if not valid:
        raise UserError(
            f"{setting('optimizer.adam_betas', betas)}: give two numbers, each {DROPOUT}, such as '(0.9,0.98)'"
        )


def check_precision(cfg: DictConfig) -> None:
    """Raise UserError for an optimiser of this plug-in that would not see the gradients in float32 without a scale.

    With ``common.amp``, fairseq divides gradients by the loss scale twice, which only Adam without L2 does not notice.
    """
    name = str(cfg.optimizer._name)
    for field in ("amp", "memory_efficient_fp16", "memory_efficient_bf16"):
        if name in (adam_l2.NAME, dino_sgd.NAME) and cfg.common[field]:
            raise UserError(
                f"{setting(f'common.{field}', True)}: optimizer={name} needs float32 copies of the parameters; remove "
                f"it, and set {setting('common.fp16', True)} or {setting('common.bf16', True)}"
            )


def check_tri_stage(cfg: DictConfig) -> None:
    """Raise UserError unless the phases of ``tri_stage``, one of which is a decay, add up to the whole run."""
    schedule, updates = cfg.lr_scheduler, cfg.optimization.max_update
    require_one_rate(cfg)
    if schedule.phase_ratio is None:
        if schedule.decay_steps < 1:
            raise UserError(
                f"{setting('lr_scheduler.decay_steps', schedule.decay_steps)}: must be at least 1 without phase_ratio"
            )
        return
    ratios = [float(ratio) for ratio in schedule.phase_ratio]
    name = setting("lr_scheduler.phase_ratio", ratios)
    if len(ratios) != 3 or abs(sum(ratios) - 1) > 1e-6:
        raise UserError(f"{name}: give three shares, of warm-up, constant rate and decay, that add up to 1")
    if sum(ratios) != 1:  # fairseq requires exactly 1
        exact = [*ratios[:2], 1 - (ratios[0] + ratios[1])]
        raise UserError(f"{name}: add up to {sum(ratios)!r} when rounded; give {exact}")
    if updates < 1:
        raise UserError(
            f"{setting('optimization.max_update', updates)}: the schedule tri_stage divides the updates by "
            "lr_scheduler.phase_ratio; give their number"
        )
    if ratios[2] == 0:
        raise UserError(f"{name}: there is no decay; the last share must be more than 0, as in [0.1,0.4,0.5]")


def check_polynomial_decay(cfg: DictConfig) -> None:
    """Raise UserError for a decay without an end; warn of a warm-up that is longer than the run."""
    if cfg.lr_scheduler.total_num_update < 1:
        raise UserError(
            f"{setting('optimization.max_update', cfg.optimization.max_update)}: the schedule polynomial_decay reaches "
            "its last rate after that many updates; give their number"
        )
    warm_up, updates = cfg.lr_scheduler.warmup_updates, cfg.optimization.max_update
    if warm_up > updates > 0:
        logger.warning(
            f"{setting('lr_scheduler.warmup_updates', warm_up)} is more than "
            f"{setting('optimization.max_update', updates)}: the learning rate does not reach its full value"
        )


def require_one_rate(cfg: DictConfig) -> None:
    """Raise UserError for several learning rates, of which the schedule would use the first."""
    if len(cfg.optimization.lr) > 1:
        name = cfg.lr_scheduler._name
        raise UserError(
            f"{setting('optimization.lr', cfg.optimization.lr)}: the schedule {name} takes one rate; give only one"
        )


CHECK_SCHEDULE = {
    "tri_stage": check_tri_stage,
    "polynomial_decay": check_polynomial_decay,
    "inverse_sqrt": require_one_rate,
}


# ---- in fairseq's programs -------------------------------------------------------------------------------------------


def check_settings_first():
    """Check the whole config when a training or a generation starts.

    fairseq checks hardly any number; most of those that cannot work end in a traceback, or change the result silently.
    ``add_defaults`` is the first function that a training calls with the whole config once the plug-in is imported.
    """
    from fairseq_cli import generate, train

    def before_training(previous):
        def add_defaults(cfg):
            with config_errors_in_one_line(cfg):
                previous(cfg)
            check_training(cfg)
            adjust(cfg)

        return add_defaults

    def before_generation(previous):
        def main(cfg, output_file):
            check_settings(cfg)
            return previous(cfg, output_file)

        return main

    wrap_once(train, "add_defaults", before_training)
    wrap_once(generate, "_main", before_generation)


def require_gpus():
    """Raise UserError for a run that starts more processes than this machine has GPUs; fairseq asserts it.

    A config that is found by ``pkg://`` imports the plug-in before that; otherwise fairseq's assertion fails first.
    """
    from fairseq.distributed import utils as distributed_utils

    def make(previous):
        def start_processes_here(cfg):
            count, wanted = torch.cuda.device_count(), cfg.distributed_world_size
            if wanted > count:
                name = setting("distributed_training.distributed_world_size", wanted)
                raise UserError(
                    f"{name}: this machine has {count} GPUs; set it to their number, 1 on a CPU, and raise "
                    f"{setting('optimization.update_freq')} by the same factor"
                )
            return previous(cfg)

        return start_processes_here

    wrap_once(distributed_utils, "_infer_single_node_init", make)


@contextmanager
def config_errors_in_one_line(cfg: DictConfig) -> Iterator[None]:
    """Turn an error of OmegaConf, such as an unknown field or text instead of a number, into a UserError."""
    try:
        yield
    except OmegaConfBaseException as error:
        config, key = error.object_type, str(error.full_key or error.key)
        groups = [group for group, known in configs_of(cfg) if known is config]
        field = ".".join([*groups, key])
        if isinstance(error, ConfigKeyError):
            message = f"{field}: there is no such field{similar(key, getattr(config, '__dataclass_fields__', []))}"
        else:
            message = f"{field}: {str(error.msg or error).splitlines()[0]}"
        raise UserError(message) from None  # Hydra would print the other error too

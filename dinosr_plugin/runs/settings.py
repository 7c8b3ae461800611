"""The settings of a run, checked as a whole before anything is read or built.

Of the configs of this plug-in, the ranges are declared beside the fields; of those of fairseq they are in ``FAIRSEQ``.
"""

import ast
import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ..compat.wrapping import wrap_once
from ..errors import UserError, setting
from ..ranges import (
    COUNT,
    COUNT_OR_0,
    COUNT_OR_NEVER,
    DROPOUT,
    FRAMES,
    LAYERS,
    SCORE,
    SEED,
    SHARE,
    WEIGHT,
    WIDTH,
    Range,
    check_ranges,
)

logger = logging.getLogger(__name__)

RATE = Range(0, 1e9)  # a learning rate
POSITIVE = Range(0, 1e9, above=True)
FACTOR = Range(0, 1e6)

_FINETUNING = {
    **dict.fromkeys(("dropout_input", "final_dropout", "dropout", "attention_dropout", "activation_dropout"), DROPOUT),
    **dict.fromkeys(("layerdrop", "drop_path", "mask_dropout"), DROPOUT),
    **dict.fromkeys(("mask_prob", "mask_channel_prob"), SHARE),
    **dict.fromkeys(("mask_length", "mask_channel_length"), FRAMES),
    **dict.fromkeys(("mask_min_space", "mask_channel_min_space", "freeze_finetune_updates"), COUNT_OR_0),
    **dict.fromkeys(("mask_other", "mask_channel_other", "feature_grad_mult"), WEIGHT),
    "layer_decay": Range(0, 1, above=True),
    "min_params_to_wrap": COUNT_OR_0,
    "adp_num": COUNT_OR_NEVER,
    "adp_dim": WIDTH,
}
_TRANSFORMER = {
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "relu_dropout"), DROPOUT),
    **dict.fromkeys(("adaptive_softmax_dropout", "decoder_layerdrop", "quant_noise_pq", "quant_noise_scalar"), DROPOUT),
    **dict.fromkeys(("decoder_embed_dim", "decoder_output_dim", "decoder_input_dim", "decoder_ffn_embed_dim"), WIDTH),
    **dict.fromkeys(("decoder_attention_heads", "character_embedding_dim", "quant_noise_pq_block_size"), WIDTH),
    "decoder_layers": LAYERS,
    "char_embedder_highway_layers": Range(0, 1_000),
    **dict.fromkeys(("adaptive_softmax_factor", "adaptive_input_factor"), POSITIVE),
    **dict.fromkeys(("min_params_to_wrap", "base_layers", "base_sublayers", "base_shuffle"), COUNT_OR_0),
    **dict.fromkeys(("tokens_per_sample", "max_target_positions"), COUNT),
}
_WARM_UP = {"warmup_updates": COUNT_OR_0, "lr": RATE}

FAIRSEQ: dict[str, dict[str, Range]] = {
    "CommonConfig": {
        **dict.fromkeys(("log_interval", "fp16_scale_window", "amp_scale_window", "model_parallel_size"), COUNT),
        **dict.fromkeys(("fp16_init_scale", "amp_init_scale"), Range(1, 2**40)),
        "all_gather_list_size": COUNT,
        **dict.fromkeys(("amp_batch_retries", "empty_cache_freq"), COUNT_OR_0),
        **dict.fromkeys(("min_loss_scale", "threshold_loss_scale"), POSITIVE),
        "seed": SEED,
        "fp16_scale_tolerance": SHARE,
    },
    "DistributedTrainingConfig": {
        **dict.fromkeys(("distributed_world_size", "bucket_cap_mb", "nprocs_per_node", "localsgd_frequency"), COUNT),
        **dict.fromkeys(("distributed_num_procs", "distributed_rank", "device_id", "pipeline_chunks"), COUNT_OR_0),
        **dict.fromkeys(("distributed_port", "heartbeat_timeout"), COUNT_OR_NEVER),
        "slowmo_momentum": SHARE,
    },
    "DatasetConfig": {
        **dict.fromkeys(("max_tokens", "max_tokens_valid", "batch_size", "batch_size_valid"), COUNT),
        **dict.fromkeys(("required_batch_size_multiple", "required_seq_len_multiple", "num_shards"), COUNT),
        "validate_interval": COUNT,
        **dict.fromkeys(("validate_interval_updates", "validate_after_updates", "max_valid_steps"), COUNT_OR_0),
        **dict.fromkeys(("data_buffer_size", "curriculum", "shard_id"), COUNT_OR_0),
        "num_workers": Range(0, 1_000),
        "fixed_validation_seed": SEED,
    },
    "OptimizationConfig": {
        **dict.fromkeys(("max_epoch", "max_update"), COUNT_OR_0),
        "stop_time_hours": Range(0, 1e9),
        "clip_norm": Range(0, 1e9),
        "update_freq": COUNT,
        "lr": RATE,
        "stop_min_lr": Range(0, 1e9, also=(-1,)),
    },
    "CheckpointConfig": {
        **dict.fromkeys(("save_interval", "checkpoint_shard_count", "model_parallel_size"), COUNT),
        "save_interval_updates": COUNT_OR_0,
        **dict.fromkeys(("keep_interval_updates", "keep_interval_updates_pattern", "keep_last_epochs"), COUNT_OR_NEVER),
        **dict.fromkeys(("keep_best_checkpoints", "patience"), COUNT_OR_NEVER),
    },
    "EMAConfig": {"ema_decay": SHARE, "ema_start_update": COUNT_OR_0, "ema_update_freq": COUNT},
    "GenerationConfig": {"beam": COUNT, "nbest": COUNT, "lm_weight": SCORE},
    "AudioPretrainingConfig": {
        "sample_rate": Range(1, 1_000_000),
        "num_batch_buckets": Range(0, 10_000),
        "subsample": Range(0, 1, above=True),
        "seed": SEED,
        "min_sample_size": COUNT_OR_0,
        "max_sample_size": COUNT,
    },
    "Wav2Vec2AsrConfig": _FINETUNING,
    "Wav2Vec2CtcConfig": {"blank_weight": SCORE},
    "LanguageModelingConfig": {
        **dict.fromkeys(("tokens_per_sample", "max_target_positions", "batch_size", "batch_size_valid"), COUNT),
        "output_dictionary_size": COUNT_OR_NEVER,
        "data_buffer_size": COUNT_OR_0,
        "seed": SEED,
    },
    "TransformerLanguageModelConfig": _TRANSFORMER,
    "CtcCriterionConfig": dict.fromkeys(("wer_lm_weight", "wer_word_score", "wer_sil_weight"), SCORE),
    "FairseqAdamConfig": {"adam_eps": SHARE, "weight_decay": WEIGHT, "lr": RATE},
    "TriStageLRScheduleConfig": {
        **dict.fromkeys(("warmup_steps", "hold_steps", "decay_steps", "max_update"), COUNT_OR_0),
        "phase_ratio": SHARE,
        "init_lr_scale": FACTOR,
        "final_lr_scale": Range(0, 1e6, above=True),
        "lr": RATE,
    },
    "PolynomialDecayLRScheduleConfig": {
        **_WARM_UP,
        "force_anneal": COUNT_OR_0,
        "end_learning_rate": RATE,
        "power": Range(0, 1_000),
        "total_num_update": COUNT_OR_0,
    },
    "InverseSquareRootLRScheduleConfig": {
        "warmup_updates": COUNT,
        "warmup_init_lr": Range(0, 1e9, also=(-1,)),
        "lr": RATE,
    },
    "FixedLRScheduleConfig": {**_WARM_UP, "force_anneal": COUNT_OR_0, "lr_shrink": FACTOR},
}
"""Name of a dataclass of fairseq -> its fields -> their ranges. Other numbers of fairseq must be finite."""


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
            raise UserError(f"{setting(group)}: not given; add it to the config, as in examples/config")
    check_settings(cfg)
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        raise UserError(
            f"{setting('dataset.max_tokens')} and {setting('dataset.batch_size')}: both are missing; give the size of "
            "a batch in samples of audio, or in utterances"
        )
    for name in ("lr", "update_freq"):
        if not cfg.optimization[name]:
            raise UserError(f"{setting(f'optimization.{name}')}: empty; give at least one number in brackets")
    if str(cfg.optimizer._name) == "adam":
        check_betas(cfg.optimizer.adam_betas)
    schedule = CHECK_SCHEDULE.get(str(getattr(cfg.lr_scheduler, "_name", None)))
    if schedule is not None:
        schedule(cfg)


def check_betas(betas: Any) -> None:
    """``optimizer.adam_betas`` is a string, such as ``(0.9,0.98)``, or a list."""
    try:
        numbers = list(ast.literal_eval(betas) if isinstance(betas, str) else betas)
        valid = len(numbers) == 2 and all(number in DROPOUT for number in numbers)
    except (ValueError, SyntaxError, TypeError):
        valid = False
    if not valid:
        raise UserError(
            f"{setting('optimizer.adam_betas', betas)}: give two numbers, each {DROPOUT}, such as '(0.9,0.98)'"
        )


def check_tri_stage(cfg: DictConfig) -> None:
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
    if int(updates * ratios[2]) < 1:
        enough = next((n for n in range(updates + 1, 10_000) if int(n * ratios[2])), None) if ratios[2] else None
        more = f"{setting('optimization.max_update', enough)} or more, or " if enough else ""
        raise UserError(
            f"{setting('optimization.max_update', updates)}: the decay of {name} would last less than one update; "
            f"give {more}{setting('lr_scheduler.phase_ratio', '[0,0,1]')}"
        )


def check_polynomial_decay(cfg: DictConfig) -> None:
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
    if len(cfg.optimization.lr) > 1:
        name = cfg.lr_scheduler._name
        raise UserError(
            f"{setting('optimization.lr', cfg.optimization.lr)}: the schedule {name} has one rate; give only that"
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
            with one_line_errors_of_configs(cfg):
                previous(cfg)
            check_training(cfg)

        return add_defaults

    def before_generation(previous):
        def main(cfg, output_file):
            check_settings(cfg)
            return previous(cfg, output_file)

        return main

    wrap_once(train, "add_defaults", before_training)
    wrap_once(generate, "_main", before_generation)


@contextmanager
def one_line_errors_of_configs(cfg: DictConfig) -> Iterator[None]:
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

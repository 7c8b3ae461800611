"""Ranges of the numbers in fairseq's own configs, which declare none."""

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
)

RATE = Range(0, 1e9)  # a learning rate
POSITIVE = Range(0, 1e9, exclude_low=True)
FACTOR = Range(0, 1e6)

_FINETUNING = {
    **dict.fromkeys(("dropout_input", "final_dropout", "dropout", "attention_dropout", "activation_dropout"), DROPOUT),
    **dict.fromkeys(("layerdrop", "drop_path", "mask_dropout"), DROPOUT),
    **dict.fromkeys(("mask_prob", "mask_channel_prob"), SHARE),
    **dict.fromkeys(("mask_length", "mask_channel_length"), FRAMES),
    **dict.fromkeys(("mask_min_space", "mask_channel_min_space", "freeze_finetune_updates"), COUNT_OR_0),
    **dict.fromkeys(("mask_other", "mask_channel_other", "feature_grad_mult"), WEIGHT),
    "layer_decay": Range(0, 1, exclude_low=True),
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
        "subsample": Range(0, 1, exclude_low=True),
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
        "final_lr_scale": Range(0, 1e6, exclude_low=True),
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

"""Every config of the package composes with Hydra as in fairseq-hydra-train; all of its fields exist."""

import dataclasses
import os
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import fairseq
import pytest
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY, build_model
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from dinosr_plugin.criterions.dinosr import DinoSRCriterionConfig
from dinosr_plugin.models.cpc_deepcluster import CPCDeepClusterConfig
from dinosr_plugin.models.dinosr import DinoSRConfig
from dinosr_plugin.models.encoder import TrunkConfig
from dinosr_plugin.models.hubert import HubertConfig
from dinosr_plugin.models.r_spin import RSpinConfig
from dinosr_plugin.models.speaker_encoder import SpeakerEncoderConfig
from dinosr_plugin.models.spin import SpinConfig
from dinosr_plugin.modules.ema import exponential_decay
from dinosr_plugin.runs.settings import check_training
from dinosr_plugin.tasks.finetuning import DinoSRFinetuningConfig
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig
from support.paths import CONFIGS, PLUGIN

AMOUNTS = CONFIGS / "finetuning/amount"
ALL = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent != AMOUNTS)
PRETRAINING = sorted((CONFIGS / "pretraining").glob("*.yaml"))
LM = CONFIGS / "lm"
BASE, TINY = CONFIGS / "pretraining/dinosr_base.yaml", CONFIGS / "pretraining/dinosr_tiny.yaml"
SPIDR, SPIDR_TINY = CONFIGS / "pretraining/spidr_base.yaml", CONFIGS / "pretraining/spidr_tiny.yaml"
CPC = {
    name: CONFIGS / f"pretraining/{name}.yaml"
    for name in ("cpc_small", "cpc_big", "cpc_tiny", "deepcluster_small", "deepcluster_big", "deepcluster_tiny")
}
SPIN, SPIN_TINY, R_SPIN, R_SPIN_TINY = (
    CONFIGS / f"pretraining/{name}.yaml" for name in ("spin_256", "spin_tiny", "r_spin_32", "r_spin_tiny")
)
DROPOUTS = {"dropout_input", "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop"}
HUBERT = {name: CONFIGS / f"pretraining/hubert_{name}.yaml" for name in ("base_it1", "base_it2", "tiny")}


# wav2vec 2.0's base recipes, fairseq's examples/wav2vec/config/finetuning/base_{10m,1h,10h,100h,960h}.yaml
RECIPES = {
    "librilight_10min": ("train_10min", 13000, 0.00005, 10000, 0.65, 0.25, 0.1),
    "librilight_1h": ("train_1h", 13000, 0.00005, 10000, 0.65, 0.25, 0.1),
    "librilight_10h": ("train_10h", 20000, 0.00005, 10000, 0.65, 0.5, 0.05),
    "librispeech_100h": ("train-clean-100", 80000, 0.00003, 0, 0.65, 0.5, 0.1),
    "librispeech_960h": ("train", 320000, 0.0001, 0, 0.5, 0.1, 0.1),
}


def fields_in(path: Path) -> DictConfig:
    """The fields of a configuration file; of one with a defaults list, the merged fields of all its files, in order."""
    fields = OmegaConf.load(path)
    for part in fields.pop("defaults", []):
        if isinstance(part, str):
            fields = fields if part == "_self_" else OmegaConf.merge(fields, fields_in(path.with_name(f"{part}.yaml")))
        else:
            ((group, name),) = part.items()
            fields = OmegaConf.merge(fields, fields_in(path.parent / group / f"{name}.yaml"))
    return fields


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def composed(path: Path, *overrides: str):
    """The job as fairseq-hydra-train sees it: Hydra's composition, then fairseq's defaults."""
    GlobalHydra.instance().clear()
    with mock.patch.dict(ConfigStore.instance().repo) as known:
        for other in (
            ALL
        ):  # a new process knows the one configuration that it was started with, this one knows those of earlier tests
            known.pop(other.name, None)
        hydra_init(path.stem)
        with initialize_config_dir(str(path.parent), version_base="1.1"):
            cfg = compose(path.stem, overrides=list(overrides))
    add_defaults(cfg)
    return cfg


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_processes_of_torchrun_are_taken(path, monkeypatch):
    """Without torchrun fairseq starts its own processes, one for each GPU."""
    alone = composed(path).distributed_training
    assert (
        alone.distributed_init_method is None
        and alone.distributed_no_spawn is False
        and (alone.distributed_rank, alone.device_id) == (0, 0)
    )
    for name, value in {"WORLD_SIZE": "6", "RANK": "5", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    launched = composed(path).distributed_training
    assert launched.distributed_init_method == "env://" and launched.distributed_no_spawn is True
    assert (launched.distributed_world_size, launched.distributed_rank, launched.device_id) == (6, 5, 1)


def dataclass_of(group: str, name: str):
    """The dataclass that configures e.g. model: dinosr."""
    if group == "task":
        return TASK_DATACLASS_REGISTRY[name]
    if group == "model":
        return MODEL_DATACLASS_REGISTRY[name]
    return REGISTRIES[group]["dataclass_registry"][name]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_goes_through_hydra(path):
    """The composed config keeps all values of the file, and an override on top."""
    missing = [
        f"{group}.{key}=/somewhere"
        for group, fields in fields_in(path).items()
        for key in fields
        if OmegaConf.is_missing(fields, key)
    ]
    cfg = composed(path, "optimization.max_update=7", *missing)
    assert cfg.optimization.max_update == 7
    fields = OmegaConf.to_container(fields_in(path))
    for group in fields.keys() - {"hydra", "optimization", "distributed_training"}:
        for key, value in fields[group].items():
            if value != "???" and not str(value).startswith("${") and key != "user_dir":
                assert cfg[group][key] == value, f"{group}.{key}"
    assert cfg.common.tensorboard_logdir == f"{cfg.checkpoint.save_dir}/tb" and cfg.common.user_dir == str(PLUGIN)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_the_settings_are_accepted(path):
    """The check with which every training begins."""
    fields = fields_in(path)
    missing = [
        f"{group}.{key}=/x" for group in fields for key in fields[group] if OmegaConf.is_missing(fields[group], key)
    ]
    cfg = OmegaConf.to_container(composed(path, *missing), resolve=True, enum_to_str=True)
    check_training(OmegaConf.create(cfg))


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_every_key_exists(path):
    for group, fields in fields_in(path).items():
        if group == "hydra":
            continue
        older = OLDER.get(fields.get("_name"))
        if older is not None:
            known = set(vars(options_of(older))) | {"criterion", "lr"}
        else:
            dataclass = (
                dataclass_of(group, fields._name)
                if "_name" in fields
                else FairseqConfig.__dataclass_fields__[group].type
            )
            known = set(dataclass.__dataclass_fields__)
        unknown = set(fields) - {"_name"} - known
        assert not unknown, f"{group}: there is no {sorted(unknown)}"


OLDER = {"lstm_lm": MODEL_REGISTRY["lstm_lm"], "sgd": OPTIMIZER_REGISTRY["sgd"]}
"""Parts of fairseq without a dataclass of their settings."""


def options_of(older: type) -> Namespace:
    parser = ArgumentParser()
    older.add_args(parser)
    return parser.parse_args([])


def shown_job(program: Path, config: Path, folder: Path, *overrides: str) -> DictConfig:
    """What fairseq-hydra-train, in a process of its own, would do; it shows the job and does not start it."""
    command = [program, "--config-dir", config.parent, "--config-name", config.stem, *overrides, "--cfg", "job"]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    assert result.returncode == 0, result.stderr
    return OmegaConf.create(result.stdout)


def test_fairseq_hydra_train_reads_a_config(tmp_path, commands):
    job = shown_job(commands / "fairseq-hydra-train", TINY, tmp_path, "task.data=/somewhere", "model.codebook_size=32")
    assert job.model.codebook_size == 32 and job.model._name == "dinosr" and job.task.data == "/somewhere"


@pytest.mark.parametrize(
    "dataclass",
    [
        DinoSRConfig,
        HubertConfig,
        CPCDeepClusterConfig,
        RSpinConfig,
        TrunkConfig,
        DinoSRCriterionConfig,
        DinoSRPretrainingConfig,
        DinoSRFinetuningConfig,
    ],
)
def test_every_field_of_ours_has_a_help_text(dataclass):
    for name in own_fields(dataclass):
        assert dataclass.__dataclass_fields__[name].metadata.get("help", "").strip(), f"{dataclass.__name__}.{name}"


def own_fields(dataclass) -> set:
    """Fields that the plug-in declares, not fairseq's base classes."""
    ours = [parent for parent in dataclass.__mro__ if parent.__module__.startswith("dinosr_plugin")]
    return {name for parent in ours for name in parent.__dict__.get("__annotations__", {})}


@pytest.mark.parametrize("path", PRETRAINING, ids=name_of)
def test_every_field_of_a_model_is_listed(path):
    """Hydra refuses an override of a field that a file does not list."""
    model = OmegaConf.load(path).model
    dataclass = MODEL_DATACLASS_REGISTRY[model._name]
    fields = own_fields(dataclass)
    # the sizes of the trunk are those of the file start_from; nothing is masked
    if issubclass(dataclass, SpinConfig):
        fields -= own_fields(TrunkConfig) - {"start_from", "checkpoint_activations"} - DROPOUTS
    if issubclass(dataclass, SpeakerEncoderConfig):
        fields -= own_fields(TrunkConfig) - {"start_from"}
    assert not fields - set(model), sorted(fields - set(model))


@pytest.mark.parametrize(
    "small, large",
    [
        (TINY, BASE),
        (SPIDR, BASE),
        (SPIDR_TINY, BASE),
        (HUBERT["tiny"], HUBERT["base_it1"]),
        (SPIN_TINY, SPIN),
        (R_SPIN_TINY, R_SPIN),
        (CONFIGS / "finetuning/tiny.yaml", CONFIGS / "finetuning/base.yaml"),
        (LM / "unit_lstm_tiny.yaml", LM / "unit_lstm.yaml"),
        *(
            (CPC[f"{objective}_{size}"], CPC[f"{objective}_small"])
            for objective in ("cpc", "deepcluster")
            for size in ("tiny", "big")
        ),
    ],
)
def test_tiny_lists_what_base_lists(small, large):
    """One command line works for both; another learning rate schedule has its own fields."""
    small, large = OmegaConf.load(small), OmegaConf.load(large)
    assert list(small) == list(large)
    for group in large:
        if group != "lr_scheduler" or small[group]._name == large[group]._name:
            assert list(small[group]) == list(large[group]), group


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_those_of_wav2vec(name):
    train, updates, lr, frozen, mask, channels, layerdrop = RECIPES[name]
    cfg, base = (composed(CONFIGS / f"finetuning/{each}.yaml", "model.w2v_path=x") for each in (name, "base"))
    assert (cfg.dataset.train_subset, cfg.dataset.valid_subset) == (train, "dev-other")
    assert (cfg.optimization.max_update, list(cfg.optimization.lr)) == (updates, [lr])
    assert (cfg.model.freeze_finetune_updates, cfg.model.layerdrop) == (frozen, layerdrop)
    assert (cfg.model.mask_prob, cfg.model.mask_channel_prob) == (mask, channels)
    assert (cfg.lr_scheduler._name, list(cfg.lr_scheduler.phase_ratio)) == ("tri_stage", [0.1, 0.4, 0.5])
    assert (cfg.model.mask_length, cfg.model.mask_channel_length, cfg.optimization.update_freq) == (10, 64, [8])
    assert cfg.checkpoint.best_checkpoint_metric == "wer" and not cfg.checkpoint.maximize_best_checkpoint_metric
    for group in ("common", "task", "criterion", "distributed_training"):
        assert cfg[group] == base[group], group


def test_an_amount_changes_only_what_base_has():
    """A misspelt key would add a new field."""
    base = OmegaConf.load(CONFIGS / "finetuning/base.yaml")
    assert {path.stem for path in AMOUNTS.glob("*.yaml")} == {name.rpartition("_")[2] for name in RECIPES}
    for path in AMOUNTS.glob("*.yaml"):
        for group, fields in OmegaConf.load(path).items():
            assert set(fields) <= set(base[group]), f"{path.name}: {group}"


def test_fairseq_hydra_train_reads_a_recipe(tmp_path, commands):
    """Command-line overrides apply on top."""
    job = shown_job(
        commands / "fairseq-hydra-train",
        CONFIGS / "finetuning/librilight_1h.yaml",
        tmp_path,
        "model.w2v_path=/x",
        "optimization.update_freq=[4]",
        "model.mask_prob=0.5",
    )
    assert (job.model._name, job.model.mask_prob, job.model.mask_channel_prob, job.optimization.max_update) == (
        "wav2vec_ctc",
        0.5,
        0.25,
        13000,
    )
    assert list(job.optimization.update_freq) == [4] and job.dataset.max_tokens == 3200000


FACTS = {
    "task": {"normalize": True, "max_sample_size": 320000, "min_sample_size": 32000},
    "dataset": {"max_tokens": 3800000, "disable_validation": True},
    "distributed_training": {"distributed_world_size": 16},
    "optimization": {"max_update": 400000, "lr": [0.0005], "update_freq": [1]},
    "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-6, "weight_decay": 0.01},
    "lr_scheduler": {"_name": "tri_stage", "phase_ratio": [0.03, 0.47, 0.5]},
    "common": {"fp16": True},
    "criterion": {"_name": "dinosr"},
    "model": {
        "_name": "dinosr",
        "front_end": "conv",
        "extractor_mode": "layer_norm",
        "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        "conv_bias": False,
        "feature_grad_mult": 1.0,
        "dropout_input": 0.0,
        "mask_prob": 0.8,
        "mask_length": 10,
        "require_same_masks": True,
        "mask_channel_prob": 0.0,
        "pos_conv_depth": 5,
        "conv_pos": 95,
        "conv_pos_groups": 16,
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.05,
        "average_top_k_layers": 8,
        "codebook_size": 256,
        "head_layers": "last",
        "qkv_bias": True,
        "ema_decay": 0.999,
        "ema_schedule": "linear",
        "ema_end_decay": 0.9999,
        "ema_anneal_end_step": 30000,
        "freeze_teacher_step": 200001,
        "freeze_pre_enc_modules": True,
        "target": "ffn",
        "unmasked_weight": 0.0,
        "instance_norm_target_layer": True,
        "codebook_init": "normal",
        "codebook_init_decay": 0.9,
        "codebook_end_decay": 0.9,
        "codebook_end_decay_step": 0,
        "revive_after": 0,
    },
}


def test_base_is_the_papers_recipe():
    """The values of the authors' paper and released code."""
    base = OmegaConf.to_container(composed(BASE), resolve=True)
    for group, values in FACTS.items():
        assert {key: base[group].get(key) for key in values} == values, group
    rest = set(OmegaConf.load(BASE).model) - set(FACTS["model"])
    unused = {"start_from", "start_codebooks", "n_mels", "mask_channel_length", "ema_timescale"}
    assert rest == unused | {"checkpoint_activations", "codebook_update"}, "none of them changes the paper's model"


SPIDR_FACTS = {
    "common.bf16": True,
    "common.fp16": False,
    "task.min_sample_size": 2000,
    "optimization.clip_norm": 10.0,
    "optimizer.adam_betas": "(0.9,0.95)",
    "lr_scheduler.final_lr_scale": 0.01,
    "model.encoder_layerdrop": 0.0,
    "model.qkv_bias": False,
    "model.head_layers": "matching_ffn",
    "model.ema_schedule": "exponential",
}
"""What differs from DinoSR's recipe, in the defaults of spidr 0.2.0 (``spidr.config``)."""


def differing(path: Path, other: Path) -> dict:
    """``group.field`` -> the value in ``path``, where the two files differ."""
    ours, theirs = (OmegaConf.to_container(OmegaConf.load(each)) for each in (path, other))
    return {
        f"{group}.{name}": value
        for group, fields in ours.items()
        for name, value in fields.items()
        if value != theirs[group][name]
    }


def test_spidr_base_differs_from_dinosrs_recipe_where_the_papers_do():
    assert differing(SPIDR, BASE) == SPIDR_FACTS
    model = OmegaConf.load(SPIDR).model
    assert (model.ema_decay, model.ema_timescale, model.target) == (0.999, 20_000, "ffn")
    assert exponential_decay(0.999, 20_000, 184_207) == 1 and model.freeze_teacher_step == 200_001


def test_spidr_tiny_has_spidrs_heads_and_teacher_alone():
    """So that it can be compared with DinoSR's at equal updates: the teacher moves as much in all of them."""
    assert differing(SPIDR_TINY, TINY) == {
        "model.head_layers": "matching",
        "model.ema_decay": 0.998,
        "model.ema_schedule": "exponential",
        "model.ema_timescale": 2000,
    }
    model, updates = OmegaConf.load(SPIDR_TINY).model, OmegaConf.load(SPIDR_TINY).optimization.max_update
    assert model.target == "layer", "the input of a head is what its codebook clusters"
    moved = sum(1 - exponential_decay(model.ema_decay, model.ema_timescale, n) for n in range(1, updates + 1))
    assert moved == pytest.approx(updates * (1 - OmegaConf.load(TINY).model.ema_decay), rel=0.02)


def test_defaults_are_those_of_the_paper_where_it_has_them():
    """With few fields set, the rest is the paper's DinoSR, with fairseq's own defaults for the trunk."""
    defaults = {field.name: field.default for field in dataclasses.fields(DinoSRConfig)}
    of_the_trunk = {"mask_prob", "pos_conv_depth", "conv_pos", "encoder_layerdrop"}
    for name in FACTS["model"].keys() - {"_name"} - of_the_trunk:
        assert defaults[name] == FACTS["model"][name], name


def fairseqs_hubert() -> DictConfig:
    """The recipe that fairseq ships."""
    return OmegaConf.load(
        Path(fairseq.__file__).parent / "examples/hubert/config/pretrain/hubert_base_librispeech.yaml"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name, updates", [("base_it1", 250_000), ("base_it2", 400_000)])
def test_hubert_base_is_fairseqs_recipe(name, updates):
    """Compares fields that the recipe sets and those it leaves at their defaults.

    The first iteration has 250k updates in the paper, with the same 8 % of warm-up.
    """
    ours, theirs = composed(HUBERT[name]), fairseqs_hubert()
    assert (ours.optimization.max_update, ours.lr_scheduler.warmup_updates) == (updates, 0.08 * updates)
    assert theirs.optimization.max_update * 0.08 == theirs.lr_scheduler.warmup_updates == 32_000
    assert ours.lr_scheduler.total_num_update == updates and ours.criterion.loss_weights == {
        "features_pen": theirs.criterion.loss_weights[0]
    }
    for group in ("optimization", "optimizer", "task", "dataset"):
        for field in theirs[group].keys() & OmegaConf.load(HUBERT[name])[group].keys() - {
            "_name",
            "max_update",
            "data",
            "labels",
            "label_rate",
        }:
            if not field.startswith("validate"):
                assert ours[group][field] == theirs[group][field], f"{group}.{field}"
    assert ours.distributed_training.distributed_world_size == theirs.distributed_training.distributed_world_size
    defaults = MODEL_DATACLASS_REGISTRY["hubert"].__dataclass_fields__
    only_ours = {"start_from", "start_codebooks", "front_end", "n_mels", "num_classes", "pos_conv_depth"}
    only_ours.add("require_same_masks")
    for field in (
        OmegaConf.load(HUBERT[name]).model.keys() - only_ours - {"_name", "pred_masked_weight", "pred_nomask_weight"}
    ):
        assert ours.model[field] == theirs.model.get(field, defaults[field].default), field
    for field in ("pred_masked_weight", "pred_nomask_weight"):
        assert ours.model[field] == theirs.criterion[field]


def test_hubert_iterations_differ_in_labels_and_updates_only():
    first, second = (OmegaConf.to_container(OmegaConf.load(HUBERT[name])) for name in ("base_it1", "base_it2"))
    first["optimization"]["max_update"], first["lr_scheduler"]["warmup_updates"] = 400_000, 32_000
    assert first == second


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_unit_language_model_is_that_of_the_zerospeech_baseline():
    """22.0 million parameters with the baseline's 56 symbols; Adam, schedule and batches as published."""
    cfg = composed(LM / "unit_lstm.yaml", "task.data=/x")
    task = SimpleNamespace(dictionary=Dictionary(), source_dictionary=None, target_dictionary=None)
    for unit in range(52):
        task.dictionary.add_symbol(str(unit))
    model = build_model(cfg.model, task)
    assert [(cell.input_size, cell.hidden_size) for cell in model.decoder.layers] == [
        (200, 1024),
        (1024, 1024),
        (1024, 1024),
    ]
    assert (
        len(task.dictionary) == 56
        and round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 22.0
    )
    assert (cfg.optimizer._name, cfg.optimizer.adam_betas, cfg.optimizer.weight_decay) == ("adam", "(0.9,0.98)", 0.01)
    assert (cfg.lr_scheduler._name, cfg.lr_scheduler.warmup_updates, cfg.lr_scheduler.warmup_init_lr) == (
        "inverse_sqrt",
        1000,
        1e-7,
    )
    assert (list(cfg.optimization.lr), cfg.optimization.max_update, cfg.optimization.clip_norm) == (
        [0.0005],
        100000,
        0.0,
    )
    assert (cfg.task.sample_break_mode, cfg.task.tokens_per_sample, cfg.dataset.max_tokens, cfg.model.dropout) == (
        "none",
        2048,
        163840,
        0.1,
    )
    assert (cfg.common.fp16, list(cfg.optimization.update_freq), cfg.model.share_decoder_input_output_embed) == (
        True,
        [1],
        False,
    )
    assert model.decoder.additional_fc.out_features == model.decoder.fc_out.in_features == 200


CPC_FACTS = {
    "task": {"window_samples": 20480, "negatives": "same_speaker", "normalize": False, "labels": None},
    "dataset": {"batch_size": 8, "max_tokens": None, "disable_validation": False},
    "optimization": {"max_epoch": 200, "max_update": 0, "lr": [0.0002], "update_freq": [1], "clip_norm": 0.0},
    "optimizer": {"_name": "adam", "adam_betas": "(0.9,0.999)", "adam_eps": 1e-8, "weight_decay": 0.0},
    "lr_scheduler": {"_name": "fixed", "warmup_updates": 0},
    "checkpoint": {"patience": -1},
    "model": {
        "_name": "cpc",
        "encoder_channels": 256,
        "encoder_norm": "channel",
        "context": "lstm",
        "context_layers": 2,
        "context_dim": 256,
        "predictor": "linear",
        "steps": 12,
        "n_negatives": 128,
        "cpc_reduction": "sum",
    },
}
DEEPCLUSTER_FACTS = {
    "task": {"labels": "km", "label_rate": 100},
    "checkpoint": {"patience": 5, "best_checkpoint_metric": "loss"},
    "model": {"_name": "cpc_deepcluster", "alpha": 12.0},
}
BIG_FACTS = {"model": {"encoder_channels": 512, "context_dim": 512, "context_layers": 4}}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["cpc_small", "cpc_big", "deepcluster_small", "deepcluster_big"])
def test_cpc_is_the_papers_recipe(name):
    """The values of the paper and its code; the number of clusters comes from the dictionary of the labels."""
    cfg = OmegaConf.to_container(composed(CPC[name], *(["model.start_from=x"] if "deep" in name else [])), resolve=True)
    facts = OmegaConf.merge(CPC_FACTS, DEEPCLUSTER_FACTS if "deep" in name else {}, BIG_FACTS if "big" in name else {})
    for group, values in OmegaConf.to_container(facts).items():
        assert {key: cfg[group].get(key) for key in values} == values, group


R_SPIN_FACTS = {
    "task": {"views": "noise/perturb+noise", "noise_snr": [-10.0, 10.0], "normalize": False},
    "dataset": {"max_tokens": 384 * 16000 // 2},
    "distributed_training": {"distributed_world_size": 2},
    "optimization": {"max_update": 10000, "lr": [1e-4], "update_freq": [1]},
    "lr_scheduler": {"warmup_updates": 4000, "end_learning_rate": 1e-6, "power": 1.0, "total_num_update": 10000},
    "model": {"_name": "r_spin", "codebook_size": 32, "aux_weight": 5.0, "trained_layers": [], "read_layer": None},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_r_spin_is_the_papers_recipe():
    """What the paper does not state is as in Spin's, apart from what only R-Spin has."""
    files = ["task.data=/x", "model.start_from=/x"]
    ours = OmegaConf.to_container(composed(R_SPIN, *files, "task.noise=/x"), resolve=True)
    spin = OmegaConf.to_container(composed(SPIN, *files), resolve=True)
    for group, values in R_SPIN_FACTS.items():
        assert {key: ours[group].get(key) for key in values} == values, group
    differing = {
        f"{group}.{key}"
        for group in ("task", "dataset", "optimization", "optimizer", "criterion", "model", "common", "checkpoint")
        for key in ours[group].keys() | spin[group].keys()
        if ours[group].get(key) != spin[group].get(key)
    }
    assert differing == {
        *("task.views", "task.noise", "task.labels", "dataset.max_tokens", "dataset.max_tokens_valid"),
        *(
            "optimization.max_update",
            "optimization.lr",
            "optimizer.lr",
            "model._name",
            "model.trained_layers",
            "model.train_front_end",
        ),
        *("model.codebook_size", "model.aux_weight", "model.num_classes"),
    }

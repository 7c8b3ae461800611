"""Every configuration under examples/config goes through Hydra as fairseq-hydra-train reads it, and names no field in vain."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dinosr_plugin.criterions.dinosr import DinoSRCriterionConfig
from dinosr_plugin.models.dinosr import DinoSRConfig
from dinosr_plugin.models.encoder import TrunkConfig
from dinosr_plugin.tasks.finetuning import DinoSRFinetuningConfig
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

CONFIGS = Path(__file__).parents[2] / "examples/config"
ALL = sorted(CONFIGS.rglob("*.yaml"))
PRETRAINING = sorted((CONFIGS / "pretraining").glob("*.yaml"))
BASE, TINY = CONFIGS / "pretraining/dinosr_base.yaml", CONFIGS / "pretraining/dinosr_tiny.yaml"


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def composed(path: Path, *overrides: str):
    """The job as fairseq-hydra-train sees it: Hydra's composition, then fairseq's defaults."""
    hydra_init(path.stem)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(path.parent), version_base="1.1"):
        cfg = compose(path.stem, overrides=list(overrides))
    add_defaults(cfg)
    return cfg


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_processes_of_torchrun_are_taken(path, monkeypatch):
    """... and without torchrun fairseq starts its own, one for each GPU."""
    alone = composed(path).distributed_training
    assert alone.distributed_init_method is None and alone.distributed_no_spawn is False and (alone.distributed_rank, alone.device_id) == (0, 0)
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
    """... and keeps what it says, with an override on top."""
    missing = [f"{group}.{key}=/somewhere" for group, fields in OmegaConf.load(path).items() for key in fields if OmegaConf.is_missing(fields, key)]
    cfg = composed(path, "optimization.max_update=7", *missing)
    assert cfg.optimization.max_update == 7
    given = OmegaConf.to_container(OmegaConf.load(path))
    for group in given.keys() - {"hydra", "optimization", "distributed_training"}:
        for key, value in given[group].items():
            if value != "???":
                assert cfg[group][key] == value, f"{group}.{key}"
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_every_key_exists(path):
    for group, given in OmegaConf.load(path).items():
        if group == "hydra":
            continue
        dataclass = dataclass_of(group, given._name) if "_name" in given else FairseqConfig.__dataclass_fields__[group].type
        unknown = set(given) - {"_name"} - set(dataclass.__dataclass_fields__)
        assert not unknown, f"{group}: {dataclass.__name__} has no {sorted(unknown)}"


def test_fairseq_hydra_train_reads_a_config(tmp_path):
    """The command itself, in a process of its own, shows the job and does not start it."""
    program = Path(sys.executable).parent / "fairseq-hydra-train"
    command = [program, "--config-dir", TINY.parent, "--config-name", TINY.stem, "task.data=/somewhere", "model.codebook_size=32", "--cfg", "job"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert result.returncode == 0, result.stderr
    job = OmegaConf.create(result.stdout)
    assert job.model.codebook_size == 32 and job.model._name == "dinosr" and job.task.data == "/somewhere"


@pytest.mark.parametrize("dataclass", [DinoSRConfig, TrunkConfig, DinoSRCriterionConfig, DinoSRPretrainingConfig, DinoSRFinetuningConfig])
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
    missing = own_fields(MODEL_DATACLASS_REGISTRY[model._name]) - set(model)
    assert not missing, sorted(missing)


@pytest.mark.parametrize("small, large", [(TINY, BASE), (CONFIGS / "finetuning/tiny.yaml", CONFIGS / "finetuning/base.yaml")], ids=["pretraining", "finetuning"])
def test_tiny_lists_what_base_lists(small, large):
    """So that one command line suits both."""
    small, large = OmegaConf.load(small), OmegaConf.load(large)
    assert list(small) == list(large)
    for group in large:
        assert list(small[group]) == list(large[group]), group


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
        # facts 2
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
        # facts 3
        "ema_decay": 0.999,
        "ema_end_decay": 0.9999,
        "ema_anneal_end_step": 30000,
        "freeze_teacher_step": 200001,
        "freeze_pre_enc_modules": True,
        # facts 4
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
    """Facts 2 to 5 of the authors' released code and paper."""
    base = OmegaConf.to_container(composed(BASE), resolve=True)
    for group, values in FACTS.items():
        assert {key: base[group].get(key) for key in values} == values, group
    rest = set(OmegaConf.load(BASE).model) - set(FACTS["model"])
    assert rest == {"n_mels", "checkpoint_activations", "mask_channel_length", "codebook_update"}, "none of them changes the paper's model"


def test_defaults_are_those_of_the_paper_where_it_has_them():
    """A checkpoint or a command line that names few fields gets DinoSR, with fairseq's own defaults for the trunk."""
    defaults = {field.name: field.default for field in dataclasses.fields(DinoSRConfig)}
    of_the_trunk = {"mask_prob", "pos_conv_depth", "conv_pos", "encoder_layerdrop"}
    for name in FACTS["model"].keys() - {"_name"} - of_the_trunk:
        assert defaults[name] == FACTS["model"][name], name

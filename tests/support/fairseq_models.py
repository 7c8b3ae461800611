"""Checkpoints of fairseq's own speech models, tiny and untrained, as fairseq's trainer writes them."""

import importlib
from pathlib import Path

import torch
from fairseq import checkpoint_utils, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf

CONV = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
SIZES = dict(
    conv_feature_layers=CONV,
    encoder_layers=3,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
)
SIZES |= dict(conv_pos=10, conv_pos_groups=4, final_dim=8)
MODELS = {
    "wav2vec2": (
        "audio_pretraining",
        dict(quantize_targets=True, latent_vars=8, latent_groups=2, encoder_layerdrop=0.05),
    ),
    "wav2vec2_large": ("audio_pretraining", dict(extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True)),
    "hubert": ("hubert_pretraining", dict(label_rate=50)),
    "data2vec_audio": (
        "audio_pretraining",
        dict(extractor_mode="layer_norm", pos_conv_depth=5, average_top_k_layers=2),
    ),
}


def fairseq_checkpoint(path: Path, kind: str, normalize: bool = False) -> torch.nn.Module:
    """Writes a checkpoint of one of ``MODELS``; returns the model, in eval mode."""
    task_name, more = MODELS[kind]
    name = kind.removesuffix("_large")
    if name == "data2vec_audio":
        importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
    sizes = {
        key: value
        for key, value in (SIZES | more).items()
        if key in MODEL_DATACLASS_REGISTRY[name].__dataclass_fields__
    }
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(FairseqConfig), enum_to_str=True))
    cfg.model = {"_name": name, **sizes}
    labels = {"labels": ["km"], "label_rate": 50} if name == "hubert" else {}
    cfg.task = {"_name": task_name, "data": "/a/folder/of/another/user", "normalize": normalize, **labels}
    task = tasks.setup_task(cfg.task)
    if name == "hubert":
        dictionary = Dictionary()
        for unit in range(10):
            dictionary.add_symbol(str(unit))
        task.state.merge_state_dict({"dictionaries": [dictionary]})
    torch.manual_seed(1)  # a seed that differs from that of untrained models
    model = task.build_model(cfg.model)
    model.set_num_updates(7)
    history = [{"num_updates": 7, "criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}]
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg),
        "model": model.state_dict(),
        "task_state": task.state_dict(),
    }
    torch.save(
        {**state, "optimizer_history": history, "criterion": None, "last_optimizer_state": None, "extra_state": {}},
        path,
    )
    return model.eval()


FINE_TUNED = {
    "dinosr_finetuning": dict(labels="ltr"),
    "audio_finetuning": dict(labels="ltr"),
    "hubert_pretraining": dict(labels=["ltr"], fine_tuning=True, single_target=True),
}


def fine_tuned_checkpoint(
    path: Path, pretrained: Path, task_name: str, model_name: str = "wav2vec_ctc"
) -> torch.nn.Module:
    """Writes a CTC model with random weights around a model of fairseq or of this plug-in; returns it, in eval mode."""
    state = checkpoint_utils.load_checkpoint_to_cpu(str(pretrained))
    normalize = state["cfg"].task.normalize
    around = {
        "w2v_args": OmegaConf.to_container(state["cfg"]),
        "normalize": normalize,
        "data": "/a/folder",
        "mask_channel_length": 8,
    }
    state["cfg"].model = {"_name": model_name, **around}
    state["cfg"].task = {"_name": task_name, "data": "/a/folder", "normalize": normalize, **FINE_TUNED[task_name]}
    cfg = OmegaConf.to_container(state["cfg"])  # before objects are added that cannot be saved
    dictionary = Dictionary()
    dictionary.add_symbol("A")
    task = tasks.setup_task(state["cfg"].task, from_checkpoint=True)
    task.state.merge_state_dict({"target_dictionary": dictionary})
    if model_name == "hubert_ctc":  # reads the dictionaries from the pre-trained checkpoint
        state["cfg"].model.update({"w2v_args": None, "w2v_path": str(pretrained)})
    torch.manual_seed(2)
    model = task.build_model(state["cfg"].model, from_checkpoint=True)
    state |= {"cfg": cfg, "model": model.state_dict(), "task_state": task.state_dict()}
    torch.save(state, path)
    return model.eval()

"""Checkpoints of this plug-in with random weights, tiny, as a training saves them; and weights of checkpoints."""

from pathlib import Path

import torch
from fairseq.data import Dictionary
from fairseq.models import MODEL_REGISTRY

import dinosr_plugin
from dinosr_plugin.checkpoints.load import load_model
from support.fairseq_models import CONV, fine_tuned_checkpoint
from support.training import tensors

SIZES = dict(
    conv_feature_layers=CONV,
    encoder_layers=3,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    conv_pos=19,
    conv_pos_groups=4,
)
STACKED = dict(pos_conv_depth=5, conv_pos=95)
DINOSR = dict(_name="dinosr", average_top_k_layers=2, codebook_size=8)
HUBERT = dict(_name="dinosr_hubert", num_classes=[10], final_dim=8)
LOG_MEL = dict(front_end="fbank", n_mels=20)
MODELS = {
    "dinosr": DINOSR | STACKED,
    "dinosr, layer": DINOSR | STACKED | dict(target="layer", instance_norm_target_layer=False, conv_bias=True),
    "dinosr, log-Mel": DINOSR | LOG_MEL,
    "dinosr, log-Mel, stacked": DINOSR | LOG_MEL | STACKED | dict(target="layer"),
    "hubert": HUBERT,
    "hubert, group norm": HUBERT | dict(extractor_mode="default", activation_fn="relu", conv_pos=16),
    "hubert, pre-LN": HUBERT
    | dict(layer_norm_first=True, conv_bias=True, mask_prob=0.5, activation_fn="gelu_accurate"),
    "hubert, log-Mel, pre-LN": HUBERT | LOG_MEL | dict(layer_norm_first=True),
    "spin": dict(_name="spin", codebook_size=12, projection_dim=8, trained_layers=[2]),
}


def checkpoint(path: Path, kind: str, normalize: bool = True) -> Path:
    """Writes one of ``MODELS``."""
    return write(path, SIZES | MODELS[kind], normalize)


def write(path: Path, settings: dict, normalize: bool = True) -> Path:
    """Writes a model with these settings and random weights."""
    dinosr_plugin.register()
    name = settings["_name"]
    fields = {key: value for key, value in settings.items() if key != "_name"}
    model_class = MODEL_REGISTRY[name]
    torch.manual_seed(1)
    model = model_class(config_of(name)(**fields))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases have values, too
            parameter.add_(0.05 * torch.randn_like(parameter))
        if getattr(model, "teacher", None) is not None:
            model.teacher.step_(model.encoder, 0.5)
            model.encoder.layers[0].fc1.weight.mul_(1.1)  # student and teacher differ
    task = {"_name": "dinosr_pretraining", "data": "/a/folder/of/another/user", "normalize": normalize}
    history = [{"num_updates": 7, "criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}}]
    cfg = {"common": {}, "model": settings, "task": task}
    state = {"args": None, "cfg": cfg, "model": model.state_dict(), "task_state": {}}
    torch.save({**state, "optimizer_history": history, "extra_state": {}}, path)
    return path


def config_of(name: str):
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    return MODEL_DATACLASS_REGISTRY[name]


def recogniser(path: Path, kind: str, symbols: list[str]) -> Path:
    """Writes a CTC model around one of ``MODELS``, which prefers no symbol."""
    pretrained = checkpoint(path.with_name("pretrained.pt"), kind)
    fine_tuned_checkpoint(path, pretrained, "dinosr_finetuning")
    state = torch.load(path, weights_only=False)
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol, 3)
    state["task_state"]["target_dictionary"] = dictionary
    generator = torch.Generator().manual_seed(3)
    state["model"]["w2v_encoder.proj.weight"] = torch.randn(len(dictionary), 32, generator=generator)
    state["model"]["w2v_encoder.proj.bias"] = torch.randn(len(dictionary), generator=generator)
    torch.save(state, path)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of the model in a checkpoint, teacher and codebooks included."""
    return tensors(load_model(path).model.state_dict())

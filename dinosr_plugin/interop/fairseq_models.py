"""fairseq's wav2vec 2.0, HuBERT and data2vec audio: conversion of their trunks, and of HuBERT's checkpoints."""

from dataclasses import fields
from typing import Any

from fairseq import utils
from fairseq.models import BaseFairseqModel
from fairseq.models.hubert.hubert import HubertConfig as FairseqHubertConfig
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder, TransformerSentenceEncoderLayer
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..errors import UserError
from ..models.encoder import TrunkConfig
from ..models.hubert import HubertConfig
from ..models.trunk import Trunk

MODELS = ("Wav2Vec2Model", "HubertModel", "Data2VecAudioModel")
"""Names of their classes. data2vec is one of fairseq's examples, which are imported only if a checkpoint needs them."""

ACTIVATIONS = ("gelu", "gelu_accurate", "relu", "tanh")

TRUNK_PARTS = ("feature_extractor.", "layer_norm.", "post_extract_proj.", "mask_emb", "encoder.")

# ---- trunks ----------------------------------------------------------------------------------------------------------


def to_trunk(model: BaseFairseqModel, file: str) -> BaseFairseqModel:
    """The trunk of one of fairseq's models, with the same features; any other model is returned as it is.

    Raises UserError as ``trunk_state``.
    """
    if type(model).__name__ not in MODELS:
        return model
    settings, state = trunk_state(model, file)
    trunk = Trunk(TrunkConfig(**settings))
    trunk.load_state_dict(state)
    return trunk.eval()


def trunk_state(model: BaseFairseqModel, file: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the weights of the trunk in one of fairseq's models.

    The settings are read off the modules, because HuBERT does not keep its config.

    Args:
        model: one of ``MODELS``.
        file: its checkpoint, for messages.

    Returns:
        Name of a field of ``TrunkConfig`` -> value, for the fields that determine parameters and features (masking and
        dropout keep their defaults); and a state dict of ``Trunk``.

    Raises:
        UserError: its layers are of another kind than those of ``Trunk``.
    """
    require_same_kind(model, file)
    blocks = model.feature_extractor.conv_layers  # convolution, dropout, perhaps a norm, GELU
    convolutions = [block[0] for block in blocks]
    encoder, layer = model.encoder, model.encoder.layers[0]
    stacked = isinstance(encoder.pos_conv[0], nn.Sequential)
    positional = encoder.pos_conv[0][0] if stacked else encoder.pos_conv[0]
    depth = len(encoder.pos_conv) if stacked else 1
    settings = {
        "extractor_mode": "default" if isinstance(blocks[0][2], nn.GroupNorm) else "layer_norm",
        "conv_feature_layers": str([(conv.out_channels, *conv.kernel_size, *conv.stride) for conv in convolutions]),
        "conv_bias": convolutions[0].bias is not None,
        "encoder_layers": len(encoder.layers),
        "encoder_embed_dim": encoder.embedding_dim,
        "encoder_ffn_embed_dim": layer.fc1.out_features,
        "encoder_attention_heads": layer.self_attn.num_heads,
        "activation_fn": activation_name(layer.activation_fn),
        "layer_norm_first": encoder.layer_norm_first,
        "conv_pos": depth * positional.kernel_size[0],
        "conv_pos_groups": positional.groups,
        "pos_conv_depth": depth,
    }
    state = {name: value for name, value in model.state_dict().items() if name.startswith(TRUNK_PARTS)}
    return settings, state


def require_same_kind(model: BaseFairseqModel, file: str) -> None:
    """Raise UserError for a model whose layers are of another kind than those of ``Trunk``."""
    encoder = model.encoder
    differs = None
    if model.post_extract_proj is None:
        differs = "no projection of the front end's features (post_extract_proj)"
    elif type(encoder) is not TransformerEncoder or {type(layer) for layer in encoder.layers} != {
        TransformerSentenceEncoderLayer
    }:
        differs = "layers that are not plain Transformer layers (layer_type)"
    elif isinstance(encoder.pos_conv[0], nn.BatchNorm1d):
        differs = "batch norm before its positional convolution (conv_pos_batch_norm)"
    elif activation_name(encoder.layers[0].activation_fn) is None:
        differs = "another activation function (activation_fn)"
    if differs:
        raise UserError(
            f"{file}: contains {type(model).__name__} with {differs}, unlike the trunk of this plug-in; give a "
            "checkpoint like the released ones"
        )


def activation_name(function: Any) -> str | None:
    """The name by which fairseq's configs know an activation function."""
    return next((name for name in ACTIVATIONS if utils.get_activation_fn(name) is function), None)


# ---- HuBERT's checkpoints --------------------------------------------------------------------------------------------


def adopt_fairseqs_hubert(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of fairseq's ``hubert`` with the config of this plug-in's HuBERT; any other is returned as it is.

    fairseq's ``wav2vec_ctc`` cannot fine-tune fairseq's HuBERT, because that requires the label files of its
    pre-training and returns its features in another form.

    Raises UserError for a model whose trunk differs from that of the released models.
    """
    model = state["cfg"].model if state.get("cfg") is not None else {}
    if model.get("_name") != "hubert":
        return state
    usual = {"layer_type": "transformer", "conv_pos_batch_norm": False}
    differs = [f"{name}={model[name]}" for name in usual if model.get(name, usual[name]) != usual[name]]
    differs += [
        f"no {name}" for name in ("post_extract_proj.weight", "label_embs_concat") if name not in state["model"]
    ]
    if differs:
        raise UserError(
            f"model.w2v_path: a HuBERT with {', '.join(differs)}, which cannot be fine-tuned here; "
            "give one like the released models"
        )
    known = {field.name for field in fields(HubertConfig)}
    settings = {
        field.name: model.get(field.name, field.default) for field in fields(FairseqHubertConfig) if field.name in known
    }
    # fine-tuning removes the embeddings, so that the number of sets they belong to does not matter
    embeddings = state["model"]["label_embs_concat"]
    settings |= {"_name": "dinosr_hubert", "num_classes": [embeddings.size(0)], "final_dim": embeddings.size(1)}
    state["cfg"].model = OmegaConf.create(settings)
    state["cfg"].task = OmegaConf.create(
        {"_name": "dinosr_pretraining", "data": state["cfg"].task.data, "normalize": state["cfg"].task.normalize}
    )
    return state

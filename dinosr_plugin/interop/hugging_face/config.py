"""The settings of a trunk as a config of transformers, and back.

Which class fits follows from the positional convolutions. ``Data2VecAudioModel`` has a stack of them, each with
LayerNorm and GELU, behind a front end with layer norm and before post-LN layers: DinoSR base. ``HubertModel`` and
``Wav2Vec2Model``, which differ only in name, have one with weight norm, either front end, and post-LN or pre-LN layers:
the HuBERT of this plug-in.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...errors import UserError
from ...models.encoder import positional_kernel
from ...models.trunk import Trunk

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
"""fairseq's name -> transformers' name of the same function."""
EXTRACTOR_MODES = {"default": "group", "layer_norm": "layer"}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Family(NamedTuple):
    """A kind of model in transformers: ``model_type``, the start of the names of its classes, and in its models with a
    head the name of the model below it; the ``model_type`` of fairseq's model with the same parts, if there is one."""

    model_type: str
    classes: str
    base: str
    fairseq: str | None = None


DATA2VEC = Family("data2vec-audio", "Data2VecAudio", "data2vec_audio", "data2vec_audio")
HUBERT = Family("hubert", "Hubert", "hubert", "hubert")
WAV2VEC2 = Family("wav2vec2", "Wav2Vec2", "wav2vec2", "wav2vec2")
LOG_MEL = Family("dinosr_log_mel", "LogMel", "model")
FAMILIES = {family.model_type: family for family in (DATA2VEC, HUBERT, WAV2VEC2, LOG_MEL)}


def family_of(trunk: Trunk, kind: str, path: str) -> Family:
    """The family whose models compute the same.

    Args:
        kind: name of the class of the model that the trunk is of.
        path: of its checkpoint, for messages.

    Raises:
        UserError: there is none.
    """
    cfg = trunk.cfg
    if cfg.front_end == "fbank":
        return LOG_MEL
    if cfg.pos_conv_depth == 1:
        return WAV2VEC2 if kind == "Wav2Vec2Model" else HUBERT
    depth = f"model.pos_conv_depth={cfg.pos_conv_depth}"
    if cfg.layer_norm_first:
        raise no_class(path, f"{depth} and model.layer_norm_first=true")
    if cfg.extractor_mode != "layer_norm":
        raise no_class(path, f"{depth} and model.extractor_mode={cfg.extractor_mode}")
    return DATA2VEC


def no_class(path: str, settings: str) -> UserError:
    return UserError(f"{path}: transformers has no class for {settings}; give a model without one of them")


def config_of(trunk: Trunk, family: Family, training: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a trunk, without names of classes and tokens.

    Args:
        training: fields of ``TrunkConfig`` for masks and dropout -> values, in place of those of the trunk.
    """
    cfg = trunk.cfg
    sizes = {
        "hidden_size": cfg.encoder_embed_dim,
        "num_hidden_layers": trunk.n_layers,
        "num_attention_heads": cfg.encoder_attention_heads,
        "intermediate_size": cfg.encoder_ffn_embed_dim,
    }
    if family is LOG_MEL:
        return sizes | {
            "n_mels": cfg.n_mels,
            "hidden_act": str(cfg.activation_fn),
            "layer_norm_first": cfg.layer_norm_first,
            "conv_pos": cfg.conv_pos,
            "conv_pos_groups": cfg.conv_pos_groups,
            "pos_conv_depth": cfg.pos_conv_depth,
        }
    channels, kernels, strides = (list(column) for column in zip(*trunk.conv_layers))
    config = sizes | {
        "hidden_act": ACTIVATIONS[cfg.activation_fn],
        "feat_extract_norm": EXTRACTOR_MODES[cfg.extractor_mode],
        "feat_extract_activation": "gelu",
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": cfg.conv_bias,
        "num_feat_extract_layers": len(channels),
        "num_conv_pos_embedding_groups": cfg.conv_pos_groups,
        "layer_norm_eps": 1e-5,
    }
    if family is DATA2VEC:
        config |= {"num_conv_pos_embeddings": cfg.pos_conv_depth, "conv_pos_kernel_size": positional_kernel(cfg)}
    else:
        config |= {"num_conv_pos_embeddings": cfg.conv_pos, "do_stable_layer_norm": cfg.layer_norm_first}
    return config | training_settings(training)


def training_settings(training: Mapping[str, Any]) -> dict[str, Any]:
    """Masks and dropout, which only training uses, in transformers' names."""
    return {
        "hidden_dropout": training["dropout"],
        "attention_dropout": training["attention_dropout"],
        "activation_dropout": training["activation_dropout"],
        "feat_proj_dropout": training["dropout_input"],
        "final_dropout": training["final_dropout"],
        "layerdrop": training["encoder_layerdrop"],
        "apply_spec_augment": True,
        "mask_time_prob": training["mask_prob"],
        "mask_time_length": training["mask_length"],
        "mask_feature_prob": training["mask_channel_prob"],
        "mask_feature_length": training["mask_channel_length"],
    }


def has_mask_embedding(config: Mapping[str, Any]) -> bool:
    """Whether transformers' model has a mask embedding: only if it may mask."""
    return config.get("mask_time_prob", 0.05) > 0 or config.get("mask_feature_prob", 0.0) > 0

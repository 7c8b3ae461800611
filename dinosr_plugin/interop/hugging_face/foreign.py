"""A folder of transformers that was not made here, as fairseq's model with the same features.

fairseq's models have a projection behind the front end only where the widths differ, transformers' always
(transformers issue 28174), so that no model of fairseq exists where they are equal.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from ...checkpoints.building import building
from ...errors import UserError
from ...files import is_file, read_json
from ...models.encoder import TrunkConfig
from ...models.trunk import Trunk
from ...ranges import COUNT_OR_0, LAYERS, WIDTH
from .config import ACTIVATIONS, DATA2VEC, EXTRACTOR_MODES, FAMILIES, HUBERT, WAV2VEC2, Family
from .names import Names, with_prefix
from .tensors import REMEDY, WEIGHTS
from .vocabulary import EOS, NEVER, UNKNOWN, symbols_of

GIVE = "give wav2vec 2.0, HuBERT or Data2VecAudio"
REQUIRED = {  # field -> its only value that fairseq's models have, which is also the default
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "conv_pos_batch_norm": False,
    "feat_proj_layer_norm": True,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
NUMBERS = {
    "num_hidden_layers": (12, LAYERS),
    "hidden_size": (768, WIDTH),
    "intermediate_size": (3072, WIDTH),
    "num_attention_heads": (12, WIDTH),
    "num_conv_pos_embedding_groups": (16, WIDTH),
}
LEFT_OUT = re.compile(
    r"(quantizer|project_q|project_hid|projector|classifier|layer_weights|objective|tdnn|feature_extractor)\b.*"
)
"""Weights of models with other heads, which are not part of the trunk."""


class Foreign:
    """A folder.

    Attributes:
        family: of ``FAMILIES``; ``settings``: fields of ``TrunkConfig``; ``trunk``: its state dict.
        head: weight (V, D) and bias (V,) of a CTC model, in the order of ``dictionary``; None for others.
        left_out: names of the weights that are not used.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]):
        self.folder, self.config = folder, config
        family = FAMILIES.get(str(config.get("model_type")))
        if family is None or family.fairseq is None:
            raise self.refusal(f"model_type={config.get('model_type')}", GIVE)
        self.family: Family = family
        self.settings = self.trunk_settings()
        prefix = f"{self.family.base}."
        inner = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        names = Names(self.settings["extractor_mode"], self.settings["pos_conv_depth"] > 1)
        renamed = {name: names.to_trunk(name) for name in inner}
        self.trunk = {ours: inner[name].float() for name, ours in renamed.items() if ours is not None}
        self.dictionary = Dictionary()
        self.head: tuple[Tensor, Tensor] | None = None
        others = [name for name, ours in renamed.items() if ours is None]
        if {"lm_head.weight", "lm_head.bias"} <= {*others}:
            self.dictionary, self.head = self.read_head(inner["lm_head.weight"].float(), inner["lm_head.bias"].float())
            others = [name for name in others if not name.startswith("lm_head.")]
        if unknown := [name for name in others if not LEFT_OUT.fullmatch(name)]:
            raise UserError(f"{folder}: its weights have {unknown[0]}, which its config does not account for; {REMEDY}")
        self.left_out = others
        self.require_complete(names)

    def refusal(self, what: str, remedy: str) -> UserError:
        return UserError(f"{self.folder}: {what} in config.json, for which fairseq has no model; {remedy}")

    def number(self, name: str, default: int, limits: Any = WIDTH) -> int:
        value = self.config.get(name, default)
        if type(value) is not int or not limits.low <= value <= limits.high:
            raise UserError(
                f"{self.folder}: {name}={str(value)[:40]} in config.json is not a possible number; {REMEDY}"
            )
        return value

    def trunk_settings(self) -> dict[str, Any]:
        """Fields of ``TrunkConfig`` that determine parameters and features."""
        config = self.config
        for name, value in REQUIRED.items():
            if config.get(name, value) != value:
                raise self.refusal(f"{name}={str(config[name])[:40]}", f"give a model with {name}={value}")
        by_name = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
        activation = str(config.get("hidden_act", "gelu"))
        if activation not in by_name:
            raise self.refusal(f"hidden_act={activation[:40]}", f"give a model with one of {', '.join(by_name)}")
        sizes = {name: self.number(name, *default) for name, default in NUMBERS.items()}
        layers = self.convolutions()
        if layers[-1][0] == sizes["hidden_size"]:
            raise self.refusal(
                f"conv_dim[-1]=hidden_size={layers[-1][0]}", "give a model in which these two widths differ"
            )
        is_stack = self.family is DATA2VEC
        norm = "layer" if is_stack else str(config.get("feat_extract_norm", "group"))
        modes = {theirs: ours for ours, theirs in EXTRACTOR_MODES.items()}
        if norm not in modes:
            raise self.refusal(f"feat_extract_norm={norm[:40]}", "give a model with group or layer")
        depth = self.number("num_conv_pos_embeddings", 5, LAYERS) if is_stack else 1
        kernel = self.number("conv_pos_kernel_size", 19) if is_stack else self.number("num_conv_pos_embeddings", 128)
        if is_stack and (depth == 1 or kernel < 3):
            raise self.refusal(f"num_conv_pos_embeddings={depth} of kernel {kernel}", "give a model with more of them")
        return {
            "extractor_mode": modes[norm],
            "conv_feature_layers": str(layers),
            "conv_bias": bool(config.get("conv_bias", False)),
            "encoder_layers": sizes["num_hidden_layers"],
            "encoder_embed_dim": sizes["hidden_size"],
            "encoder_ffn_embed_dim": sizes["intermediate_size"],
            "encoder_attention_heads": sizes["num_attention_heads"],
            "activation_fn": by_name[activation],
            "layer_norm_first": not is_stack and bool(config.get("do_stable_layer_norm", False)),
            "conv_pos": depth * kernel,
            "conv_pos_groups": sizes["num_conv_pos_embedding_groups"],
            "pos_conv_depth": depth,
        }

    def convolutions(self) -> list[tuple[int, int, int]]:
        """(channels, kernel, stride) of the front end."""
        columns = [
            self.config.get("conv_dim", [512] * 7),
            self.config.get("conv_kernel", [10, 3, 3, 3, 3, 2, 2]),
            self.config.get("conv_stride", [5, 2, 2, 2, 2, 2, 2]),
        ]
        right = all(isinstance(column, list) and all(type(n) is int for n in column) for column in columns)
        if not right or len({len(column) for column in columns}) != 1 or not columns[0]:
            raise UserError(f"{self.folder}: conv_dim, conv_kernel and conv_stride in config.json differ; {REMEDY}")
        return list(zip(*columns))

    def read_head(self, weight: Tensor, bias: Tensor) -> tuple[Dictionary, tuple[Tensor, Tensor]]:
        """The symbols of a CTC model, and its linear layer with a row for each."""
        vocabulary = read_json(self.folder / "vocab.json", REMEDY)
        indices = sorted(vocabulary.values(), key=str)
        if not vocabulary or indices != sorted(range(len(vocabulary)), key=str) or len(vocabulary) > len(weight):
            raise UserError(f"{self.folder / 'vocab.json'}: its tokens are not numbered from 0, one a token; {REMEDY}")
        path = self.folder / "tokenizer_config.json"
        tokenizer = read_json(path, REMEDY) if is_file(path) else {}
        blank = self.number("pad_token_id", 0, COUNT_OR_0)
        if blank not in vocabulary.values():
            raise UserError(f"{self.folder}: pad_token_id={blank} in config.json is not in vocab.json; {REMEDY}")
        name_of = {index: token for token, index in vocabulary.items()}
        symbols = symbols_of(vocabulary, name_of[blank], {key: token_of(tokenizer, key, name) for key, name in TOKENS})
        dictionary = Dictionary()
        for symbol, _ in symbols[4:]:
            dictionary.add_symbol(symbol)
        if len(dictionary) != len(symbols):
            raise UserError(f"{self.folder / 'vocab.json'}: two of its tokens are the same symbol here; {REMEDY}")
        rows = [index for _, index in symbols]
        new_weight = torch.stack([torch.zeros(weight.size(1)) if row is None else weight[row] for row in rows])
        new_bias = torch.stack([torch.tensor(NEVER) if row is None else bias[row] for row in rows])
        return dictionary, (new_weight, new_bias)

    def require_complete(self, names: Names) -> None:
        """Raise UserError for a weight that is missing or of another size; a missing mask embedding is drawn."""
        paths = [self.folder / name for name in (WEIGHTS, "pytorch_model.bin")]
        with building(paths, str(self.folder)):
            expected = Trunk(TrunkConfig(**self.settings)).state_dict()
        self.trunk.setdefault("mask_emb", expected["mask_emb"])
        for name, tensor in expected.items():
            theirs = names.to_transformers(name)
            if name not in self.trunk:
                raise UserError(f"{self.folder}: its weights lack {theirs}; {REMEDY}")
            if self.trunk[name].shape != tensor.shape:
                sizes = f"{tuple(self.trunk[name].shape)}, not {tuple(tensor.shape)} as its config says"
                raise UserError(f"{self.folder}: its {theirs} is {sizes}; {REMEDY}")

    def untrained_heads(self) -> dict[str, Any]:
        """The pre-training heads of fairseq's model, random; of data2vec also a teacher like the student."""
        width, frames = self.settings["encoder_embed_dim"], self.convolutions()[-1][0]
        heads = {"final_proj": nn.Linear(width, width)}
        if self.family is WAV2VEC2:
            heads["project_q"] = nn.Linear(frames, width)
        state: dict[str, Any] = {
            f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()
        }
        if self.family is DATA2VEC:
            state["_ema"] = with_prefix(self.trunk, "encoder.")
        return state

    def model_settings(self) -> dict[str, Any]:
        """The model of a checkpoint that is not fine-tuned."""
        settings = {**self.settings, **self.training_settings(), "_name": self.family.fairseq}
        if self.family is HUBERT:
            return {key: value for key, value in settings.items() if key != "pos_conv_depth"} | {
                "final_dim": settings["encoder_embed_dim"]
            }
        return settings | ({"average_top_k_layers": 1} if self.family is DATA2VEC else {})

    def training_settings(self) -> dict[str, Any]:
        """Masks and dropout, which only training uses."""
        fields = {
            "dropout": "hidden_dropout",
            "attention_dropout": "attention_dropout",
            "activation_dropout": "activation_dropout",
            "dropout_input": "feat_proj_dropout",
            "encoder_layerdrop": "layerdrop",
        }
        values = {ours: self.config.get(theirs, 0.0) for ours, theirs in fields.items()}
        return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


TOKENS = (("eos_token", EOS), ("unk_token", UNKNOWN), ("bos_token", "<s>"), ("word_delimiter_token", "|"))


def token_of(tokenizer: Mapping[str, Any], key: str, default: str) -> str:
    """A special token in ``tokenizer_config.json``: text, or an object with its text."""
    value = tokenizer.get(key, default)
    return str(value.get("content", default) if isinstance(value, dict) else value)

"""Names of a trunk's parameters here and in transformers.

In a pattern ``#`` stands for a number and ``*`` for the last part, such as ``weight``. torch's weight norm has two
sets of names: ``weight_g`` and ``weight_v``, which fairseq uses, and ``parametrizations.weight.original0`` and
``original1``, which transformers has used since 4.31 (its issue 31633). Folders are written with the latter and read
with either.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

PATTERNS = (  # of the trunk, of transformers
    ("mask_emb", "masked_spec_embed"),
    ("feature_extractor.conv_layers.#.0.*", "feature_extractor.conv_layers.#.conv.*"),
    ("layer_norm.*", "feature_projection.layer_norm.*"),
    ("post_extract_proj.*", "feature_projection.projection.*"),
    ("encoder.layer_norm.*", "encoder.layer_norm.*"),
    ("encoder.layers.#.self_attn.#_proj.*", "encoder.layers.#.attention.#_proj.*"),
    ("encoder.layers.#.self_attn_layer_norm.*", "encoder.layers.#.layer_norm.*"),
    ("encoder.layers.#.fc1.*", "encoder.layers.#.feed_forward.intermediate_dense.*"),
    ("encoder.layers.#.fc2.*", "encoder.layers.#.feed_forward.output_dense.*"),
    ("encoder.layers.#.final_layer_norm.*", "encoder.layers.#.final_layer_norm.*"),
)
CONV_NORM = {
    "layer_norm": "feature_extractor.conv_layers.#.2.1.*",
    "default": "feature_extractor.conv_layers.#.2.*",
}  # by ``extractor_mode``: both are `layer_norm` in transformers
ONE_CONVOLUTION = (
    ("encoder.pos_conv.0.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    ("encoder.pos_conv.0.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    ("encoder.pos_conv.0.bias", "encoder.pos_conv_embed.conv.bias"),
)
STACKED = (("encoder.pos_conv.#.0.*", "encoder.pos_conv_embed.layers.#.conv.*"),)
WEIGHT_NORM = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
LOG_MEL = "trunk."
"""Prefix of the trunk's parameters in ``dinosr_plugin.hf``, where they keep their names but for weight norm's."""


class Names:
    """Renames the parameters of one trunk.

    Args:
        extractor_mode: as of ``TrunkConfig``; None for log-Mel models.
        stacked: whether there is more than one positional convolution.
    """

    def __init__(self, extractor_mode: str | None, stacked: bool = False):
        if extractor_mode is None:
            self.pairs: tuple[tuple[str, str], ...] = ()
        else:
            norm = (CONV_NORM[extractor_mode], "feature_extractor.conv_layers.#.layer_norm.*")
            self.pairs = (*PATTERNS, norm, *(STACKED if stacked else ONE_CONVOLUTION))

    def to_transformers(self, name: str) -> str | None:
        """The name in transformers; None for a parameter that it does not have."""
        if not self.pairs:
            return LOG_MEL + new_weight_norm(name)
        return first_match(name, self.pairs)

    def to_trunk(self, name: str) -> str | None:
        """The name here; None for a parameter that a trunk does not have."""
        if not self.pairs:
            return old_weight_norm(name.removeprefix(LOG_MEL)) if name.startswith(LOG_MEL) else None
        return first_match(new_weight_norm(name), ((theirs, ours) for ours, theirs in self.pairs))


def first_match(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    """The second pattern of the first pair whose first pattern fits the name, filled in."""
    for pattern, other in pairs:
        if match := re.fullmatch(expression(pattern), name):
            for part in match.groups():
                other = re.sub(r"[#*]", part, other, count=1)
            return other
    return None


def expression(pattern: str) -> str:
    escaped = re.escape(pattern).replace(r"\#_proj", "(q|k|v|out)_proj")
    return escaped.replace(r"\#", r"(\d+)").replace(r"\*", "(weight|bias)")


def new_weight_norm(name: str) -> str:
    for old, new in WEIGHT_NORM.items():
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def old_weight_norm(name: str) -> str:
    for old, new in WEIGHT_NORM.items():
        name = name.removesuffix(new) + old if name.endswith(new) else name
    return name


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

"""Names, shapes and number formats of a model's tensors: parameters of each part, layers, precision."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .description import FIRST, text


class Weight(NamedTuple):
    """A tensor in a file, without its values; ``dtype`` is torch's name, such as ``float32``."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Weights = Mapping[str, Weight]

WRAPPERS = re.compile(
    r"(?:(?:module|w2v_encoder|w2v_model|model|wav2vec2|hubert|data2vec_audio|wavlm|unispeech|unispeech_sat|sew)\.)+"
)
"""Begin the names of a model that is inside of another."""

PARTS = (
    ("teacher", r"(_ema|ema|teacher)\."),
    ("codebooks", r"_codebook\d|codebooks?\.|quantizer\."),
    ("heads", r"student\.head"),
    (
        "front end",
        r"feature_(extractor|projection|aggregator)\.|post_extract_proj\.|layer_norm\.|mask_emb|masked_spec_embed"
        r"|gEncoder\.|encoder\.(convolutions|norms|conv\d|feature_projection)\.",
    ),
    ("embeddings", r"(.*\.)?embed_(tokens|positions)\.|embeddings\."),
    ("decoder", r"decoder\.(?!layers|fc_out|layer_norm)|decoder\.(?=.*encoder_attn)"),
    ("layers", r"(encoder|decoder|student|context|gAR|layers|transformer|pos_conv\w*)\."),
)
"""Part of a model -> how the names of its tensors begin, without wrappers. The rest are heads."""

STATISTICS = re.compile(
    r".*(running_mean|running_var|num_batches_tracked|_codebook_cnts\d+|_codebook_idle|\.counts|criterion\.centre)"
)
FLOATS = re.compile(r"(b?float|complex)\w+")
LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.")


def part_of(name: str) -> str:
    """The part of a model that a tensor belongs to."""
    wrapper = WRAPPERS.match(name)
    name = name[wrapper.end() :] if wrapper else name
    return next((part for part, pattern in PARTS if re.match(pattern, name)), "heads")


def is_parameter(name: str, weight: Weight) -> bool:
    """Whether it is learned: statistics of batch norm and counts of codes are not."""
    return bool(FLOATS.fullmatch(weight.dtype)) and not STATISTICS.fullmatch(name)


def parameters_of(weights: Weights) -> dict[str, int]:
    """Part -> number of parameters, in the order from the input to the output."""
    counts: Counter[str] = Counter()
    for name, weight in weights.items():
        if is_parameter(name, weight):
            counts[part_of(name)] += weight.size
    order = ("front end", "embeddings", "layers", "decoder", "heads", "codebooks", "teacher")
    return {part: counts[part] for part in order if counts[part]}


def all_parameters(weights: Weights) -> dict[str, int]:
    """The number of parameters of a model whose parts are not known."""
    return {"all tensors": sum(weight.size for name, weight in weights.items() if is_parameter(name, weight))}


def precision_of(weights: Weights) -> list[str]:
    """The number formats of the parameters, the most frequent first."""
    counts: Counter[str] = Counter()
    for name, weight in weights.items():
        if is_parameter(name, weight):
            counts[weight.dtype] += weight.size
    return [dtype for dtype, _ in counts.most_common()]


def layers_in(weights: Weights, part: str = "layers") -> int:
    """Number of layers in a part of the model."""
    matches = (LAYER.match(name) for name in weights if part_of(name) == part)
    return len({match[1] for match in matches if match})


def listed(weights: Weights) -> list[str]:
    """The first tensors, for a model that is not known: name and shape."""
    shown = [
        f"{text(name)} {' x '.join(map(str, weight.shape)) or 'scalar'}" for name, weight in first(weights.items())
    ]
    return [*shown, f"and {len(weights) - FIRST:,} more"] if len(weights) > FIRST else shown


def first(items: Iterable[Any]) -> list[Any]:
    return [item for item, _ in zip(items, range(FIRST))]

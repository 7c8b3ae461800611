"""Models recognised by the names of their tensors alone."""

import re
from typing import NamedTuple

from .objectives import CONTRASTS, DISTILS, DISTILS_LAYERS, PREDICTS_CLUSTERS
from .weights import Weights

PREFIX = re.compile(r"(?:module|model)\.")


class Layout(NamedTuple):
    """``patterns``: each matches the name of at least one tensor of such a model."""

    name: str
    objective: str | None
    patterns: tuple[str, ...]


SPIDR = Layout(
    "SpidR, or DinoSR in SpidR's layout",
    DISTILS,
    (r"student\.layers\.0\..*", r"feature_projection\.projection\.weight"),
)
PROJECTION = r"post_extract_proj\..*"  # of fairseq
LAYOUTS = (
    SPIDR,
    Layout("DinoSR in the layout of fairseq", DISTILS, (r"_codebook0", r"encoder\.layers\.0\..*")),
    Layout(
        "WavLM in the layout of fairseq",
        PREDICTS_CLUSTERS,
        (r"encoder\.layers\.0\.self_attn\.grep_linear\.weight", PROJECTION),
    ),
    Layout("HuBERT in the layout of fairseq", PREDICTS_CLUSTERS, (r"label_embs_concat", PROJECTION)),
    Layout("wav2vec 2.0 in the layout of fairseq", CONTRASTS, (r"quantizer\.vars", PROJECTION)),
    Layout("speech encoder in the layout of fairseq", None, (r"encoder\.layers\.0\.self_attn\..*", PROJECTION)),
    Layout(
        "WavLM in the layout of Hugging Face",
        PREDICTS_CLUSTERS,
        (r"(.*\.)?encoder\.layers\.0\.attention\.gru_rel_pos_linear\.weight",),
    ),
    Layout("HuBERT in the layout of Hugging Face", PREDICTS_CLUSTERS, (r"hubert\.encoder\..*",)),
    Layout("wav2vec 2.0 in the layout of Hugging Face", CONTRASTS, (r"wav2vec2\.encoder\..*",)),
    Layout("data2vec in the layout of Hugging Face", DISTILS_LAYERS, (r"data2vec_audio\.encoder\..*",)),
    Layout(
        "speech encoder in the layout of Hugging Face",
        None,
        (r"(.*\.)?feature_projection\.projection\.weight", r"(.*\.)?encoder\.pos_conv_embed\..*"),
    ),
    Layout(
        "wav2vec 2.0 or HuBERT in the layout of torchaudio",
        None,
        (r"(.*\.)?encoder\.transformer\.layers\.0\..*", r"(.*\.)?feature_extractor\.conv_layers\.0\.conv\.weight"),
    ),
)
"""The first that fits is used."""


def layout_of(weights: Weights) -> Layout | None:
    """Whose model it is; None for an unknown one."""
    names = [name[prefix.end() :] if (prefix := PREFIX.match(name)) else name for name in weights]
    for layout in LAYOUTS:
        if all(any(re.fullmatch(pattern, name) for name in names) for pattern in layout.patterns):
            return layout
    return None

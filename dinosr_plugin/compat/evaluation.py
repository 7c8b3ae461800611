"""Text that fairseq evaluates as Python: it is parsed as a literal instead, so that nothing in it runs."""

import sys
from typing import Any

from ..errors import UserError
from ..modules.literals import parse_literal

EVALUATED = {
    "fairseq.criterions.ctc": "criterion.wer_args",
    "fairseq.data.audio.raw_audio_dataset": "the convolutions of data2vec 2 (feature_encoder_spec)",
    "fairseq.data.codedataset": "the lines of its manifests",
    "fairseq.examples.data2vec.models.data2vec_audio": "model.conv_feature_layers",
    "fairseq.models.fconv": "the layers and attention of encoder and decoder",
    "fairseq.models.fconv_lm": "the layers and attention of the decoder",
    "fairseq.models.fconv_self_att": "the layers and attention of encoder and decoder",
    "fairseq.models.hubert.hubert": "model.conv_feature_layers",
    "fairseq.models.lightconv_lm": "model.character_filters",
    "fairseq.models.speech_to_text.s2t_wav_transformer": "model.conv_feature_layers",
    "fairseq.models.transformer_lm": "model.character_filters",
    "fairseq.models.wav2vec.wav2vec": "model.conv_feature_layers and model.conv_aggregator_layers",
    "fairseq.models.wav2vec.wav2vec2": "model.conv_feature_layers",
    "fairseq.optim.adafactor": "optimizer.adafactor_eps",
    "fairseq.optim.adam": "optimizer.adam_betas",
    "fairseq.optim.adamax": "optimizer.adamax_betas",
    "fairseq.optim.cpu_adam": "optimizer.adam_betas",
    "fairseq.optim.fused_lamb": "optimizer.lamb_betas",
    "fairseq.utils": "lists, dictionaries and booleans of many options (eval_str_list, eval_str_dict, eval_bool)",
    "fairseq_cli.eval_lm": "--model-overrides",
    "fairseq_cli.validate": "--model-overrides",
}
"""Every module of fairseq that calls ``eval`` with text, and what that text is. In all of them ``eval`` is
``literal``, once they are imported; fairseq imports all but three by itself.

The last two are commands, where the text is one of the user's own options. Of fairseq's examples ``data2vec_audio``
alone is ever imported, by ``interop.fairseq_checkpoints``.
"""


def literal(text: Any, *_: Any) -> Any:
    """What replaces ``eval``. Raises UserError for text that is not a literal, and TypeError for anything but text."""
    if not isinstance(text, str):
        raise TypeError(f"expected text, not {type(text).__name__}")  # fairseq's eval_bool catches it
    try:
        return parse_literal(text)
    except ValueError as error:
        raise UserError(f"{error}; fairseq would run it as Python, which is not allowed") from None


def parse_instead_of_evaluating():
    """fairseq evaluates settings, also those in a checkpoint. Each module that does gets a name ``eval`` of its own."""
    for name in EVALUATED:
        if name in sys.modules:
            sys.modules[name].eval = literal

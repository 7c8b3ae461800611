"""fairseq's own wav2vec 2.0, HuBERT and data2vec checkpoints, pre-trained or fine-tuned."""

import importlib
import os
from argparse import Namespace
from typing import Any

from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
from omegaconf import DictConfig, open_dict

from .. import compat
from ..checkpoints.contents import name_of
from ..errors import UserError

REMEDY = "give a model of this plug-in, fairseq's wav2vec 2.0, HuBERT or data2vec, CPC_audio or SpidR"
FINE_TUNED = ("wav2vec_ctc", "wav2vec_seq2seq", "hubert_ctc", "hubert_seq2seq")
MODELS = ("wav2vec", "wav2vec2", "hubert", "data2vec_audio", *FINE_TUNED)
TASKS = ("audio_pretraining", "audio_finetuning", "hubert_pretraining")
"""The models and tasks of fairseq that are built from a checkpoint. Others would open files that its config names."""


def is_fine_tuned(cfg: DictConfig) -> bool:
    """Whether the config of a checkpoint is that of a model around a pre-trained one."""
    return kind_of_model(cfg) in FINE_TUNED


def require_speech_model(cfg: DictConfig, name: str) -> None:
    """Raise UserError for a checkpoint of another kind of model or task of fairseq, before anything of it is built.

    Models and tasks of this plug-in, and those of other packages, which were imported by the user, are accepted.

    Args:
        cfg: the config of the checkpoint. Old options inside of a fine-tuned model become a config.
        name: what messages call the file.
    """
    require_kind(cfg, name)
    if is_fine_tuned(cfg):
        model = cfg.model
        pretrained = model.get("w2v_args")
        if pretrained is None:
            raise UserError(
                f"{name}: a fine-tuned model without the config of its pre-trained model (w2v_args); fine-tune it again"
            )
        if isinstance(pretrained, Namespace):
            with open_dict(model):
                model.w2v_args = convert_namespace_to_omegaconf(pretrained)
        require_kind(model.w2v_args, name)


def require_kind(cfg: Any, name: str) -> None:
    """Raise UserError unless model and task of a config are in ``MODELS`` and ``TASKS``, or are not fairseq's."""
    model, task = kind_of_model(cfg), name_of(cfg.get("task"))
    if model == "data2vec_audio":
        register_data2vec()
    for part, kind, registry, known in (("model", model, MODEL_REGISTRY, MODELS), ("task", task, TASK_REGISTRY, TASKS)):
        if kind not in registry:
            raise UserError(f"{name}: its {part} is {kind}, which is not registered; {REMEDY}")
        if kind not in known and registry[kind].__module__.startswith("fairseq."):
            raise UserError(f"{name}: its {part} is fairseq's {kind}, which cannot be read; {REMEDY}")


def kind_of_model(cfg: DictConfig) -> str | None:
    """Name of the model in fairseq's registry, from that of the model or of an architecture; None if there is none."""
    name = name_of(cfg.get("model"))
    return ARCH_MODEL_NAME_REGISTRY.get(name, name)


def make_self_contained(state: dict[str, Any]) -> None:
    """Change a checkpoint's state so that fairseq builds its model from the file alone."""
    forget_data_folder(state)
    forget_hubert_labels(state)


def forget_data_folder(state: dict[str, Any]) -> None:
    """Ignore the data folder of a checkpoint that has a dictionary: the folder may contain another one by now."""
    if (state.get("task_state") or {}).get("target_dictionary") is not None and state.get("cfg") is not None:
        state["cfg"].task.data = os.devnull
        if "target_dictionary" in state["cfg"].task:
            state["cfg"].task.target_dictionary = None


def forget_hubert_labels(state: dict[str, Any]) -> None:
    """Drop HuBERT's label embeddings where the dictionaries of the labels are missing.

    The embeddings are of no use after training. Fine-tuned models and the first released ones lack the dictionaries,
    and fairseq would look for them in a folder of the machine that the model was trained on.
    """
    for cfg, prefix in ((state.get("cfg"), ""), (pretraining_config(state), "w2v_encoder.w2v_model.")):
        task_state = state.setdefault("task_state", {})
        if cfg is not None and cfg.model.get("_name") == "hubert" and "dictionaries" not in task_state:
            task_state["dictionaries"] = [None] * len(cfg.task.labels)  # HubertModel then builds no embeddings
            state["model"].pop(f"{prefix}label_embs_concat", None)


def register_data2vec() -> None:
    """Register data2vec, which is among fairseq's examples and not registered by importing fairseq."""
    if "data2vec_audio" not in MODEL_REGISTRY:
        importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
    compat.parse_instead_of_evaluating()  # in that module, too, whoever imported it


def pretraining_config(state: dict[str, Any]) -> DictConfig | None:
    """Config of the pre-trained model inside a fine-tuned one; None for other checkpoints."""
    return state["cfg"].model.get("w2v_args") if state.get("cfg") is not None else None

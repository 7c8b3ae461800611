"""fairseq's own wav2vec 2.0, HuBERT and data2vec checkpoints, pre-trained or fine-tuned."""

import importlib
import os
from typing import Any

from fairseq.models import MODEL_REGISTRY
from omegaconf import DictConfig


def make_self_contained(state: dict[str, Any]) -> None:
    """Change a checkpoint's state so that fairseq builds its model from the file alone."""
    forget_data_folder(state)
    forget_hubert_labels(state)
    register_data2vec(state)


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


def register_data2vec(state: dict[str, Any]) -> None:
    """Register data2vec, which is among fairseq's examples and not registered by importing fairseq."""
    names = {cfg.model.get("_name") for cfg in (state.get("cfg"), pretraining_config(state)) if cfg is not None}
    if "data2vec_audio" in names and "data2vec_audio" not in MODEL_REGISTRY:
        importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")


def pretraining_config(state: dict[str, Any]) -> DictConfig | None:
    """Config of the pre-trained model inside a fine-tuned one; None for other checkpoints."""
    return state["cfg"].model.get("w2v_args") if state.get("cfg") is not None else None

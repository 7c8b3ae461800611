"""The one way to load a checkpoint for measuring, cutting units or exporting."""

from pathlib import Path
from typing import Union

import torch
from fairseq import checkpoint_utils, tasks
from fairseq.models import BaseFairseqModel
from omegaconf import DictConfig

from ..errors import UserError
from .dinosr import DinoSR


def load_model(path: Union[str, Path]):
    """Load any fairseq checkpoint of this plug-in, in eval mode, on the CPU: (model, its whole config).

    Needs nothing but the file: not the data folder, nor the pre-training checkpoint of a fine-tuned model.
    Raises UserError for a missing file, and for one that is no checkpoint, is cut short or is of another fairseq model.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        models, cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile, omegaconf and fairseq each have their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path}: cannot be loaded as a fairseq checkpoint ({reason[0]}); is the file whole?") from error
    return models[0].eval(), cfg


def load_dinosr(path: Union[str, Path]):
    """``load_model`` for what needs teacher and codebooks. Raises UserError for a model without them."""
    model, cfg = load_model(path)
    if not isinstance(model, DinoSR) or model.teacher is None:
        raise UserError(f"{path}: holds {type(model).__name__}, which has no codebooks; give a DinoSR pre-training checkpoint")
    return model, cfg


def untrained_model(cfg: DictConfig, seed: int = 0) -> BaseFairseqModel:
    """A model of the same config with random weights, in eval mode: what learning is measured against."""
    torch.manual_seed(seed)
    return tasks.setup_task(cfg.task, from_checkpoint=True).build_model(cfg.model, from_checkpoint=True).eval()

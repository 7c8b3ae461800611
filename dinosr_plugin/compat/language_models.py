"""What ``fairseq-generate --lm-path`` lacks."""

import argparse
import logging
from pathlib import Path
from typing import Any, Dict

import torch

from ..errors import UserError
from .wrapping import wrap_once

logger = logging.getLogger(__name__)

HOW_TO = "give one made by fairseq-train --task language_modeling"


def language_models_load():
    """fairseq looks for the model's dictionary in DATA only, and ends in a traceback where it is not there or the file is no language model.

    torch >= 2.6 refuses checkpoints of fairseq's older models, whose options are an ``argparse.Namespace``: exactly that is allowed meanwhile.
    """
    from fairseq import checkpoint_utils

    def make(previous):
        def load(filenames, arg_overrides=None, task=None, *args, **kwargs):
            if task is not None or "data" not in (arg_overrides or {}):  # not what fairseq-generate does for --lm-path
                return previous(filenames, arg_overrides, task, *args, **kwargs)
            (path,) = filenames
            if not Path(path).is_file():
                raise UserError(f"--lm-path {path}: no such file; {HOW_TO}")
            try:
                with torch.serialization.safe_globals([argparse.Namespace]):
                    folder = dictionary_folder(path, arg_overrides)
                    logger.info(f"--lm-path {path}: its dictionary is {folder / 'dict.txt'}")
                    return previous(filenames, {**arg_overrides, "data": str(folder)}, task, *args, **kwargs)
            except UserError:
                raise
            except Exception as error:  # torch, pickle, zipfile and fairseq each have their own
                reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
                what = "not a language model, or one of another dictionary than the dict.txt that was found"
                raise UserError(f"--lm-path {path}: {what}; {HOW_TO} ({reason})") from error

        return load

    wrap_once(checkpoint_utils, "load_model_ensemble", make)


def dictionary_folder(path: str, overrides: Dict[str, Any]) -> Path:
    """Where the ``dict.txt`` of a language model is: beside it, in DATA (``overrides["data"]``) or in the folder it was trained on."""
    from fairseq import checkpoint_utils, utils

    folders = [Path(path).parent, Path(utils.split_paths(overrides["data"])[0])]
    for folder in folders:
        if (folder / "dict.txt").is_file():
            return folder
    task = checkpoint_utils.load_checkpoint_to_cpu(path)["cfg"]["task"]
    if not str(task.get("_name")).endswith("language_modeling"):
        raise UserError(f"--lm-path {path}: not a language model, its task is {task.get('_name')}; {HOW_TO}")
    if task.get("data"):
        folders.append(Path(utils.split_paths(task["data"])[0]))
    if not (folders[-1] / "dict.txt").is_file():
        where = ", ".join(map(str, folders))
        raise UserError(f"--lm-path {path}: no dict.txt, its dictionary, in {where}; copy it there from the folder of fairseq-preprocess")
    return folders[-1]

"""Loading fairseq's language models: where their dictionary is, and one-line errors."""

import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints.building import DoesNotFit, building
from ..checkpoints.file import read_fairseq_checkpoint
from ..errors import UserError
from ..files import is_file
from .wrapping import wrap_once

logger = logging.getLogger(__name__)

HOW_TO = "give one made by fairseq-train --task language_modeling"
ARCHITECTURES = ("lstm_lm", "transformer_lm")
"""The models that are built from a file; others of fairseq read more files, or evaluate more of their options."""


def load_language_models():
    """fairseq-generate searches the dictionary of ``--lm-path`` in DATA only.

    If it is not there, or the file is not a language model, fairseq ends with a traceback. Here the folders of
    ``dictionary_folder`` are searched, and every failure is a UserError.
    """
    from fairseq import checkpoint_utils, utils

    def make(previous):
        def load(filenames, arg_overrides=None, task=None, *args, **kwargs):
            if task is not None or "data" not in (arg_overrides or {}):  # not the call for --lm-path
                return previous(filenames, arg_overrides, task, *args, **kwargs)
            (path,) = filenames
            name = f"--lm-path {path}"
            with language_model_faults(path, name):
                folder = dictionary_folder(path, utils.split_paths(arg_overrides["data"])[:1], name)
                logger.info(f"{name}: dictionary {folder / 'dict.txt'}")
                return previous(filenames, {**arg_overrides, "data": str(folder)}, task, *args, **kwargs)

        return load

    wrap_once(checkpoint_utils, "load_model_ensemble", make)


@contextmanager
def language_model_faults(path: str, name: str) -> Iterator[None]:
    """Turn every error while the language model is loaded within this context into a UserError of one line.

    Args:
        path: file of the language model.
        name: what the message calls it.
    """
    try:
        with building([path], name):
            require_language_model(path, name)
            yield
    except DoesNotFit as error:
        reason = " ".join(f"{type(error.__cause__).__name__} {error.__cause__}".split())[:200]
        what = "not a language model, or trained with another dictionary than the dict.txt that was found"
        raise UserError(f"{name}: {what}; {HOW_TO} ({reason})") from error
    except UserError as error:
        if str(error).startswith(name):
            raise
        raise UserError(f"{name}: {str(error).removeprefix(f'{path}: ')}") from None


def require_language_model(path: str, name: str) -> dict[str, Any]:
    """The fields of a language model's task; raises UserError for another kind of model, and for one with embeddings of
    another file."""
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    state = read_fairseq_checkpoint(path, name, HOW_TO)
    if state.get("args") is not None:
        model = vars(state["args"])
        task = {**model, "_name": model.get("task")}
    else:
        model, task = (fields_of(state["cfg"][part]) for part in ("model", "task"))
    if task.get("_name") != "language_modeling":
        raise UserError(f"{name}: not a language model, its task is {task.get('_name')}; {HOW_TO}")
    kind = model.get("_name") or model.get("arch")
    if ARCH_MODEL_NAME_REGISTRY.get(kind, kind) not in ARCHITECTURES:
        raise UserError(
            f"{name}: a language model of the architecture {kind}, which is not supported; give one of "
            f"{' or '.join(ARCHITECTURES)}"
        )
    if model.get("decoder_embed_path"):
        raise UserError(
            f"{name}: its embeddings are in another file (decoder_embed_path), which is not supported; {HOW_TO}"
        )
    return task


def fields_of(part: Any) -> dict[str, Any]:
    return vars(part) if isinstance(part, Namespace) else part


def dictionary_folder(path: str, folders: Sequence[str], name: str) -> Path:
    """The folder of a language model's ``dict.txt``: the model's own, one of ``folders``, or its training data's.

    Raises UserError if the file is not in any of these, or if ``path`` is not a language model.
    """
    from fairseq import utils

    searched = [Path(path).parent, *map(Path, folders)]
    for folder in searched:
        if is_file(folder / "dict.txt"):
            return folder
    data = require_language_model(path, name).get("data")
    if isinstance(data, str) and data:
        searched.append(Path(utils.split_paths(data)[0]))
    if not is_file(searched[-1] / "dict.txt"):
        where = ", ".join(map(str, searched))
        raise UserError(
            f"{name}: no dict.txt (its dictionary) in {where}; copy it there from the folder of fairseq-preprocess"
        )
    return searched[-1]

"""Loading fairseq's language models: where their dictionary is, and one-line errors."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from .wrapping import wrap_once

logger = logging.getLogger(__name__)

HOW_TO = "give one made by fairseq-train --task language_modeling"


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
    if not Path(path).is_file():
        raise UserError(f"{name}: no such file; {HOW_TO}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile and fairseq raise exceptions of many classes
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        what = "not a language model, or trained with another dictionary than the dict.txt that was found"
        raise UserError(f"{name}: {what}; {HOW_TO} ({reason})") from error


def dictionary_folder(path: str, folders: Sequence[str], name: str) -> Path:
    """The folder of a language model's ``dict.txt``: the model's own, one of ``folders``, or its training data's.

    Raises UserError if the file is not in any of these, or if ``path`` is not a language model.
    """
    from fairseq import checkpoint_utils, utils

    searched = [Path(path).parent, *map(Path, folders)]
    for folder in searched:
        if (folder / "dict.txt").is_file():
            return folder
    task = checkpoint_utils.load_checkpoint_to_cpu(path)["cfg"]["task"]
    if not str(task.get("_name")).endswith("language_modeling"):
        raise UserError(f"{name}: not a language model, its task is {task.get('_name')}; {HOW_TO}")
    if task.get("data"):
        searched.append(Path(utils.split_paths(task["data"])[0]))
    if not (searched[-1] / "dict.txt").is_file():
        where = ", ".join(map(str, searched))
        raise UserError(
            f"{name}: no dict.txt (its dictionary) in {where}; copy it there from the folder of fairseq-preprocess"
        )
    return searched[-1]

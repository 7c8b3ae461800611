"""What ``fairseq-generate --lm-path`` lacks, and what else loads a language model needs too."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from .wrapping import wrap_once

logger = logging.getLogger(__name__)

HOW_TO = "give one made by fairseq-train --task language_modeling"


def language_models_load():
    """fairseq looks for the model's dictionary in DATA only, and ends in a traceback where it is not there or the file is no language model."""
    from fairseq import checkpoint_utils, utils

    def make(previous):
        def load(filenames, arg_overrides=None, task=None, *args, **kwargs):
            if task is not None or "data" not in (arg_overrides or {}):  # not what fairseq-generate does for --lm-path
                return previous(filenames, arg_overrides, task, *args, **kwargs)
            (path,) = filenames
            name = f"--lm-path {path}"
            with language_model_faults(path, name):
                folder = dictionary_folder(path, utils.split_paths(arg_overrides["data"])[:1], name)
                logger.info(f"{name}: its dictionary is {folder / 'dict.txt'}")
                return previous(filenames, {**arg_overrides, "data": str(folder)}, task, *args, **kwargs)

        return load

    wrap_once(checkpoint_utils, "load_model_ensemble", make)


@contextmanager
def language_model_faults(path: str, name: str) -> Iterator[None]:
    """One line, a UserError, for whatever happens while the language model is loaded inside; ``name`` is what the line calls it."""
    if not Path(path).is_file():
        raise UserError(f"{name}: no such file; {HOW_TO}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile and fairseq each have their own
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        what = "not a language model, or one of another dictionary than the dict.txt that was found"
        raise UserError(f"{name}: {what}; {HOW_TO} ({reason})") from error


def dictionary_folder(path: str, folders: Sequence[str], name: str) -> Path:
    """Where the ``dict.txt`` of a language model is: beside it, in one of ``folders``, or in the folder it was trained on."""
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
            f"{name}: no dict.txt, its dictionary, in {where}; copy it there from the folder of fairseq-preprocess"
        )
    return searched[-1]

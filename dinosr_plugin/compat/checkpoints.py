"""fairseq's functions that load checkpoints: with the checks of ``dinosr_plugin.checkpoints``."""

import os

from ..checkpoints.building import building
from ..checkpoints.file import read_checkpoint, read_fairseq_checkpoint
from ..checkpoints.packed import as_torch_file
from ..files import require_file
from .wrapping import wrap_once


def check_loaded_checkpoints():
    """fairseq loads PyTorch files only, without comparing checksums or types; it fails with a traceback if one is
    damaged, and advises to load Python objects from the file where torch refuses them.
    """
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    def make(previous):
        def load(path, *args, **kwargs):
            local = PathManager.get_local_path(path)
            state = read_fairseq_checkpoint(local, str(path))
            with as_torch_file(local, state) as file:
                return previous(file, *args, **kwargs)

        return load

    wrap_once(checkpoint_utils, "load_checkpoint_to_cpu", make)


def check_built_models():
    """fairseq builds whatever model a checkpoint's config describes, and fails with a traceback if it cannot."""
    from fairseq import checkpoint_utils

    def make(previous):
        def load(
            filenames, arg_overrides=None, task=None, strict=True, suffix="", num_shards=1, state=None
        ):  # fairseq's signature
            filenames = list(map(str, filenames))
            if state is None and num_shards == 1 and not suffix:  # else fairseq changes the names
                for name in filenames:
                    if "://" not in name:
                        read_checkpoint(name)
            with building(filenames, ":".join(filenames)):
                return previous(filenames, arg_overrides, task, strict, suffix, num_shards, state)

        return load

    wrap_once(checkpoint_utils, "load_model_ensemble_and_task", make)


def open_only_files_of_embeddings():
    """fairseq reads embeddings from whatever path a checkpoint's config names: from a pipe it would wait for ever."""
    from fairseq import utils

    def make(previous):
        def parse(embed_path):
            return previous(require_file(embed_path, "give a checkpoint without the path of embeddings"))

        return parse

    wrap_once(utils, "parse_embedding", make)


def split_only_lists_of_paths():
    """fairseq splits a path at each colon, also where a file or a folder has one in its name."""
    from fairseq import utils

    def make(previous):
        def split(paths: str, separator=os.pathsep):
            parts, found = previous(paths, separator), []
            if "://" in paths:
                return parts
            while parts:
                counts = (n for n in range(len(parts), 1, -1) if os.path.exists(separator.join(parts[:n])))
                n = next(counts, 1)
                found.append(separator.join(parts[:n]))
                parts = parts[n:]
            return found

        return split

    wrap_once(utils, "split_paths", make)

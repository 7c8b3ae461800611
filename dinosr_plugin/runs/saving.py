"""Checkpoints: written, copied, found again and sent to the other ranks, whole or not at all."""

import copy
import os
import shutil

import torch
from omegaconf import OmegaConf

from ..compat.wrapping import wrap_once
from ..errors import UserError
from . import resuming as checkpoints


def whole_copies_of_checkpoints():
    """fairseq writes a checkpoint under a temporary name, but then copies it to ``checkpoint_last.pt``: a kill meanwhile leaves half a file there."""
    from fairseq.file_io import PathManager

    def make(previous):
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
            if "://" in dst_path:  # a remote store has no half-written files
                return previous(src_path, dst_path, overwrite=overwrite)
            unfinished = f"{dst_path}.tmp"
            with checkpoints.writing(dst_path, unfinished):
                shutil.copyfile(src_path, unfinished)  # iopath, where installed, would hide the error of a full disk
                os.replace(unfinished, dst_path)
            return True

        return copy

    wrap_once(PathManager, "copy", make)


def whole_checkpoints_written():
    """fairseq tries three times to write into one open file, each time behind what the last left there: the third may leave a damaged checkpoint.

    Once is enough, since training goes on and saves again; its unfinished file goes. ``fsync``: a power cut after the renaming would leave zeros.
    """
    from fairseq import checkpoint_utils

    def write_once(previous):
        def write(obj, file):
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())

        return write

    def name_the_file(previous):
        def save(obj, filename: str, async_write: bool = False):
            with checkpoints.writing(filename, f"{filename}.tmp"):
                previous(obj, filename, async_write=async_write)

        return save

    wrap_once(checkpoint_utils, "_torch_persistent_save", write_once)
    wrap_once(checkpoint_utils, "torch_persistent_save", name_the_file)


def training_goes_on_without_room():
    """fairseq ends in a traceback where a checkpoint cannot be written. An error leaves its function before older checkpoints are removed."""
    from fairseq import checkpoint_utils

    def make(previous):
        def save(cfg, trainer, epoch_itr, val_loss):
            memory = vars(checkpoint_utils.save_checkpoint)  # fairseq keeps the best loss there
            before = dict(memory)
            try:
                return previous(cfg, trainer, epoch_itr, val_loss)
            except checkpoints.NotSaved as error:
                if not error.filename.endswith(
                    checkpoints.LAST
                ):  # this loss is in no checkpoint_best.pt: the next best is to be saved
                    memory.pop("best", None)
                    memory.update(before)
                checkpoints.go_on_without(error, trainer, epoch_itr)

        return save

    wrap_once(checkpoint_utils, "save_checkpoint", make)


def resume_from_a_whole_checkpoint():
    """fairseq ends in a traceback where ``checkpoint_last.pt`` is damaged, and trains from the start where it is missing.

    Rank 0 alone looks and renames, and says what it found before any rank loads: all load the same file, or all stop.
    """
    from fairseq import checkpoint_utils
    from fairseq.distributed import utils as distributed_utils

    def make(previous):
        def load(cfg, trainer, **passthrough_args):
            if trainer.checkpoint_suffix or trainer.tpu or "://" in cfg.save_dir:
                return previous(cfg, trainer, **passthrough_args)
            found = {}
            if trainer.data_parallel_rank == 0:
                try:
                    found["changes"] = checkpoints.to_resume(trainer.cfg)
                except UserError as error:
                    found["error"] = str(error)
            if trainer.data_parallel_world_size > 1:
                found = distributed_utils.broadcast_object(
                    found, 0, trainer.data_parallel_process_group, trainer.device
                )
            if "error" in found:
                raise UserError(found["error"])
            cfg = copy.deepcopy(cfg)  # of this loading only: what is saved later says what was asked for
            for name, value in found["changes"].items():
                cfg[name] = value
            return previous(cfg, trainer, **passthrough_args)

        return load

    wrap_once(checkpoint_utils, "load_checkpoint", make)


def broadcast_of_checkpoints():
    """fairseq sends a loaded checkpoint to the other ranks as a pickle that torch >= 2.6 refuses: with placeholders for tensors, and its config.

    Exactly the placeholders are allowed while it is sent, and the config goes as a plain dictionary.
    """
    from fairseq.distributed import utils as distributed_utils

    def make(previous):
        def broadcast(obj, *args, **kwargs):
            if isinstance(obj, dict) and OmegaConf.is_config(obj.get("cfg")):
                obj = {**obj, "cfg": OmegaConf.to_container(obj["cfg"])}
            with torch.serialization.safe_globals([distributed_utils._TensorPlaceholder]):
                return previous(obj, *args, **kwargs)

        return broadcast

    wrap_once(distributed_utils, "broadcast_object", make)


def task_state_comes_back():
    """fairseq puts the task's state into every checkpoint, and gives it back for decoding, but not to a training that goes on."""
    from fairseq.distributed import utils as distributed_utils
    from fairseq.trainer import Trainer

    def make(previous):
        def load_checkpoint(self, filename, *args, **kwargs):
            extra_state = previous(self, filename, *args, **kwargs)
            if extra_state is None or not getattr(self.task, "takes_state_back", False) or "://" in filename:
                return extra_state
            state = (checkpoints.read(filename).get("task_state") or {}) if self.data_parallel_rank == 0 else None
            if self.data_parallel_world_size > 1:
                state = distributed_utils.broadcast_object(state, 0, self.data_parallel_process_group, self.device)
            self.task.load_state_dict(state)
            return extra_state

        return load_checkpoint

    wrap_once(Trainer, "load_checkpoint", make)

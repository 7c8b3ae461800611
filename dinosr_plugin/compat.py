"""Every workaround for a fairseq, torch, NumPy or Python version: one function each, with its reason.

``apply()`` runs them all; importing ``dinosr_plugin`` calls it. Nobody else works around anything.
"""

import contextlib
import copy
import functools
import logging
import os
import shutil
import sys
from contextlib import contextmanager
from typing import Callable, Iterator

import numpy as np
import torch
from omegaconf import OmegaConf

from . import checkpoints, stopping
from .errors import UserError

logger = logging.getLogger(__name__)


def import_fairseq_quietly():
    """Importing fairseq sets the root logger to DEBUG and gives it a handler; every library would start to chatter."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    import fairseq.tasks
    import fairseq_cli.train  # noqa: F401

    root.setLevel(level)
    root.handlers[:] = handlers


def numpy_aliases():
    """fairseq 0.12 uses ``np.int`` and ``np.float``, which NumPy 1.24 removed."""
    for name, builtin in (("int", int), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)


def allow_fairseq_checkpoints():
    """torch >= 2.6 unpickles nothing but tensors by default; a fairseq fine-tuning checkpoint also holds its ``Dictionary``.

    Exactly that class is allowed; ``weights_only`` stays on.
    """
    from fairseq.data.dictionary import Dictionary

    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([Dictionary])


def wrap_once(owner, name: str, make: Callable[[Callable], Callable]):
    """Replace ``owner.name`` by ``make`` of it; a second call changes nothing."""
    previous = getattr(owner, name)
    if not getattr(previous, "is_dinosr_wrapper", False):
        wrapper = functools.wraps(previous)(make(previous))
        wrapper.is_dinosr_wrapper = True
        setattr(owner, name, wrapper)


def one_line_errors():
    """The argparse programs of fairseq print a traceback for every exception; a ``UserError`` needs only its message."""

    def make(previous):
        def hook(kind, error, traceback):
            if issubclass(kind, UserError):
                print(f"error: {error}", file=sys.stderr)
            else:
                previous(kind, error, traceback)

        return hook

    wrap_once(sys, "excepthook", make)


def one_line_errors_of_workers():
    """torch puts the worker's whole traceback into the message of an error in a loader's worker process; a ``UserError`` keeps its own."""

    def make(previous):
        def reraise(self):
            if issubclass(self.exc_type, UserError):
                raise self.exc_type(self.exc_msg.rpartition(f"{self.exc_type.__name__}: ")[2].strip())
            previous(self)

        return reraise

    wrap_once(torch._utils.ExceptionWrapper, "reraise", make)


def one_line_for_save_dir():
    """fairseq ends in a traceback where ``checkpoint.save_dir`` cannot be written, before any of our code runs."""
    from fairseq import checkpoint_utils

    def make(previous):
        def verify(save_dir: str) -> None:
            try:
                previous(save_dir)
            except OSError as error:
                raise UserError(f"checkpoint.save_dir={save_dir}: cannot be written ({error.strerror}); give another folder") from error

        return verify

    wrap_once(checkpoint_utils, "verify_checkpoint_directory", make)


def log_file_opened_once():
    """fairseq opens ``common.log_file`` again in every epoch and validation, and then writes each line once more for each time."""
    from fairseq.logging import progress_bar

    def make(previous):
        def bar(*args, log_file=None, **kwargs):
            handlers = [handler for handler in progress_bar.logger.handlers if isinstance(handler, logging.FileHandler)]
            if log_file and os.path.abspath(log_file) in [handler.baseFilename for handler in handlers]:
                log_file = None
            return previous(*args, log_file=log_file, **kwargs)

        return bar

    wrap_once(progress_bar, "progress_bar", make)


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
                if not error.filename.endswith(checkpoints.LAST):  # this loss is in no checkpoint_best.pt: the next best is to be saved
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
                found = distributed_utils.broadcast_object(found, 0, trainer.data_parallel_process_group, trainer.device)
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


def stop_after_saving():
    """fairseq knows no signals: a batch system's kills it, and the updates since the last checkpoint are lost. And a run that has all
    its updates makes another one each time that it is started again.
    """
    from fairseq_cli import train

    def end_at_once(previous):
        def train_epoch(cfg, trainer, *args):
            if 0 < cfg.optimization.max_update <= trainer.get_num_updates():
                logger.info(f"{trainer.get_num_updates()} updates done already: optimization.max_update={cfg.optimization.max_update}")
                return [None], True
            return previous(cfg, trainer, *args)

        return train_epoch

    def ask(previous):
        def should_stop(cfg, valid_loss):
            return stopping.agreed() is not None or previous(cfg, valid_loss)

        return should_stop

    def leave(previous):
        def save(*args):
            result = previous(*args)
            if stopping.agreed() is not None:
                raise stopping.agreed()
            return result

        return save

    wrap_once(train, "train", end_at_once)
    wrap_once(train, "should_stop_early", ask)
    wrap_once(train, "validate_and_save", leave)


def whole_updates():
    """Three faults in fairseq's update. It tells nobody that one begins: what an update that was skipped has collected would go into the next
    (``begin_update`` of the task). It judges all micro-batches of a rank by the last: where a rank's last one is empty, the others count as
    nothing (empty ones go first here). And when fp16 overflows it wants a GPU.
    """
    from fairseq.trainer import Trainer

    def make(previous):
        def train_step(self, samples, raise_oom: bool = False):
            if hasattr(self.task, "begin_update"):  # a task of ours
                self.task.begin_update(self.get_model())
                samples = sorted(samples, key=bool)
            with contextlib.nullcontext() if self.cuda else cuda_means_cpu():
                return previous(self, samples, raise_oom)

        return train_step

    wrap_once(Trainer, "train_step", make)


@contextmanager
def cuda_means_cpu() -> Iterator[None]:
    """While this lasts, ``tensor.cuda()`` leaves it where it is."""
    previous = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        torch.Tensor.cuda = previous


def waveforms_stay_float32():
    """fairseq rounds the waveform to half precision before the model sees it; with 8 bits (bf16) the quiet half of a spectrum is gone."""
    from fairseq.trainer import Trainer

    def make(previous):
        def convert(self, sample):
            source = sample.get("net_input", {}).get("source") if isinstance(sample, dict) else None
            converted = previous(self, sample)
            if converted is sample:  # float32 training
                return sample
            sample = converted
            if source is not None and any(getattr(module, "takes_float32", False) for module in self.get_model().modules()):
                sample["net_input"]["source"] = source
            return sample

        return convert

    wrap_once(Trainer, "_fp_convert_sample", make)


def half_precision_on_cpu():
    """fairseq joins the float32 copies of half-precision parameters in one tensor on the current GPU; without GPU they stay apart."""
    from fairseq.optim.fp16_optimizer import FP16Optimizer

    def make(previous):
        def build(cfg, params, **kwargs):
            if not params[0].is_cuda:
                cfg = copy.deepcopy(cfg)
                cfg.common.fp16_no_flatten_grads = True
            return previous(cfg, params, **kwargs)

        return build

    wrap_once(FP16Optimizer, "build_optimizer", make)


def exact_resume_of_half_precision():
    """fairseq's checkpoints hold half-precision parameters, rounded, and of the loss scaler the scale only: a resumed run takes another course.

    The float32 copies and the scaler's counters go into the optimiser's state.
    """
    from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin

    def tensors(optimizer):
        return list(optimizer.fp32_params.values()) if isinstance(optimizer.fp32_params, dict) else optimizer.fp32_params

    def keep(previous):
        def state_dict(self):
            state = previous(self)
            state["fp32_params"] = [p.data for p in tensors(self)]
            if self.scaler is not None:
                state["scaler"] = {name: value for name, value in vars(self.scaler).items() if isinstance(value, (int, float))}
            return state

        return state_dict

    def restore(previous):
        def load_state_dict(self, state_dict, optimizer_overrides=None):
            saved, scaler = state_dict.pop("fp32_params", None), state_dict.pop("scaler", None)
            previous(self, state_dict, optimizer_overrides)
            if saved is not None and [p.shape for p in saved] == [p.shape for p in tensors(self)]:
                for p, value in zip(tensors(self), saved):
                    p.data.copy_(value)
            if scaler is not None and self.scaler is not None:
                vars(self.scaler).update(scaler)

        return load_state_dict

    wrap_once(_FP16OptimizerMixin, "state_dict", keep)
    wrap_once(_FP16OptimizerMixin, "load_state_dict", restore)


@contextmanager
def audio_dataset(make: Callable) -> Iterator[None]:
    """fairseq's audio tasks name their dataset class; while this lasts they call ``make`` instead. The other way is a copy of 100 lines."""
    from fairseq.tasks import audio_pretraining

    previous = audio_pretraining.FileAudioDataset
    audio_pretraining.FileAudioDataset = make
    try:
        yield
    finally:
        audio_pretraining.FileAudioDataset = previous


def apply():
    """Run every workaround once; safe to call again."""
    numpy_aliases()
    import_fairseq_quietly()
    allow_fairseq_checkpoints()
    one_line_errors()
    one_line_errors_of_workers()
    one_line_for_save_dir()
    log_file_opened_once()
    whole_copies_of_checkpoints()
    whole_checkpoints_written()
    training_goes_on_without_room()
    resume_from_a_whole_checkpoint()
    broadcast_of_checkpoints()
    stop_after_saving()
    whole_updates()
    waveforms_stay_float32()
    half_precision_on_cpu()
    exact_resume_of_half_precision()

"""What newer versions of NumPy, torch and Python changed under fairseq, and side effects of importing fairseq."""

import logging
import sys
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import torch
from omegaconf import OmegaConf, open_dict

from .wrapping import wrap_once


def import_fairseq_quietly():
    """Importing fairseq sets the root logger to DEBUG and adds a handler, so that every library logs to the terminal.

    Both are undone here.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    import fairseq_cli.train  # noqa: F401

    root.setLevel(level)
    root.handlers[:] = handlers


def restore_numpy_aliases():
    """fairseq 0.12 uses ``np.int`` and ``np.float``, removed in NumPy 1.24, and ``np.compat.long``, removed in 2.0.

    The last one is used by its language models.
    """
    for name, builtin in (("int", int), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)
    if "compat" not in np.__dict__:
        np.compat = SimpleNamespace(long=int)


def allow_fairseq_checkpoints():
    """Allow the two classes in fairseq's checkpoints that torch >= 2.6 refuses to unpickle by default.

    Fine-tuned checkpoints and HuBERT contain a ``Dictionary``. Checkpoints from before 2021, such as wav2vec_small.pt,
    and those of fairseq's older models (``lstm_lm``) contain their options in an ``argparse.Namespace``: without it
    fairseq-train cannot resume and fairseq-eval-lm cannot start. Neither class runs code when it is constructed, and
    ``weights_only`` stays on.
    """
    from fairseq.data.dictionary import Dictionary

    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([Dictionary, Namespace])


def broadcast_checkpoints():
    """fairseq sends a loaded checkpoint to the other ranks as a pickle that torch >= 2.6 refuses.

    It contains fairseq's placeholders for tensors, which are allowed here while it is sent, and the checkpoint's
    config, which is sent as a plain dictionary.
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


def build_hubert_ctc():
    """fairseq reads ``autoregressive`` from the config of a fine-tuned HuBERT, a field of its seq2seq model only.

    Without the field no such model can be built or loaded (fairseq issue 4916).
    """
    from fairseq.models.hubert.hubert_asr import HubertCtc

    def make(previous):
        def build_model(cfg, task):
            with open_dict(cfg):
                cfg.autoregressive = False
            return previous(cfg, task)

        return build_model

    wrap_once(HubertCtc, "build_model", make)


def unblock_pool(executor: ProcessPoolExecutor) -> None:
    """Let a pool shut down after one of its processes was killed.

    Python before 3.11.5 (Debian's is 3.11.2) waits forever if the process had not yet read what was sent to it (CPython
    issue 94777). No process reads it any more; once the reading end of the pipe is closed, sending fails instead.

    Later versions close the pipe themselves, in another thread. Closing it here too would occasionally close another
    file that has been given the same descriptor in the meantime.
    """
    if sys.version_info < (3, 11, 5) and executor._call_queue is not None:
        executor._call_queue._reader.close()

"""What newer versions of NumPy and torch no longer do for fairseq, and what importing it does to everybody else."""

import logging
import sys
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import torch
from omegaconf import open_dict

from .wrapping import wrap_once


def import_fairseq_quietly():
    """Importing fairseq sets the root logger to DEBUG and gives it a handler; every library would start to chatter."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    import fairseq_cli.train  # noqa: F401

    root.setLevel(level)
    root.handlers[:] = handlers


def numpy_aliases():
    """fairseq 0.12 uses ``np.int`` and ``np.float``, which NumPy 1.24 removed, and ``np.compat.long`` (in language models), which 2.0 did."""
    for name, builtin in (("int", int), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)
    if "compat" not in np.__dict__:
        np.compat = SimpleNamespace(long=int)


def allow_fairseq_checkpoints():
    """torch >= 2.6 unpickles nothing but tensors by default; fairseq's checkpoints also hold a ``Dictionary`` (fine-tuned ones, HuBERT), and
    those from before 2021, such as wav2vec_small.pt, and of its older models (``lstm_lm``) their options in an ``argparse.Namespace``:
    fairseq-train could not go on and fairseq-eval-lm not begin.

    Exactly these classes are allowed, which do nothing when they are made; ``weights_only`` stays on.
    """
    from fairseq.data.dictionary import Dictionary

    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([Dictionary, Namespace])


def hubert_ctc_is_built():
    """fairseq asks the config of a fine-tuned HuBERT whether it is ``autoregressive``, a field that only its sequence-to-sequence model has
    (fairseq issue 4916): none can be made or loaded.
    """
    from fairseq.models.hubert.hubert_asr import HubertCtc

    def make(previous):
        def build_model(cfg, task):
            with open_dict(cfg):
                cfg.autoregressive = False
            return previous(cfg, task)

        return build_model

    wrap_once(HubertCtc, "build_model", make)


def let_go_of_processes(executor: ProcessPoolExecutor) -> None:
    """Python before 3.11.5 (Debian's is 3.11.2) waits for ever where a process of a pool was killed before it had read what was sent to it (CPython
    issue 94777). Nobody reads any more: with the pipe's other end closed, sending fails.

    Later ones close it themselves, in another thread: to do so here too would close, now and then, a file that has got its number meanwhile.
    """
    if sys.version_info < (3, 11, 5) and executor._call_queue is not None:
        executor._call_queue._reader.close()

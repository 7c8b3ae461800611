"""Every workaround for a fairseq, torch, NumPy or Python version: one function each, with its reason.

``apply()`` runs them all; importing ``dinosr_plugin`` calls it. Nobody else works around anything.
"""

import logging
import sys

import numpy as np
import torch

from .errors import UserError


def import_fairseq_quietly():
    """Importing fairseq sets the root logger to DEBUG and gives it a handler; every library would start to chatter."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    import fairseq.tasks  # noqa: F401

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


def one_line_errors():
    """The argparse programs of fairseq print a traceback for every exception; a ``UserError`` needs only its message."""
    previous = sys.excepthook
    if getattr(previous, "is_dinosr_hook", False):
        return

    def hook(kind, error, traceback):
        if issubclass(kind, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    hook.is_dinosr_hook = True
    sys.excepthook = hook


def apply():
    """Run every workaround once; safe to call again."""
    numpy_aliases()
    import_fairseq_quietly()
    allow_fairseq_checkpoints()
    one_line_errors()

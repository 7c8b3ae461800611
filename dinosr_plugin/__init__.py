"""A fairseq plug-in for learning speech representations by clustering.

fairseq imports this package for ``common.user_dir`` (``--user-dir``); its tasks, models and criterions are registered
then. In Python, ``dinosr_plugin.load(checkpoint)`` returns a model. Until one of the two is used, importing the package
imports neither fairseq nor torch, which take seconds.
"""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"

LAZY = {"load": "checkpoints.load"}  # name -> module that defines it, imported on first use


def register() -> None:
    """Register the tasks, models and criterions with fairseq. Calling it again changes nothing.

    Only needed where this package was imported before fairseq and fairseq's functions are called without ``user_dir``,
    for example ``fairseq.checkpoint_utils.load_model_ensemble_and_task`` with a checkpoint of this plug-in.
    """
    from . import criterions, models, tasks  # noqa: F401


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})


if "fairseq" in sys.modules:  # fairseq imports its user_dir, or may be given objects of this package
    register()

"""A fairseq plug-in for learning speech representations by clustering.

fairseq imports this package for ``common.user_dir`` (``--user-dir``), which registers its tasks, models and criterions.
In Python, ``dinosr_plugin.load(checkpoint)`` returns a model. Until one of the two is used, importing the package
imports neither fairseq nor torch, which takes seconds.
"""

import importlib
import sys
from typing import Any

__version__ = "0.2.0"

LAZY = {"load": "api"}  # name -> the module that defines it, imported on first use


def register() -> None:
    """Register the tasks, models and criterions with fairseq. Calling it again changes nothing.

    Only needed if this package was imported before fairseq, and fairseq's functions are called without ``user_dir``:
    for example ``fairseq.checkpoint_utils.load_model_ensemble_and_task`` with a checkpoint of this plug-in.
    """
    from . import criterions, models, tasks  # noqa: F401


class PackagePath(list):
    """``__path__`` of this package.

    If the module of ``user_dir`` is already imported, ``fairseq.utils.import_user_module`` assumes that it is
    registered, and only tests whether ``user_dir`` is in its ``__path__``. This test registers the package.
    """

    def __contains__(self, folder: object) -> bool:
        is_inside = super().__contains__(folder)
        if is_inside:
            register()
        return is_inside


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)
    globals()[name] = value  # from now on this function is not called for it
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})


__path__ = PackagePath(__path__)
if "fairseq" in sys.modules:
    register()

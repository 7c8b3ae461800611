"""A fairseq plug-in for learning speech representations by clustering.

Importing it (fairseq does so for ``common.user_dir=dinosr_plugin``) registers the tasks, models and criterions; nothing else happens.
``dinosr_plugin.load(checkpoint)`` gives a model for use in Python.
"""

from . import compat

compat.apply()

from . import criterions, models, tasks  # noqa: E402,F401  (after compat: fairseq is imported with it)
from .checkpoints.load import load  # noqa: E402,F401

__version__ = "0.2.0"

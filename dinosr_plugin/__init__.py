"""A fairseq plug-in for learning speech representations by clustering.

Importing it (fairseq does so for ``common.user_dir=dinosr_plugin``) registers the tasks, models and criterions; nothing else happens.
``dinosr_plugin.load(checkpoint)`` gives a model for use in Python.
"""

from . import compat, runs

compat.apply()
runs.install()

from . import criterions, models, tasks  # noqa: E402,F401  (after compat: fairseq is imported with it)
from .api import load  # noqa: E402,F401

__version__ = "0.1.0"

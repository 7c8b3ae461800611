"""A fairseq plug-in for learning speech representations by clustering.

Importing it (fairseq does so for ``common.user_dir=dinosr_plugin``) registers the tasks, models and criterions; nothing else happens.
"""

from . import compat

compat.apply()

from . import criterions, models, tasks  # noqa: E402,F401  (after compat: fairseq is imported with it)

__version__ = "0.1.0"

"""fairseq tasks; importing this package registers them, and adds ``runs`` to fairseq's trainer and training loop."""

from .. import compat, runs  # noqa: F401  (compat before fairseq is imported)
from . import finetuning, pretraining, speakers  # noqa: F401

runs.install()

"""fairseq tasks; importing this package registers them."""

from .. import compat  # noqa: F401  (before fairseq is imported)
from . import finetuning, pretraining  # noqa: F401

"""fairseq criterion; importing this package registers it."""

from .. import compat  # noqa: F401  (before fairseq is imported)
from . import dinosr  # noqa: F401

"""Loading checkpoints of any kind."""

from .. import compat  # noqa: F401  (before fairseq is imported)

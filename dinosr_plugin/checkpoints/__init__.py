"""Checkpoints: any file in (``load``), any model read frame by frame (``readers``)."""

from .. import compat  # noqa: F401  (before fairseq is imported)

"""Models of other projects: fairseq's own, CPC_audio, SpidR."""

from .. import compat  # noqa: F401  (before fairseq is imported)

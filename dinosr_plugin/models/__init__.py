"""fairseq models; importing this package registers them."""

from .. import compat  # noqa: F401  (before fairseq is imported)
from . import cpc, cpc_deepcluster, dino_speaker, dinosr, hubert, predictive, r_spin, spin, ssrl_speaker  # noqa: F401

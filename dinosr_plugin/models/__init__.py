"""fairseq models; importing this package registers them."""

from .. import compat  # noqa: F401  (before fairseq is imported)
from . import cpc, cpc_deepcluster, dinosr, hubert, r_spin, spin  # noqa: F401

"""Agreement of discrete codes with phones: purity and PNMI from counts of frames.

Definitions: HuBERT (Hsu et al. 2021, section IV.F); computed as in Spin (Chang et al. 2023) and DinoSR (Liu et al.
2023).
"""

from dataclasses import asdict, dataclass, replace

import numpy as np

from ....errors import UserError

LOG_FLOOR = 1e-8  # added inside both logarithms, as in the published computation


@dataclass(frozen=True)
class Quality:
    """Use of one codebook, and its agreement with phones, None where the phones are not known.

    Purities and PNMI increase with ``n_codes``: compare them at equal ``n_codes`` only.

    active: number of codes that occur at least once.
    perplexity: 2 ** (base-2 entropy of the code distribution), 1 to ``n_codes``.
    phone_purity: accuracy if each code is mapped to its most frequent phone.
    cluster_purity: accuracy if each phone is mapped to its most frequent code; decreases as codes specialise.
    pnmi: I(phone; code) / H(phone), the share of phone uncertainty that the code removes.
    n_codes: size of the codebook, including codes that never occur.
    frames: number of frames counted.
    """

    active: int
    perplexity: float
    phone_purity: float | None
    cluster_purity: float | None
    pnmi: float | None
    n_codes: int
    frames: int

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> "Quality":
        """From a table of ``contingency`` (n_phones, n_codes), whose rows are phones, including silence.

        A tie between two majority phones does not matter: purity sums the maximum. If only one phone occurs, there is
        no uncertainty to remove, and PNMI is 0 by convention.

        Raises:
            UserError: the table contains no frames.
        """
        joint = shares(counts)  # (n_phones, n_codes), p(x, y)
        return replace(
            cls.of_use(np.asarray(counts).sum(axis=0)),
            phone_purity=float(joint.max(axis=0).sum()),
            cluster_purity=float(joint.max(axis=1).sum()),
            pnmi=pnmi(joint),
        )

    @classmethod
    def of_use(cls, frames: np.ndarray) -> "Quality":
        """From the number of frames of each code (n_codes,), without phones.

        Raises:
            UserError: there are no frames.
        """
        return cls(
            active=int(np.count_nonzero(shares(frames))),
            perplexity=2.0 ** entropy_bits(frames),
            phone_purity=None,
            cluster_purity=None,
            pnmi=None,
            n_codes=len(frames),
            frames=int(frames.sum()),
        )

    def as_dict(self) -> dict:
        """Plain numbers for JSON."""
        return asdict(self)


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts of frames as shares of their sum. Raises UserError if all are 0."""
    counts = np.asarray(counts)
    if not counts.sum():
        raise UserError("no frames to measure: check that the manifest is not empty and matches the phone alignment")
    return counts / counts.sum()


def entropy_bits(counts: np.ndarray) -> float:
    """Base-2 entropy of the distribution estimated by counts (n,); 0 if all counts are 0."""
    used = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(used * np.log2(used)).sum()) + 0.0  # 0.0 instead of -0.0


def pnmi(joint: np.ndarray) -> float:
    """Phone-normalised mutual information of a joint distribution (n_phones, n_codes), natural logarithms, in [0, 1].

    I = sum p(x,y) log(p(x,y) / (p(x) p(y)) + 1e-8) and H = -sum p(x) log(p(x) + 1e-8). Because of the 1e-8, the ratio
    can be below 0 or above 1 by about 1e-8, which is clipped.
    """
    phone_p = joint.sum(axis=1)  # (n_phones,)
    if np.count_nonzero(phone_p) < 2:
        return 0.0
    independent = np.outer(phone_p, joint.sum(axis=0))  # (n_phones, n_codes)
    ratio = np.divide(joint, independent, out=np.zeros_like(joint), where=independent > 0)
    information = (joint * np.log(ratio + LOG_FLOOR)).sum()
    entropy = -(phone_p * np.log(phone_p + LOG_FLOOR)).sum()
    return float(np.clip(information / entropy, 0.0, 1.0))

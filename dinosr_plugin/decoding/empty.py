"""Texts that show that a recogniser has not learned: empty ones, or one for all recordings."""

from collections.abc import Sequence

import torch
from torch import Tensor

LONGER = "train longer, or lower the learning rate if the loss does not fall"
MIN_SAME = 3
"""Texts from which on it is worth saying that all are the same: two recordings may well have the same words."""


def describe_texts(texts: Sequence[str], name: str = "hypotheses") -> str | None:
    """``all 91 hypotheses are empty``, ``5 of 91 hypotheses are empty``, ``all 91 hypotheses are 'E'``, or None.

    Args:
        texts: one of each recording.
        name: what they are called, in the plural.
    """
    words = [text.split() for text in texts]
    empty = words.count([])
    if empty:
        return f"{'all' if empty == len(words) else f'{empty} of'} {len(words)} {name} are empty"
    if len(words) >= MIN_SAME and words.count(words[0]) == len(words):
        return f"all {len(words)} {name} are {' '.join(words[0])[:50]!r}"
    return None


def note_on_texts(texts: Sequence[str], name: str = "hypotheses", remedy: str = LONGER) -> str | None:
    """``describe_texts`` with what to do about it."""
    what = describe_texts(texts, name)
    return what and f"{what}; {'' if what.startswith('all') else 'if these recordings contain speech, '}{remedy}"


def count_empty(output: dict[str, Tensor], silent: Sequence[int]) -> int:
    """Number of utterances of a batch whose best path has no symbols.

    Args:
        output: of ``wav2vec_ctc``: ``encoder_out`` (F, B, V) and ``padding_mask`` (B, F) or None.
        silent: indices of the symbols that are not part of words: the blank, the word boundary.
    """
    path = output["encoder_out"].argmax(dim=-1).T  # (B, F)
    spoken = ~torch.isin(path, torch.tensor(silent, device=path.device))
    if output["padding_mask"] is not None:
        spoken &= ~output["padding_mask"]
    return int((~spoken.any(dim=1)).sum())

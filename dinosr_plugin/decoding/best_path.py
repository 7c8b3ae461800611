"""Best-path ("greedy") CTC decoding: take the most probable symbol of every frame, merge repeats, drop blanks.

Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2.
"""

import torch

from .base import Hypothesis


class BestPathDecoder:
    """A ``CTCDecoder`` without search. It decodes whole batches at once, on the device of the emissions.

    Args:
        blank: dictionary index of the CTC blank.
    """

    def __init__(self, blank: int):
        self.blank = blank

    def decode(self, emissions: torch.Tensor, lengths: torch.Tensor) -> list[list[Hypothesis]]:
        """One hypothesis for each utterance; see ``CTCDecoder.decode``. ``score`` is the path's log-probability."""
        log_probs, path = emissions.max(dim=-1)  # (B, F, V) -> (B, F), (B, F)
        valid = torch.arange(path.size(1), device=path.device) < lengths.to(path.device)[:, None]  # (B, F)
        emitted = valid & run_starts(path) & (path != self.blank)  # (B, F)

        # float64, so that the sum does not depend on how far the batch is padded
        scores = log_probs.double().masked_fill(~valid, 0.0).sum(dim=1).tolist()
        counts = emitted.sum(dim=1).tolist()
        frames = emitted.nonzero()[:, 1].cpu().split(counts)  # (all tokens of the batch,) -> B x (N,)
        tokens = path[emitted].cpu().split(counts)
        token_scores = log_probs[emitted].cpu().split(counts)
        return [[make_hypothesis(*parts)] for parts in zip(tokens, scores, token_scores, frames)]


def run_starts(path: torch.Tensor) -> torch.Tensor:
    """(B, F) symbols -> (B, F) bool: whether a frame differs from the previous one; True for the first frame."""
    starts = torch.ones_like(path, dtype=torch.bool)
    starts[:, 1:] = path[:, 1:] != path[:, :-1]
    return starts


def make_hypothesis(tokens: torch.Tensor, score: float, token_scores: torch.Tensor, frames: torch.Tensor) -> Hypothesis:
    """Pack (N,) tokens, their (N,) scores and (N,) frames."""
    alignment = [(frame, position) for position, frame in enumerate(frames.tolist())]
    # Copied because fairseq-generate converts the scores to base 2 in place.
    return {"tokens": tokens, "score": score, "positional_scores": token_scores.clone(), "alignment": alignment}

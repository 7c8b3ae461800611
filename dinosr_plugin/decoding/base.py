"""What every CTC decoder takes and returns."""

from typing import Protocol, TypedDict

import torch


class Hypothesis(TypedDict):
    """One transcription, in the form that ``fairseq-generate`` prints.

    tokens: (N,) int64, on the CPU; dictionary indices without blanks.
    score: natural-log probability of what the decoder searched for (best path: of the path; searches: of the text, all its alignments
        summed, with the language model and the other scores that the user set).
    positional_scores: (N,) float32, on the CPU; natural-log probability of each token at its frame.
    alignment: N pairs ``(frame, token position)``; the frame is the one where the token is first emitted.
    """

    tokens: torch.Tensor
    score: float
    positional_scores: torch.Tensor
    alignment: list[tuple[int, int]]


class CTCDecoder(Protocol):
    """From frame-wise log-probabilities to transcriptions."""

    def decode(self, emissions: torch.Tensor, lengths: torch.Tensor) -> list[list[Hypothesis]]:
        """Decode a batch.

        Args:
            emissions: (B, F, V) float32 log-probabilities, on any device. ``-inf`` marks a symbol that may not be emitted.
            lengths: (B,) int64 number of valid frames of each utterance, from 0 to F; frames behind it are never looked at.

        Returns:
            For each utterance its hypotheses, best first; at least one, which may hold no token.
        """
        ...

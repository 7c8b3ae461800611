"""The interface of all CTC decoders."""

from typing import Protocol, TypedDict

import torch


class Hypothesis(TypedDict):
    """One transcription, in the form that ``fairseq-generate`` prints.

    tokens: (N,) int64, on the CPU; dictionary indices without blanks.
    score: natural-log probability that the decoder maximises. Best path: of the path. Beam searches: of the text,
        summed over its alignments, plus the language model score and the other scores that the user set.
    positional_scores: (N,) float32, on the CPU; natural-log probability of each token at its frame.
    alignment: N pairs ``(frame, token position)``; the frame is the one at which the token is first emitted.
    """

    tokens: torch.Tensor
    score: float
    positional_scores: torch.Tensor
    alignment: list[tuple[int, int]]


class CTCDecoder(Protocol):
    """Converts frame-wise log-probabilities to transcriptions."""

    def decode(self, emissions: torch.Tensor, lengths: torch.Tensor) -> list[list[Hypothesis]]:
        """Decode a batch.

        Args:
            emissions: (B, F, V) float32 log-probabilities, on any device. ``-inf`` marks an impossible symbol.
            lengths: (B,) int64 number of valid frames of each utterance, from 0 to F; later frames are ignored.

        Returns:
            The hypotheses of each utterance, best first: at least one, which may be empty.
        """
        ...

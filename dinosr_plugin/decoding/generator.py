"""What ``fairseq-generate`` calls in place of its ``SequenceGenerator``, which needs an autoregressive decoder."""

import math
from typing import Any, Dict, List, Sequence, Tuple

import torch
from fairseq.data import Dictionary

from ..errors import UserError
from .base import CTCDecoder, Hypothesis


class CTCGenerator:
    """Runs CTC models over a batch and hands their emissions to a decoder.

    Args:
        decoder: any ``CTCDecoder``.
        dictionary: the target dictionary.
        blank: index of the CTC blank in it.
    """

    def __init__(self, decoder: CTCDecoder, dictionary: Dictionary, blank: int):
        self.decoder = decoder
        self.never_emitted = sorted({dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()} - {blank})
        # fairseq-generate drops these from what it prints; <unk> stays, else an unknown reference symbol would not count
        self.symbols_to_strip_from_output = {dictionary.bos(), dictionary.pad(), dictionary.eos(), blank}

    @torch.no_grad()
    def generate(
        self, models: Sequence[torch.nn.Module], sample: Dict[str, Any], prefix_tokens=None, constraints=None
    ) -> List[List[Hypothesis]]:
        """Decode one batch of the fine-tuning task.

        Args:
            models: one or more ``wav2vec_ctc`` models (put into eval mode); the probabilities of several are averaged.
            sample: a batch whose ``net_input`` holds ``source`` (B, T) and ``padding_mask`` (B, T) or None.
            prefix_tokens, constraints: part of fairseq's calling convention; CTC has no use for them.

        Returns:
            B lists of hypotheses, best first.

        Raises:
            UserError: the models do not have the same frame rate or dictionary size.
        """
        emissions, lengths = self.emissions(models, sample["net_input"])
        emissions[:, :, self.never_emitted] = -math.inf
        return self.decoder.decode(emissions, lengths)

    def emissions(self, models: Sequence[torch.nn.Module], net_input: Dict[str, Any]) -> Tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (B, F, V) float32 and numbers of valid frames (B,) int64."""
        outputs = [frame_log_probs(model, net_input) for model in models]
        shapes = {tuple(log_probs.shape) for log_probs, _ in outputs}
        if len(shapes) > 1:
            raise UserError(f"--path: the models of an ensemble must agree in (utterances, frames, symbols), but give {sorted(shapes)}")
        # The mean of the probabilities, as in fairseq's own ensembles: unlike a mean of logarithms it is a distribution again.
        mean = torch.logsumexp(torch.stack([log_probs for log_probs, _ in outputs]), dim=0) - math.log(len(outputs))
        return mean, outputs[0][1]


def frame_log_probs(model: torch.nn.Module, net_input: Dict[str, Any]) -> Tuple[torch.Tensor, torch.Tensor]:
    """Run one model in eval mode: log-probabilities (B, F, V) float32 and numbers of valid frames (B,) int64."""
    model.eval()
    dtype = next(model.parameters()).dtype  # fairseq-generate --fp16 makes halves of the model, but not of the sound
    output = model(**{**net_input, "source": net_input["source"].to(dtype)})
    log_probs = model.get_normalized_probs(output, log_probs=True).transpose(0, 1)  # (F, B, V) -> (B, F, V)
    padding_mask = output["padding_mask"]  # (B, F) or None; read after the line above, which may lengthen it
    if padding_mask is None:
        return log_probs, torch.full((log_probs.size(0),), log_probs.size(1), device=log_probs.device)
    return log_probs, (~padding_mask).sum(dim=1)

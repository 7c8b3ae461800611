"""What ``fairseq-generate`` calls in place of its ``SequenceGenerator``, which needs an autoregressive decoder."""

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.data import Dictionary

from ..checkpoints.opening import reader_of
from ..data.audio import SAMPLE_RATE
from ..errors import UserError
from .base import CTCDecoder, Hypothesis
from .emissions import EmissionReader, EmissionWriter, padded
from .pace import Pace
from .pool import DecoderPool, Pending

logger = logging.getLogger(__name__)

AHEAD = 2
"""Utterances for each searching process that wait while the network works on others."""


class CTCGenerator:
    """Runs CTC models over batches and hands their emissions to a decoder.

    Args:
        decoder: any ``CTCDecoder``.
        dictionary: the target dictionary.
        blank: index of the CTC blank in it.
        processes: that search, as ``DecoderPool`` has them.
        emissions: where to take the emissions from, without running the models, or where to keep them.
    """

    def __init__(
        self,
        decoder: CTCDecoder,
        dictionary: Dictionary,
        blank: int,
        processes: int = 0,
        emissions: EmissionReader | EmissionWriter | None = None,
    ):
        self.pool = DecoderPool(decoder, processes)
        self.file = emissions
        self.never_emitted = never_emitted(dictionary, blank)
        # fairseq-generate drops these from what it prints; <unk> stays, else an unknown reference symbol would not count
        self.symbols_to_strip_from_output = {dictionary.bos(), dictionary.pad(), dictionary.eos(), blank}

    def generate(
        self, models: Sequence[torch.nn.Module], sample: dict[str, Any], prefix_tokens=None, constraints=None
    ) -> list[list[Hypothesis]]:
        """Decode one batch of the fine-tuning task, or wait until that is done if ``ahead`` has begun it.

        Args:
            models: one or more ``wav2vec_ctc`` models (put into eval mode); the probabilities of several are averaged.
            sample: a batch whose ``net_input`` holds ``source`` (B, T) and ``padding_mask`` (B, T) or None.
            prefix_tokens, constraints: part of fairseq's calling convention; CTC has no use for them.

        Returns:
            B lists of hypotheses, best first.

        Raises:
            UserError: the models do not have the same frame rate or dictionary size.
        """
        pending = sample["pending"] if "pending" in sample else self.begin(models, sample)
        return pending.wait()

    def ahead(self, models: Sequence[torch.nn.Module], samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Batches, each with its hypotheses on the way (``pending``), so that one is searched while the network works on the next.

        ``AHEAD`` bounds how many wait in memory. At the end the real-time factor is logged.
        """
        waiting: deque[dict[str, Any]] = deque()
        pace = Pace()
        with self.pool:
            for sample in samples:
                if "net_input" in sample:
                    pace.sound += speech_seconds(sample["net_input"])
                    with pace.of("network"):
                        sample["pending"] = self.begin(models, sample)
                    sample["net_input"] = {}  # the sound is not needed any more
                waiting.append(sample)
                while len(waiting) > 1 and (
                    ready(waiting[0]) or sum(map(unfinished, waiting)) > AHEAD * self.pool.processes
                ):
                    yield waiting.popleft()
            while len(waiting) > 1:
                yield waiting.popleft()
            for last in waiting:
                if "pending" in last:
                    last["pending"].wait()
        if isinstance(self.file, EmissionWriter):
            self.file.close()
        if pace.sound:
            self.log(pace)
        yield from waiting  # the last one: fairseq counts, and does not come back after it

    def log(self, pace: Pace) -> None:
        search = f"search in {self.pool.processes} processes" if self.pool.processes else "search"
        pace.parts[search] = self.pool.search_seconds
        if not self.pool.processes:  # it was this process's
            pace.parts["network"] -= self.pool.search_seconds
        logger.info(pace.summary())

    def close(self) -> None:
        """Finish the file of emissions and end the processes."""
        self.pool.close()
        if isinstance(self.file, EmissionWriter):
            self.file.close()

    @torch.no_grad()
    def begin(self, models: Sequence[torch.nn.Module], sample: dict[str, Any]) -> Pending:
        """Run the network, or read what it gave; the search goes on in other processes, if there are any."""
        if isinstance(self.file, EmissionReader):
            return self.pool.submit(*padded([self.file[row] for row in sample["id"].tolist()]))
        emissions, lengths = self.emissions(models, sample["net_input"])
        emissions[:, :, self.never_emitted] = -math.inf
        if self.file is not None:
            for row, one, length in zip(sample["id"].tolist(), emissions.cpu(), lengths.tolist()):
                self.file.add(row, one[:length])
        return self.pool.submit(emissions, lengths)

    def emissions(
        self, models: Sequence[torch.nn.Module], net_input: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (B, F, V) float32 and numbers of valid frames (B,) int64."""
        outputs = [frame_log_probs(model, net_input) for model in models]
        shapes = {tuple(log_probs.shape) for log_probs, _ in outputs}
        if len(shapes) > 1:
            raise UserError(
                f"--path: the models of an ensemble must agree in (utterances, frames, symbols), but give {sorted(shapes)}"
            )
        # The mean of the probabilities, as in fairseq's own ensembles: unlike a mean of logarithms it is a distribution again.
        mean = torch.logsumexp(torch.stack([log_probs for log_probs, _ in outputs]), dim=0) - math.log(len(outputs))
        return mean, outputs[0][1]


def never_emitted(dictionary: Dictionary, blank: int) -> list[int]:
    """Indices of symbols that are no part of a text."""
    return sorted({dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()} - {blank})


def frame_log_probs(model: torch.nn.Module, net_input: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one model in eval mode: log-probabilities (B, F, V) float32 and numbers of valid frames (B,) int64."""
    model.eval()
    parameter = next(model.parameters())
    net_input = utils.apply_to_sample(lambda tensor: tensor.to(parameter.device), net_input)
    source, padding_mask = at_least_a_frame(model, **net_input)
    if not any(getattr(module, "takes_float32", False) for module in model.modules()):
        source = source.to(parameter.dtype)  # fairseq-generate --fp16 makes halves of the model, but not of the sound
    output = model(source=source, padding_mask=padding_mask)
    log_probs = model.get_normalized_probs(output, log_probs=True).transpose(0, 1)  # (F, B, V) -> (B, F, V)
    padding_mask = output["padding_mask"]  # (B, F) or None; read after the line above, which may lengthen it
    if padding_mask is None:
        return log_probs, torch.full((log_probs.size(0),), log_probs.size(1), device=log_probs.device)
    return log_probs, (~padding_mask).sum(dim=1)


def at_least_a_frame(
    model: torch.nn.Module, source: torch.Tensor, padding_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, T) sounds and their mask, padded where all of them are too short for a frame: a network cannot make none."""
    missing = reader_of(model).grid.field - source.size(1) if hasattr(model, "w2v_encoder") else 0
    if missing <= 0:
        return source, padding_mask
    if padding_mask is None:
        padding_mask = torch.zeros_like(source, dtype=torch.bool)
    return F.pad(source, (0, missing)), F.pad(padding_mask, (0, missing), value=True)


def speech_seconds(net_input: dict[str, Any]) -> float:
    """Sound in a batch, without the padding."""
    mask: torch.Tensor | None = net_input["padding_mask"]
    return (net_input["source"].numel() - (0 if mask is None else int(mask.sum()))) / SAMPLE_RATE


def unfinished(sample: dict[str, Any]) -> int:
    """Utterances of a batch that are still being searched."""
    return sample["pending"].unfinished() if "pending" in sample else 0


def ready(sample: dict[str, Any]) -> bool:
    return unfinished(sample) == 0

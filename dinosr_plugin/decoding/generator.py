"""The generator for ``fairseq-generate``, whose own ``SequenceGenerator`` requires an autoregressive decoder."""

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
from ..checkpoints.readers import trunk_of
from ..data.audio import SAMPLE_RATE
from ..errors import UserError
from .base import CTCDecoder, Hypothesis
from .emissions import EmissionReader, EmissionWriter, padded
from .empty import LONGER, note_on_texts
from .pace import Pace
from .pool import DecoderPool, Pending
from .search import BeamSearch
from .words import text_of

logger = logging.getLogger(__name__)

MAX_WAITING = 2
"""Utterances per search process that may wait while the network computes further ones."""


class CTCGenerator:
    """Runs CTC models on batches and passes their emissions to a decoder.

    Args:
        decoder: any ``CTCDecoder``.
        dictionary: the target dictionary.
        blank: index of the CTC blank in the dictionary.
        processes: number of search processes; see ``DecoderPool``.
        emissions: a reader, to take the emissions from a file without running the models, or a writer, to save them.
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
        self.emission_file = emissions
        self.symbols = list(dictionary.symbols)  # a copy: fairseq-generate adds the words it encounters
        self.texts: dict[int, str] = {}  # best hypothesis of each utterance
        self.never_emitted = never_emitted(dictionary, blank)
        # fairseq-generate removes these from its output. <unk> stays: an unknown reference symbol must be an error.
        self.symbols_to_strip_from_output = {dictionary.bos(), dictionary.pad(), dictionary.eos(), blank}

    def generate(
        self, models: Sequence[torch.nn.Module], sample: dict[str, Any], prefix_tokens=None, constraints=None
    ) -> list[list[Hypothesis]]:
        """Decode one batch of the fine-tuning task, or wait for the result if ``prefetch`` has started it.

        Args:
            models: one or more ``wav2vec_ctc`` models, which are put into eval mode; their probabilities are averaged.
            sample: a batch whose ``net_input`` holds ``source`` (B, T) and ``padding_mask`` (B, T) or None.
            prefix_tokens, constraints: part of fairseq's calling convention; not used for CTC.

        Returns:
            B lists of hypotheses, best first.

        Raises:
            UserError: the models differ in frame rate or dictionary size.
        """
        pending = sample["pending"] if "pending" in sample else self.start(models, sample)
        decoded = pending.wait()
        self.keep_texts(sample, decoded)
        return decoded

    def keep_texts(self, sample: dict[str, Any], decoded: list[list[Hypothesis]]) -> None:
        for utterance, (best, *_) in zip(sample["id"].tolist(), decoded):
            self.texts[utterance] = text_of([self.symbols[token] for token in best["tokens"].tolist()], self.symbols)

    def prefetch(
        self, models: Sequence[torch.nn.Module], samples: Iterable[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield batches whose decoding has started (``sample["pending"]``), while the network runs on the next ones.

        ``MAX_WAITING`` limits how many batches wait in memory. The real-time factor is logged at the end,
        and how many texts are empty, if any are.
        """
        waiting: deque[dict[str, Any]] = deque()
        pace = Pace()
        with self.pool:
            for sample in samples:
                if "net_input" in sample:
                    pace.sound += speech_seconds(sample["net_input"])
                    with pace.timing("network"):
                        sample["pending"] = self.start(models, sample)
                    sample["net_input"] = {}  # frees the audio, which is no longer needed
                waiting.append(sample)
                while len(waiting) > 1 and (
                    is_done(waiting[0]) or sum(map(unfinished, waiting)) > MAX_WAITING * self.pool.processes
                ):
                    yield waiting.popleft()
            while len(waiting) > 1:
                yield waiting.popleft()
            for last in waiting:
                if "pending" in last:
                    self.keep_texts(last, last["pending"].wait())
        if isinstance(self.emission_file, EmissionWriter):
            self.emission_file.close()
        if pace.sound:
            self.log(pace)
        yield from waiting  # only now: fairseq counts the batches and never resumes this generator after the last one

    def log(self, pace: Pace) -> None:
        search = f"search in {self.pool.processes} processes" if self.pool.processes else "search"
        pace.parts[search] = self.pool.search_seconds
        if not self.pool.processes:  # the search ran in this process, within the time measured as "network"
            pace.parts["network"] -= self.pool.search_seconds
        logger.info(pace.summary())
        searches = isinstance(self.pool.decoder, BeamSearch)
        if note := note_on_texts(list(self.texts.values()), remedy=f"{LONGER}{', or lower --lm-weight' * searches}"):
            logger.warning(note)

    def close(self) -> None:
        """Finish the emission file and end the processes."""
        self.pool.close()
        if isinstance(self.emission_file, EmissionWriter):
            self.emission_file.close()

    @torch.no_grad()
    def start(self, models: Sequence[torch.nn.Module], sample: dict[str, Any]) -> Pending:
        """Run the network, or read its emissions from the file, and start the search."""
        if isinstance(self.emission_file, EmissionReader):
            return self.pool.submit(*padded([self.emission_file[row] for row in sample["id"].tolist()]))
        emissions, lengths = self.emissions(models, sample["net_input"])
        emissions[:, :, self.never_emitted] = -math.inf
        if self.emission_file is not None:
            for row, one, length in zip(sample["id"].tolist(), emissions.cpu(), lengths.tolist()):
                self.emission_file.add(row, one[:length])
        return self.pool.submit(emissions, lengths)

    def emissions(
        self, models: Sequence[torch.nn.Module], net_input: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (B, F, V) float32 and numbers of valid frames (B,) int64, averaged over the models."""
        outputs = [frame_log_probs(model, net_input) for model in models]
        shapes = {tuple(log_probs.shape) for log_probs, _ in outputs}
        if len(shapes) > 1:
            raise UserError(
                "--path: the models of an ensemble must agree in (utterances, frames, symbols), "
                f"but their outputs have shapes {sorted(shapes)}; give models with the same dictionary and frame rate"
            )
        # The mean of the probabilities, as in fairseq's ensembles; it is a distribution, unlike a mean of logarithms.
        mean = torch.logsumexp(torch.stack([log_probs for log_probs, _ in outputs]), dim=0) - math.log(len(outputs))
        return mean, outputs[0][1]


def never_emitted(dictionary: Dictionary, blank: int) -> list[int]:
    """Indices of the symbols that are never part of a text."""
    return sorted({dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()} - {blank})


def frame_log_probs(model: torch.nn.Module, net_input: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one model in eval mode: log-probabilities (B, F, V) float32 and numbers of valid frames (B,) int64."""
    model.eval()
    parameter = next(model.parameters())
    net_input = utils.apply_to_sample(lambda tensor: tensor.to(parameter.device), net_input)
    source, padding_mask = pad_to_one_frame(model, **net_input)
    if not any(getattr(module, "takes_float32", False) for module in model.modules()):
        # fairseq-generate --fp16 converts the model to half precision, but not the audio
        source = source.to(parameter.dtype)
    output = model(source=source, padding_mask=padding_mask)
    log_probs = model.get_normalized_probs(output, log_probs=True).transpose(0, 1)  # (F, B, V) -> (B, F, V)
    padding_mask = output["padding_mask"]  # (B, F) or None; read last, because the line above may extend it
    if padding_mask is None:
        return log_probs, torch.full((log_probs.size(0),), log_probs.size(1), device=log_probs.device)
    return log_probs, (~padding_mask).sum(dim=1)


def pad_to_one_frame(
    model: torch.nn.Module, source: torch.Tensor, padding_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pad waveforms (B, T) and mask to one frame if all are shorter, because the network needs at least one frame."""
    missing = 0 if trunk_of(model) is model else reader_of(model).grid.field - source.size(1)
    if missing <= 0:
        return source, padding_mask
    if padding_mask is None:
        padding_mask = torch.zeros_like(source, dtype=torch.bool)
    return F.pad(source, (0, missing)), F.pad(padding_mask, (0, missing), value=True)


def speech_seconds(net_input: dict[str, Any]) -> float:
    """Duration of the audio in a batch, without padding."""
    mask: torch.Tensor | None = net_input["padding_mask"]
    return (net_input["source"].numel() - (0 if mask is None else int(mask.sum()))) / SAMPLE_RATE


def unfinished(sample: dict[str, Any]) -> int:
    """Number of utterances of a batch that are still being searched."""
    return sample["pending"].unfinished() if "pending" in sample else 0


def is_done(sample: dict[str, Any]) -> bool:
    return unfinished(sample) == 0

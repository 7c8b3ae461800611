"""Beam search over symbols with a neural language model ("shallow fusion"), which is queried in batches.

Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2 (prefix search); Hannun et al.,
"First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs", 2014 (with a language
model). The results are those of ``BeamDecoder``, but all prefixes of a batch are extended at once, because
flashlight-text requests one language model score at a time.
"""

import math
from dataclasses import dataclass, fields

import torch
from fairseq.data import Dictionary

from .base import Hypothesis
from .best_path import make_hypothesis, run_starts
from .neural_lm import NeuralLM
from .search import IMPOSSIBLE, WORD_BOUNDARY, SearchOptions, empty_hypothesis, index_of

NO_PREFIX = -1
"""Id of an empty beam slot, and of the parent of the empty prefix."""


@dataclass
class Beam:
    """K prefixes for each of B utterances, most probable first. Empty slots have log-probabilities of ``-inf``.

    blank, symbol: (B, K) float64; natural-log probability, language model included, of the prefix's alignments that end
        in a blank, and of those that end in its last symbol.
    ids, parents: (B, K) int64; id of the prefix (the same in all utterances) and of the prefix without its last symbol.
    texts, lengths: (B, K, L) and (B, K) int64; the prefix.
    lm_scores: (B, K, V + 1) float32; the language model's log-probabilities after the prefix: next symbol, or end.
    lm_states: (B, K, ...); the language model's state after the prefix.
    """

    blank: torch.Tensor
    symbol: torch.Tensor
    ids: torch.Tensor
    parents: torch.Tensor
    texts: torch.Tensor
    lengths: torch.Tensor
    lm_scores: torch.Tensor
    lm_states: torch.Tensor

    def total(self) -> torch.Tensor:
        """(B, K) log-probability of the prefix."""
        return torch.logaddexp(self.blank, self.symbol)

    def last(self, default: int) -> torch.Tensor:
        """(B, K) last symbol; ``default`` for the empty prefix."""
        symbols = self.texts.gather(2, (self.lengths - 1).clamp(min=0)[:, :, None])[:, :, 0]
        return symbols.masked_fill(self.lengths == 0, default)

    def select(self, slots: torch.Tensor) -> "Beam":
        """The prefixes in the given slots (B, K') of this beam."""
        utterances = torch.arange(len(slots), device=slots.device)[:, None]  # (B, 1)
        return Beam(*(getattr(self, field.name)[utterances, slots] for field in fields(self)))


class FusionDecoder:
    """A ``CTCDecoder`` on the device of the emissions.

    Args:
        dictionary: the target dictionary, V symbols.
        blank: index of the CTC blank in the dictionary.
        options: see ``SearchOptions``; here ``lm_weight`` applies to natural logarithms.
        lm: fairseq's language model, from ``options.lm_path``, over the dictionary's symbols (letters or pieces).

    Raises:
        UserError: ``lm`` is not a language model, or lacks symbols.
    """

    def __init__(self, dictionary: Dictionary, blank: int, options: SearchOptions, lm: torch.nn.Module):
        self.lm = NeuralLM(lm, dictionary, blank, str(options.lm_path))
        self.blank, self.boundary, self.options = blank, index_of(dictionary, WORD_BOUNDARY), options
        options.warn()

    def set_options(self, options: SearchOptions) -> None:
        """Use other search options from now on, with the same language model."""
        self.options = options

    @torch.no_grad()
    def decode(self, emissions: torch.Tensor, lengths: torch.Tensor) -> list[list[Hypothesis]]:
        """Up to ``options.nbest`` hypotheses for each utterance; see ``CTCDecoder.decode``.

        ``score`` sums over all alignments of a text and includes the language model and silence scores. Token scores
        and frames are those of the most probable alignment. If no text is possible, there is one empty hypothesis with
        score ``-inf``.
        """
        lengths = lengths.to(emissions.device)
        valid = torch.arange(emissions.size(1), device=emissions.device) < lengths[:, None]  # (B, F)
        # (B,): False if the utterance contains a frame in which no symbol is possible, or NaN
        possible = (emissions.max(dim=-1).values.isfinite() | ~valid).all(dim=1)
        valid &= possible[:, None]
        prefix_ids: dict[tuple[int, int], int] = {}
        beam = self.initial_beam(emissions)
        for frame in range(emissions.size(1)):
            beam = self.advance(beam, self.frame_scores(emissions[:, frame], valid[:, frame]), prefix_ids)
        # (B, K), including the end of the sentence
        scores = beam.total() + self.options.lm_weight * beam.lm_scores[:, :, -1]
        scores, order = scores.sort(dim=1, descending=True)
        beam, results = beam.select(order), []
        for row, length in enumerate(lengths.tolist()):
            if length == 0 or not possible[row]:
                results.append([empty_hypothesis(0.0 if length == 0 else -math.inf)])
                continue
            best = zip(scores[row].tolist(), beam.texts[row], beam.lengths[row].tolist())
            texts = [(score, text[:size]) for score, text, size in best if score > -math.inf][: self.options.nbest]
            results.append(
                [self.aligned(emissions[row, :length].float().cpu(), text.cpu(), score) for score, text in texts]
                or [empty_hypothesis(-math.inf)]
            )
        return results

    def initial_beam(self, emissions: torch.Tensor) -> Beam:
        """A beam that contains only the empty prefix, for each row of a batch."""
        ids = torch.zeros(len(emissions), 1, dtype=torch.long, device=emissions.device)  # (B, 1)
        zeros = torch.zeros_like(ids, dtype=torch.double)
        # (1, V + 1), (1, ...): the same for all utterances
        lm_scores, lm_states = self.lm.next_log_probs(ids[:1], ids[0], zeros[:1])
        lm_scores, lm_states = (tensor[None].expand(len(emissions), *tensor.shape) for tensor in (lm_scores, lm_states))
        return Beam(
            blank=zeros,
            symbol=zeros - math.inf,
            ids=ids,
            parents=ids + NO_PREFIX,
            texts=ids[:, :, None],
            lengths=ids,
            lm_scores=lm_scores.clamp(min=IMPOSSIBLE),
            lm_states=lm_states,
        )

    def frame_scores(self, emissions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Add the silence score to the (B, V) log-probabilities of a frame; returns float64.

        After the end of an utterance (``valid``, (B,), is False) the blank has probability 1, which changes nothing.
        """
        scores = self.with_silence(emissions)
        only_blank = torch.full_like(scores, -math.inf)
        only_blank[:, self.blank] = 0.0
        return torch.where(valid[:, None], scores, only_blank)

    def with_silence(self, emissions: torch.Tensor) -> torch.Tensor:
        """(..., V) -> float64 copy, with the silence score added to the word boundary's."""
        scores = emissions.to(torch.double, copy=True)
        if self.boundary is not None:
            scores[..., self.boundary] += self.options.sil_weight
        return scores

    def advance(self, beam: Beam, emissions: torch.Tensor, prefix_ids: dict[tuple[int, int], int]) -> Beam:
        """The beam after one more frame.

        Args:
            beam: K prefixes for each utterance.
            emissions: (B, V) float64.
            prefix_ids: (id of the parent, last symbol) -> id, for all prefixes of this batch; new prefixes are added.
        """
        scores, symbols = emissions.topk(min(self.options.beam_size_token, emissions.size(1)))  # (B, S)
        kept = torch.full_like(emissions, -math.inf).scatter(1, symbols, scores)  # (B, V)
        scores = scores.masked_fill(symbols == self.blank, -math.inf)
        last, total = beam.last(default=self.blank), beam.total()  # (B, K)

        # case 1: the text stays the same
        blank = total + kept[:, self.blank, None]
        symbol = beam.symbol + kept.gather(1, last)
        # case 2: the text grows by one symbol; a repeat of the last symbol requires a blank in between
        lm_scores = beam.lm_scores.gather(2, symbols[:, None].expand(-1, last.size(1), -1))  # (B, K, S)
        repeats = symbols[:, None] == last[:, :, None]
        longer = (
            torch.where(repeats, beam.blank[:, :, None], total[:, :, None])
            + scores[:, None]
            + self.options.lm_weight * lm_scores
        )
        longer = longer.flatten(1)  # (B, K * S)

        # If the longer text is already in the beam, its alignments are added to that entry.
        # An empty slot may be found as a parent, but its scores are -inf.
        child = beam.ids[:, :, None] == beam.parents[:, None]  # (B, parent, child)
        merged = child.any(dim=1) & repeats.any(dim=2)  # (B, K), for each child
        source = child.int().argmax(dim=1) * symbols.size(1) + repeats.int().argmax(dim=2)  # (B, K), index into longer
        symbol = torch.logaddexp(symbol, longer.gather(1, source).masked_fill(~merged, -math.inf))
        longer = longer.masked_fill(torch.zeros_like(longer).scatter_add(1, source, merged.double()) > 0, -math.inf)

        candidates = torch.cat([torch.logaddexp(blank, symbol), longer], dim=1)  # (B, K + K * S)
        threshold = candidates.max(dim=1, keepdim=True).values - self.options.beam_threshold
        candidates = candidates.masked_fill(candidates < threshold, -math.inf)
        values, chosen = candidates.topk(min(self.options.beam, candidates.size(1)))  # (B, K')
        chosen = chosen - last.size(1)  # negative: the text stays the same
        new, unused = chosen >= 0, values == -math.inf
        slots = torch.where(new, chosen // symbols.size(1), chosen + last.size(1))
        after = beam.select(slots)
        after.blank = blank.gather(1, slots).masked_fill(new | unused, -math.inf)
        after.symbol = torch.where(new, values, symbol.gather(1, slots)).masked_fill(unused, -math.inf)
        after.ids = after.ids.masked_fill(unused, NO_PREFIX)
        after.parents = after.parents.masked_fill(unused, NO_PREFIX)
        return self.append(after, symbols.gather(1, chosen.clamp(min=0) % symbols.size(1)), new & ~unused, prefix_ids)

    def append(
        self, beam: Beam, symbols: torch.Tensor, new: torch.Tensor, prefix_ids: dict[tuple[int, int], int]
    ) -> Beam:
        """Append ``symbols`` (B, K) to the ``new`` prefixes ((B, K) bool), with one language model call for all."""
        if not new.any():
            return beam
        if int(beam.lengths.max()) == beam.texts.size(2):
            beam.texts = torch.nn.functional.pad(beam.texts, (0, 1))
        # For prefixes that are not new, this writes past their end, where the value is ignored.
        beam.texts = beam.texts.scatter(2, beam.lengths[:, :, None], symbols[:, :, None])
        beam.lengths = beam.lengths + new
        keys = zip(beam.ids[new].tolist(), symbols[new].tolist())
        beam.parents = torch.where(new, beam.ids, beam.parents)
        beam.ids[new] = torch.tensor(
            [prefix_ids.setdefault(key, len(prefix_ids) + 1) for key in keys], device=new.device
        )
        lm_scores, beam.lm_states[new] = self.lm.next_log_probs(beam.texts[new], beam.lengths[new], beam.lm_states[new])
        beam.lm_scores[new] = lm_scores.clamp(min=IMPOSSIBLE)
        return beam

    def aligned(self, emissions: torch.Tensor, tokens: torch.Tensor, score: float) -> Hypothesis:
        """A hypothesis from the best alignment of (N,) tokens to (F, V) log-probabilities, both on the CPU."""
        path = best_alignment(self.with_silence(emissions), tokens, self.blank)  # (F,)
        frames = (run_starts(path[None])[0] & (path % 2 == 1)).nonzero()[:, 0]
        return make_hypothesis(tokens, score, emissions[frames, tokens], frames)


def best_alignment(emissions: torch.Tensor, tokens: torch.Tensor, blank: int) -> torch.Tensor:
    """Viterbi alignment: (F, V) log-probabilities, (N,) tokens that they can emit -> (F,) states.

    State 2 n + 1 is token n; state 2 n is the blank before it.
    """
    states = torch.full((2 * len(tokens) + 1,), blank)
    states[1::2] = tokens
    scores = emissions[:, states]  # (F, 2 N + 1)
    skips = torch.full_like(scores[0], -math.inf)  # 0 where the blank before a token may be skipped
    skips[3::2][tokens[1:] != tokens[:-1]] = 0.0
    score = torch.full_like(scores[0], -math.inf)
    score[:2] = scores[0, :2]
    steps = []
    for frame in scores[1:]:
        previous = torch.nn.functional.pad(score, (2, 0), value=-math.inf)  # state s - step is at index s + 2 - step
        score, step = torch.stack([score, previous[1:-1], previous[:-2] + skips]).max(dim=0)
        score = score + frame
        steps.append(step.tolist())
    path = [len(states) - 2 + int(score[-2:].argmax()) if len(tokens) else 0]
    for step in reversed(steps):
        path.append(path[-1] - step[path[-1]])
    return torch.tensor(path[::-1])

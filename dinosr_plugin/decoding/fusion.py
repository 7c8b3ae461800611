"""Beam search over symbols with a neural language model ("shallow fusion"), whose scores are asked for in batches.

Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2 (prefix search); Hannun et al., "First-Pass Large Vocabulary
Continuous Speech Recognition using Bi-Directional Recurrent DNNs", 2014 (with a language model). It finds what ``BeamDecoder`` finds, but
works on all prefixes of a batch at once, since flashlight-text asks a language model for one score at a time.
"""

import math
from dataclasses import dataclass, fields

import torch
from fairseq.data import Dictionary

from .base import Hypothesis
from .best_path import hypothesis, starts_of_runs
from .neural_lm import NeuralLM
from .search import IMPOSSIBLE, WORD_BOUNDARY, SearchOptions, empty, index_of

NOBODY = -1
"""Number of a place in the beam that holds no prefix, and of the parent of the empty prefix."""


@dataclass
class Beam:
    """K prefixes of each of B utterances, likeliest first; places without prefix have log-probabilities of ``-inf``.

    blank, symbol: (B, K) float64; natural-log probability, with the language model's, of the prefix's alignments that end in a blank, and of
        those that end in its last symbol.
    ids, parents: (B, K) int64; number of the prefix, the same in all utterances, and of the prefix without its last symbol.
    texts, lengths: (B, K, L) and (B, K) int64; the prefix.
    rows: (B, K, V + 1) float32; what the language model expects behind it.
    states: (B, K, ...); what the language model remembers of it.
    """

    blank: torch.Tensor
    symbol: torch.Tensor
    ids: torch.Tensor
    parents: torch.Tensor
    texts: torch.Tensor
    lengths: torch.Tensor
    rows: torch.Tensor
    states: torch.Tensor

    def total(self) -> torch.Tensor:
        """(B, K) log-probability of the prefix."""
        return torch.logaddexp(self.blank, self.symbol)

    def last(self, otherwise: int) -> torch.Tensor:
        """(B, K) last symbol, of the empty prefix ``otherwise``."""
        symbols = self.texts.gather(2, (self.lengths - 1).clamp(min=0)[:, :, None])[:, :, 0]
        return symbols.masked_fill(self.lengths == 0, otherwise)

    def at(self, places: torch.Tensor) -> "Beam":
        """The prefixes at (B, K') places of this beam."""
        utterances = torch.arange(len(places), device=places.device)[:, None]  # (B, 1)
        return Beam(*(getattr(self, field.name)[utterances, places] for field in fields(self)))


class FusionDecoder:
    """A ``CTCDecoder``, on the device of the emissions; the language model is one of the dictionary's symbols (letters with ``|``, pieces).

    Args:
        dictionary: the target dictionary, V symbols.
        blank: index of the CTC blank in it.
        options: see ``SearchOptions``; ``lm_weight`` counts natural logarithms here.
        lm: fairseq's language model, from ``options.lm_path``.

    Raises:
        UserError: ``lm`` is no language model, or lacks symbols.
    """

    def __init__(self, dictionary: Dictionary, blank: int, options: SearchOptions, lm: torch.nn.Module):
        self.lm = NeuralLM(lm, dictionary, blank, str(options.lm_path))
        self.blank, self.boundary, self.options = blank, index_of(dictionary, WORD_BOUNDARY), options
        options.warn()

    def set_options(self, options: SearchOptions) -> None:
        """Search otherwise from now on, with the same language model."""
        self.options = options

    @torch.no_grad()
    def decode(self, emissions: torch.Tensor, lengths: torch.Tensor) -> list[list[Hypothesis]]:
        """Up to ``options.nbest`` hypotheses for each utterance; see ``CTCDecoder.decode``.

        ``score`` sums over all alignments of a text, and holds the language model and the silence scores. Token scores and frames are those
        of the likeliest alignment. Where no text is possible there is one empty hypothesis with score ``-inf``.
        """
        lengths = lengths.to(emissions.device)
        heard = torch.arange(emissions.size(1), device=emissions.device) < lengths[:, None]  # (B, F)
        possible = (emissions.max(dim=-1).values.isfinite() | ~heard).all(
            dim=1
        )  # (B,): no frame in which nothing may be emitted (or NaN)
        heard &= possible[:, None]
        numbers: dict[tuple[int, int], int] = {}
        beam = self.begin(emissions)
        for frame in range(emissions.size(1)):
            beam = self.advance(beam, self.frame_scores(emissions[:, frame], heard[:, frame]), numbers)
        scores = beam.total() + self.options.lm_weight * beam.rows[:, :, -1]  # (B, K), with the end of the sentence
        scores, order = scores.sort(dim=1, descending=True)
        beam, results = beam.at(order), []
        for row, length in enumerate(lengths.tolist()):
            if length == 0 or not possible[row]:
                results.append([empty(0.0 if length == 0 else -math.inf)])
                continue
            best = zip(scores[row].tolist(), beam.texts[row], beam.lengths[row].tolist())
            texts = [(score, text[:size]) for score, text, size in best if score > -math.inf][: self.options.nbest]
            results.append(
                [self.aligned(emissions[row, :length].float().cpu(), text.cpu(), score) for score, text in texts]
                or [empty(-math.inf)]
            )
        return results

    def begin(self, emissions: torch.Tensor) -> Beam:
        """The empty prefix, alone, for each row of a batch."""
        numbers = torch.zeros(len(emissions), 1, dtype=torch.long, device=emissions.device)
        zeros = torch.zeros_like(numbers, dtype=torch.double)
        rows, states = self.lm.after(numbers[:1], numbers[0], zeros[:1])  # (1, V + 1), (1, ...); the same for all
        rows, states = (tensor[None].expand(len(emissions), *tensor.shape) for tensor in (rows, states))
        return Beam(
            zeros,
            zeros - math.inf,
            numbers,
            numbers + NOBODY,
            numbers[:, :, None],
            numbers,
            rows.clamp(min=IMPOSSIBLE),
            states,
        )

    def frame_scores(self, emissions: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """(B, V) log-probabilities of a frame -> float64, with the silence score; behind an utterance's end, a sure blank changes nothing."""
        scores = self.with_silence(emissions)
        nothing = torch.full_like(scores, -math.inf)
        nothing[:, self.blank] = 0.0
        return torch.where(heard[:, None], scores, nothing)

    def with_silence(self, emissions: torch.Tensor) -> torch.Tensor:
        """(..., V) -> the same in float64, with the silence score added to the word boundary's."""
        scores = emissions.to(torch.double, copy=True)
        if self.boundary is not None:
            scores[..., self.boundary] += self.options.sil_weight
        return scores

    def advance(self, beam: Beam, emissions: torch.Tensor, numbers: dict[tuple[int, int], int]) -> Beam:
        """The beam after one frame more.

        Args:
            beam: K prefixes an utterance.
            emissions: (B, V) float64.
            numbers: of all prefixes of this batch, by their parent's number and last symbol; new ones are added.
        """
        scores, symbols = emissions.topk(min(self.options.beam_size_token, emissions.size(1)))  # (B, S)
        tried = torch.full_like(emissions, -math.inf).scatter(1, symbols, scores)  # (B, V)
        scores = scores.masked_fill(symbols == self.blank, -math.inf)
        last, total = beam.last(otherwise=self.blank), beam.total()  # (B, K)

        # the same text again
        blank = total + tried[:, self.blank, None]
        symbol = beam.symbol + tried.gather(1, last)
        # one symbol more; where it equals the last one, only behind a blank
        expected = beam.rows.gather(2, symbols[:, None].expand(-1, last.size(1), -1))  # (B, K, S)
        repeats = symbols[:, None] == last[:, :, None]
        longer = (
            torch.where(repeats, beam.blank[:, :, None], total[:, :, None])
            + scores[:, None]
            + self.options.lm_weight * expected
        )
        longer = longer.flatten(1)  # (B, K * S)

        # a longer text may be in the beam already: there its alignments are added up
        child = beam.ids[:, :, None] == beam.parents[:, None]  # (B, parent, child); NOBODY's are impossible
        found = child.any(dim=1) & repeats.any(dim=2)  # (B, K), of the child
        where = child.int().argmax(dim=1) * symbols.size(1) + repeats.int().argmax(dim=2)
        symbol = torch.logaddexp(symbol, longer.gather(1, where).masked_fill(~found, -math.inf))
        longer = longer.masked_fill(torch.zeros_like(longer).scatter_add(1, where, found.double()) > 0, -math.inf)

        candidates = torch.cat([torch.logaddexp(blank, symbol), longer], dim=1)  # (B, K + K * S)
        threshold = candidates.max(dim=1, keepdim=True).values - self.options.beam_threshold
        candidates = candidates.masked_fill(candidates < threshold, -math.inf)
        values, chosen = candidates.topk(min(self.options.beam, candidates.size(1)))  # (B, K')
        chosen = chosen - last.size(1)  # below 0: the same text again
        new, nobody = chosen >= 0, values == -math.inf
        places = torch.where(new, chosen // symbols.size(1), chosen + last.size(1))
        after = beam.at(places)
        after.blank = blank.gather(1, places).masked_fill(new | nobody, -math.inf)
        after.symbol = torch.where(new, values, symbol.gather(1, places)).masked_fill(nobody, -math.inf)
        after.ids, after.parents = after.ids.masked_fill(nobody, NOBODY), after.parents.masked_fill(nobody, NOBODY)
        return self.append(after, symbols.gather(1, chosen.clamp(min=0) % symbols.size(1)), new & ~nobody, numbers)

    def append(self, beam: Beam, symbols: torch.Tensor, new: torch.Tensor, numbers: dict[tuple[int, int], int]) -> Beam:
        """Lengthen the prefixes that are ``new`` (B, K) bool, by ``symbols`` (B, K); the language model reads them in one batch."""
        if not new.any():
            return beam
        if int(beam.lengths.max()) == beam.texts.size(2):
            beam.texts = torch.nn.functional.pad(beam.texts, (0, 1))
        # behind the end of those that are not new, where it does not matter
        beam.texts = beam.texts.scatter(2, beam.lengths[:, :, None], symbols[:, :, None])
        beam.lengths = beam.lengths + new
        keys = zip(beam.ids[new].tolist(), symbols[new].tolist())
        beam.parents = torch.where(new, beam.ids, beam.parents)
        beam.ids[new] = torch.tensor([numbers.setdefault(key, len(numbers) + 1) for key in keys], device=new.device)
        rows, beam.states[new] = self.lm.after(beam.texts[new], beam.lengths[new], beam.states[new])
        beam.rows[new] = rows.clamp(min=IMPOSSIBLE)
        return beam

    def aligned(self, emissions: torch.Tensor, tokens: torch.Tensor, score: float) -> Hypothesis:
        """A hypothesis with the frames of the likeliest alignment of (N,) tokens to (F, V) log-probabilities, both on the CPU."""
        path = likeliest_path(self.with_silence(emissions), tokens, self.blank)  # (F,)
        frames = (starts_of_runs(path[None])[0] & (path % 2 == 1)).nonzero()[:, 0]
        return hypothesis(tokens, score, emissions[frames, tokens], frames)


def likeliest_path(emissions: torch.Tensor, tokens: torch.Tensor, blank: int) -> torch.Tensor:
    """(F, V) log-probabilities, (N,) tokens that they can emit -> (F,) states of the likeliest alignment (Viterbi).

    State 2 n + 1 is token n, state 2 n the blank before it.
    """
    states = torch.full((2 * len(tokens) + 1,), blank)
    states[1::2] = tokens
    heard = emissions[:, states]  # (F, 2 N + 1)
    skips = torch.full_like(heard[0], -math.inf)  # 0 where the blank before a token may be left out
    skips[3::2][tokens[1:] != tokens[:-1]] = 0.0
    score = torch.full_like(heard[0], -math.inf)
    score[:2] = heard[0, :2]
    steps = []
    for frame in heard[1:]:
        behind = torch.nn.functional.pad(score, (2, 0), value=-math.inf)  # [2 + state - step] is step states back
        score, step = torch.stack([score, behind[1:-1], behind[:-2] + skips]).max(dim=0)
        score = score + frame
        steps.append(step.tolist())
    path = [len(states) - 2 + int(score[-2:].argmax()) if len(tokens) else 0]
    for step in reversed(steps):
        path.append(path[-1] - step[path[-1]])
    return torch.tensor(path[::-1])

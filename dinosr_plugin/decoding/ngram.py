"""N-gram models of transcripts, written as ARPA files for ``task.lm``, for when no better language model is available.

Interpolated modified Kneser-Ney smoothing (Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language
Modeling", 1999), as in KenLM's ``lmplz`` (Heafield et al., "Scalable Modified Kneser-Ney Language Model Estimation",
2013), which cannot be installed with pip:

    p(token | context) = (count - discount(count)) / total + weight(context) * p(token | shorter context)

``total`` is the sum of the context's counts, ``weight`` the sum of its discounts divided by ``total``, and the shorter
context lacks the first token. The recursion ends with the uniform distribution over all tokens, ``<unk>`` and ``</s>``.
Counts of the longest n-grams, and of those that begin with ``<s>``, are the numbers of occurrences in the text; all
others are the numbers of different tokens that precede the n-gram.

Witten-Bell smoothing is simpler but worse. Perplexity of 91 lines of LibriSpeech, unknown words included, after
training on 500 other lines: 3-gram of words 711 (Kneser-Ney: 465), 6-gram of letters 5.77 (4.79). A text of a million
words takes 5 s and 300 MB at order 3.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.manifest import require_writable, write_files
from ..errors import UserError
from ..files import read_lines

MIN_ORDER, MAX_ORDER = 2, 6
"""Orders that KenLM supports as it is compiled in the wheels of flashlight-text and kenlm."""

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
"""The first tokens of every vocabulary."""

BEGIN, END = 1, 2
"""Token numbers of ``<s>`` and ``</s>``."""

RESERVED = frozenset((*SPECIAL_TOKENS, "<UNK>"))
"""Tokens with a special meaning for KenLM."""

LOG10_ZERO = -99.0
"""Log10 probability of ``<s>``, which is never predicted; SRILM's convention."""

DEFAULT_DISCOUNT = 0.75
"""For texts that are too small to estimate a discount."""

REMEDY = "give transcripts: lines of words or symbols separated by spaces, such as train.wrd or train.ltr"


@dataclass(frozen=True)
class Grams:
    """The M different n-grams of one length in a text, each split into a context and a last token.

    context: (M,) row of the context among the n-grams that are one token shorter; 0 for single tokens (empty context).
    token: (M,) number of the last token.
    suffix: (M,) row of the n-gram without its first token among those one token shorter; 0 for single tokens.
    count: (M,) occurrences in the text; 0 for ``<unk>`` and for the single token ``<s>``, which is never predicted.
    """

    context: np.ndarray
    token: np.ndarray
    suffix: np.ndarray
    count: np.ndarray


def make_ngram(text: Path, order: int, out: Path) -> str:
    """Write an n-gram model of a text as an ARPA file, which KenLM reads. The file appears only when complete.

    Args:
        text: lines of tokens separated by spaces. Words (``train.wrd``) give a model for ``task.decoder=lexicon``,
            letters or pieces (``train.ltr``, ``train.bpe``) one for ``task.decoder=beam``. Each line is a sentence;
            empty lines are ignored.
        order: length of the longest n-grams, 2 to 6. Usual values are 3 for words and 6 for letters.
        out: the ARPA file.

    Returns:
        A one-line summary for the user.

    Raises:
        UserError: KenLM does not support the order, or no line is long enough for it; the text is missing, empty, not
            UTF-8 or contains KenLM's special tokens; ``out`` cannot be written.
    """
    if not MIN_ORDER <= order <= MAX_ORDER:
        raise UserError(
            f"--order {order}: KenLM supports orders {MIN_ORDER} to {MAX_ORDER}; use 3 for words, 6 for letters"
        )
    require_output_file(text, out)
    vocabulary, tokens = read_tokens(text)
    begins = tokens == BEGIN
    lines = int(begins.sum())
    orders = count_grams(tokens, begins, len(vocabulary), order)
    if len(orders) < order:
        tokens_in_longest = f"{len(orders)} tokens including {SPECIAL_TOKENS[BEGIN]} and {SPECIAL_TOKENS[END]}"
        raise UserError(
            f"--order {order}: no line of {text} is long enough; the longest has {tokens_in_longest}; "
            f"give --order {len(orders)} or longer lines"
        )
    probabilities, weights = smooth(orders)
    write_files(out.parent, {out.name: arpa_lines(vocabulary, orders, probabilities, weights)})
    sizes = ", ".join(f"{len(grams.token)} {n}-grams" for n, grams in enumerate(orders, start=1))
    return f"{out}: {order}-gram model of {lines} lines with {len(tokens) - 2 * lines} tokens; {sizes}"


def require_output_file(text: Path, out: Path) -> None:
    """Raise UserError, before any work, if ``out`` cannot be written or is the text itself."""
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of a file")
    if out.exists() and text.exists() and out.samefile(text):
        raise UserError(f"--out {out}: would overwrite the text; give another file name")
    require_writable(out.parent)


def read_tokens(text: Path) -> tuple[list[str], np.ndarray]:
    """Read (vocabulary, token numbers (T,) int64 of all lines, each enclosed in ``<s>`` and ``</s>``).

    Raises:
        UserError: see ``make_ngram``; the message names the file and, if possible, the line.
    """
    numbers: dict[str, int] = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    tokens = array("q")
    for number, line in enumerate(tqdm(read_lines(text, REMEDY), desc="reading", unit=" lines", disable=None), start=1):
        words = line.split()
        if not RESERVED.isdisjoint(words):
            token = next(word for word in words if word in RESERVED)
            raise UserError(
                f"{text}, line {number}: contains {token}, which is a special token of the language model; "
                "remove it from the text"
            )
        if words:
            tokens.extend([BEGIN, *(numbers.setdefault(word, len(numbers)) for word in words), END])
    if not tokens:
        raise UserError(f"{text}: contains no tokens; {REMEDY}")
    return list(numbers), np.frombuffer(tokens, dtype=np.int64)


def count_grams(tokens: np.ndarray, begins: np.ndarray, vocabulary: int, order: int) -> list[Grams]:
    """Count the n-grams of lengths 1 to ``order`` within lines; fewer lengths if no line is long enough.

    Args:
        tokens: (T,) token numbers of all lines.
        begins: (T,) bool, True at the ``<s>`` that begins a line.
        vocabulary: number of different tokens.
        order: maximum length.
    """
    nothing = np.zeros(vocabulary, dtype=np.int64)
    counts = np.bincount(tokens, minlength=vocabulary)
    counts[BEGIN] = 0
    orders = [Grams(nothing, np.arange(vocabulary), nothing, counts)]
    rows = tokens  # (T,) row of the n-gram that ends at each position
    ends = np.arange(len(tokens))  # (E,) positions at which an n-gram ends
    position = ends - np.maximum.accumulate(np.where(begins, ends, 0))  # (T,) position within the line
    for length in range(2, order + 1):
        ends = ends[position[ends] >= length - 1]
        if not len(ends):
            break
        pairs = rows[ends - 1] * vocabulary + tokens[ends]  # (E,) context and token as one number
        pairs, first, row, count = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        orders.append(Grams(pairs // vocabulary, pairs % vocabulary, rows[ends[first]], count))
        rows = np.zeros_like(rows)
        rows[ends] = row
    return orders


def smooth(orders: Sequence[Grams]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Probability of each n-gram's last token, and back-off weight of each context: (M,) for each length.

    The formula is at the top of this file. A context that nothing follows has weight 1; the longest n-grams have none.
    """
    vocabulary = len(orders[0].token)
    lower = np.array([1 / (vocabulary - 1)])  # (1,) uniform, without <s>
    probabilities, weights = [], []
    for n, grams in enumerate(orders):
        counts = grams.count if n + 1 == len(orders) else left_neighbours(grams, orders[n + 1])
        discount = discounts(counts)[np.minimum(counts, 3)]  # (M,)
        totals = np.bincount(grams.context, counts, minlength=len(lower))  # (contexts,)
        discounted = np.bincount(grams.context, discount, minlength=len(lower))  # (contexts,)
        weight = np.divide(discounted, totals, out=np.ones(len(lower)), where=totals > 0)
        lower = (counts - discount) / totals[grams.context] + weight[grams.context] * lower[grams.suffix]  # (M,)
        probabilities.append(lower)
        weights.append(weight)
    return probabilities, weights[1:]  # the first weight is that of the empty context


def left_neighbours(grams: Grams, longer: Grams) -> np.ndarray:
    """(M,) number of different tokens that precede each n-gram.

    Nothing precedes ``<s>``; n-grams that begin with it keep their count.
    """
    neighbours = np.bincount(longer.suffix, minlength=len(grams.token))
    return np.where(neighbours > 0, neighbours, grams.count)


def discounts(counts: np.ndarray) -> np.ndarray:
    """(4,) discounts of counts 0, 1, 2, and 3 or more: Chen and Goodman, equation 26.

    They are estimated from the numbers of n-grams with counts 1 to 4.

    Some of these numbers are 0 for small texts, and for letter models, whose counts are all large. Then one discount is
    used for all counts: that of Ney, Essen and Kneser (1994), which needs two of the numbers, or else 0.75. On texts of
    3 to 300 lines this was better more often than lmplz's fixed 0.5, 1 and 1.5 (perplexity of a 3-gram of the
    quickstart's words: 49.6 against 53.4).
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(float)  # n[c]: number of n-grams with count c
    single = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else DEFAULT_DISCOUNT
    if n[1:].all():
        estimated = [c - (c + 1) * single * n[c + 1] / n[c] for c in (1, 2, 3)]
        if min(estimated) > 0:
            return np.array([0.0, *estimated])
    return np.array([0.0, single, single, single])


def arpa_lines(
    vocabulary: list[str], orders: Sequence[Grams], probabilities: list[np.ndarray], weights: list[np.ndarray]
) -> Iterator[str]:
    """Lines of the ARPA file: log10 probability, n-gram, log10 back-off weight (not for the longest), tab-separated."""
    yield "\\data\\"
    for n, grams in enumerate(orders, start=1):
        yield f"ngram {n}={len(grams.token)}"
    texts = vocabulary
    with tqdm(
        total=sum(len(grams.token) for grams in orders), desc="writing", unit=" n-grams", unit_scale=True, disable=None
    ) as bar:
        for n, grams in enumerate(orders, start=1):
            yield ""
            yield f"\\{n}-grams:"
            scores = np.log10(probabilities[n - 1])
            if n == 1:
                scores[BEGIN] = LOG10_ZERO
            else:
                texts = [
                    f"{texts[context]} {vocabulary[token]}"
                    for context, token in zip(grams.context.tolist(), grams.token.tolist())
                ]
            if n < len(orders):
                for score, text, weight in zip(scores.tolist(), texts, np.log10(weights[n - 1]).tolist()):
                    yield f"{score:.7g}\t{text}\t{weight:.7g}"
                    bar.update()
            else:
                for score, text in zip(scores.tolist(), texts):
                    yield f"{score:.7g}\t{text}"
                    bar.update()
    yield ""
    yield "\\end\\"

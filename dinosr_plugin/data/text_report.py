"""What normalising has changed in the transcripts of a corpus, as a table.

text_changes.txt    ``change<TAB>before<TAB>after<TAB>count<TAB>examples``, of the command that wrote it
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import UserError, printable
from .manifest import ManifestRow, Split, raise_problems
from .text_normalization import STEPS, TextNormalization

TABLE = "text_changes.txt"
COLUMNS = ("change", "before", "after", "count", "examples")
EXAMPLES = 3  # words that show a change
READ_ALOUD = "%&+=@#$\u20ac\u00a3\u00b0\u00a7"  # symbols that stand for words


@dataclass
class TextReport:
    """Counts what changes, and the symbols before and after."""

    counts: Counter = field(default_factory=Counter)  # (step, before, after) -> number
    examples: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    before: Counter = field(default_factory=Counter)  # symbol -> number
    after: Counter = field(default_factory=Counter)

    def record(self, step: str, old: str, new: str, word: str) -> None:
        """A change: of ``TextNormalization.apply``."""
        change = (step, old, new)
        self.counts[change] += 1
        words = self.examples.setdefault(change, [])
        if len(words) < EXAMPLES and word not in words:
            words.append(word)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each change with the keys ``COLUMNS``: steps in their order, in each the most frequent first."""
        changes = sorted(self.counts.items(), key=lambda item: (STEPS.index(item[0][0]), -item[1], item[0]))
        return [
            dict(zip(COLUMNS, (step, named(old), named(new), number, self.examples[step, old, new])))
            for (step, old, new), number in changes
        ]

    def short_rows(self, most: int) -> list[dict[str, Any]]:
        """At most ``most`` rows: one for all changes of case, and the last ones of a step as one where it has many."""
        steps = [list(rows) for _, rows in groupby(self.rows(), key=lambda row: row["change"])]
        short = []
        for rows in steps:
            shown = 1 if rows[0]["change"] == "case" else max(2, (most - len(steps)) // len(steps))
            short += rows if len(rows) <= shown else [*rows[: shown - 1], joined_row(rows[shown - 1 :])]
        return short

    def table_lines(self) -> list[str]:
        rows = [[printable(str(row[name])) for name in COLUMNS] for row in map(with_text, self.rows())]
        return ["\t".join(row) for row in [list(COLUMNS), *rows]]

    def notes(self) -> list[str]:
        """What the user should look at."""
        removed = Counter()
        for (step, old, _), number in self.counts.items():
            removed += Counter({one: number for one in set(old) & set(READ_ALOUD) if step == "punctuation"})
        if not removed:
            return []
        what = ", ".join(f"{one!r} ({number})" for one, number in removed.most_common())
        return [f"{what}: removed, although it is read aloud; give the words for it with --text-replace"]


def joined_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row for many."""
    words = dict.fromkeys(row["examples"][0] for row in rows)
    joined = {"change": rows[0]["change"], "count": sum(row["count"] for row in rows), "examples": list(words)}
    for name in ("before", "after"):
        symbols = list(dict.fromkeys(row[name].split()[0] for row in rows))
        joined[name] = " ".join(symbols[:8]) + (" ..." if len(symbols) > 8 else "")
    return joined


def with_text(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its examples as text."""
    return {**row, "examples": ", ".join(row["examples"][:EXAMPLES])}


def named(text: str) -> str:
    """How a table shows a symbol: characters that one may not see or not tell apart by their code points."""
    if not text.strip(" "):
        return "space" if text else "nothing"
    points = " ".join(f"U+{ord(one):04X}" for one in text)
    if len(text) > 1 and text.isprintable() and unicodedata.is_normalized("NFC", text):
        return text
    if not text.isprintable() or any(unicodedata.category(one)[0] == "M" for one in text):
        return points
    return text if text.isascii() else f"{text} {points}"


def normalize_splits(splits: list[Split], rule: TextNormalization, root: Path) -> tuple[list[Split], TextReport]:
    """The splits with normalised words where they have words, and what that has changed.

    A file that several splits contain counts once. Raises one UserError that lists every transcript that cannot be
    used: those with digits, and those that have no words any more.
    """
    report, problems = TextReport(), []
    done: dict[Path, str] = {}
    rows = [(split, row) for split in splits for row in split.utterances if row.words is not None]
    for split, row in tqdm(rows, desc="normalising", unit=" texts", disable=None):
        file = split.root / row.path
        if file in done:
            continue
        try:
            done[file] = words = rule.apply(row.words, report.record)
            fault = rule.fault(words)
        except UserError as error:
            done[file], fault = row.words, str(error)
        if fault:
            problems.append(f"{file.relative_to(root) if file.is_relative_to(root) else row.path}: {fault}")
        report.before.update(row.words.replace(" ", ""))
        report.after.update(done[file].replace(" ", ""))
    if problems:
        raise_problems(problems, root)
    return [replace(split, utterances=normalized_rows(split, done)) for split in splits], report


def normalized_rows(split: Split, words: dict[Path, str]) -> list[ManifestRow]:
    """The rows with the words of their files; those without words stay, also if another split has their words."""
    return [row if row.words is None else replace(row, words=words[split.root / row.path]) for row in split.utterances]

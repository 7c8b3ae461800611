"""All that a ZeroSpeech 2021 submission of a spoken language model holds: sWUGGY, sBLIMP (``zerospeech_pairs.py``) and sSIMI (``zerospeech_semantic.py``)."""

from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError
from ..table import format_table
from .pairs import lexical, syntactic
from .semantic import semantic, semantic_table

TABLES = (("lexical", "sWUGGY", "frequency"), ("lexical", "sWUGGY", "length"), ("syntactic", "sBLIMP", "type"))


def evaluate(dataset: Path, submission: Path, subset: str, pooling: str) -> dict:
    """{"lexical", "syntactic", "semantic"}: what ``lexical``, ``syntactic`` and ``semantic`` return, for those that the submission holds.

    ``subset``: dev or test. Raises UserError where it holds none, and as they do.
    """
    found: dict = {}
    for name, measure in (("lexical", lexical), ("syntactic", syntactic)):
        scores = submission / name / f"{subset}.txt"
        if scores.exists():
            found[name] = measure(dataset / name / subset / "gold.csv", scores)
    if (submission / "semantic" / subset).exists():
        found["semantic"] = semantic(dataset / "semantic" / subset, submission / "semantic" / subset, pooling)
    if not found:
        raise UserError(
            f"{submission}: holds neither lexical/{subset}.txt nor syntactic/{subset}.txt nor semantic/{subset}; name a submission's folder"
        )
    return found


def report(found: Mapping) -> str:
    """Tables of what ``evaluate`` returned."""
    tables = []
    for name, title, group in TABLES:
        if name in found:
            rows = [*found[name][f"by_{group}"], {"group": "all", **found[name]}]
            table = format_table(rows, [("group", group, ""), ("pairs", "pairs", "d"), ("score", "%", ".2f")])
            tables.append(f"{title}\n{table}")
    if "semantic" in found:
        tables.append(f"sSIMI\n{semantic_table(found['semantic'])}")
    return "\n\n".join(tables)

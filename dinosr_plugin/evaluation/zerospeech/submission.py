"""Scores of a ZeroSpeech 2021 submission: sWUGGY and sBLIMP (``pairs.py``) and sSIMI (``semantic.py``)."""

from collections.abc import Mapping
from pathlib import Path

from ...errors import UserError
from ...files import kind_of
from ..table import format_table
from .pairs import lexical, syntactic
from .semantic import semantic, semantic_table

TABLES = (("lexical", "sWUGGY", "frequency"), ("lexical", "sWUGGY", "length"), ("syntactic", "sBLIMP", "type"))


def evaluate(dataset: Path, submission: Path, subset: str, pooling: str) -> dict:
    """{"lexical", "syntactic", "semantic"}: results of these functions for the parts that the submission contains.

    ``subset``: dev or test. Raises UserError if the submission contains none of the parts, and as these functions.
    """
    results: dict = {}
    for name, measure in (("lexical", lexical), ("syntactic", syntactic)):
        scores = submission / name / f"{subset}.txt"
        if kind_of(scores) != "nothing":
            results[name] = measure(dataset / name / subset / "gold.csv", scores)
    if kind_of(submission / "semantic" / subset) != "nothing":
        results["semantic"] = semantic(dataset / "semantic" / subset, submission / "semantic" / subset, pooling)
    if not results:
        raise UserError(
            f"{submission}: contains none of lexical/{subset}.txt, syntactic/{subset}.txt and semantic/{subset}; "
            "give the folder of a submission"
        )
    return results


def report(results: Mapping) -> str:
    """The results of ``evaluate`` as tables."""
    tables = []
    for name, title, group in TABLES:
        if name in results:
            rows = [*results[name][f"by_{group}"], {"group": "all", **results[name]}]
            table = format_table(rows, [("group", group, ""), ("pairs", "pairs", "d"), ("score", "%", ".2f")])
            tables.append(f"{title}\n{table}")
    if "semantic" in results:
        tables.append(f"sSIMI\n{semantic_table(results['semantic'])}")
    return "\n\n".join(tables)

"""Curves from the log that fairseq writes with ``common.log_format=json``."""

import json
import re
from pathlib import Path
from typing import Dict, List, Tuple, Union

from ..errors import UserError

RECORD = re.compile(r"(train_inner|train|valid)[^{]*(\{.*\})\s*$")


def read_training_log(path: Union[str, Path], kind: str = "train_inner") -> List[Dict[str, float]]:
    """Records of one kind, each name -> number, in order of updates; a run that was resumed overwrites what it repeats.

    Args:
        kind: ``train_inner`` (every ``common.log_interval`` updates), ``train`` (every epoch) or ``valid``.

    Raises UserError for a missing file.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such log; train with common.log_format=json and common.log_file=FILE")
    records: Dict[int, Dict[str, float]] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            found = RECORD.search(line)
            if found and found.group(1) == kind:
                record = _numbers(found.group(2), kind)
                if "num_updates" in record:
                    records[int(record["num_updates"])] = record
    return [records[update] for update in sorted(records)]


def curve(records: List[Dict[str, float]], key: str) -> List[Tuple[int, float]]:
    """(update, value) of the records that have ``key``."""
    return [(int(record["num_updates"]), record[key]) for record in records if key in record]


def _numbers(text: str, kind: str) -> Dict[str, float]:
    """fairseq writes numbers as strings, and puts ``train_`` or ``valid_`` before the names of an epoch's figures."""
    try:
        record = json.loads(text)
    except ValueError:  # a line that a kill cut short
        return {}
    numbers = {}
    for key, value in record.items():
        try:
            numbers[key.removeprefix(f"{kind}_")] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers

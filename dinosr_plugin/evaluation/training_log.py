"""Curves from the log that fairseq writes with ``common.log_format=json`` (``common.log_file``, or what it prints)."""

import json
from pathlib import Path
from typing import Dict, List, Tuple, Union

from ..errors import UserError


def read_training_log(path: Union[str, Path], subset: str = "") -> List[Dict[str, float]]:
    """Records in order of updates, each name -> number; what a resumed run repeats counts once, its last time.

    Args:
        subset: "" for the figures of every ``common.log_interval`` updates, "train" for those of whole epochs, or the name of a validation subset.

    Raises UserError for a missing file.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such log; train with common.log_format=json and common.log_file=FILE")
    prefix = f"{subset}_" if subset else ""
    records: Dict[int, Dict[str, float]] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            record = _numbers(line)
            if f"{prefix}num_updates" in record:
                records[int(record[f"{prefix}num_updates"])] = {key.removeprefix(prefix): value for key, value in record.items()}
    return [records[update] for update in sorted(records)]


def curve(records: List[Dict[str, float]], key: str) -> List[Tuple[int, float]]:
    """(update, value) of the records that have ``key``."""
    return [(int(record["num_updates"]), record[key]) for record in records if key in record]


def loss_curve(records: List[Dict[str, float]]) -> List[Tuple[int, float]]:
    """The pre-training loss on masked frames, in nats; without the other losses of a model that has several."""
    return curve(records, "loss_dinosr") or curve(records, "loss")


def _numbers(line: str) -> Dict[str, float]:
    """The numbers of a line that ends in a JSON object (fairseq writes them as strings); nothing for another line, or one cut short by a kill."""
    _, brace, rest = line.partition("{")
    try:
        record = json.loads(brace + rest)
    except ValueError:
        return {}
    numbers = {}
    for key, value in record.items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers

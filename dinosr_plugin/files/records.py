"""JSON that is checked against the types of a dataclass."""

import json
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import UserError
from .text import read_text

Record = TypeVar("Record")
MAX_NUMBER = 1 << 53  # largest absolute value of whole numbers in JSON: up to here float64 is exact


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError as ``read_text`` does, and for anything but an object."""
    text = read_text(path, remedy)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def read_record(path: str | Path, kind: type[Record], remedy: str) -> Record:
    """The dataclass ``kind`` in a JSON file. Raises UserError as ``read_json`` does, and for other fields or types."""
    values = read_json(path, remedy)
    try:
        return to_record(kind, values)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def parse_json(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError, whose message describes the fault, for anything else."""
    try:
        value = json.loads(text)
    # ValueError: also bytes that are not UTF-8, and numbers of more than 4,300 digits
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(value, dict):
        raise ValueError("contains no JSON object")
    return value


def to_record(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """A dataclass from values that were read from a file, each of the type that the dataclass states.

    Types may be int, float, str, bool, None, unions of them, and lists and dictionaries, whose items are checked too.
    Whole numbers are at most ``MAX_NUMBER``, other numbers finite.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names it.
    """
    hints, known = get_type_hints(kind), fields(kind)  # type: ignore[arg-type]
    required = {field.name for field in known if field.default is MISSING and field.default_factory is MISSING}
    for name in sorted(required - values.keys()):
        raise ValueError(f"field {name} is missing")
    for name in sorted(values.keys() - {field.name for field in known}):
        raise ValueError(f"field {name} is unknown")
    for name, value in values.items():
        if not has_type(value, hints[name]):
            raise ValueError(f"field {name} is {json.dumps(value)[:40]}, which is not of type {type_name(hints[name])}")
    return kind(**values)


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a type that ``to_record`` knows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(has_type(value, one) for one in arguments)
    if origin is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if origin is dict:  # JSON's keys are strings
        return isinstance(value, dict) and all(has_type(item, arguments[1]) for item in value.values())
    if hint is float:  # 50 is a float too; every comparison with NaN is false
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint is int:
        return type(value) is int and abs(value) <= MAX_NUMBER
    return type(value) is hint


def type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if not get_args(hint) else str(hint)

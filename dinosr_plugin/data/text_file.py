"""Normalising a text file line by line."""

from pathlib import Path

from tqdm import tqdm

from ..errors import UserError
from ..files import kind_of, read_lines, text_output
from .manifest import SHOWN, letters
from .text_normalization import TextNormalization


def normalize_file(text: Path, rule: TextNormalization, out: Path, skip: bool) -> list[str]:
    """Write the lines of a text, normalised: as letters if ``out`` ends in .ltr, otherwise as words.

    Empty lines stay empty, so that line n remains line n.

    Args:
        skip: leave out lines that cannot be used, empty ones too, instead of raising.

    Returns:
        Notes for the user.

    Raises:
        UserError: a file cannot be read or written, or lines cannot be used; it lists the first of them.
    """
    if kind_of(out) == kind_of(text) == "file" and out.samefile(text):
        raise UserError(f"--out {out}: would overwrite the text; give another file name")
    problems: list[str] = []
    unusable = 0
    with text_output(out) as file:
        lines = tqdm(read_lines(text, "give a text file"), desc="normalising", unit=" lines", disable=None)
        for number, line in enumerate(lines, start=1):
            words = rule.apply(line)
            fault = rule.fault(words) if line.strip() or skip else None
            unusable += fault is not None
            if fault and not skip:
                problems += [f"line {number}: {fault}"] if len(problems) < SHOWN else []
            elif not fault:
                file.write((letters(words) if words and out.suffix == ".ltr" else words) + "\n")
        if problems:
            more = [f"  ... and {unusable - SHOWN} more"] if unusable > SHOWN else []
            raise UserError(
                f"{text}: {unusable} line(s) cannot be used; correct them, or add --skip-unusable to leave them out:",
                [*(f"  {problem}" for problem in problems), *more],
            )
    return [f"{unusable} line(s) were left out"] if unusable else []

"""The one exception that is meant for the person at the keyboard."""

from collections.abc import Sequence

from hydra.errors import CompactHydraException


class UserError(CompactHydraException, ValueError):
    """Something the user can fix: the message is one line that names the file or field and the remedy.

    Hydra prints a ``CompactHydraException`` without a traceback, ``compat.messages.one_line_errors`` does the same
    for the other command-line programs; the exit status is 1 in both cases.
    """


def first_few(items: Sequence, n: int = 3) -> str:
    """``a, b, c, ...``: a list cut short for a message."""
    return ", ".join(map(str, items[:n])) + (", ..." if len(items) > n else "")

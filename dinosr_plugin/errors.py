"""The one exception whose message is written for the user, and a helper for such messages."""

from collections.abc import Sequence

from hydra.errors import CompactHydraException


class UserError(CompactHydraException, ValueError):
    """An error that the user can fix: the message is one line that names the file or field and the remedy.

    Hydra prints a ``CompactHydraException`` without a traceback; ``compat.messages.one_line_errors`` does the same
    for the other command-line programs. The exit status is 1 in both cases.
    """


def first_few(items: Sequence, n: int = 3) -> str:
    """The first ``n`` items for a message: ``a, b, c``, or ``a, b, c, ...`` if there are more."""
    return ", ".join(map(str, items[:n])) + (", ..." if len(items) > n else "")

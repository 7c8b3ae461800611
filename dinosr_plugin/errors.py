"""The one exception whose message is written for the user, and a helper for such messages."""

from collections.abc import Sequence


class UserError(ValueError):
    """An error that the user can fix: the message is one line that names the file or field and the remedy.

    ``compat.messages`` makes Hydra and the other command-line programs print it without a traceback. The exit status is
    1 in both cases.
    """


def first_few(items: Sequence, n: int = 3) -> str:
    """The first ``n`` items for a message: ``a, b, c``, or ``a, b, c, ...`` if there are more."""
    return ", ".join(map(str, items[:n])) + (", ..." if len(items) > n else "")

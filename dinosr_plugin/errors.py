"""The one exception that is meant for the person at the keyboard."""

from hydra.errors import CompactHydraException


class UserError(CompactHydraException, ValueError):
    """Something the user can mend: the message is one line that names the file or field and the remedy.

    Hydra prints a ``CompactHydraException`` without a traceback, ``compat.messages.one_line_errors`` does the same
    for the other command-line programs; the exit status is 1 in both cases.
    """

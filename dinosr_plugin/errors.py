"""The exception for errors that the user can fix."""

from hydra.errors import CompactHydraException


class UserError(CompactHydraException, ValueError):
    """An error that the user can fix: the message is one line that names the file or field, the fault and the remedy.

    Hydra prints a ``CompactHydraException`` without a traceback; ``compat.messages.one_line_errors`` does the same
    for the other command-line programs. The exit status is 1 in both cases.
    """

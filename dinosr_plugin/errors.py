"""The exception for errors that the user can fix."""


class UserError(ValueError):
    """An error that the user can fix: the message is one line that names the file or field, the fault and the remedy.

    ``compat.messages`` makes Hydra and the other command-line programs print it without a traceback. The exit status is
    1 in both cases.
    """

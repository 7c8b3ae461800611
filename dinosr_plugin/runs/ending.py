"""What is undone at the end of a training, because its process may continue: signal handlers and locks."""

from contextlib import ExitStack

from ..compat.wrapping import wrap_once

at_end = ExitStack()
"""Add what is to be undone: ``at_end.callback(function, ...)``."""


def undo_at_end():
    """Empty ``at_end`` when fairseq's ``call_main`` returns or raises.

    fairseq imports the plug-in inside ``call_main``. So the first training of a process that did not import it before
    has no such moment: its process usually ends with it.
    """
    from fairseq.distributed import utils as distributed_utils

    def make(previous):
        def call_main(*args, **kwargs):
            try:
                return previous(*args, **kwargs)
            finally:
                at_end.close()

        return call_main

    wrap_once(distributed_utils, "call_main", make)

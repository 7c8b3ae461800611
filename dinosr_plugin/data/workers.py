"""Processes that end with the one that started them."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading


def set_up_worker() -> None:
    """The initializer of a worker process: Ctrl-C is left to the parent, and the worker exits when the parent dies.

    A killed parent cannot stop its workers, and their queue stays open because they hold both ends of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which ends this process
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

"""Searches in processes of their own, so that they go on while the network works on the next batch.

flashlight-text holds Python's global lock while it searches: threads would wait for one another.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .. import compat
from ..errors import UserError
from .base import CTCDecoder, Hypothesis
from .search import BeamSearch, SearchOptions

MOST = 16
"""Processes that nobody asked for."""

Packed = list[tuple[np.ndarray, float, np.ndarray, list]]
"""Hypotheses without tensors, which would take a file handle each on their way between processes."""


def default_processes() -> int:
    """One for each CPU that this process may use; none where processes cannot be forked."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 0
    return min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class DecoderPool:
    """Decodes one utterance at a time in each of several processes.

    Args:
        decoder: decodes in this process unless it is a ``BeamSearch``: other decoders are quick, or run on the GPU.
        processes: how many; 0: everything happens in this process, at once. They are forked here, so that they share lexicon and
            language model with it; they run with one thread and touch no GPU.

    Raises:
        UserError: ``processes`` is negative; later, one was killed.

    A context manager: where an error leaves it, what is being searched is given up.
    """

    def __init__(self, decoder: CTCDecoder, processes: int = 0):
        if processes < 0:
            raise UserError(f"--decoder-processes {processes}: must be 0 or more")
        self.decoder = decoder
        self.search_seconds = 0.0
        """Time spent searching so far, added up over the processes."""
        self.processes = processes if isinstance(decoder, BeamSearch) else 0
        self.executor: ProcessPoolExecutor | None = None
        if self.processes:
            fork = multiprocessing.get_context("fork")
            self.executor = ProcessPoolExecutor(
                self.processes, mp_context=fork, initializer=begin_worker, initargs=(decoder,)
            )
            with self.alive():
                self.executor.submit(os.getpid).result()  # forks them all

    def submit(self, emissions: torch.Tensor, lengths: torch.Tensor, options: SearchOptions | None = None) -> "Pending":
        """Begin to decode a batch: as ``CTCDecoder.decode``, whose result ``Pending.wait`` gives.

        ``options``, where given, are used in place of the decoder's own (all but its language model and lexicon).
        """
        if self.executor is None:
            start = time.perf_counter()
            if options is not None:
                self.decoder.set_options(options)
            done = self.decoder.decode(emissions, lengths)
            self.search_seconds += time.perf_counter() - start
            return Pending(self, done, [])
        rows = [one[:length].numpy() for one, length in zip(emissions.float().cpu(), lengths.tolist())]
        with self.alive():
            return Pending(self, [], [self.executor.submit(search, row, options) for row in rows])

    @contextmanager
    def alive(self) -> Iterator[None]:
        """UserError where a process has died."""
        try:
            yield
        except BrokenProcessPool as error:
            compat.unblock_pool(self.executor)
            raise UserError(
                f"--decoder-processes {self.processes}: one of them was killed, for want of memory perhaps; "
                "give fewer, or a smaller --beam or --beam-size-token"
            ) from error

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(self, kind, *_) -> None:
        if self.executor is None:
            return
        if kind is not None:
            for process in list((self.executor._processes or {}).values()):
                process.kill()
            compat.unblock_pool(self.executor)
        self.executor.shutdown(wait=kind is None, cancel_futures=True)


class Pending:
    """Hypotheses of a batch that are being looked for."""

    def __init__(self, pool: DecoderPool, done: list[list[Hypothesis]], futures: "list[Future[Any]]"):
        self.pool, self.done, self.futures = pool, done, futures

    def unfinished(self) -> int:
        """Utterances that are not done."""
        return sum(not future.done() for future in self.futures)

    def wait(self) -> list[list[Hypothesis]]:
        """Raises UserError where a process has died, and what the search raised."""
        with self.pool.alive():
            for packed, seconds in [future.result() for future in self.futures]:
                self.done.append(unpack(packed))
                self.pool.search_seconds += seconds
        self.futures = []
        return self.done


# ---- in the processes -------------------------------------------------------------------------------------------------------


class Worker:
    decoder: BeamSearch
    """This process's own."""


def begin_worker(decoder: BeamSearch) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us
    torch.set_num_threads(1)  # threads of the parent's do not live on in a fork
    threading.Thread(target=end_with_parent, daemon=True).start()
    Worker.decoder = decoder


def end_with_parent() -> None:
    """A parent that is killed cannot end us, and the queue never ends: we hold its other end too."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def search(emissions: np.ndarray, options: SearchOptions | None) -> tuple[Packed, float]:
    """(F, V) float32 -> hypotheses, and the seconds that it took."""
    start = time.perf_counter()
    if options is not None and options != Worker.decoder.options:
        Worker.decoder.set_options(options)
    found = Worker.decoder.decode_one(torch.from_numpy(emissions))
    return pack(found), time.perf_counter() - start


def pack(hypotheses: list[Hypothesis]) -> Packed:
    return [
        (one["tokens"].numpy(), one["score"], one["positional_scores"].numpy(), one["alignment"]) for one in hypotheses
    ]


def unpack(packed: Packed) -> list[Hypothesis]:
    return [
        {
            "tokens": torch.from_numpy(tokens),
            "score": score,
            "positional_scores": torch.from_numpy(scores),
            "alignment": alignment,
        }
        for tokens, score, scores, alignment in packed
    ]

"""Beam searches in separate processes, which run while the network works on the next batch.

Threads would not help: flashlight-text holds Python's global interpreter lock while it searches.
"""

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .. import compat
from ..data.workers import set_up_worker
from ..errors import UserError
from .base import CTCDecoder, Hypothesis
from .search import BeamSearch, SearchOptions

MAX_DEFAULT_PROCESSES = 16
"""Limit on the number of processes if the user does not choose it."""

Packed = list[tuple[np.ndarray, float, np.ndarray, list]]
"""Hypotheses as NumPy arrays: sending a tensor to another process takes a file handle."""


def default_processes() -> int:
    """One process for each CPU that this process may use; 0 if processes cannot be forked."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_DEFAULT_PROCESSES, cpus)


class DecoderPool:
    """Decodes utterances in several processes, one at a time in each.

    Args:
        decoder: a ``BeamSearch`` runs in the processes; other decoders, which are fast or use the GPU, run in this one.
        processes: how many; 0: decode in this process, synchronously. They are forked here, so that they share the
            lexicon and language model with this process; each runs one thread and does not use the GPU.

    Raises:
        UserError: ``processes`` is negative; later, if a process was killed.

    A context manager: if the block ends with an error, running searches are cancelled.
    """

    def __init__(self, decoder: CTCDecoder, processes: int = 0):
        if processes < 0:
            raise UserError(f"--decoder-processes {processes}: must not be negative; give 0 or more")
        self.decoder = decoder
        self.search_seconds = 0.0
        """Time spent searching so far, summed over the processes."""
        self.processes = processes if isinstance(decoder, BeamSearch) else 0
        self.executor: ProcessPoolExecutor | None = None
        if self.processes:
            fork = multiprocessing.get_context("fork")
            self.executor = ProcessPoolExecutor(
                self.processes, mp_context=fork, initializer=init_worker, initargs=(decoder,)
            )
            with self.alive():
                self.executor.submit(os.getpid).result()  # forks all processes

    def submit(self, emissions: torch.Tensor, lengths: torch.Tensor, options: SearchOptions | None = None) -> "Pending":
        """Start to decode a batch. Arguments as for ``CTCDecoder.decode``, whose result ``Pending.wait`` returns.

        ``options`` replaces the decoder's own, if given; language model and lexicon stay the same.
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
        """Raise UserError if a process has died."""
        try:
            yield
        except BrokenProcessPool as error:
            compat.unblock_pool(self.executor)
            raise UserError(
                f"--decoder-processes {self.processes}: a process was killed, possibly because memory ran out; "
                "use fewer processes, or a smaller --beam or --beam-size-token"
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
    """The future hypotheses of a batch."""

    def __init__(self, pool: DecoderPool, done: list[list[Hypothesis]], futures: "list[Future[Any]]"):
        self.pool, self.done, self.futures = pool, done, futures

    def unfinished(self) -> int:
        """Number of utterances that are not decoded yet."""
        return sum(not future.done() for future in self.futures)

    def wait(self) -> list[list[Hypothesis]]:
        """The hypotheses of all utterances. Raises UserError if a process has died, and whatever the search raised."""
        with self.pool.alive():
            for packed, seconds in [future.result() for future in self.futures]:
                self.done.append(unpack(packed))
                self.pool.search_seconds += seconds
        self.futures = []
        return self.done


# ---- in the worker processes -----------------------------------------------------------------------------------------


class Worker:
    decoder: BeamSearch
    """The decoder of this process."""


def init_worker(decoder: BeamSearch) -> None:
    set_up_worker()
    torch.set_num_threads(1)  # the parent's threads do not exist after a fork
    Worker.decoder = decoder


def search(emissions: np.ndarray, options: SearchOptions | None) -> tuple[Packed, float]:
    """(F, V) float32 -> hypotheses, and the time the search took in seconds."""
    start = time.perf_counter()
    if options is not None and options != Worker.decoder.options:
        Worker.decoder.set_options(options)
    hypotheses = Worker.decoder.decode_one(torch.from_numpy(emissions))
    return pack(hypotheses), time.perf_counter() - start


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

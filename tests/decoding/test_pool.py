"""Searches in other processes: the same results as in this one, and errors that reach the user."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dinosr_plugin import compat
from dinosr_plugin.decoding import BeamDecoder, BestPathDecoder, SearchOptions
from dinosr_plugin.decoding.pool import DecoderPool, default_processes
from dinosr_plugin.errors import UserError
from support.decoding import BLANK, LETTERS, needs_flashlight, random_emissions

pytestmark = needs_flashlight
LENGTHS = torch.tensor([30, 7, 0, 22, 30])


@pytest.fixture
def pool():
    with DecoderPool(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20, nbest=2)), processes=2) as made:
        yield made


def plain(decoded):
    """Hypotheses without tensors, so that == works."""
    return [
        [
            (one["tokens"].tolist(), one["score"], one["positional_scores"].tolist(), one["alignment"])
            for one in hypotheses
        ]
        for hypotheses in decoded
    ]


def test_processes_do_not_change_results(pool):
    emissions = random_emissions(30, seed=0, utterances=5)
    here = BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20, nbest=2)).decode(emissions, LENGTHS)
    there = pool.submit(emissions, LENGTHS).wait()
    assert plain(there) == plain(here)
    assert [one["tokens"].dtype for (one, *_) in there] == [torch.long] * 5
    assert pool.search_seconds > 0


def test_results_keep_their_order_whatever_time_each_takes(pool):
    batches = [random_emissions(frames, seed=frames, utterances=2) for frames in (400, 5, 200, 1)]
    begun = [pool.submit(batch, torch.tensor([batch.size(1)] * 2)) for batch in batches]
    for batch, pending in zip(batches, begun):
        assert plain(pending.wait()) == plain(pool.decoder.decode(batch, torch.tensor([batch.size(1)] * 2)))
        assert pending.unfinished() == 0


@pytest.mark.parametrize("processes", [0, 2])
def test_other_options_for_one_batch(processes):
    emissions = random_emissions(12, seed=1, utterances=3)
    lengths = torch.tensor([12] * 3)
    silent = SearchOptions(beam=20, sil_weight=-20.0)
    expected = BeamDecoder(LETTERS, BLANK, silent).decode(emissions, lengths)
    with DecoderPool(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20)), processes) as pool:
        assert plain(pool.submit(emissions, lengths).wait()) != plain(expected)
        assert plain(pool.submit(emissions, lengths, silent).wait()) == plain(expected)


def test_the_network_can_run_meanwhile(pool):
    """Holding Python's global lock in this process does not stop the search in another."""
    pending = pool.submit(random_emissions(3000, seed=2, utterances=2), torch.tensor([3000, 3000]))
    deadline = time.monotonic() + 60
    while pending.unfinished() and time.monotonic() < deadline:
        sum(range(10000))
    assert pending.unfinished() == 0  # before any wait()


def test_best_path_needs_no_processes():
    assert DecoderPool(BestPathDecoder(BLANK), processes=2).executor is None


def test_a_killed_process_is_reported(pool):
    (victim, *_) = pool.executor._processes
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    message = "--decoder-processes 2: a process was killed, possibly because memory ran out"
    emissions, lengths = random_emissions(20000, seed=0, utterances=8), torch.tensor([20000] * 8)
    with pytest.raises(UserError, match=message):
        pool.submit(emissions, lengths).wait()
    with pytest.raises(UserError, match=message):  # the next batch starts before the previous one is waited for
        pool.submit(emissions, lengths)


@pytest.mark.parametrize("version, closed", [((3, 11, 2), True), ((3, 11, 5), False)])
def test_a_pipe_that_python_closes_is_not_closed_twice(monkeypatch, version, closed):
    """If two threads close it, its number may belong to another file the second time."""
    reader, _ = multiprocessing.Pipe()
    monkeypatch.setattr(sys, "version_info", version)
    compat.unblock_pool(SimpleNamespace(_call_queue=SimpleNamespace(_reader=reader)))
    assert reader.closed == closed


def test_an_error_cancels_running_searches():
    with (
        pytest.raises(KeyboardInterrupt),
        DecoderPool(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=500)), processes=2) as pool,
    ):
        processes = list(pool.executor._processes)
        pool.submit(random_emissions(100_000, seed=0, utterances=4), torch.tensor([100_000] * 4))
        raise KeyboardInterrupt
    wait_until_ended(processes)  # the search would continue for a minute


def open_pool_and_sleep(pipe) -> None:
    pool = DecoderPool(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20)), 2)
    pipe.send(list(pool.executor._processes))
    time.sleep(60)


def test_processes_end_with_their_parent():
    """However the parent ends; otherwise each would keep its memory forever."""
    ours, theirs = multiprocessing.Pipe()
    parent = multiprocessing.get_context("fork").Process(target=open_pool_and_sleep, args=[theirs])
    parent.start()
    children = ours.recv()
    assert len(children) == 2
    parent.kill()
    parent.join()
    wait_until_ended(children)


def wait_until_ended(processes):
    deadline = time.monotonic() + 20
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, processes))


def alive(number: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_negative_number_of_processes():
    with pytest.raises(UserError, match="--decoder-processes -1: must not be negative"):
        DecoderPool(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20)), processes=-1)


def test_one_process_per_cpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(40), raising=False)
    assert default_processes() == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)
    assert default_processes() == 3
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert default_processes() == 0

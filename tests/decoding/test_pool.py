"""Searches in other processes: the same results as in this one, and errors that reach the user."""

import os
import signal
import threading
import time

import pytest
import torch
from test_search import BLANK, LETTERS, needs_flashlight, random_emissions

from dinosr_plugin.decoding import BeamDecoder, BestPathDecoder, SearchOptions
from dinosr_plugin.decoding.pool import DecoderPool, default_processes
from dinosr_plugin.errors import UserError

pytestmark = needs_flashlight
LENGTHS = torch.tensor([30, 7, 0, 22, 30])


@pytest.fixture
def pool():
    made = DecoderPool(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20, nbest=2)), processes=2)
    yield made
    made.close()


def plain(decoded):
    """Hypotheses without tensors, which know no ==."""
    return [
        [(one["tokens"].tolist(), one["score"], one["positional_scores"].tolist(), one["alignment"]) for one in hypotheses] for hypotheses in decoded
    ]


def test_processes_change_nothing(pool):
    emissions = random_emissions(30, seed=0, utterances=5)
    here = BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20, nbest=2)).decode(emissions, LENGTHS)
    there = pool.submit(emissions, LENGTHS).wait()
    assert plain(there) == plain(here)
    assert [one["tokens"].dtype for (one, *_) in there] == [torch.long] * 5
    assert pool.search_seconds > 0


def test_results_keep_their_order_however_long_each_takes(pool):
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
    pool = DecoderPool(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20)), processes)
    assert plain(pool.submit(emissions, lengths).wait()) != plain(expected)
    assert plain(pool.submit(emissions, lengths, silent).wait()) == plain(expected)
    pool.close()


def test_the_network_can_work_meanwhile(pool):
    """What holds Python's lock here does not stop the search there."""
    pending = pool.submit(random_emissions(3000, seed=2, utterances=2), torch.tensor([3000, 3000]))
    deadline = time.monotonic() + 60
    while pending.unfinished() and time.monotonic() < deadline:
        sum(range(10000))
    assert pending.unfinished() == 0  # nobody has waited for it


def test_best_path_needs_no_processes():
    assert DecoderPool(BestPathDecoder(BLANK), processes=2).executor is None


def test_a_killed_process_is_named(pool):
    (victim, *_) = pool.executor._processes
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    with pytest.raises(UserError, match="--decoder-processes 2: one of them was killed, for want of memory"):
        pool.submit(random_emissions(20000, seed=0, utterances=8), torch.tensor([20000] * 8)).wait()


def test_one_process_a_cpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(40), raising=False)
    assert default_processes() == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)
    assert default_processes() == 3
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert default_processes() == 0

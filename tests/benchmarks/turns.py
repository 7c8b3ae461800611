"""Programs that work in turn: each in a process of its own, kept alive, doing its work once whenever it is told to.

A comparison on one machine wants that: only one works at a time, all meet the same other load, and each has its own peak of memory. The talk is
a line of JSON each way over a pipe: a command, one of ``COMMANDS``, and its reply.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from counters import count
from data_scale import memory
from tqdm import tqdm

from dinosr_plugin.errors import UserError

Work = Callable[[], None]


class Program:
    """``python SCRIPT --serve JOB``, which must call ``served``.

    Args:
        job: what it is to do; anything that JSON can hold. ``work`` is the name of it, ``threads`` how many it may use.
        checkout: take the plug-in from there instead.
    """

    def __init__(self, name: str, script: Path, job: dict, checkout: Path | None = None):
        self.name = name
        path = os.pathsep.join([str(checkout or Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "PYTHONPATH": path}
        command = [sys.executable, "-W", "ignore", str(script), "--serve", json.dumps(job)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def tell(self, command: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended: the reply says so
            print(command, file=self.process.stdin, flush=True)

    def reply(self) -> dict:
        """Raises UserError for one that the program raised, and where it ended."""
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: ended with status {self.process.wait()}; what it printed stands above")
        reply = json.loads(line)
        if "error" in reply:
            raise UserError(f"{self.name}: {reply['error']}")
        return reply

    def ask(self, command: str) -> dict:
        self.tell(command)
        return self.reply()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended already
            self.process.stdin.close()  # ends its loop
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # in the middle of its work
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def served(arguments: Sequence[str], makers: dict[str, Callable[[dict], Work]]) -> bool:
    """Whether these are the arguments of a ``Program``; then it has worked by now, until its pipe closed. ``makers``: of work, by name."""
    if list(arguments[:1]) != ["--serve"]:
        return False
    job = json.loads(arguments[1])
    serve(makers[job.pop("work")], job)
    return True


def serve(make: Callable[[dict], Work], job: dict) -> None:
    """In the program: make the work, then obey until the pipe closes."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not get between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks; the pipe closes then
    torch.set_num_threads(job["threads"])
    before = memory("VmRSS")
    work = None
    for line in sys.stdin:
        try:
            work = work or make(job)
            reply = COMMANDS[line.strip()](work, before)
        except UserError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), file=replies, flush=True)


def timed(work: Work, before: int) -> dict:
    """Once: wall and CPU seconds (of all threads), pages touched for the first time, and the highest memory so far.

    ``peak``: bytes of the process (on a GPU: that were allocated there); ``model``: what of it came after the imports.
    """
    faults, wall, cpu = page_faults(), time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    record = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "faults": page_faults() - faults}
    if torch.cuda.is_initialized():
        return {**record, "peak": torch.cuda.max_memory_allocated(), "model": torch.cuda.max_memory_allocated()}
    return {**record, "peak": memory("VmHWM"), "model": memory("VmHWM") - before}


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def profiled(work: Work, before: int) -> dict:
    """Once, under torch's profiler: its table of operators by their own time."""
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_initialized()
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])], acc_events=True
    ) as record:
        work()
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    return {"table": record.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=50)}


COMMANDS = {"run": timed, "count": lambda work, before: count(work), "profile": profiled}


def take_turns(programs: Sequence[Program], rounds: int, warm_up: int = 2) -> dict[str, list[dict]]:
    """Every program once a round, for so many rounds after those of the warm-up: what ``timed`` gave each, by name."""
    turns = [(n >= warm_up, program) for n in range(warm_up + rounds) for program in programs]
    results = {program.name: [] for program in programs}
    for counts, program in tqdm(turns, desc="turns", unit="turn", disable=None):
        record = program.ask("run")
        if counts:
            results[program.name].append(record)
    return results


def summary(name: str, times: list[dict], first: list[dict]) -> dict:
    """Of all rounds of one program: median, least and most wall seconds; how many times those of the first of the same round they are, and by CPU seconds."""
    walls = [record["wall"] for record in times]
    ratios = {key: median(mine[key] / theirs[key] for mine, theirs in zip(times, first)) for key in ("wall", "cpu")}
    return {
        "name": name,
        "wall": median(walls),
        "least": min(walls),
        "most": max(walls),
        "cpu": median(record["cpu"] for record in times),
        "ratio": ratios["wall"],
        "ratio_cpu": ratios["cpu"],
        "faults": median(record["faults"] for record in times),
        "peak": times[-1]["peak"],
        "model": times[-1]["model"],
        "rounds": times,
    }

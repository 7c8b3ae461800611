"""Programs that take turns: each in its own process, which stays alive and does its work once on each command.

For a comparison on one machine: only one program works at a time, all have the same other load, and each has its own
peak memory. They communicate over a pipe, with one line each way: a command, one of ``COMMANDS``, and its reply in
JSON.
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
    """A process ``python SCRIPT --serve JOB``, which must call ``served``.

    Args:
        job: its work, in values that JSON can represent: ``work`` is its name, ``threads`` the number of threads.
        checkout: folder of the checkout whose plug-in it imports; None: this one.
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
        with contextlib.suppress(BrokenPipeError):  # the process ended, which ``reply`` reports
            print(command, file=self.process.stdin, flush=True)

    def reply(self) -> dict:
        """Raises UserError if the program raised one, or ended."""
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: ended with status {self.process.wait()}; see its output above")
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
        with contextlib.suppress(BrokenPipeError):  # the process has already ended
            self.process.stdin.close()  # ends its loop
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # it is still working
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def served(arguments: Sequence[str], makers: dict[str, Callable[[dict], Work]]) -> bool:
    """Whether these are the arguments of a ``Program``; if so, this serves its commands until the pipe closes.

    ``makers``: name of the work -> function that makes it from the job.
    """
    if list(arguments[:1]) != ["--serve"]:
        return False
    job = json.loads(arguments[1])
    serve(makers[job.pop("work")], job)
    return True


def serve(make: Callable[[dict], Work], job: dict) -> None:
    """In the program: make the work, then execute commands until the pipe closes."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps the output of libraries apart from the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which closes the pipe
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
    """Work once: wall and CPU seconds (of all threads), page faults, and the highest memory so far.

    ``peak``: bytes of the process, or on a GPU those allocated there; ``model``: the part allocated after the imports.
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
    """Work once under torch's profiler; returns its table of operators, sorted by their own time."""
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
    """Run every program once per round; returns name -> results of ``timed``, without the rounds of the warm-up."""
    turns = [(n >= warm_up, program) for n in range(warm_up + rounds) for program in programs]
    results = {program.name: [] for program in programs}
    for counts, program in tqdm(turns, desc="turns", unit="turn", disable=None):
        record = program.ask("run")
        if counts:
            results[program.name].append(record)
    return results


def summary(name: str, times: list[dict], first: list[dict]) -> dict:
    """All rounds of one program: median, least and most wall seconds, and their ratio to the first program's.

    The ratios are medians over the rounds, of wall and of CPU seconds in the same round.
    """
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

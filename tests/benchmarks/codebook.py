"""Time of the assignment and update of the codebooks, and their share of a training step.

    dinosr bench codebook [--size base] [--frames 10000] [--rows 2] [--seconds 8] [--precision fp32] [--threads 2]
                          [--device cpu] [--rounds 5] [--json FILE]

Compares our codebooks with a loop over codebooks that uses a one-hot row of V for every frame. Both process as many
frames as the step masks, and ``--frames``. They alternate with the step itself and with a step on a single utterance;
the difference of the two steps is the time per additional utterance. A step that masks ``--frames`` frames is estimated
from the number of utterances that this needs. What does not grow with them (optimiser, teacher's average) counts once.
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch
from plain_dinosr import moved, nearest
from records import add_json, run_script, write_record
from step import add_batch, check_device
from turns import Program, served, summary, take_turns
from updates import Update, config, make_update

from dinosr_plugin.cli.parsing import whole_number
from dinosr_plugin.evaluation.table import format_table
from dinosr_plugin.modules.codebook import Codebooks
from dinosr_plugin.modules.masking import span_mask

COLUMNS = [
    ("name", "codebooks", ""),
    ("frames", "frames", ",d"),
    ("ms", "ms", ".1f"),
    ("least_ms", "least", ".1f"),
    ("most_ms", "most", ".1f"),
]
COLUMNS += [
    ("cpu_ms", "CPU ms", ".1f"),
    ("times", "times ours", ".2f"),
    ("of_step", "of a step, s", ".2f"),
    ("share", "%", ".2f"),
    ("model_mb", "MB", ".0f"),
]


def make_ours(job: dict):
    codebooks = Codebooks(*job["shape"]).to(job["device"])
    frames = made_up(job)

    def work():
        codebooks.collect(frames, codebooks.assign(frames))
        codebooks.step_(0.9)

    return work


def make_plain(job: dict):
    n_codebooks, size, dim = job["shape"]
    books = [
        (torch.randn(size, dim, device=job["device"]), torch.ones(size, device=job["device"]))
        for _ in range(n_codebooks)
    ]
    frames = made_up(job)

    def work():
        for k, (sums, counts) in enumerate(books):
            books[k] = moved(sums, counts, frames[k], nearest(frames[k], sums / counts.unsqueeze(1)), 0.9)

    return work


def made_up(job: dict) -> torch.Tensor:
    """(K, N, D) normal frames, distributed like the output of instance norm."""
    n_codebooks, _, dim = job["shape"]
    return torch.randn(n_codebooks, job["frames"], dim, generator=torch.Generator().manual_seed(0)).to(job["device"])


WORK = {"update": make_update, "ours": make_ours, "one-hot loop": make_plain}


def masked_frames(cfg, rows: int, seconds: float) -> int:
    """Number of frames that a step on such a batch masks."""
    frames = 1 + (round(16_000 * seconds) - 400) // 320  # for both front ends
    return int(span_mask(torch.full((rows,), frames), frames, cfg.model.mask_prob, cfg.model.mask_length).sum())


def seconds_a_row(one: list[dict], all_rows: list[dict], rows: int) -> float:
    """Seconds that each utterance adds to a step: median over rounds of steps on one utterance and on ``rows``."""
    return median(b["wall"] - a["wall"] for a, b in zip(one, all_rows)) / (rows - 1)


def measure(given: argparse.Namespace) -> dict:
    update = Update("ours", given.size, given.rows, given.seconds, given.precision, given.device, given.threads)
    cfg = config(update)
    masked = masked_frames(cfg, given.rows, given.seconds)
    shape = (cfg.model.average_top_k_layers, cfg.model.codebook_size, cfg.model.encoder_embed_dim)
    how = {"shape": shape, "device": given.device, "threads": given.threads}
    jobs = {
        (name, frames): {"work": name, **how, "frames": frames}
        for frames in sorted({masked, given.frames})
        for name in ("ours", "one-hot loop")
    }
    with ExitStack() as stack:
        steps = {"step": update, "step on one": replace(update, rows=1)}
        steps = [
            stack.enter_context(Program(name, Path(__file__), {"work": "update", **asdict(its)}))
            for name, its in steps.items()
        ]
        books = [
            stack.enter_context(Program(f"{name}, {frames}", Path(__file__), job))
            for (name, frames), job in jobs.items()
        ]
        times = take_turns([*steps, *books], given.rounds)
    whole, one = (summary(step.name, times[step.name], times["step"]) for step in steps)
    a_row = seconds_a_row(times["step on one"], times["step"], given.rows)
    rows = []
    for (name, frames), program in zip(jobs, books):
        row = summary(name, times[program.name], times[f"ours, {frames}"])
        step = whole["wall"] + a_row * (frames / masked - 1) * given.rows
        rows.append(row | {"frames": frames, "of_step": step, "share": 100 * row["wall"] / step})
    return {
        "settings": asdict(update),
        "shape": shape,
        "masked": masked,
        "step": whole,
        "step_on_one": one,
        "seconds_a_row": a_row,
        "rows": rows,
    }


def show(record: dict) -> None:
    settings, shape = record["settings"], " x ".join(map(str, record["shape"]))
    batch = f"{settings['rows']} x {settings['seconds']:g} s, {settings['precision']}, {settings['device']}, "
    f"{settings['threads']} threads"
    print(
        f"{shape}; a step ({settings['size']}, {batch}) masks {record['masked']} frames and takes "
        f"{record['step']['wall']:.2f} s, ",
        end="",
    )
    print(f"each utterance more {record['seconds_a_row']:.2f} s")
    rows = []
    for row in record["rows"]:
        milliseconds = {
            f"{to}ms": 1000 * row[key]
            for to, key in {"": "wall", "least_": "least", "most_": "most", "cpu_": "cpu"}.items()
        }
        rows.append(row | milliseconds | {"times": row["ratio"], "model_mb": row["model"] / 1e6})
    print(format_table(rows, COLUMNS))


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if served(arguments, WORK):
        return
    parser = argparse.ArgumentParser(prog="dinosr bench codebook", description=__doc__.splitlines()[0])
    add_batch(parser)
    parser.add_argument("--frames", type=whole_number, default=10_000, help="masked frames (default: %(default)s)")
    add_json(parser)
    given = parser.parse_args(arguments)
    if given.rows < 2:
        parser.error("--rows: at least 2, because the step is compared with one on a single utterance")
    check_device(given.device)
    record = measure(given)
    show(record)
    write_record(given.json, record)


if __name__ == "__main__":
    run_script(main)

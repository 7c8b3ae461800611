"""Speed of InfoNCE for all steps at once, compared with loops over steps, rows and anchors, or over steps only.

    python tests/benchmarks/infonce.py [--rows 8] [--width 256] [--negatives 128] [--threads 1] [--device cpu]
                                       [--json FILE]

The sizes are those of the papers: windows of 128 frames, 12 steps, 116 anchors. Forward and backward pass, without
encoder and predictors. The loop over steps multiplies and sums all candidates of a step, like CPC_audio. All give the
same loss (asserted). On a CPU the ratio is of CPU time.
"""

import argparse
import time

import torch
from records import add_json, run_script, write_record
from torch import Tensor

from dinosr_plugin.evaluation.table import format_table
from dinosr_plugin.modules.infonce import draw_negatives, infonce_logits

STEPS, FRAMES = 12, 128
ANCHORS = FRAMES - STEPS
COLUMNS = [
    ("name", "InfoNCE", ""),
    ("milliseconds", "ms", ".1f"),
    ("cpu", "CPU ms", ".1f"),
    ("ratio", "times ours", ".1f"),
]


def loss_of(logits: Tensor) -> Tensor:
    """(..., 1 + N) -> sum of all cross-entropies; the first candidate is the right one."""
    return (logits.logsumexp(-1) - logits[..., 0]).sum()


def ours(predictions: Tensor, frames: Tensor, negatives: Tensor) -> Tensor:
    return loss_of(infonce_logits(predictions, frames, negatives))


def loop_over_steps(predictions: Tensor, frames: Tensor, negatives: Tensor) -> Tensor:
    false = frames.flatten(0, 1)[negatives]  # (B, W, N, D)
    total = 0.0
    for k in range(1, STEPS + 1):
        candidates = torch.cat([frames[:, k : k + ANCHORS].unsqueeze(2), false], dim=2)  # (B, W, 1 + N, D)
        total = total + loss_of((predictions[k - 1].unsqueeze(2) * candidates).mean(-1))
    return total


def loop_over_anchors(predictions: Tensor, frames: Tensor, negatives: Tensor) -> Tensor:
    false = [row.unbind() for row in frames.flatten(0, 1)[negatives].unbind()]  # [row][t] is (N, D)
    predicted, seen = (
        [row.unbind() for row in x.flatten(0, -3).unbind()] for x in (predictions, frames)
    )  # [k * B + row][t] and [row][t] are (D,)
    total = 0.0
    for k in range(1, STEPS + 1):
        for row in range(len(frames)):
            for t in range(ANCHORS):
                candidates = torch.cat([seen[row][t + k].unsqueeze(0), false[row][t]])  # (1 + N, D)
                total = total + loss_of(candidates @ predicted[(k - 1) * len(frames) + row][t] / frames.size(-1))
    return total


def timed(function, inputs: tuple, times: int, wait) -> dict:
    """Mean milliseconds of forward and backward pass, after one call that is not measured; and the loss."""
    for call in range(times + 1):
        if call == 1:
            wait()
            wall, cpu = time.perf_counter(), time.process_time()
        loss = function(*inputs)
        loss.backward()
    wait()
    return {
        "milliseconds": 1000 * (time.perf_counter() - wall) / times,
        "cpu": 1000 * (time.process_time() - cpu) / times,
        "loss": loss.item(),
    }


def measure(rows: int, width: int, count: int, device: str) -> list:
    torch.manual_seed(0)
    negatives = draw_negatives(FRAMES, ANCHORS, count, [torch.Generator().manual_seed(row) for row in range(rows)]).to(
        device
    )
    predictions = torch.randn(STEPS, rows, ANCHORS, width, device=device, requires_grad=True)
    frames = torch.randn(rows, FRAMES, width, device=device, requires_grad=True)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    clock = "cpu" if device == "cpu" else "milliseconds"  # other programs take the CPU's wall time, not a thread's own
    records = []
    for name, function, times in (
        ("ours", ours, 10),
        ("loop over steps", loop_over_steps, 3),
        ("loop over steps, rows and anchors", loop_over_anchors, 1),
    ):
        record = timed(function, (predictions, frames, negatives), times, wait)
        records.append({"name": name, **record, "ratio": record[clock] / (records[0] if records else record)[clock]})
        assert abs(record["loss"] / records[0]["loss"] - 1) < 1e-4, record
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8, help="windows in a batch; default: %(default)s")
    parser.add_argument("--width", type=int, default=256, help="of the frames; default: %(default)s")
    parser.add_argument("--negatives", type=int, default=128, help="for each anchor; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    add_json(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    records = measure(given.rows, given.width, given.negatives, given.device)
    print(
        f"{given.rows} windows, width {given.width}, {given.negatives} negatives, {given.threads} thread(s), "
        f"{given.device}"
    )
    print(format_table(records, COLUMNS))
    write_record(given.json, records)


if __name__ == "__main__":
    run_script(main)

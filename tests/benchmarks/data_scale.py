"""Cost of a manifest of a million rows before the first batch is read: seconds, memory, and samples wasted by batching.

    python tests/benchmarks/data_scale.py --rows 1000000 [--padding] [--json FILE]

Writes a manifest like that of Libri-light (names of about 75 bytes, lengths from 1 to 35 s) to a temporary folder,
without any audio, and loads it with the pre-training task in a fresh process. Prints the seconds of each step, the
memory of the process after it, and the highest memory so far. Then:

    bytes a row   memory that the dataset and the batches of one epoch add to the process; "peak" includes temporary
                  memory
    worker grows  memory that a loader worker (a fork) no longer shares after reading the file name of every row
    wasted        samples removed because another file of the batch is shorter, as a share of all samples after the
                  crop to max_sample_size; with --padding: zeros added, as a share of all samples in the batches
    filled        samples of the average batch, as a share of max_tokens
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from records import add_json, run_script, write_record

MAX_TOKENS = 3_800_000
MAX_SAMPLE_SIZE = 320_000
MIN_SAMPLE_SIZE = 32_000


def write_manifest(folder: Path, rows: int, seed: int = 0) -> None:
    """Write ``train.tsv``: lengths are gamma distributed, like speech split at pauses; mean 14 s, 20 % above 20 s."""
    samples = (np.random.default_rng(seed).gamma(4, 3.5, rows).clip(1, 35) * 16000).astype(int)
    with open(folder / "train.tsv", "w", encoding="utf-8") as file:
        file.write(f"{folder}\n")
        for row, length in enumerate(samples.tolist()):
            speaker, book = row % 7000, row // 200
            file.write(
                f"large/{speaker}/a_book_of_some_title_{book}_librivox_64kb_mp3/chapter_{book}_64kb_{row:07d}.flac\t{length}\n"
            )


def memory(field: str, file: str = "/proc/self/status") -> int:
    """Bytes of a field of /proc/self/status: VmRSS (now), VmHWM (highest so far)."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


class Steps(list):
    """A list of steps, each with its seconds and the memory after it."""

    def add(self, name: str, work):
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        self.append({"step": name, "seconds": seconds, "memory": memory("VmRSS"), "peak": memory("VmHWM")})
        return result


def wasted(batches: list, sizes: np.ndarray, pad: bool) -> tuple[float, float]:
    """(share of wasted samples, samples of the average batch) for batches of row numbers.

    ``sizes``: (rows,) samples after the crop to max_sample_size.
    """
    of_batches = [sizes[batch] for batch in batches]
    heard = sum(int(batch.sum()) for batch in of_batches)
    shape = sum(len(batch) * int(batch.max() if pad else batch.min()) for batch in of_batches)
    return 1 - (heard / shape if pad else shape / heard), shape / len(batches)


def growth_of_a_worker(dataset) -> int:
    """Bytes that a fork of this process no longer shares with it after reading all file names."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        before = memory("Private_Dirty", "/proc/self/smaps_rollup")
        for row in range(len(dataset)):
            dataset.fnames[row]
        os.write(writer, str(memory("Private_Dirty", "/proc/self/smaps_rollup") - before).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reader, 99))


def measure(folder: Path, pad: bool) -> dict:
    """The measurements of one manifest, in this process."""
    from omegaconf import OmegaConf

    from dinosr_plugin.data.validation import validate_manifest
    from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask

    fields = {
        "data": str(folder),
        "max_sample_size": MAX_SAMPLE_SIZE,
        "min_sample_size": MIN_SAMPLE_SIZE,
        "enable_padding": pad,
        "seed": 1,
    }
    task = DinoSRPretrainingTask.setup_task(OmegaConf.structured(DinoSRPretrainingConfig(tpu=False, **fields)))

    def batches(epoch: int):
        return task.get_batch_iterator(task.dataset("train"), max_tokens=MAX_TOKENS, seed=1, epoch=epoch)

    steps = Steps()
    steps.add("start", lambda: None)
    steps.add("validate alone", lambda: validate_manifest(folder / "train.tsv", None, MIN_SAMPLE_SIZE))
    steps.add("validate and load", lambda: task.load_dataset("train"))
    first = steps.add("batch iterator", lambda: batches(1))
    epoch_1 = steps.add("start epoch 1", first.next_epoch_itr)
    frozen = first.frozen_batches
    epoch_1.take(0)  # as if the epoch had ended
    second = steps.add("batch iterator of epoch 2", lambda: batches(2))
    steps.add("start epoch 2", second.next_epoch_itr)
    dataset = task.dataset("train")
    share, samples = wasted(frozen, np.minimum(dataset.sizes, MAX_SAMPLE_SIZE), pad)
    start = steps[0]["memory"]
    return {
        "rows": len(dataset),
        "steps": steps,
        "bytes_a_row": (steps[4]["memory"] - start) / len(dataset),
        "peak_bytes_a_row": (steps[-1]["peak"] - start) / len(dataset),
        "worker_bytes_a_row": growth_of_a_worker(dataset) / len(dataset),
        "batches": len(frozen),
        "wasted": share,
        "filled": samples / MAX_TOKENS,
    }


def show(record: dict) -> None:
    print(f"{'step':<26}{'seconds':>9}{'MiB':>8}{'peak MiB':>10}")
    for step in record["steps"]:
        print(f"{step['step']:<26}{step['seconds']:>9.2f}{step['memory'] / 2**20:>8.0f}{step['peak'] / 2**20:>10.0f}")
    print(
        f"{record['rows']} rows: {record['bytes_a_row']:.0f} bytes a row, peak {record['peak_bytes_a_row']:.0f}; ",
        end="",
    )
    print(f"a loader worker grows by {record['worker_bytes_a_row']:.0f}")
    print(
        f"{record['batches']} batches of at most {MAX_TOKENS} samples: {record['filled']:.1%} filled, "
        f"{record['wasted']:.3%} wasted"
    )


def in_fresh_process(folder: Path, pad: bool) -> dict:
    command = [sys.executable, __file__, "--measure", str(folder), *(["--padding"] if pad else [])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of a large manifest, without audio")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the manifest (default: %(default)s)")
    parser.add_argument(
        "--padding", action="store_true", help="pad batches (task.enable_padding) instead of cropping them"
    )
    add_json(parser)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in the fresh process
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.padding)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), options.rows)
        record = in_fresh_process(Path(folder), options.padding)
    show(record)
    write_record(options.json, record)


if __name__ == "__main__":
    run_script(main)

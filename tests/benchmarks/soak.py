"""Does memory grow? Resident memory of a training at 200 and at 2,000 updates, on a few seconds of sound; run by hand.

    python tests/benchmarks/soak.py [--updates 2000] [--json FILE]

Two loader workers, gradient accumulation, a checkpoint and a validation every 500 updates: all that goes on in a long run, 3 to 10 minutes on 2 cores.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import runs  # noqa: E402
from fairseq.trainer import Trainer  # noqa: E402


def resident_mib() -> float:
    """Of this process, without its workers."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def watch(at: list) -> dict:
    """From now on note the resident memory after these updates."""
    memory, train_step = {}, Trainer.train_step

    def noted(self, *args):
        output = train_step(self, *args)
        if self.get_num_updates() in at:
            memory[self.get_num_updates()] = resident_mib()
            print(f"{self.get_num_updates():6d} updates: {memory[self.get_num_updates()]:7.1f} MiB", flush=True)
        return output

    Trainer.train_step = noted
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here too")
    options = parser.parse_args()
    memory = watch([options.updates // 10, options.updates // 2, options.updates])
    with tempfile.TemporaryDirectory() as folder:
        data = runs.write_corpus(Path(folder), lengths=range(16000, 30000, 500))
        runs.write_corpus(data, "valid", [16000, 20000])
        each = options.updates // 4
        runs.train(
            *(data, data / "run", f"optimization.max_update={options.updates}", "optimization.update_freq=[2]", "dataset.num_workers=2"),
            *("dataset.disable_validation=false", f"dataset.validate_interval_updates={each}"),
            *(f"checkpoint.save_interval_updates={each}", "checkpoint.keep_interval_updates=1", "common.log_interval=50"),
        )
    first, *_, last = memory.values()
    print(f"growth: {last - first:.1f} MiB, {1024 * (last - first) / (0.9 * options.updates):.2f} KiB an update")
    if options.json:
        options.json.write_text(json.dumps(memory, indent=1) + "\n")


if __name__ == "__main__":
    main()

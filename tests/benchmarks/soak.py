"""Does memory grow? Resident memory of a training after 200 and after 2,000 updates, on a few seconds of audio.

    python tests/benchmarks/soak.py [--updates 2000] [--json FILE]

Two loader workers, gradient accumulation, a checkpoint and a validation every 500 updates, as in a long run. Takes 3
to 10 minutes on 2 cores.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_scale import memory  # noqa: E402
from fairseq.trainer import Trainer  # noqa: E402
from records import add_json, run_script, write_record  # noqa: E402

from support import training as runs  # noqa: E402


def watch(at: list) -> dict:
    """From now on note the resident memory, MiB, after these updates: of this process, without its workers."""
    resident, train_step = {}, Trainer.train_step

    def noted(self, *args):
        output = train_step(self, *args)
        if self.get_num_updates() in at:
            resident[self.get_num_updates()] = memory("VmRSS") / 2**20
            print(f"{self.get_num_updates():6d} updates: {resident[self.get_num_updates()]:7.1f} MiB", flush=True)
        return output

    Trainer.train_step = noted
    return resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=2000, help="default: %(default)s")
    add_json(parser)
    options = parser.parse_args()
    noted = watch([options.updates // 10, options.updates // 2, options.updates])
    with tempfile.TemporaryDirectory() as folder:
        data = runs.write_corpus(Path(folder), lengths=range(16000, 30000, 500))
        runs.write_corpus(data, "valid", [16000, 20000])
        each = options.updates // 4
        runs.train(
            *(
                data,
                data / "run",
                f"optimization.max_update={options.updates}",
                "optimization.update_freq=[2]",
                "dataset.num_workers=2",
            ),
            *("dataset.disable_validation=false", f"dataset.validate_interval_updates={each}"),
            *(
                f"checkpoint.save_interval_updates={each}",
                "checkpoint.keep_interval_updates=1",
                "common.log_interval=50",
            ),
        )
    first, *_, last = noted.values()
    print(f"growth: {last - first:.1f} MiB, {1024 * (last - first) / (0.9 * options.updates):.2f} KiB an update")
    write_record(options.json, noted)


if __name__ == "__main__":
    run_script(main)

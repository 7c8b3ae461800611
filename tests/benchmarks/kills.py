"""Does a run that is killed end as if it had not been? Kills at random moments, compared bit by bit.

    dinosr bench kills --config dinosr_tiny --kills 50 --signal KILL --out DIR [OVERRIDE ...]

A reference run trains without interruption. Other runs, with the same command, are killed: each process lives for a
time drawn uniformly between 0 and the duration of the reference, then its process group receives the signal, and the
same command starts again. A process that lives long enough ends the run; its last checkpoint is then compared with
the reference, and the next run begins, until there were enough kills.

All runs use a config of the package with a model of two layers and a few seconds of tones, or the manifests of
``task.data=DIR``; further arguments are Hydra's. They work in a folder of their own: give absolute paths.
"""

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from records import add_json, run_script, write_record  # noqa: E402
from tqdm import tqdm  # noqa: E402

import dinosr_plugin  # noqa: E402
from dinosr_plugin.cli.parsing import whole_number  # noqa: E402
from dinosr_plugin.errors import UserError, first_few  # noqa: E402
from dinosr_plugin.evaluation.table import Column, RowTable, format_table  # noqa: E402
from dinosr_plugin.files import claim, make_folder, unfinished_name  # noqa: E402
from support.paths import CONFIGS, PLUGIN  # noqa: E402

SIGNALS = ("KILL", "TERM", "INT", "HUP")
STOP_WITHIN = 120.0  # seconds that a process may take to end after a signal
LENGTHS = [16000, 17000, 21000, 16500, 18000, 16000, 19000, 16000]  # samples
CLASSES = 6  # of labels and letters

TRUNK = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "pos_conv_depth": 1,
    "conv_feature_layers": '"[(32,10,5)] + [(32,3,2)] * 4 + [(32,2,2)] * 2"',
}
CPC = {"encoder_channels": 32, "encoder_norm": "channel", "context_dim": 32, "steps": 4, "n_negatives": 8}
MODEL_SIZES = {  # model -> fields
    "dinosr": {**TRUNK, "average_top_k_layers": 2, "codebook_size": 8},
    "dinosr_hubert": {**TRUNK, "final_dim": 8},
    "cpc": CPC,
    "cpc_deepcluster": CPC,
    "wav2vec_ctc": {"mask_channel_prob": 0.0},
}
BATCHES = {  # model -> other fields
    "cpc": ["task.window_samples=3200", "dataset.batch_size=2"],
    "cpc_deepcluster": ["task.window_samples=3200", "dataset.batch_size=2"],
    "wav2vec_ctc": ["dataset.max_tokens=40000", "dataset.validate_interval_updates=25"],
}
TRUNK_BATCHES = ["task.min_sample_size=8000", "task.max_sample_size=16000", "dataset.max_tokens=32000"]
STARTS_FROM = {  # model -> the field with its pre-trained checkpoint, and the config that makes one
    "cpc_deepcluster": ("start_from", "cpc_tiny"),
    "wav2vec_ctc": ("w2v_path", "dinosr_tiny"),
}


# ---- what is trained -------------------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """Write tones with frame labels (train, valid) and letters, unless they exist."""
    from support.training import write_corpus

    if (folder / "dict.ltr.txt").exists():
        return
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "dev"):
        write_corpus(folder, split, LENGTHS)
        labels = (np.repeat(rng.integers(CLASSES, size=n // 800 + 2), 5) for n in LENGTHS)
        lines = [" ".join(map(str, row[: n // 160])) for row, n in zip(labels, LENGTHS)]
        (folder / f"{split}.km").write_text("\n".join(lines) + "\n")
        words = ["".join(rng.choice(list("ABCDEF"), 3)) + " " + "".join(rng.choice(list("ABCDEF"), 2)) for _ in LENGTHS]
        (folder / f"{split}.wrd").write_text("\n".join(words) + "\n")
        letters = [" ".join(f"{text} ".replace(" ", "|")) for text in words]
        (folder / f"{split}.ltr").write_text("\n".join(letters) + "\n")
    (folder / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(CLASSES)))
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|ABCDEF"))


def config_file(name: str) -> Path:
    """The file of a config of dinosr_plugin/config. Raises UserError if there is none."""
    for stage in ("pretraining", "finetuning"):
        if (path := CONFIGS / stage / f"{name}.yaml").is_file():
            return path
    names = sorted(path.stem for stage in ("pretraining", "finetuning") for path in (CONFIGS / stage).glob("*.yaml"))
    raise UserError(f"--config {name}: no such config; give one of {', '.join(names)}")


def train_command(path: Path, data: Path, updates: int, save_every: int, workers: int) -> list[str]:
    """``fairseq-hydra-train`` with the smallest model of this config; paths of the run are relative to its folder."""
    config = yaml.safe_load(path.read_text())
    name = config["model"]["_name"]
    fields = [f"model.{field}={value}" for field, value in MODEL_SIZES[name].items() if field in config["model"]]
    if config["task"].get("labels") == "km":
        fields.append("task.label_rate=100")
    fields += [f"optimization.max_update={updates}", f"checkpoint.save_interval_updates={save_every}"]
    fields += ["checkpoint.save_dir=checkpoints", "common.log_file=log", "common.log_interval=1"]
    fields += [f"task.data={data}", f"common.user_dir={PLUGIN}", f"dataset.num_workers={workers}"]
    fields += ["checkpoint.keep_interval_updates=1", "common.tensorboard_logdir=null", *ONE_CPU]
    program = Path(sys.executable).with_name("fairseq-hydra-train")
    options = ["--config-dir", str(path.parent), "--config-name", path.stem]
    return [str(program), *options, *fields, *BATCHES.get(name, TRUNK_BATCHES)]


ONE_CPU = ["common.cpu=true", "common.fp16=false", "optimization.update_freq=[1]"]
ONE_CPU += ["distributed_training.distributed_world_size=1", "distributed_training.distributed_backend=gloo"]


# ---- runs ------------------------------------------------------------------------------------------------------------


class Run:
    """A folder in which a training works, and the processes that train there, one after the other."""

    def __init__(self, folder: Path, command: list[str]):
        self.folder, self.command = folder, command
        self.log = folder / "log"
        self.last = folder / "checkpoints/checkpoint_last.pt"

    @contextlib.contextmanager
    def process(self) -> Iterator[subprocess.Popen]:
        """Start the command in a process group of its own, which does not outlive this context."""
        make_folder(self.folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums over several threads are rounded differently
        with open(self.folder / "output", "wb") as output:
            process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=obey_signals,
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def last_words(self) -> str:
        lines = (self.folder / "output").read_text(errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if line and "HYDRA_FULL_ERROR" not in line), "no output")

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def updates_logged(self, start: int) -> int:
        """The last update in the log from this byte on, or 0."""
        with contextlib.suppress(FileNotFoundError), open(self.log, "rb") as log:
            log.seek(start)
            return max(map(int, re.findall(rb'"num_updates": "(\d+)"', log.read())), default=0)
        return 0

    def updates_saved(self) -> int:
        """Updates of the last checkpoint."""
        if not self.last.exists():
            return 0
        return load(self.last)["optimizer_history"][-1]["num_updates"]

    def leftovers(self) -> list[str]:
        """Names of locks and unfinished files that remain in the folder."""
        mark = unfinished_name(Path("x")).name.removeprefix(".x").rstrip("0123456789")
        names = (path.name for path in self.folder.rglob("*"))
        return sorted(name for name in names if name.endswith((".lock", ".tmp", ".broken")) or mark in name)


class Kill(NamedTuple):
    """What one kill did; ``lost``: updates that its process made and that have to be made again."""

    run: int
    signal: str
    after: float  # seconds
    updates: int  # that its process made
    lost: int
    error: str = ""


def kill_once(run: Run, number: int, name: str, moment: float | None) -> Kill | None:
    """Start the run's command and kill it after ``moment`` seconds (None: never); None if it ended before that.

    Raises UserError if it ended by itself without success.
    """
    before, start = run.log_size(), run.updates_saved()
    with run.process() as process:
        try:
            if status := process.wait(moment):
                raise UserError(f"{run.folder}: the training ended with status {status}: {run.last_words()}")
            return None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, getattr(signal, f"SIG{name}"))
            error = wait_for_the_end(process)
    if process.returncode == 0:
        return None  # it had just ended
    made = max(0, run.updates_logged(before) - start)
    return Kill(number, name, moment, made, max(0, made + start - run.updates_saved()), error)


def obey_signals() -> None:
    """In a new process: `nohup` and shells in the background would make it ignore these signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for_the_end(process: subprocess.Popen) -> str:
    """Wait for the whole process group; returns what is wrong, or an empty string."""
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        return f"runs on {STOP_WITHIN:.0f} s after the signal"
    for _ in range(50):  # loader workers notice the end of their parent
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return ""
        time.sleep(0.1)
    return "leaves processes behind"


# ---- comparison ------------------------------------------------------------------------------------------------------

NOT_COMPARED = ("/extra_state/metrics", "/extra_state/previous_training_time", "/cfg/job_logging_cfg")
"""Figures for the log, which contain times; the time itself; the path of Hydra's log."""


def load(path: Path) -> dict:
    """A checkpoint, with the last entry of ``optimizer_history``, to which fairseq adds one at each start."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {**state, "optimizer_history": state["optimizer_history"][-1:]}


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Names of what differs in any bit in two checkpoints: tensors, numbers, texts, and what only one of them has."""
    if name in NOT_COMPARED:
        return []
    if type(a) is not type(b):
        return [name]
    if isinstance(a, dict):
        different = [f"{name}/{key}" for key in a.keys() ^ b.keys()]
        return sorted(different) + [d for key in a if key in b for d in differences(a[key], b[key], f"{name}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [name]
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{name}/{i}")]
    if hasattr(a, "__dict__") and not torch.is_tensor(a):  # fairseq's dictionaries
        return differences(vars(a), vars(b), name)
    return [] if bits(a) == bits(b) else [name]


def bits(value: Any) -> Any:
    """What is equal only if every bit is: unlike numbers, of which nan differs from itself and 0.0 equals -0.0."""
    if torch.is_tensor(value):
        data = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return value.dtype, value.shape, hashlib.sha256(data.numpy()).digest()
    return value.hex() if isinstance(value, float) else repr(value)


# ---- the command -----------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dinosr bench kills", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="dinosr_tiny", help="name of a config (default: %(default)s)")
    parser.add_argument("--kills", type=whole_number, default=50, help="default: %(default)s")
    parser.add_argument("--signal", choices=(*SIGNALS, "random"), default="KILL", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals (default: %(default)s)")
    parser.add_argument("--updates", type=whole_number, default=500, help="of each run (default: %(default)s)")
    parser.add_argument(
        "--save-every", type=whole_number, default=10, help="updates between checkpoints (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="dataset.num_workers (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the runs and the figures; the same command resumes there. Runs that equal the reference are "
        "deleted",
    )
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of the config, such as task.relabel_every=2")
    return parser


def draw(seed: int, name: str, number: int, longest: float) -> tuple[str, float]:
    """Signal and moment of a kill: always the same for the same number."""
    rng = random.Random(f"{seed} {number}")
    moment = rng.uniform(0, longest)
    return rng.choice(SIGNALS) if name == "random" else name, moment


def prepare(options: argparse.Namespace) -> list[str]:
    """The command that all runs share; makes its data and, if the model starts from one, a checkpoint."""
    path = config_file(options.config)
    data = (options.out / "data").absolute()
    if not any(field.startswith("task.data=") for field in options.overrides):
        write_data(data)
    sizes = (options.updates, options.save_every, options.workers)
    command = train_command(path, data, *sizes)
    field, other = STARTS_FROM.get(yaml.safe_load(path.read_text())["model"]["_name"], (None, None))
    if field and not any(override.startswith(f"model.{field}=") for override in options.overrides):
        pretraining = Run(options.out / "pretraining", train_command(config_file(other), data, 20, 20, 0))
        if not pretraining.last.exists():
            print(f"{pretraining.folder}: pre-training", flush=True)
            kill_once(pretraining, 0, "", None)
        command.append(f"model.{field}={pretraining.last.absolute()}")
    return command + options.overrides


def reference_of(options: argparse.Namespace, command: list[str], table: RowTable) -> tuple[Run, float]:
    """The uninterrupted run and its seconds."""
    run = Run(options.out / "reference", command)
    if table.get("reference") is None:
        print(f"{run.folder}: training {options.updates} updates without interruption", flush=True)
        shutil.rmtree(run.folder, ignore_errors=True)
        start = time.monotonic()
        kill_once(run, 0, "", None)
        table.add("reference", {"seconds": time.monotonic() - start})
    return run, table.get("reference")["seconds"]


def go_on(options: argparse.Namespace, command: list[str], table: RowTable, say: Callable[[int], None]) -> None:
    """Kill and start again until there are enough kills and the last run has ended. ``say``: kills so far."""
    reference, longest = reference_of(options, command, table)
    while True:
        kills, ended = rows_of(table, "kill"), rows_of(table, "run")
        say(len(kills))
        enough = len(kills) == options.kills
        if enough and ended and kills[-1]["run"] < len(ended):
            return
        run = Run(options.out / f"run_{len(ended)}", command)
        name, moment = draw(options.seed, options.signal, len(kills) + len(ended), longest)
        start = time.monotonic()
        kill = kill_once(run, len(ended), name, None if enough else moment)
        seconds = {"seconds": time.monotonic() - start}
        if kill:
            table.add(f"kill {len(kills)}", {**kill._asdict(), **seconds})
            continue
        different = differences(load(reference.last), load(run.last))
        table.add(f"run {len(ended)}", {"differences": different, "leftovers": run.leftovers(), **seconds})
        if not different and not run.leftovers():
            shutil.rmtree(run.folder)


def rows_of(table: RowTable, kind: str) -> list[dict]:
    return [row for key, row in table.rows.items() if key.startswith(f"{kind} ")]


COLUMNS = [
    Column("signal", "signal"),
    Column("kills", "kills"),
    Column("early", "before an update"),
    Column("made", "updates", ".1f"),
    Column("lost", "lost", ".1f"),
    Column("most", "most"),
    Column("allowed", "allowed"),
    Column("seconds", "seconds", ".1f"),
]


def by_signal(kills: list[dict], save_every: int) -> list[dict]:
    """A row for each signal: means over its kills, and the most updates that a kill lost."""
    rows = []
    for name in SIGNALS:
        same = [kill for kill in kills if kill["signal"] == name]
        if same:
            mean = {key: sum(kill[key] for kill in same) / len(same) for key in ("updates", "lost", "seconds")}
            early = sum(kill["updates"] == 0 for kill in same)
            row = {"signal": name, "kills": len(same), "early": early, "made": mean["updates"], "lost": mean["lost"]}
            row |= {"most": max(kill["lost"] for kill in same), "allowed": allowed(name, save_every)}
            rows.append({**row, "seconds": mean["seconds"]})
    return rows


def allowed(name: str, save_every: int) -> int:
    """Updates that a kill may lose: all since the last checkpoint, or none, because other signals save."""
    return save_every if name == "KILL" else 0


def faults(table: RowTable, save_every: int) -> list[str]:
    """What is wrong: a line each."""
    lines = []
    for kill in rows_of(table, "kill"):
        what = f"run {kill['run']}: SIG{kill['signal']} after {kill['after']:.2f} s"
        if kill["lost"] > allowed(kill["signal"], save_every):
            lines.append(f"{what} lost {kill['lost']} updates")
        if kill["error"]:
            lines.append(f"{what}: {kill['error']}")
    for number, run in enumerate(rows_of(table, "run")):
        if names := run["differences"]:
            lines.append(f"run {number}: differs from the reference in {len(names)} places: {first_few(names)}")
        if names := run["leftovers"]:
            lines.append(f"run {number}: leaves {first_few(names)}")
    return lines


def report(table: RowTable, options: argparse.Namespace) -> bool:
    """Print the tables; whether nothing is wrong."""
    kills, runs, wrong = rows_of(table, "kill"), rows_of(table, "run"), faults(table, options.save_every)
    print(format_table(by_signal(kills, options.save_every), COLUMNS))
    same = sum(not run["differences"] for run in runs)
    seconds = sum(row["seconds"] for row in table.rows.values())
    print(
        f"{len(kills)} kills in {len(runs)} runs; {same} of {len(runs)} equal the reference bit by bit; {seconds:.0f} s"
    )
    print(*wrong, sep="\n", end="\n" if wrong else "")
    write_record(options.json, {"kills": kills, "runs": runs, "faults": wrong})
    return not wrong


def open_table(options: argparse.Namespace, command: list[str]) -> RowTable:
    """What was measured so far. Raises UserError if it was measured with other options."""
    path = options.out / "kills.json"
    settings = [options.config, options.signal, options.seed, options.updates, *command[1:]]
    table = RowTable(path, hashlib.sha256("\n".join(map(str, settings)).encode()).hexdigest())
    if path.exists() and not table.rows:
        raise UserError(f"--out {options.out}: contains the figures of other options; give another folder")
    return table


def main(arguments: list[str] | None = None) -> None:
    options = make_parser().parse_intermixed_args(arguments)
    dinosr_plugin.register()  # torch.load then accepts fairseq's classes
    make_folder(options.out)
    with claim(options.out, f"--out {options.out}"):
        command = prepare(options)
        table = open_table(options, command)
        print(f"{options.out}/kills.json: figures", flush=True)
        try:
            with tqdm(total=options.kills, unit=" kills") as bar:
                go_on(options, command, table, lambda kills: bar.update(kills - bar.n))
        finally:
            good = report(table, options)
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the training, too
    run_script(main)

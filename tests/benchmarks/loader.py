"""Does training wait for the data loader? Its throughput alone, and the share of a training spent waiting for it.

    dinosr bench data [MANIFEST.tsv | --synth] [--hours 0.5] [--workers 0 1 2] [--rounds 3] [--updates 0] [--json FILE]
    dinosr bench data MANIFEST.tsv --views voice equalizer perturb [--updates 30]

Without a manifest, or with ``--synth``, the corpus is noise with the loudness contour of speech. The corpus is read in
its own format and as copies in the other one of FLAC and WAV, through the iterator of fairseq's trainer, with all
files in the operating system's cache. The following ways of reading alternate in this process, in another order in
each round:

    fairseq        FileAudioDataset: reads each file as a whole, each time
    first epoch    SpeechDataset in its first epoch, in which it also reads whole files
    later epochs   SpeechDataset in later epochs, in which it reads only the crop
    whole file     (windows) reads the whole file for each window
    window only    (windows) WindowDataset

What is read: ``whole`` utterances, padded; ``crop``: at most ``--crop`` seconds, without padding, normalised over the
whole utterance; ``windows`` of 1.28 s, eight of one speaker per batch. Columns:

    x realtime     hours of audio in the batches per hour of wall time: median, least and most of the rounds
    of the first   the same, divided by that of the first way in the same round: the median
    cpu s / h      with 0 workers: CPU seconds per hour of audio in the batches; less is better
    decoded        samples decoded per sample in the batches, which does not depend on the machine

Then the start of an epoch: milliseconds until its first batch, with persistent workers, as in training, and with new
workers in each epoch. With ``--updates`` also trainings of the tiny DinoSR with fairseq's trainer: milliseconds per
step, and milliseconds of waiting for its batch, in the epochs after the first, with whole files and with crops only.
They run on a GPU if there is one, unless ``--cpu`` is set.

With ``--views`` these chains of transforms are measured instead: seconds of audio per second of processor time, of this
process and of Praat's, and per second of wall time; and, with ``--updates``, how long ``spin_tiny`` with the views
``clean/CHAIN`` waits for its batches.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import soundfile as sf
import torch
from fairseq.data import FileAudioDataset, data_utils, iterators
from loader_views import SPEEDS, chain_of_transforms, speeds, spin_trainer
from records import add_json, run_script, write_record

from dinosr_plugin.cli.parsing import positive, whole_number
from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.manifest import read_root, read_rows
from dinosr_plugin.data.windows import WindowDataset
from dinosr_plugin.evaluation.table import format_table

RATE = 16000
WINDOW, WINDOWS = 20480, 8  # samples, windows in a batch: those of CPC
BATCH = 60 * RATE  # samples in a batch of utterances
SHORTEST = 2 * RATE
WARM = 3  # updates of a training before its epochs count
COLUMNS = [
    ("format", "format", ""),
    ("what", "what", ""),
    ("workers", "workers", "d"),
    ("way", "way", ""),
    ("realtime", "x realtime", ".0f"),
]
COLUMNS += [
    ("least", "least", ".0f"),
    ("most", "most", ".0f"),
    ("ratio", "of the first", ".2f"),
    ("cpu", "cpu s / h", ".1f"),
    ("decoded", "decoded", ".2f"),
]
STARTS = [
    ("workers", "workers", "d"),
    ("persistent", "start of epoch, persistent workers: ms", ".1f"),
    ("restarted", "new workers: ms", ".1f"),
]
STEPS = [
    ("workers", "workers", "d"),
    ("way", "way", ""),
    ("updates", "updates", "d"),
    ("step", "ms a step", ".1f"),
    ("wait", "ms waited", ".2f"),
]
STEPS += [("idle", "idle share", ".2%"), ("worst", "longest wait, ms", ".1f")]


# ---- corpora ---------------------------------------------------------------------------------------------------------


def speech_like(folder: Path, hours: float) -> Path:
    """A manifest of noise whose loudness rises and falls 4 times per second, in files of 2 to 30 s, ten per speaker."""
    rng = np.random.default_rng(0)
    rows, left = [str(folder)], hours * 3600 * RATE
    while left > 0:
        samples = int(rng.gamma(4, 3.5) * RATE) % (28 * RATE) + SHORTEST
        loudness = np.sin(np.arange(samples) * (4 * np.pi / RATE)) ** 4
        name = f"speaker{len(rows) // 10}/{len(rows)}.flac"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, np.convolve(rng.normal(0, 0.1, samples), np.hanning(8) / 4, "same") * loudness, RATE)
        rows.append(f"{name}\t{samples}")
        left -= samples
    return write(folder, rows)


def part(manifest: Path, folder: Path, hours: float) -> Path:
    """Write a manifest of random utterances of another one, in the same order."""
    rows = [(name, samples) for _, name, samples in read_rows(manifest) if samples >= SHORTEST]
    order = np.random.default_rng(0).permutation(len(rows))
    enough = 1 + np.searchsorted(np.cumsum([rows[row][1] for row in order]), hours * 3600 * RATE)
    return write(
        folder, [str(read_root(manifest)), *(f"{rows[row][0]}\t{rows[row][1]}" for row in sorted(order[:enough]))]
    )


def copies(manifest: Path, folder: Path, suffix: str) -> Path:
    """Write the same audio, 16 bits, in another format; returns its manifest."""
    root, rows = read_root(manifest), [str(folder)]
    for _, name, samples in read_rows(manifest):
        path = Path(name).with_suffix(suffix)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / path, sf.read(Path(root, name), dtype="float32")[0], RATE)
        rows.append(f"{path}\t{samples}")
    return write(folder, rows)


def write(folder: Path, rows: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    return folder / "train.tsv"


def in_both_formats(manifest: Path, folder: Path) -> dict[str, Path]:
    """Manifests of the corpus in FLAC and in WAV; one of them may be the original."""
    suffixes = {Path(name).suffix for _, name, _ in read_rows(manifest)}
    return {
        suffix[1:]: manifest if suffixes == {suffix} else copies(manifest, folder / suffix[1:], suffix)
        for suffix in (".flac", ".wav")
    }


# ---- ways of reading -------------------------------------------------------------------------------------------------


class WholeFileWindows(WindowDataset):
    """Reads the whole file of a window, then cuts the window."""

    def read(self, row: int, start: int) -> torch.Tensor:
        return self.utterances[row]["source"][start : start + self.window]


def ways(what: str, manifest: Path, crop: int) -> dict[str, tuple]:
    """Name -> (dataset, function to call before an epoch)."""
    forget = lambda dataset: dataset.scales.zero_()
    keep = lambda dataset: None
    if what == "windows":
        windows = lambda kind: kind(
            SpeechDataset(str(manifest), RATE, min_sample_size=WINDOW), WINDOW, same_speaker=False, moving=True
        )
        return {"whole file": (windows(WholeFileWindows), keep), "window only": (windows(WindowDataset), keep)}
    options = {
        "min_sample_size": SHORTEST,
        "pad": what == "whole",
        "normalize": True,
        "max_sample_size": crop if what == "crop" else None,
    }
    fairseqs, new, known = (
        kind(str(manifest), RATE, **options) for kind in (FileAudioDataset, SpeechDataset, SpeechDataset)
    )
    return {"fairseq": (fairseqs, keep), "first epoch": (new, forget), "later epochs": (known, keep)}


def iterator(dataset, order, workers: int, stay: bool = True) -> iterators.EpochBatchIterator:
    """The iterator of fairseq's trainer, with the batches of the dataset ``order``."""
    with data_utils.numpy_seed(1):
        size = {"max_sentences": WINDOWS} if isinstance(order, WindowDataset) else {"max_tokens": BATCH}
        batches = order.batch_by_size(order.ordered_indices(), **size)
    options = {
        "collate_fn": dataset.collater,
        "batch_sampler": batches,
        "seed": 1,
        "num_workers": workers,
        "buffer_size": 10,
    }
    return iterators.EpochBatchIterator(dataset, persistent_workers=stay, reuse_dataloader=stay, **options)


def epoch(batches: iterators.EpochBatchIterator) -> dict:
    """Measure one epoch."""
    wall, cpu, samples = time.perf_counter(), time.process_time(), 0
    for batch in batches.next_epoch_itr():
        samples += batch["net_input"]["source"].numel()
    hours = samples / RATE / 3600
    return {
        "samples": samples,
        "realtime": hours * 3600 / (time.perf_counter() - wall),
        "cpu": (time.process_time() - cpu) / hours,
    }


def count_decoded(work: Callable[[], dict]) -> float:
    """Samples that this process decodes during ``work``, per sample in the batches."""
    read, decoded = sf.SoundFile.read, []

    def counted(self, *args, **kwargs):
        wave = read(self, *args, **kwargs)
        decoded.append(len(wave))
        return wave

    with mock.patch.object(sf.SoundFile, "read", counted):
        samples = work()["samples"]
    return sum(decoded) / samples


def compare(name: str, what: str, manifest: Path, crop: int, workers: int, rounds: int) -> list[dict]:
    """One row of the table for each way of reading."""
    datasets = ways(what, manifest, crop)
    runs, decoded = {way: [] for way in datasets}, {}
    order = list(datasets.values())[-1][0]
    batches = {way: iterator(dataset, order, workers) for way, (dataset, _) in datasets.items()}
    for turn in range(-1, rounds):  # -1: starts workers, fills the cache and is the first epoch
        for way in rotated(list(datasets), turn):
            dataset, prepare = datasets[way]
            prepare(dataset)
            runs[way].append(epoch(batches[way]))
    if workers == 0:
        for way, (dataset, prepare) in datasets.items():
            prepare(dataset)
            decoded[way] = count_decoded(lambda way=way: epoch(batches[way]))
    for each in batches.values():
        stop_workers(each)
    rows, first = [], None
    for way, (_, *timed) in runs.items():
        speeds = [run["realtime"] for run in timed]
        first = first or speeds
        row = {
            "format": name,
            "what": what,
            "workers": workers,
            "way": way,
            "realtime": statistics.median(speeds),
            "least": min(speeds),
            "most": max(speeds),
        }
        row["ratio"] = statistics.median(speed / reference for speed, reference in zip(speeds, first))
        row["cpu"] = statistics.median(run["cpu"] for run in timed) if workers == 0 else None
        rows.append({**row, "decoded": decoded.get(way), "rounds": timed})
    return rows


def rotated(items: list, by: int) -> list:
    by %= len(items)
    return items[by:] + items[:by]


def stop_workers(batches: iterators.EpochBatchIterator) -> None:
    """Stop them at once: left to the garbage collector, each takes 5 s."""
    running = getattr(batches.dataloader, "_iterator", None)
    if running is not None:
        running._shutdown_workers()


# ---- the start of an epoch -------------------------------------------------------------------------------------------


def starts(manifest: Path, crop: int, workers: int, rounds: int) -> dict:
    """Milliseconds from the end of an epoch to the next one's first batch."""
    dataset, _ = ways("crop", manifest, crop)["later epochs"]
    times_of: dict[str, list[float]] = {"persistent": [], "restarted": []}
    for kind, times in times_of.items():
        batches = iterator(dataset, dataset, workers, kind == "persistent")
        for turn in range(rounds + 1):
            start = time.perf_counter()
            epoch_batches = batches.next_epoch_itr()
            next(epoch_batches)
            if turn:  # all workers are new in the first epoch
                times.append(1000 * (time.perf_counter() - start))
            for _ in epoch_batches:
                pass
        stop_workers(batches)
    return {"workers": workers, **{kind: statistics.median(times) for kind, times in times_of.items()}}


# ---- in training -----------------------------------------------------------------------------------------------------


def make_trainer(manifest: Path, workers: int, cpu: bool):
    """fairseq's trainer of the tiny DinoSR and its iterator, as ``fairseq-hydra-train`` makes them."""
    from fairseq import tasks
    from fairseq.trainer import Trainer
    from updates import composed

    on_cpu = cpu or not torch.cuda.is_available()
    fields = [
        f"task.data={manifest.parent}",
        f"dataset.num_workers={workers}",
        f"common.cpu={on_cpu}",
        "common.tensorboard_logdir=null",
    ]
    cfg = composed("dinosr_tiny", fields)
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    trainer = Trainer(cfg, task, model, criterion)
    return trainer, trainer.get_train_iterator(1)


def updates(trainer, batches) -> Iterator[dict]:
    """Train without end; yields for each update its epoch, and the seconds of waiting for its batch and of the step."""
    while True:
        grouped = iterators.GroupedIterator(batches.next_epoch_itr(), 1)
        trainer.begin_epoch(batches.epoch)
        start = time.perf_counter()
        while grouped.has_next():
            samples = next(grouped)
            ready = time.perf_counter()
            trainer.train_step(samples)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            end = time.perf_counter()
            yield {"epoch": batches.epoch, "wait": ready - start, "step": end - ready}
            start = end


def idle(manifest: Path, workers: int, n_updates: int, cpu: bool) -> list[dict]:
    """One row for whole files and one for crops: ``n_updates`` of each, after an epoch and ``WARM`` other updates."""
    rows = []
    for way, hidden in (("whole files", None), ("crops", SpeechDataset.__getitems__)):
        with mock.patch.object(SpeechDataset, "__getitems__", hidden):
            trainer, batches = make_trainer(manifest, workers, cpu)
            run = updates(trainer, batches)
            for update in run:
                if update["epoch"] > 1:
                    break
            counted = [next(run) for _ in range(WARM + n_updates)][WARM:]
            stop_workers(batches)
        rows.append(step_row(workers, way, counted))
    return rows


def step_row(workers: int, way: str, counted: Sequence[dict]) -> dict:
    """The row of a training from the times of its updates."""
    wait, step = (1000 * statistics.fmean(update[key] for update in counted) for key in ("wait", "step"))
    return {
        "workers": workers,
        "way": way,
        "updates": len(counted),
        "step": step,
        "wait": wait,
        "idle": wait / (wait + step),
        "worst": 1000 * max(update["wait"] for update in counted),
    }


def idle_spin(manifest: Path, workers: int, chain: str, options: argparse.Namespace) -> dict:
    """A row for ``spin_tiny`` with the views ``clean/CHAIN``: ``options.updates`` of them after ``WARM`` others."""
    with tempfile.TemporaryDirectory() as save_dir:
        trainer, batches = spin_trainer(manifest, workers, options.cpu, f"clean/{chain}", options.start_from, save_dir)
        run = updates(trainer, batches)
        counted = [next(run) for _ in range(WARM + options.updates)][WARM:]
        stop_workers(batches)
    return step_row(workers, chain, counted)


# ---- the command -----------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dinosr bench data", description=__doc__.splitlines()[0])
    parser.add_argument(
        "manifest",
        type=Path,
        nargs="?",
        metavar="MANIFEST.tsv",
        help="manifest of 16 kHz mono audio (default: noise, as with --synth)",
    )
    parser.add_argument("--synth", action="store_true", help="generate a corpus of noise")
    parser.add_argument(
        "--hours",
        type=positive,
        default=0.5,
        help="hours of audio, drawn at random from the manifest (default: %(default)s)",
    )
    parser.add_argument(
        "--crop", type=positive, default=4, metavar="SECONDS", help="longest crop, in seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="numbers of loader workers (default: 0 1 2)",
    )
    parser.add_argument(
        "--what",
        nargs="+",
        default=["whole", "crop", "windows"],
        choices=["whole", "crop", "windows"],
        help="what to read (default: all)",
    )
    parser.add_argument(
        "--rounds", type=whole_number, default=3, help="measured epochs of each way of reading (default: %(default)s)"
    )
    parser.add_argument(
        "--updates", type=int, default=0, help="measured updates of each training (default: 0, no training)"
    )
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, even if there is a GPU")
    parser.add_argument(
        "--views",
        type=chain_of_transforms,
        nargs="+",
        metavar="CHAIN",
        help="measure these chains of transforms instead, such as perturb, voice, equalizer",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="CHECKPOINT",
        help="with --views and --updates: what Spin starts from (default: random weights in the size of dinosr_tiny)",
    )
    add_json(parser)
    options = parser.parse_args(arguments)
    if options.synth and options.manifest:
        parser.error("--synth: generates a corpus; give either --synth or a manifest")
    if min(*options.workers, options.updates) < 0:
        parser.error("--workers and --updates: at least 0")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    logging.disable(logging.INFO)
    record = {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "throughput": [],
        "starts": [],
        "training": [],
    }
    crop = int(options.crop * RATE)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = (
            part(options.manifest, folder / "part", options.hours)
            if options.manifest
            else speech_like(folder / "noise", options.hours)
        )
        if options.views:
            write_record(options.json, record | measure_views(source, crop, options))
            return
        formats = in_both_formats(source, folder)
        for name, manifest in formats.items():
            for what in options.what:
                for workers in options.workers:
                    record["throughput"] += compare(name, what, manifest, crop, workers, options.rounds)
        print(format_table(record["throughput"], COLUMNS), end="\n\n", flush=True)
        if any(options.workers):
            record["starts"] = [
                starts(formats["flac"], crop, workers, options.rounds) for workers in options.workers if workers
            ]
            print(format_table(record["starts"], STARTS), flush=True)
        if options.updates:
            record["training"] = [
                row
                for workers in options.workers
                for row in idle(formats["flac"], workers, options.updates, options.cpu)
            ]
            print("\n" + format_table(record["training"], STEPS))
    write_record(options.json, record)


def measure_views(manifest: Path, crop: int, options: argparse.Namespace) -> dict:
    """Print the tables of the views; returns their rows."""
    logging.getLogger("dinosr_plugin.data.perturbation.voice").setLevel(logging.ERROR)
    record = {"throughput": speeds(manifest, options.views, crop, options.rounds), "training": []}
    print(format_table(record["throughput"], SPEEDS), flush=True)
    if options.updates:
        for chain in options.views:
            record["training"] += [idle_spin(manifest, workers, chain, options) for workers in options.workers]
        print("\n" + format_table(record["training"], STEPS))
    return record


if __name__ == "__main__":
    run_script(main)

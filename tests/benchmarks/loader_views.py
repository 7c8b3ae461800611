"""Views: audio made per core, and whether a training of Spin waits for them (``dinosr bench data --views``)."""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from fairseq import tasks
from fairseq.trainer import Trainer
from updates import composed

from dinosr_plugin.data.audio import read_wave
from dinosr_plugin.data.augmentation.augment import Augment, coloured_noise
from dinosr_plugin.data.augmentation.rooms import simulated_response
from dinosr_plugin.data.chains import NOISE, change_voices, make_views, parse_views
from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.perturbation import praat
from dinosr_plugin.data.perturbation.f0 import ranges_of
from dinosr_plugin.data.perturbation.voice import PRAAT, RESAMPLE, Voice
from dinosr_plugin.data.recordings import OtherUtterances
from dinosr_plugin.data.views import Transform
from dinosr_plugin.tasks.config import AugmentConfig

RATE = 16000
SPEEDS = [
    ("by", "voices by", ""),
    ("chain", "view", ""),
    ("core", "x realtime per core", ".0f"),
    ("least", "least", ".0f"),
    ("most", "most", ".0f"),
    ("wall", "x realtime, elapsed", ".0f"),
    ("unchanged", "voices not changed", ".1%"),
]
MODEL = ["front_end=fbank", "n_mels=40", "encoder_layers=5", "encoder_embed_dim=192", "encoder_ffn_embed_dim=768"]
MODEL += ["encoder_attention_heads=4", "conv_pos=32"]  # those of dinosr_tiny, with random weights


def cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    ours, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime


def speeds(manifest: Path, chains: Sequence[str], crop: int, rounds: int) -> list[dict]:
    """A row for each chain and way of changing voices; the waveforms are in memory, the crops their beginnings.

    ``augment`` has its built-in sources, and reads the babble from the files.
    """
    data, rows = SpeechDataset(str(manifest), RATE), []
    waves = [read_wave(data.path(row), int(data.sizes[row]))[:crop] for row in range(len(data))]
    with tempfile.TemporaryDirectory() as folder:
        for by in (PRAAT, RESAMPLE):
            voiced = [chain for chain in chains if change_voices(chain)]
            ranges = ranges_of(data, None, folder, by == PRAAT) if voiced else None
            for chain in voiced:
                voice = Voice(ranges, by)
                row = speed(chain, waves, rounds, lambda voice=voice: voice, data)
                rows.append({"by": by, **row, "unchanged": voice.unchanged.float().mean().item()})
    for chain in chains:
        if not change_voices(chain):
            rows.append({"by": "-", **speed(chain, waves, rounds, not_measured, data), "unchanged": None})
    return rows


def speed(chain: str, waves: Sequence[np.ndarray], rounds: int, voice: Callable, data: SpeechDataset) -> dict:
    """Seconds of audio that a chain makes per second: median, least and most of the rounds."""

    def augment() -> Augment:
        defaults, others = AugmentConfig(), OtherUtterances(data)
        sources = (coloured_noise, coloured_noise, others, simulated_response)
        return Augment(*sources, defaults.augment_shares, *defaults.augment_snr)

    (view,) = make_views(chain, voice, not_measured, augment)
    timed = [once(view, waves, seed) for seed in range(rounds)]
    cores = sorted(seconds / cpu for seconds, cpu, _ in timed)
    wall = [seconds / elapsed for seconds, _, elapsed in timed]
    core, elapsed = float(np.median(cores)), float(np.median(wall))
    return {"chain": chain, "core": core, "least": cores[0], "most": cores[-1], "wall": elapsed}


def once(view: Sequence, waves: Sequence[np.ndarray], seed: int) -> tuple[float, float, float]:
    """Views of all waveforms: their seconds, processor seconds and elapsed seconds, with the start of Praat."""
    praat.close()  # the time of a child counts when it has ended
    cpu, began, samples = cpu_seconds(), time.perf_counter(), 0
    for row, wave in enumerate(waves):
        rng = np.random.default_rng([seed, row])
        for transform in view:
            wave = transform(wave, rng, row)
        samples += len(wave)
    praat.close()
    return samples / RATE, cpu_seconds() - cpu, time.perf_counter() - began


def spin_trainer(manifest: Path, workers: int, cpu: bool, views: str, start_from: Path | None, save_dir: str):
    """fairseq's trainer of ``spin_tiny`` and its iterator, as ``fairseq-hydra-train`` makes them."""
    on_cpu = cpu or not torch.cuda.is_available()
    fields = [f"task.data={manifest.parent}", f"dataset.num_workers={workers}", f"common.cpu={on_cpu}"]
    fields += ["common.tensorboard_logdir=null", f"checkpoint.save_dir={save_dir}", f"task.views={views}"]
    fields += [f"model.start_from={start_from or 'null'}"]
    cfg = composed("spin_tiny", fields + ([] if start_from else [f"+model.{setting}" for setting in MODEL]))
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    trainer = Trainer(cfg, task, model, criterion)
    return trainer, trainer.get_train_iterator(1)


def chain_of_transforms(text: str) -> str:
    """An argparse type: one view without noise, such as ``perturb`` or ``voice+equalizer``."""
    try:
        (view,) = parse_views(text)
    except ValueError as error:  # UserError, or several views
        raise argparse.ArgumentTypeError(f"{text}: not a chain of transforms, such as perturb") from error
    if NOISE in view:
        raise argparse.ArgumentTypeError(f"{text}: noise is not measured; give other transforms, such as perturb")
    return text


def not_measured() -> Transform:
    raise AssertionError("chain_of_transforms refuses noise, and this chain has no voice")

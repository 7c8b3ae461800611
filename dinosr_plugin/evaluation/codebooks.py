"""Quality of a DinoSR checkpoint's codebooks: the teacher's codes and the student heads' predictions, on unmasked speech."""

import json
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ..data.audio import load_wave
from ..data.manifest import write_files
from ..models.checkpoint import load_dinosr, untrained_model
from .baselines import Utterance, assign, code_counts, fit_kmeans, kmeans_baseline, manifest_utterances
from .phones import PhoneAlignment
from .plots import plot_code_by_phone, plot_curves
from .quality import Quality
from .tables import QUALITY_COLUMNS, format_table
from .training_log import loss_curve, read_training_log

UNTRAINED_FIT_SAMPLES = 20 * 60 * 16000  # k-means on the untrained model sees the first 20 minutes


def waves(utterances: Sequence[Utterance], normalize: bool, title: str) -> Iterator[torch.Tensor]:
    """(1, T) float32 for each utterance in turn, normalised as fairseq's dataset does; with a progress bar."""
    for utterance in tqdm(utterances, desc=title, unit="file", disable=None):
        wave = torch.from_numpy(load_wave(utterance.path))
        yield (F.layer_norm(wave, wave.shape) if normalize else wave).unsqueeze(0)


def counts_by_codebook(utterances: Sequence[Utterance], codes: Sequence[np.ndarray], phones: PhoneAlignment, n_codes: int) -> np.ndarray:
    """codes: one (K, n) array an utterance -> (K, n_phones, n_codes) int64."""
    return np.stack([code_counts(utterances, [code[k] for code in codes], phones, n_codes) for k in range(len(codes[0]))])


@torch.no_grad()
def checkpoint_counts(checkpoint: Union[str, Path], utterances: Sequence[Utterance], phones: PhoneAlignment) -> Dict[str, np.ndarray]:
    """``{"teacher": ..., "student": ...}``, each (K, n_phones, V) int64: how often each phone meets each code.

    Raises UserError for a checkpoint without codebooks, unreadable audio, or an utterance without alignment.
    """
    phones.require(utterance.utt for utterance in utterances)
    model, cfg = load_dinosr(checkpoint)
    codes: Dict[str, List[np.ndarray]] = {"teacher": [], "student": []}
    for wave in waves(utterances, cfg.task.normalize, Path(checkpoint).name):
        codes["teacher"].append(model.codes(wave)[:, 0].numpy())
        codes["student"].append(model.predicted_codes(wave)[:, 0].numpy())
    V = model.cfg.codebook_size
    return {name: counts_by_codebook(utterances, part, phones, V) for name, part in codes.items()}


def qualities(counts: np.ndarray) -> List[dict]:
    """(K, n_phones, V) counts -> one dictionary of figures a codebook, lowest layer first."""
    return [Quality.from_counts(table).as_dict() for table in counts]


@torch.no_grad()
def untrained_counts(
    checkpoint: Union[str, Path], train: Sequence[Utterance], dev: Sequence[Utterance], phones: PhoneAlignment, seed: int = 0
) -> np.ndarray:
    """k-means of the codebooks' size on the targets of a model of the same config with random weights: (K, n_phones, V) int64.

    Fitted on the first 20 minutes of ``train``, counted on ``dev``.
    """
    _, cfg = load_dinosr(checkpoint)
    model = untrained_model(cfg, seed)
    targets: Callable = lambda wave: model.targets(model.encoder_inputs(wave, model.frame_padding(wave, None)), None)[:, 0].numpy()
    V = model.cfg.codebook_size
    heard = np.cumsum([utterance.samples for utterance in train])
    some = train[: max(1, int(np.searchsorted(heard, UNTRAINED_FIT_SAMPLES)))]
    fitted = [targets(wave) for wave in waves(some, cfg.task.normalize, "untrained: fit")]  # each (K, n, D)
    centroids = [fit_kmeans(np.concatenate(layer), V, seed) for layer in zip(*fitted)]
    codes = [
        np.stack([assign(frames, layer_centroids) for frames, layer_centroids in zip(targets(wave), centroids)])
        for wave in waves(dev, cfg.task.normalize, "untrained: measure")
    ]
    return counts_by_codebook(dev, codes, phones, V)


def measure(
    checkpoints: Sequence[Union[str, Path]],
    dev_tsv: Union[str, Path],
    phones: PhoneAlignment,
    train_tsv: Union[str, Path, None] = None,
) -> dict:
    """Figures of one or more checkpoints of a run, in order of updates, and of the baselines where ``train_tsv`` is given.

    Returns:
        ``history``: one entry a checkpoint: ``updates``, ``teacher`` and ``student`` (``Quality`` of each codebook);
        ``baselines``: name -> ``Quality``: k-means of the same size on MFCC, on log-Mel, and on the untrained model's best layer;
        ``counts``: (n_phones, V) of the last checkpoint's codebook with the highest PNMI, ``best`` its number.
    """
    dev = manifest_utterances(dev_tsv)
    history, counts = [], {}
    for checkpoint in checkpoints:
        counts = checkpoint_counts(checkpoint, dev, phones)
        history.append({"updates": updates_of(checkpoint), **{who: qualities(tables) for who, tables in counts.items()}})
    history.sort(key=lambda entry: entry["updates"])
    best = best_codebook(history[-1]["teacher"])
    baselines = {}
    if train_tsv is not None:
        size = counts["teacher"].shape[-1]
        train = manifest_utterances(train_tsv)
        untrained = qualities(untrained_counts(checkpoints[-1], train, dev, phones))
        baselines = {
            "MFCC k-means": kmeans_baseline("mfcc", train_tsv, dev_tsv, phones, size, seed=0).as_dict(),
            "log-Mel k-means": kmeans_baseline("fbank", train_tsv, dev_tsv, phones, size, seed=0).as_dict(),
            "untrained model": untrained[best_codebook(untrained)],
        }
    return {"history": history, "baselines": baselines, "best": best, "counts": counts["teacher"][best]}


def best_codebook(figures: Sequence[dict]) -> int:
    """The one with the highest PNMI."""
    return max(range(len(figures)), key=lambda k: figures[k]["pnmi"])


def updates_of(checkpoint: Union[str, Path]) -> int:
    """Number of updates that a fairseq checkpoint has seen."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(state["optimizer_history"][-1]["num_updates"])


def quality_table(figures: dict) -> str:
    """The last checkpoint's codebooks and the baselines, as text; ``figures`` as from ``measure``."""
    last = figures["history"][-1]
    rows = [{"name": f"{who} {k}", **row} for who in ("teacher", "student") for k, row in enumerate(last[who])]
    rows += [{"name": name, **row} for name, row in figures["baselines"].items()]
    return f"after {last['updates']} updates\n" + format_table(rows, QUALITY_COLUMNS)


def write_quality(out: Path, figures: dict, phone_names: Sequence[str], log: Optional[Path] = None) -> List[Path]:
    """``quality.json``, ``curves.png`` and ``code_by_phone.png`` in the folder ``out``; ``log``: the training log, for the loss."""
    losses = loss_curve(read_training_log(log)) if log else []
    history = [{**entry, "loss": _nearest(losses, entry["updates"])} for entry in figures["history"]]
    written = {key: history if key == "history" else figures[key] for key in ("history", "baselines", "best")}
    write_files(out, {"quality.json": [json.dumps(written, indent=1)]})
    title = f"P(phone | code) of codebook {figures['best']} after {history[-1]['updates']} updates"
    return [
        out / "quality.json",
        plot_curves(history, out / "curves.png", figures["baselines"], "Codebooks over training"),
        plot_code_by_phone(figures["counts"], phone_names, out / "code_by_phone.png", title),
    ]


def _nearest(losses: Sequence[tuple], update: int) -> Optional[float]:
    """Training loss logged nearest to an update; None before the first."""
    return min(losses, key=lambda point: abs(point[0] - update))[1] if losses and update else None

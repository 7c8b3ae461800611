"""Quality of a DinoSR checkpoint's codebooks: the teacher's codes and the student heads' predictions, on unmasked speech."""

from pathlib import Path
from typing import Callable, Dict, Iterator, List, Sequence, Union

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ..data.audio import load_wave
from ..models.checkpoint import load_dinosr, untrained_model
from .baselines import Utterance, assign, code_counts, fit_kmeans
from .phones import PhoneAlignment
from .quality import Quality

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

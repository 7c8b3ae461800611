"""Views: several differently transformed copies of each utterance in a batch, for objectives that compare them.

Spin compares the frames of an utterance with those of a speaker-perturbed copy (Chang, Liu and Glass, Interspeech
2023); SSRL gives its student a short augmented crop and its teacher a long clean one (Cai et al., IEEE TASLPRO 33,
2025). Each view has a chain of transforms:

    ViewDataset(dataset, [[], [Gain(-6, 6)]], seed=1)  # the utterance as it is, and a copy with a random gain

A new transform is a callable with the signature of ``Transform``. A view depends only on the seed, the epoch, the
utterance and the number of the view: batch size, order, workers, ranks and resuming never change it. The chains that
users can name in ``task.views`` are in ``data.chains``.
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.data import BaseWrapperDataset, FairseqDataset
from torch import Tensor

from ..errors import UserError
from .crops import Crop


class Transform(Protocol):
    """One step of a view, such as a gain, a crop, noise or another pitch."""

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int) -> np.ndarray:
        """(T,) float32, read-only -> (T',) float32, T' >= 1.

        Args:
            rng: the source of all random numbers.
            utterance: its ``id`` in the batch, for a transform that depends on the speaker.
        """


@dataclass(frozen=True)
class Gain:
    """Multiplies the waveform by 10^(g/20), with g in dB drawn uniformly between ``low`` and ``high``.

    The random gain of audiomentations (``Gain``, whose default is -12 to 12 dB). The result is not clipped.
    """

    low: float  # dB
    high: float  # dB

    def __post_init__(self):
        if not -np.inf < self.low <= self.high < np.inf:
            raise UserError(f"Gain: low={self.low}, high={self.high}: give two finite gains in dB, the lower one first")

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int = 0) -> np.ndarray:
        return wave * np.float32(10 ** ((self.low + (self.high - self.low) * rng.random()) / 20))


class ViewDataset(BaseWrapperDataset):
    """The utterances of ``dataset``, whose batches contain K views of each.

    Items, sizes, order, batches, the handling of bad files and the reading of crops are those of ``dataset``. Views are
    made by ``collater``, that is in the loader's workers, from the waveforms that a batch of ``dataset`` contains. An
    utterance longer than ``max_sample_size`` is cropped first, to the same part for all views, so that views whose
    transforms keep the length match frame by frame. Views that are crops of the whole utterance (``data.crops``) are
    made without ``max_sample_size``.

    ``normalize`` of ``dataset`` applies to the utterance before the transforms, that of the views to each view after
    them. ``max_tokens`` counts the samples of utterances, not of views. Frame labels belong to the utterance before the
    transforms.

    If all views begin with a crop, the length of an utterance has no influence on a batch: then batches consist of
    random utterances, others in every epoch unless ``dataset.fixed_batches``, and ``max_tokens`` counts the samples of
    all crops.

    Attributes:
        crop_samples: the samples of all crops of an utterance together; None: a view is not a crop.
        batch_size: with ``crop_samples``, leave out so many random utterances that the others fill batches of this
            number, unless there are fewer than it; None: leave out none.

    Args:
        dataset: a ``SpeechDataset`` with ``pad``, a ``WindowDataset``, or any fairseq dataset whose batches contain
            ``id`` and ``net_input`` with ``source`` (B, T) and, if waveforms are padded, ``padding_mask`` (B, T). An
            ``id`` must have the same waveform in all batches of an epoch. In a mixture of corpora, wrap each corpus.
        views: for each of the K views its transforms, in order of application; none for the utterance as it is.
        seed: determines the views, together with epoch, utterance and number of the view.
        normalize: scale each view to mean 0 and variance 1 after its transforms.
        moving: other views in every epoch; False: always those of epoch 1, for validation.

    Raises:
        UserError: ``dataset`` does not pad, so that crops depend on the other utterances of a batch.
    """

    def __init__(
        self,
        dataset: FairseqDataset,
        views: Sequence[Sequence[Transform]],
        seed: int,
        normalize: bool = False,
        moving: bool = True,
    ):
        super().__init__(dataset)
        if not getattr(dataset, "pad", True):
            raise UserError(
                "task.enable_padding=False: views must not depend on the batch; set task.enable_padding=True"
            )
        self.views = views
        self.seed = seed
        self.normalize = normalize
        self.moving = moving
        crops = [view[0].samples for view in views if view and isinstance(view[0], Crop)]
        self.crop_samples = sum(crops) if len(crops) == len(views) else None
        self.batch_size: int | None = None
        # In shared memory because fairseq keeps the loader's worker processes from epoch to epoch.
        self.epoch = torch.ones((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        if self.moving:
            self.epoch.fill_(epoch)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """A batch's items, read together where ``dataset`` can do that."""
        read_together = getattr(self.dataset, "__getitems__", None)
        return read_together(indices) if read_together else [self.dataset[index] for index in indices]

    def num_tokens(self, index: int) -> int:
        return self.crop_samples or self.dataset.num_tokens(index)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return np.full(len(indices), self.crop_samples) if self.crop_samples else self.dataset.num_tokens_vec(indices)

    def batch_by_size(self, *args, **kwargs):
        return FairseqDataset.batch_by_size(self if self.crop_samples else self.dataset, *args, **kwargs)

    def ordered_indices(self) -> np.ndarray:
        """As ``dataset``; of views that are crops, in random order, which fairseq seeds for each epoch."""
        if self.crop_samples is None:
            return self.dataset.ordered_indices()
        fixed = getattr(self.dataset, "fixed_batches", False)
        rng = np.random.default_rng(self.seed) if fixed else np.random
        order = rng.permutation(len(self))
        return order[: len(order) - len(order) % self.batch_size] if self.batch_size in range(1, len(order)) else order

    @property
    def skipped_indices(self) -> set[int]:
        """Rows of the manifest that are left out: fairseq leaves out their transcripts."""
        return self.dataset.skipped_indices

    @property
    def supports_fetch_outside_dataloader(self) -> bool:
        return self.dataset.supports_fetch_outside_dataloader

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Items -> the batch of ``dataset``, with views in ``net_input`` instead of the waveforms.

        ``source`` becomes a list of K tensors (B, T_k) float32, padded with zeros to the longest of each view, and
        ``padding_mask`` a list of K tensors (B, T_k) bool, True for padding; with a single view, the tensors themselves
        and not lists of them. Views of equal length can be encoded in one pass: ``torch.cat(source)`` is (K*B, T), view
        by view. ``{}`` for no items, as from ``dataset``.
        """
        batch = self.dataset.collater(samples)
        if not batch:
            return batch
        waves = unpad(batch["net_input"]["source"], batch["net_input"].get("padding_mask"))
        views = [
            pad([self.make_view(wave, utterance, view) for wave, utterance in zip(waves, batch["id"].tolist())])
            for view in range(len(self.views))
        ]
        sources, masks = map(list, zip(*views))
        source, padding_mask = (sources, masks) if len(views) > 1 else (sources[0], masks[0])
        return {**batch, "net_input": {**batch["net_input"], "source": source, "padding_mask": padding_mask}}

    def make_view(self, wave: np.ndarray, utterance: int, view: int) -> np.ndarray:
        """(T,) -> (T',): view number ``view`` of the utterance with this ``id`` in the current epoch."""
        # spawn_key keeps these streams apart from those of the crops, which are seeded with [seed, epoch, utterance]
        entropy = np.random.SeedSequence(self.seed, spawn_key=(int(self.epoch), utterance, view))
        rng = np.random.default_rng(entropy)
        for transform in self.views[view]:
            wave = transform(wave, rng, utterance)
            wave.flags.writeable = False
        return normalized(wave) if self.normalize else wave


def without_views(dataset: FairseqDataset) -> FairseqDataset:
    """The utterances of a dataset as they are, normalised as its views are. Labels are shared with it."""
    if not isinstance(dataset, ViewDataset):
        return dataset
    utterances = copy.copy(dataset.dataset)
    utterances.normalize = dataset.normalize
    # statistics of files that have been read with the other value of `normalize`
    utterances.means, utterances.scales = torch.zeros_like(utterances.means), torch.zeros_like(utterances.scales)
    return utterances


def normalized(wave: np.ndarray) -> np.ndarray:
    """(T,) -> (T,) of mean 0 and variance 1, as fairseq's dataset does it."""
    return F.layer_norm(torch.tensor(wave), wave.shape).numpy()


def unpad(source: Tensor, padding_mask: Tensor | None) -> list[np.ndarray]:
    """(B, T) float32 and its mask (B, T), or None -> B waveforms (T_b,), read-only."""
    lengths = [source.size(1)] * len(source) if padding_mask is None else (~padding_mask).sum(1).tolist()
    waves = [row[:length] for row, length in zip(source.numpy(), lengths)]
    for wave in waves:
        wave.flags.writeable = False
    return waves


def pad(waves: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """B waveforms (T_b,) -> (B, T) float32, padded with zeros to the longest, and (B, T) bool, True for padding."""
    lengths = torch.tensor([len(wave) for wave in waves])
    source = np.zeros((len(waves), int(lengths.max())), dtype=np.float32)
    for row, wave in zip(source, waves):
        row[: len(wave)] = wave
    return torch.from_numpy(source), torch.arange(source.shape[1]) >= lengths[:, None]

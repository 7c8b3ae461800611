"""fairseq's ``FileAudioDataset``, extended for trainings of weeks on a million files.

Bad files are skipped or reported instead of ending the run with a traceback; the random crops depend only on seed,
epoch and file; file names take little memory, and audio outside the crop is not decoded.

Each file is read completely once in a run: this shows whether it is intact, and ``normalize`` is defined over the whole
utterance. Afterwards only the crop is read, and normalised with the statistics of the whole utterance; the result is
the same to the last bit. This requires that a batch's items are requested together (``__getitems__``), as torch's
loader does, and fairseq's mixture of corpora with this package's extension of it. fairseq's other wrappers request
items one by one and read whole files each time: ``AddTargetDataset`` of fine-tuning, which does not crop, and
``SubsampleDataset`` (``task.subsample``).
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import logging
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset, FileAudioDataset
from fairseq.data.data_utils import compute_block_mask_1d
from fairseq.data.text_compressor import TextCompressionLevel, TextCompressor
from torch import Tensor

from ..errors import UserError
from .audio import (
    AudioError,
    parts_are_exact,
    read_part,
    read_wave,
    with_retries,
)
from .labels import FrameLabels, collate_labels, count_classes, read_labels
from .manifest import read_root, read_rows

logger = logging.getLogger(__name__)

NAMED = 10  # bad files that each process logs by name; after these, every hundredth
SUBSTITUTES = 20  # files tried in place of a batch that has no good one: enough unless the disk is gone


class FileName(bytes):
    def as_py(self) -> bytes:
        """fairseq calls this on names that are not in a list, because it expects an array of pyarrow then."""
        return self


class FileNames:
    """File names stored end to end in one block of memory, which takes half as much as Python objects.

    The loader's workers, which are forks, keep sharing this block. Reading a Python object writes its reference count,
    so that each worker would end up with its own copy of every memory page of a million objects.
    """

    def __init__(self):
        self.text = bytearray()
        self.ends = array("q", [0])  # name number i is text[ends[i] : ends[i + 1]]

    def append(self, name: bytes) -> None:
        self.text += name
        self.ends.append(len(self.text))

    def __getitem__(self, index: int) -> FileName:
        return FileName(self.text[self.ends[index] : self.ends[index + 1]])


class SpeechDataset(FileAudioDataset):
    """The utterances of a manifest.

    Items are ``{"id": row, "source": (T,) float32}``; the source is None for a bad file that is skipped.

    Args:
        manifest_path: the ``.tsv`` file, already validated.
        sample_rate: Hz; all files must have this rate.
        seed: determines the crops, together with epoch and row.
        skip_bad_audio: skip and log files that cannot be read, are not mono at ``sample_rate``, do not have the number
            of samples that the manifest states, or contain NaN. Otherwise such a file raises UserError.
        max_bad_files: maximum number of different files to skip; one more raises UserError that names them all. None:
            no limit.
        labels: suffixes of the frame label files next to the manifest, which need a ``dict.<suffix>.txt`` each; batches
            then contain the labels.
        label_rate: labels per second.
        fixed_batches: batches consist of the same utterances in every epoch and in a resumed run. Otherwise utterances
            of the same length, after cropping, are in another order in each epoch.
        num_buckets, text_compression_level, options: as for ``FileAudioDataset``.
    """

    def __init__(
        self,
        manifest_path: str,
        sample_rate: int,
        seed: int = 0,
        skip_bad_audio: bool = False,
        max_bad_files: int | None = None,
        labels: Sequence[str] = (),
        label_rate: int = 50,
        fixed_batches: bool = False,
        num_buckets: int = 0,
        text_compression_level: TextCompressionLevel = TextCompressionLevel.none,
        **options,
    ):
        # skips FileAudioDataset's own __init__, which creates Python objects for all rows
        super(FileAudioDataset, self).__init__(sample_rate, **options)
        self.manifest_path = manifest_path
        self.text_compressor = TextCompressor(text_compression_level)
        self.load_rows(Path(manifest_path))
        self.label_rate = label_rate
        self.label_files = [str(Path(manifest_path).with_suffix(f".{kind}")) for kind in labels]
        self.labels = [self.load_labels(Path(manifest_path), kind) for kind in labels]
        self.set_bucket_info(num_buckets)
        self.seed = seed
        self.skip_bad_audio = skip_bad_audio
        self.max_bad_files = max_bad_files
        self.fixed_batches = fixed_batches
        self.logged = 0  # bad files that this process has seen
        # In shared memory, because fairseq keeps its worker processes from epoch to epoch, and a worker needs what
        # another one has found out about a file.
        self.epoch = torch.ones((), dtype=torch.long).share_memory_()
        self.bad = torch.zeros(len(self), dtype=torch.bool).share_memory_()
        # A file is normalised as (sample - mean) * scale; scale 0: not read yet, or must be read completely each time.
        self.means = torch.zeros(len(self)).share_memory_()
        self.scales = torch.zeros(len(self)).share_memory_()

    def load_rows(self, manifest: Path) -> None:
        """Sets names and sizes of the rows that are long enough, and ``skipped_indices``, the rows that are too short.

        fairseq uses the latter to leave out the labels of these rows.
        """
        self.root_dir = str(read_root(manifest))
        self.fnames = FileNames()
        self.skipped_indices = set()
        sizes = array("q")
        for number, name, samples in read_rows(manifest):
            if samples < (self.min_sample_size or 0):
                self.skipped_indices.add(number - 2)
                continue
            self.fnames.append(self.text_compressor.compress(name))
            sizes.append(samples)
        self.sizes = np.array(sizes, dtype=np.int64)
        logger.info(f"loaded {len(self.sizes)}, skipped {len(self.skipped_indices)} samples")

    def load_labels(self, manifest: Path, kind: str) -> FrameLabels:
        classes = count_classes(manifest.parent, kind)
        return read_labels(manifest.with_suffix(f".{kind}"), classes, self.sizes, self.label_rate, self.skipped_indices)

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    # -- reading -----------------------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> dict[str, Any]:
        """fairseq's item of a whole file.

        fairseq's own method takes some names for members of ZIP archives, and decodes a file before it looks at its
        length and rate.
        """
        try:
            wave = self.read(index)
        except AudioError as error:
            self.refuse(index, error)
            return {"id": index, "source": None}  # fairseq's collater leaves these out
        item = {"id": index, "source": self.layer_norm(index, wave)}
        return {**item, "precomputed_mask": self.block_mask(len(wave))} if self.is_compute_mask else item

    def read(self, index: int) -> Tensor:
        """(T,) float32. A file that cannot be read, or has another length than in the manifest, is read three times.

        Raises AudioError for a file that cannot be used.
        """
        return with_retries(lambda: self.decode(index))

    def decode(self, index: int) -> Tensor:
        """(T,) float32. Raises AudioError as ``read_wave``."""
        return torch.from_numpy(read_wave(self.path(index), int(self.sizes[index]), self.sample_rate))

    def block_mask(self, samples: int) -> Tensor:
        """The masks of ``task.precompute_mask_config``, as fairseq's ``FileAudioDataset`` makes them."""
        return compute_block_mask_1d(
            shape=(self.clone_batch, self._get_mask_indices_dims(samples)),
            mask_prob=self.mask_prob,
            mask_length=self.mask_length,
            mask_prob_adjust=self.mask_prob_adjust,
            inverse_mask=self.inverse_mask,
            require_same_masks=True,
            expand_adjcent=self.expand_adjacent,
            mask_dropout=self.mask_dropout,
            non_overlapping=self.non_overlapping,
        )

    def layer_norm(self, index: int, wave: Tensor) -> Tensor:
        """Normalises a whole utterance if ``normalize`` is set, (T,) -> (T,); stores the statistics for its crops."""
        mean, scale = 0, 1
        if self.normalize:
            # F.layer_norm, which fairseq calls, but with the statistics
            wave, mean, scale = torch.native_layer_norm(wave, wave.shape, None, None, 1e-5)
        if not self.scales[index] and parts_are_exact(self.path(index)):
            self.means[index] = mean
            self.scales[index] = scale  # last, because other processes test this one
        return wave

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """A batch's items, for torch's loader.

        ``source`` is either the whole utterance, or the crop that ``collater`` would cut from it, if only that was
        read.
        """
        if self.is_compute_mask:  # masks are computed for whole utterances
            return [self[row] for row in rows]
        items = {row: self[row] for row in rows if not self.scales[row]}
        good = [row for row in rows if row not in items or items[row]["source"] is not None]
        length = self.crop_length(good)
        try:
            items.update({row: {"id": row, "source": self.read_crop(row, length)} for row in good if row not in items})
        except AudioError:  # a file has become unreadable: without it, the crops of the others may be longer
            return [self[row] for row in rows]
        return [items[row] for row in rows]

    def read_crop(self, index: int, length: int) -> Tensor:
        """(length,), or the whole of a shorter utterance. Raises AudioError if it cannot be read."""
        samples = int(self.sizes[index])
        start = self.crop_start(samples, length, index)
        wave = read_part(self.path(index), samples, start, min(length, samples), self.sample_rate)
        return (torch.from_numpy(wave) - self.means[index]) * self.scales[index]

    def name(self, index: int) -> str:
        return self.text_compressor.decompress(self.fnames[index])

    def path(self, index: int) -> Path:
        return Path(self.root_dir, self.name(index))

    def refuse(self, index: int, error: AudioError) -> None:
        """Skips a bad file, or raises UserError with its name."""
        if not self.skip_bad_audio:
            raise UserError(
                f"{self.path(index)}: {error}; `dinosr check {self.manifest_path}` lists all such files"
            ) from error
        self.skip(index, error)

    def skip(self, index: int, error: AudioError) -> None:
        """Logs and counts a bad file once per run. Raises UserError for more than ``max_bad_files``."""
        # A file that became unreadable after it was read once: otherwise reading its crop would be tried again and
        # again, and the other files of its batches would be read completely.
        self.scales[index] = 0
        if self.bad[index]:
            return
        self.bad[index] = True
        self.log_skipped(index, error)
        rows = self.bad.nonzero().flatten().tolist()
        if self.max_bad_files is not None and len(rows) > self.max_bad_files:
            raise UserError(
                f"task.max_bad_files={self.max_bad_files}: {len(rows)} files cannot be used. Check that the disk is "
                f"mounted; `dinosr check {self.manifest_path}` shows what is wrong with each. Repair the files, or "
                f"raise task.max_bad_files. Under {self.root_dir}: {', '.join(map(self.name, rows))}"
            )

    def log_skipped(self, index: int, error: AudioError) -> None:
        self.logged += 1
        if self.logged <= NAMED or self.logged % 100 == 0:
            logger.warning(f"skipped {self.path(index)}: {error} ({self.logged} bad file(s) so far in this process)")

    # -- batches -----------------------------------------------------------------------------------------------------

    def num_tokens(self, index: int) -> int:
        """Samples of a row in a batch, after cropping.

        fairseq ignores the crop if batches are padded, and makes smaller batches than necessary.
        """
        return min(int(self.sizes[index]), self.max_sample_size)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """``num_tokens`` of many rows, (N,) -> (N,)."""
        return np.minimum(self.sizes[indices], self.max_sample_size)

    def ordered_indices(self) -> np.ndarray:
        """Rows (N,), the longest first; the order of those of equal length is random."""
        if not self.fixed_batches:
            return super().ordered_indices()  # draws from the generator that fairseq seeds for each epoch
        ties = np.random.default_rng(self.seed).permutation(len(self))
        return np.lexsort([ties, self.num_tokens_vec(np.arange(len(self)))])[::-1]

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Items -> fairseq's batch, or ``{}`` for no items, which a shard may get at the end of an epoch.

        The batch contains ``id`` (B,), the same numbers as a list ``numbers``, the paths ``files``, and ``net_input``
        with ``source`` (B, T) float32 and, if ``pad``, ``padding_mask`` (B, T) bool. With labels, ``net_input`` also
        contains ``labels`` (S, B, L) of whole utterances, ``label_starts`` (B,), the first sample of each crop, and
        ``label_rate``. Without ``pad``, all rows are cropped to the shortest.
        """
        if not samples:
            return {}
        good = [sample for sample in samples if sample["source"] is not None] or [self.substitute(samples[0])]
        longest = self.crop_length([sample["id"] for sample in good])
        starts = [self.crop_start(int(self.sizes[sample["id"]]), longest, sample["id"]) for sample in good]
        crops = [
            # a source that is not longer was cropped when it was read, or belongs to a short utterance
            sample["source"][start : start + longest] if len(sample["source"]) > longest else sample["source"]
            for sample, start in zip(good, starts)
        ]
        batch = super().collater([{**sample, "source": crop} for sample, crop in zip(good, crops)])
        if self.labels:
            batch["net_input"].update(self.label_inputs([sample["id"] for sample in good], starts))
        return {**batch, "numbers": batch["id"].tolist(), "files": [str(self.path(sample["id"])) for sample in good]}

    def label_inputs(self, rows: list[int], starts: list[int]) -> dict[str, Any]:
        """Inputs of a model that predicts labels, for crops that begin at samples ``starts`` of these utterances."""
        return {
            "labels": collate_labels(self.labels, rows),
            "label_starts": torch.tensor(starts),
            "label_rate": self.label_rate,
        }

    def crop_length(self, rows: Sequence[int]) -> int:
        """Length in samples of the longest crop in a batch of these utterances; without ``pad``, of every crop."""
        return self.max_sample_size if self.pad else min([self.max_sample_size, *map(int, self.sizes[rows])])

    def crop_start(self, samples: int, length: int, index: int) -> int:
        """First sample of a crop; it depends only on seed, epoch, index and lengths, not on other rows or the workers.

        0 for an utterance that is not longer than ``length``.
        """
        spare = samples - length
        return int(self.random(index).random() * (spare + 1)) if spare > 0 else 0

    def random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, int(self.epoch), *map(int, numbers)])

    def substitute(self, bad: dict[str, Any], items: FairseqDataset | None = None) -> dict[str, Any]:
        """A good item for a batch that has none.

        For an empty batch fairseq would repeat its first batch, or crash if that one is empty.

        Args:
            bad: an item of the batch; it determines which other items are tried.
            items: the dataset to take the item from, if it is not this one.

        Raises:
            UserError: many other files are bad too, which is better reported than trained on for weeks.
        """
        items = items or self
        for index in self.random(bad["id"], 1).integers(len(items), size=SUBSTITUTES):
            sample = {**bad, **items[int(index)]}
            if sample["source"] is not None:
                return sample
        raise UserError(
            f"{self.root_dir}: no file of a batch can be used, and neither can {SUBSTITUTES} other files of "
            f"{self.manifest_path}. Check that the disk is mounted; `dinosr check` shows what is wrong with each file"
        )


def longest_utterance(dataset: FairseqDataset, limit: int) -> int:
    """Samples, after cropping, of the longest utterance with at most ``limit`` samples before cropping; 0 if none."""
    if not hasattr(dataset, "sizes"):  # fairseq's mixture of corpora
        return max(longest_utterance(corpus, limit) for corpus in dataset.datasets.values())
    rows = np.flatnonzero(dataset.sizes <= limit)
    return int(dataset.num_tokens(rows[dataset.sizes[rows].argmax()])) if len(rows) else 0

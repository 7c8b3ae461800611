"""fairseq's ``FileAudioDataset``, with three things that a run of weeks on a million files needs: bad files do not end it in a
traceback, the random crops depend on nothing but seed, epoch and file, and neither file names nor unused audio cost much.

A file is read as a whole once in a run: that shows whether it is sound, and ``normalize`` is defined over the whole utterance. From then
on only the crop is read, and normalised by what the whole one had: the same numbers to the last bit. That goes for who asks for a batch's items at
once (``__getitems__``), as torch's loader does and fairseq's mixture of corpora here. fairseq's other wrappers ask for one item after another, which
are whole files each time: ``AddTargetDataset`` of fine-tuning, which crops nothing, and ``SubsampleDataset`` (``task.subsample``).
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import logging
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset, FileAudioDataset
from fairseq.data.text_compressor import TextCompressionLevel, TextCompressor
from torch import Tensor

from ..errors import UserError
from .audio import MONO_COPIES, AudioError, Header, parts_are_exact, read_header, read_part, wrong_format
from .labels import FrameLabels, collate_labels, count_classes, read_labels
from .manifest import read_root, read_rows

logger = logging.getLogger(__name__)

NAMED = 10  # bad files that are logged by name, by each process; then every hundredth
RETRY = 1.0  # seconds until a file of the wrong length is read again
SUBSTITUTES = 20  # files tried in place of a batch without a good one: enough unless the disk is gone


class FileName(bytes):
    def as_py(self) -> bytes:
        """fairseq asks this of names that it does not hold in a list: it knows pyarrow's arrays."""
        return self


class FileNames:
    """Names, end to end in one piece of memory: half of what as many Python objects take.

    And the loader's workers, which are forks, share it to the end. To look at an object writes its reference count, so that a worker
    comes to own a copy of every page of a million objects.
    """

    def __init__(self):
        self.text = bytearray()
        self.ends = array("q", [0])  # of name number -1, 0, 1, ...

    def append(self, name: bytes) -> None:
        self.text += name
        self.ends.append(len(self.text))

    def __getitem__(self, index: int) -> FileName:
        return FileName(self.text[self.ends[index] : self.ends[index + 1]])


class SpeechDataset(FileAudioDataset):
    """The utterances of a manifest; items are ``{"id": row, "source": (T,) float32, or None for a bad file that is skipped}``.

    Args:
        manifest_path: the ``.tsv`` file, already validated.
        sample_rate: Hz; must be what the files have.
        seed: another number gives other crops.
        skip_bad_audio: leave out and log what cannot be read, is not mono at ``sample_rate``, has not as many samples as the
            manifest says, or holds NaN; else raise UserError with the file's name.
        max_bad_files: how many different files may be left out until UserError names them all; None: any number.
        labels: suffixes of the files of frame labels beside the manifest, with ``dict.<suffix>.txt`` there too; batches hold their labels then.
        label_rate: labels a second.
        num_buckets, text_compression_level, options: as ``FileAudioDataset``.
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
        num_buckets: int = 0,
        text_compression_level: TextCompressionLevel = TextCompressionLevel.none,
        **options,
    ):
        super(FileAudioDataset, self).__init__(
            sample_rate, **options
        )  # past FileAudioDataset's, which makes objects of all rows
        self.manifest_path = manifest_path
        self.text_compressor = TextCompressor(text_compression_level)
        self.load_rows(Path(manifest_path))
        self.label_rate = label_rate
        self.labels = [self.load_labels(Path(manifest_path), kind) for kind in labels]
        self.set_bucket_info(num_buckets)
        self.seed = seed
        self.skip_bad_audio = skip_bad_audio
        self.max_bad_files = max_bad_files
        self.logged = 0  # bad files, by this process
        # In shared memory, because fairseq keeps its worker processes from epoch to epoch, and one reads what another has read before.
        self.epoch = torch.ones((), dtype=torch.long).share_memory_()
        self.bad = torch.zeros(len(self), dtype=torch.bool).share_memory_()
        # What normalises each file, (sample - mean) * scale; scale 0: it was not read yet, or must be read as a whole each time.
        self.means = torch.zeros(len(self)).share_memory_()
        self.scales = torch.zeros(len(self)).share_memory_()

    def load_rows(self, manifest: Path) -> None:
        """Names and sizes of the rows that are long enough; ``skipped_indices``, of the others, tells fairseq which labels to leave out."""
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
        try:
            return self.read(index)
        except AudioError as error:
            self.refuse(index, error)
            return {"id": index, "source": None}  # fairseq's collater leaves these out

    def read(self, index: int) -> dict[str, Any]:
        """fairseq's item; raises AudioError for a file that cannot be used, after another attempt where its length is wrong."""
        item = self.decode(index)
        if len(item["source"]) != self.sizes[index]:
            time.sleep(RETRY)  # it may be in the midst of being written
            item = self.decode(index)
        if len(item["source"]) != self.sizes[index]:
            raise AudioError(
                f"{len(item['source'])} samples, but {self.sizes[index]} in the manifest; make that again with `dinosr manifest`"
            )
        return {**item, "source": self.normalised(index, item["source"])}

    def normalised(self, index: int, wave: Tensor) -> Tensor:
        """A whole utterance as it is trained on, (T,) -> (T,); what its crops will need is kept."""
        mean, scale = 0, 1
        if self.normalize:
            wave, mean, scale = torch.native_layer_norm(
                wave, wave.shape, None, None, 1e-5
            )  # F.layer_norm, as fairseq calls it
        if not self.scales[index] and parts_are_exact(self.path(index)):
            self.means[index] = mean
            self.scales[index] = scale  # last, for other processes look at this one
        return wave

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """A batch's items, for torch's loader, where ``source`` may be the crop that ``collater`` would make of it: then no more was read."""
        if self.is_compute_mask:  # of whole utterances
            return [self[row] for row in rows]
        items = {row: self[row] for row in rows if not self.scales[row]}
        good = [row for row in rows if row not in items or items[row]["source"] is not None]
        length = self.crop_length(good)
        try:
            items.update({row: {"id": row, "source": self.read_crop(row, length)} for row in good if row not in items})
        except AudioError:  # a file went bad: without it the crops of the others may be longer
            return [self[row] for row in rows]
        return [items[row] for row in rows]

    def read_crop(self, index: int, length: int) -> Tensor:
        """(length,), or all of a shorter utterance. Raises AudioError where it cannot be read."""
        samples = int(self.sizes[index])
        start = self.crop_start(samples, length, index)
        wave = read_part(self.path(index), samples, start, min(length, samples), self.sample_rate)
        return (torch.from_numpy(wave) - self.means[index]) * self.scales[index]

    def decode(self, index: int) -> dict[str, Any]:
        """fairseq's item; raises AudioError for a file that is no 16 kHz mono sound, after fairseq's three attempts to read it within a second."""
        try:
            return super().__getitem__(index)
        except AudioError:
            raise
        except Exception as error:
            if not str(error).startswith("Failed to load"):
                raise
            read_header(self.path(index))  # knows better what is wrong, mostly
            raise AudioError("cannot be decoded; remove it or fetch it again") from error

    def postprocess(self, feats: Tensor, curr_sample_rate: int) -> Tensor:
        """What was read, (T,) or (T, channels) -> (T,), not normalised yet. fairseq would average channels without a word."""
        header = Header(len(feats), curr_sample_rate, 1 if feats.dim() == 1 else feats.size(1))
        if wrong := wrong_format(header, self.sample_rate):
            raise AudioError(f"{wrong}; {MONO_COPIES}")
        if header.samples == 0:
            raise AudioError("holds no samples; remove it or fetch it again")
        if not np.isfinite(feats.numpy()).all():  # torch's takes twenty times as long, a fifth of the decoding
            raise AudioError("holds NaN or infinite samples; remove it or make it again")
        return feats

    def name(self, index: int) -> str:
        return self.text_compressor.decompress(self.fnames[index])

    def path(self, index: int) -> Path:
        return Path(self.root_dir, self.name(index))

    def refuse(self, index: int, error: AudioError) -> None:
        """Skip a bad file, or raise UserError with its name."""
        if not self.skip_bad_audio:
            raise UserError(
                f"{self.path(index)}: {error}; `dinosr check {self.manifest_path}` lists all such files"
            ) from error
        self.skip(index, error)

    def skip(self, index: int, error: AudioError) -> None:
        """Log and count a bad file, once whatever the epoch and the worker. Raises UserError where there are more than ``max_bad_files``."""
        self.scales[index] = (
            0  # where only crops of it were read by now: it would be tried again and again, and its batches read as a whole
        )
        if self.bad[index]:
            return
        self.bad[index] = True
        self.log_skipped(index, error)
        rows = self.bad.nonzero().flatten().tolist()
        if self.max_bad_files is not None and len(rows) > self.max_bad_files:
            raise UserError(
                f"task.max_bad_files={self.max_bad_files}: {len(rows)} files cannot be used; is the disk there? "
                f"`dinosr check {self.manifest_path}` tells what is wrong with each; mend them, or raise the number. "
                f"Under {self.root_dir}: {', '.join(map(self.name, rows))}"
            )

    def log_skipped(self, index: int, error: AudioError) -> None:
        self.logged += 1
        if self.logged <= NAMED or self.logged % 100 == 0:
            logger.warning(f"skipped {self.path(index)}: {error} ({self.logged} bad file(s) so far in this process)")

    # -- batches -----------------------------------------------------------------------------------------------------

    def num_tokens(self, index: int) -> int:
        """Samples of a row in a batch, after cropping. fairseq forgets the crop where batches are padded, and fills them less."""
        return min(int(self.sizes[index]), self.max_sample_size)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """``num_tokens`` of many rows, (N,) -> (N,)."""
        return np.minimum(self.sizes[indices], self.max_sample_size)

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Items -> fairseq's batch: ``id`` (B,), the same as a list ``numbers``, their ``files``, ``net_input`` with ``source`` (B, T) float32 and,
        if ``pad``, ``padding_mask``; where there are labels, the whole utterances' ``labels`` (S, B, L), the crops' first samples
        ``label_starts`` (B,), and ``label_rate``.

        Without ``pad`` all rows are cropped to the shortest. ``{}`` for no items, which a shard may get at the end of an epoch.
        """
        if not samples:
            return {}
        good = [sample for sample in samples if sample["source"] is not None] or [self.substitute(samples[0])]
        longest = self.crop_length([sample["id"] for sample in good])
        starts = [self.crop_start(int(self.sizes[sample["id"]]), longest, sample["id"]) for sample in good]
        whole = [
            len(sample["source"]) > longest for sample in good
        ]  # else it was cropped when it was read, or is short
        crops = [
            sample["source"][start : start + longest] if uncut else sample["source"]
            for sample, start, uncut in zip(good, starts, whole)
        ]
        batch = super().collater([{**sample, "source": crop} for sample, crop in zip(good, crops)])
        if self.labels:
            batch["net_input"].update(self.label_inputs([sample["id"] for sample in good], starts))
        return {**batch, "numbers": batch["id"].tolist(), "files": [str(self.path(sample["id"])) for sample in good]}

    def label_inputs(self, rows: list[int], starts: list[int]) -> dict[str, Any]:
        """What a model that predicts labels wants of crops that begin at samples ``starts`` of these utterances."""
        return {
            "labels": collate_labels(self.labels, rows),
            "label_starts": torch.tensor(starts),
            "label_rate": self.label_rate,
        }

    def crop_length(self, rows: Sequence[int]) -> int:
        """Samples of the longest crop in a batch of these utterances; without ``pad``, of every one."""
        return self.max_sample_size if self.pad else min([self.max_sample_size, *map(int, self.sizes[rows])])

    def crop_start(self, samples: int, length: int, index: int) -> int:
        """Where a crop begins: a place that depends on seed, epoch and index only, not on other rows, batches or workers; 0 for what is no longer."""
        spare = samples - length
        return int(self.random(index).random() * (spare + 1)) if spare > 0 else 0

    def random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, int(self.epoch), *map(int, numbers)])

    def substitute(self, bad: dict[str, Any], items: FairseqDataset | None = None) -> dict[str, Any]:
        """A good item for a batch that has none. fairseq would train on its first batch again, or crash where that is the empty one.

        ``items``: where to take it from, if it is not this dataset. Raises UserError where many others are bad too: better than weeks of
        training on what is left.
        """
        items = items or self
        for index in self.random(bad["id"], 1).integers(len(items), size=SUBSTITUTES):
            sample = {**bad, **items[int(index)]}
            if sample["source"] is not None:
                return sample
        raise UserError(
            f"{self.root_dir}: no file of a batch can be used, nor can {SUBSTITUTES} others of {self.manifest_path}; "
            "is the disk there? `dinosr check` tells what is wrong with each"
        )


def longest_utterance(dataset: FairseqDataset, limit: int) -> int:
    """Samples, after cropping, of the longest utterance that has no more than ``limit`` before; 0 if there is none."""
    if not hasattr(dataset, "sizes"):  # fairseq's mixture of corpora
        return max(longest_utterance(corpus, limit) for corpus in dataset.datasets.values())
    kept = np.flatnonzero(dataset.sizes <= limit)
    return int(dataset.num_tokens(kept[dataset.sizes[kept].argmax()])) if len(kept) else 0

"""fairseq's ``FileAudioDataset``, with two things that a run of weeks needs: bad files do not end it in a traceback, and
the random crops depend on nothing but seed, epoch and file.

Whole files are read even where only a crop is used: ``normalize`` is defined over the whole utterance, and fairseq
normalises before it crops.
"""

import logging
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from fairseq.data import FairseqDataset, FileAudioDataset
from torch import Tensor

from ..errors import UserError
from .audio import AudioError, Header, read_header, wrong_format

logger = logging.getLogger(__name__)

NAMED = 10  # bad files that are logged by name, by each process; then every hundredth
SUBSTITUTES = 20  # files tried in place of a batch without a good one: enough unless the disk is gone


class SpeechDataset(FileAudioDataset):
    """The utterances of a manifest; items are ``{"id": row, "source": (T,) float32, or None for a bad file that is skipped}``.

    Args:
        manifest_path: the ``.tsv`` file, already validated.
        sample_rate: Hz; must be what the files have.
        seed: another number gives other crops.
        skip_bad_audio: leave out and log what cannot be read, is not mono at ``sample_rate``, has not as many samples as the
            manifest says, or holds NaN; else raise UserError with the file's name.
        options: as ``FileAudioDataset``.
    """

    def __init__(self, manifest_path: str, sample_rate: int, seed: int = 0, skip_bad_audio: bool = False, **options):
        super().__init__(manifest_path, sample_rate, **options)
        self.manifest_path = manifest_path
        self.seed = seed
        self.skip_bad_audio = skip_bad_audio
        self.skipped: set[int] = set()  # rows, of this process: every worker of the loader has its own
        # In shared memory, because fairseq keeps its worker processes from epoch to epoch.
        self.epoch = torch.ones((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    # -- reading -----------------------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> Dict[str, Any]:
        try:
            return self.read(index)
        except AudioError as error:
            if not self.skip_bad_audio:
                raise UserError(f"{self.path(index)}: {error}; `dinosr check {self.manifest_path}` lists all such files") from error
            self.log_skipped(index, error)
            return {"id": index, "source": None}  # fairseq's collater leaves these out

    def read(self, index: int) -> Dict[str, Any]:
        """fairseq's item; raises AudioError for a file that cannot be used, after fairseq's three attempts to read it."""
        try:
            item = super().__getitem__(index)
        except AudioError:
            raise
        except Exception as error:
            if not str(error).startswith("Failed to load"):
                raise
            read_header(self.path(index))  # knows better what is wrong, mostly
            raise AudioError("cannot be decoded; remove it or fetch it again") from error
        if len(item["source"]) != self.sizes[index]:
            raise AudioError(f"{len(item['source'])} samples, but {self.sizes[index]} in the manifest; make that again with `dinosr manifest`")
        return item

    def postprocess(self, feats: Tensor, curr_sample_rate: int) -> Tensor:
        """What was read, (T,) or (T, channels) -> (T,), normalised if so configured. fairseq would average channels without a word."""
        header = Header(len(feats), curr_sample_rate, 1 if feats.dim() == 1 else feats.size(1))
        if wrong := wrong_format(header, self.sample_rate):
            raise AudioError(f"{wrong}; `dinosr manifest folder ROOT --convert NEW_DIR --out DIR` makes 16 kHz mono copies")
        if header.samples == 0:
            raise AudioError("holds no samples; remove it or fetch it again")
        if not torch.isfinite(feats).all():
            raise AudioError("holds NaN or infinite samples; remove it or make it again")
        return super().postprocess(feats, curr_sample_rate)

    def path(self, index: int) -> Path:
        name = self.fnames[index]
        name = name if isinstance(self.fnames, list) else name.as_py()  # a pyarrow array where pyarrow is installed
        return Path(self.root_dir, self.text_compressor.decompress(name))

    def log_skipped(self, index: int, error: AudioError) -> None:
        if index in self.skipped:  # logged in an earlier epoch
            return
        self.skipped.add(index)
        count = len(self.skipped)
        if count <= NAMED or count % 100 == 0:
            logger.warning(f"skipped {self.path(index)}: {error} ({count} bad file(s) so far in this process)")

    # -- batches -----------------------------------------------------------------------------------------------------

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """Items -> fairseq's batch: ``id`` (B,), ``net_input`` with ``source`` (B, T) float32 and, if ``pad``, ``padding_mask``.

        Without ``pad`` all rows are cropped to the shortest. ``{}`` for no items, which a shard may get at the end of an epoch.
        """
        if not samples:
            return {}
        good = [sample for sample in samples if sample["source"] is not None] or [self.substitute(samples[0])]
        longest = self.max_sample_size if self.pad else min(self.max_sample_size, *(len(sample["source"]) for sample in good))
        return super().collater([{**sample, "source": self.crop(sample["source"], longest, sample["id"])} for sample in good])

    def crop(self, source: Tensor, length: int, index: int) -> Tensor:
        """(T,) -> (min(T, length),), cut at a place that depends on seed, epoch and index only: not on other rows, batches or workers."""
        spare = len(source) - length
        if spare <= 0:
            return source
        start = int(self.random(index).random() * (spare + 1))
        return source[start : start + length]

    def random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, int(self.epoch), *map(int, numbers)])

    def substitute(self, bad: Dict[str, Any]) -> Dict[str, Any]:
        """A good item for a batch that has none. fairseq would train on its first batch again, or crash where that is the empty one.

        Raises UserError where many others are bad too: better than weeks of training on what is left.
        """
        for index in self.random(bad["id"], 1).integers(len(self), size=SUBSTITUTES):
            sample = {**bad, **self[int(index)]}
            if sample["source"] is not None:
                return sample
        raise UserError(
            f"{self.root_dir}: no file of a batch can be used, nor can {SUBSTITUTES} others of {self.manifest_path}; "
            "is the disk there? `dinosr check` tells what is wrong with each"
        )


def longest_utterance(dataset: FairseqDataset, limit: int) -> int:
    """Samples of the longest utterance, after cropping, that is not above ``limit``; 0 if there is none."""
    sizes = (int(dataset.num_tokens(i)) for i in range(len(dataset)))
    return max((size for size in sizes if size <= limit), default=0)

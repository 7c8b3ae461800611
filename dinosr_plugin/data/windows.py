"""Windows of a fixed length, each inside one utterance, in batches of one speaker: the input of contrastive learning.

CPC_audio cuts windows from a speaker's recordings joined end to end, so that windows can cross from one utterance into
the next. Here none does, the frame labels of a window are those of its utterance, and only the window is read from the
disk. The windows of an utterance start at a different sample in each epoch, so that no part of it is always left out.
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from ..errors import UserError
from .audio import AudioError, read_part, with_retries
from .dataset import SpeechDataset
from .manifest import speaker_of

logger = logging.getLogger(__name__)


class WindowDataset(FairseqDataset):
    """The windows of a manifest's utterances.

    Items are ``{"id": window, "row", "start", "source": (window,) float32}``; the source is None for a bad file. An
    utterance of n samples has floor(n / window) adjacent windows. The first one starts at sample 0 or, if ``moving``,
    at a sample between 0 and n mod window that depends only on seed, epoch and utterance.

    Args:
        utterances: the manifest's utterances, none shorter than a window; it also determines how bad files are handled.
        window: length in samples.
        same_speaker: each batch contains windows of one speaker, who is given by the folders in the manifest.
        moving: different starts and batches in each epoch; for training.

    Raises:
        UserError: ``same_speaker``, and a file of the manifest is not in a folder.
    """

    def __init__(self, utterances: SpeechDataset, window: int, same_speaker: bool, moving: bool):
        super().__init__()
        self.utterances, self.window, self.moving = utterances, window, moving
        # (utterances,): the windows of utterance i are numbered from ends[i - 1] to ends[i] - 1
        self.ends = np.cumsum(utterances.sizes // window)
        self.speakers, n_speakers = (
            self.number_speakers() if same_speaker else (np.zeros(len(utterances), dtype=np.int64), 0)
        )
        self.sizes = np.broadcast_to(np.int64(window), len(self))  # takes no memory
        speakers = f"of {n_speakers} speaker(s)" if same_speaker else "in batches of mixed speakers"
        logger.info(
            f"{utterances.manifest_path}: {len(self)} windows of {window} samples, from {len(utterances)} utterances "
            f"{speakers}; {len(utterances.skipped_indices)} shorter utterance(s) left out"
        )

    def number_speakers(self) -> tuple[np.ndarray, int]:
        """Speaker number of each utterance, (utterances,) int64, and the number of speakers."""
        numbers: dict[str, int] = {}
        rows = [
            numbers.setdefault(speaker_of(self.utterances.name(row)), len(numbers))
            for row in range(len(self.utterances))
        ]
        if "" in numbers:
            name = self.utterances.name(rows.index(numbers[""]))
            raise UserError(
                f"{self.utterances.manifest_path}: {name} is not in a folder, so its speaker is unknown; put the "
                "files of each speaker into one folder and make the manifest again, or set task.negatives=mixed"
            )
        return np.array(rows), len(numbers)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def set_epoch(self, epoch: int) -> None:
        self.utterances.set_epoch(epoch)

    # -- reading -----------------------------------------------------------------------------------------------------

    def rows(self, windows: np.ndarray) -> np.ndarray:
        """Row of the utterance that each window is part of."""
        return np.searchsorted(self.ends, windows, side="right")

    def start(self, window: int, row: int) -> int:
        """First sample of a window within its utterance."""
        size = int(self.utterances.sizes[row])
        number = window - (int(self.ends[row]) - size // self.window)
        offset = self.utterances.random(row).integers(size % self.window + 1) if self.moving else 0
        return int(number * self.window + offset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows(index))
        item = {"id": int(index), "row": row, "start": self.start(int(index), row), "source": None}
        try:
            return {**item, "source": self.read(row, item["start"])}
        except AudioError as error:
            self.utterances.refuse(row, error)
            return item

    def read(self, row: int, start: int) -> Tensor:
        """(window,) float32. Raises AudioError for a file that cannot be used."""
        path, samples = self.utterances.path(row), int(self.utterances.sizes[row])
        return with_retries(lambda: read_window(path, samples, start, self.window))

    # -- batches -----------------------------------------------------------------------------------------------------

    def num_tokens(self, index: int) -> int:
        return self.window

    def size(self, index: int) -> int:
        return self.window

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any):
        """fairseq's interface; removes nothing."""
        return indices, []

    def ordered_indices(self) -> np.ndarray:
        """Windows, speaker by speaker; in training, those of a speaker in random order.

        fairseq has seeded NumPy with seed and epoch before this call.
        """
        order = np.random.permutation(len(self)) if self.moving else np.arange(len(self))
        return order[np.argsort(self.speakers[self.rows(order)], kind="stable")]

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Batches of each speaker's windows, in the order of ``indices``; the last one of a speaker may be smaller.

        fairseq shuffles the batches afterwards.
        """
        size = min(max_sentences or len(indices), (max_tokens or len(indices) * self.window) // self.window)
        changes = np.flatnonzero(np.diff(self.speakers[self.rows(indices)])) + 1
        return [
            windows[at : at + size] for windows in np.split(indices, changes) for at in range(0, len(windows), size)
        ]

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Items -> fairseq's batch, or ``{}`` for no items, which a shard may get at the end of an epoch.

        The batch contains ``id`` (B,) int64, the same numbers as a list ``numbers``, the paths ``files``, and
        ``net_input`` with ``source`` (B, window) float32 and, with labels, the inputs that
        ``SpeechDataset.label_inputs`` returns.
        """
        if not samples:
            return {}
        good = [sample for sample in samples if sample["source"] is not None]
        good = good or [self.utterances.substitute(samples[0], self)]
        inputs = {"source": torch.stack([sample["source"] for sample in good])}
        if self.utterances.labels:
            inputs |= self.utterances.label_inputs(
                [sample["row"] for sample in good], [sample["start"] for sample in good]
            )
        files = [str(self.utterances.path(sample["row"])) for sample in good]
        numbers = torch.tensor([sample["id"] for sample in good])
        return {"id": numbers, "numbers": numbers.tolist(), "files": files, "net_input": inputs}


def read_window(path: Path, samples: int, start: int, length: int) -> Tensor:
    """``read_part`` as a tensor."""
    return torch.from_numpy(read_part(path, samples, start, length))

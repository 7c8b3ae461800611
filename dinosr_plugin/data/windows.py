"""Windows of one length, each inside one utterance, in batches of one speaker: what contrastive learning compares frames of.

CPC_audio cuts a speaker's recordings, joined end to end, so that windows run over the ends of utterances; here none does, the labels of
a window's frames are those of its utterance, and only the window is read from the disk. What is left over of an utterance is heard in
other epochs: its windows start at another place in each.
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from ..errors import UserError
from .audio import AudioError, read_part
from .dataset import RETRY, SpeechDataset
from .manifest import speaker_of

logger = logging.getLogger(__name__)


class WindowDataset(FairseqDataset):
    """The windows of a manifest's utterances; items are ``{"id": window, "row", "start", "source": (window,) float32 or None for a bad file}``.

    An utterance of n samples has floor(n / window) windows end to end, which start at a place between 0 and n mod window that depends
    on seed, epoch and utterance only; at 0 where they do not move.

    Args:
        utterances: the manifest's, none shorter than a window; what to do with bad files is said there.
        window: samples.
        same_speaker: batches of one speaker each, as the manifest's folders tell them; else of anybody.
        moving: other places and other batches in each epoch; for training.

    Raises: UserError for ``same_speaker`` and a manifest without folders.
    """

    def __init__(self, utterances: SpeechDataset, window: int, same_speaker: bool, moving: bool):
        super().__init__()
        self.utterances, self.window, self.moving = utterances, window, moving
        self.ends = np.cumsum(
            utterances.sizes // window
        )  # (utterances,): number of the first window that is not an utterance's
        self.speakers, n_speakers = (
            self.number_speakers() if same_speaker else (np.zeros(len(utterances), dtype=np.int64), 0)
        )
        self.sizes = np.broadcast_to(np.int64(window), len(self))  # takes no memory
        told = f"of {n_speakers} speaker(s)" if same_speaker else "in batches of any speakers"
        logger.info(
            f"{utterances.manifest_path}: {len(self)} windows of {window} samples, from {len(utterances)} utterances {told}; "
            f"{len(utterances.skipped_indices)} shorter utterance(s) left out"
        )

    def number_speakers(self) -> tuple[np.ndarray, int]:
        """(utterances,) int64, and how many there are."""
        numbers: dict[str, int] = {}
        rows = [
            numbers.setdefault(speaker_of(self.utterances.name(row)), len(numbers))
            for row in range(len(self.utterances))
        ]
        if "" in numbers:
            name = self.utterances.name(rows.index(numbers[""]))
            raise UserError(
                f"{self.utterances.manifest_path}: {name} lies in no folder, which would tell its speaker; put each speaker's files into a folder "
                "of their own and make the manifest again, or set task.negatives=mixed"
            )
        return np.array(rows), len(numbers)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def set_epoch(self, epoch: int) -> None:
        self.utterances.set_epoch(epoch)

    # -- reading -----------------------------------------------------------------------------------------------------

    def rows(self, windows: np.ndarray) -> np.ndarray:
        """Utterances that the windows are of."""
        return np.searchsorted(self.ends, windows, side="right")

    def start(self, window: int, row: int) -> int:
        """First sample of a window within its utterance."""
        size = int(self.utterances.sizes[row])
        number = window - (int(self.ends[row]) - size // self.window)
        moved = self.utterances.random(row).integers(size % self.window + 1) if self.moving else 0
        return int(number * self.window + moved)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows(index))
        item = {"id": int(index), "row": row, "start": self.start(int(index), row), "source": None}
        try:
            return {**item, "source": self.read(row, item["start"])}
        except AudioError as error:
            self.utterances.refuse(row, error)
            return item

    def read(self, row: int, start: int) -> Tensor:
        """(window,) float32. Raises AudioError, after another attempt, for a file that cannot be used."""
        path, samples = self.utterances.path(row), int(self.utterances.sizes[row])
        try:
            return read_window(path, samples, start, self.window)
        except AudioError:
            time.sleep(RETRY)  # a network disk, or a file in the midst of being written
            return read_window(path, samples, start, self.window)

    # -- batches -----------------------------------------------------------------------------------------------------

    def num_tokens(self, index: int) -> int:
        return self.window

    def size(self, index: int) -> int:
        return self.window

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any):
        """All of them: fairseq's interface."""
        return indices, []

    def ordered_indices(self) -> np.ndarray:
        """Windows speaker by speaker; in training each speaker's in random order (fairseq has seeded numpy by seed and epoch)."""
        order = np.random.permutation(len(self)) if self.moving else np.arange(len(self))
        return order[np.argsort(self.speakers[self.rows(order)], kind="stable")]

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Each speaker's windows, in the order given, cut into batches; the last of a speaker may be smaller. fairseq shuffles the batches."""
        size = min(max_sentences or len(indices), (max_tokens or len(indices) * self.window) // self.window)
        changes = np.flatnonzero(np.diff(self.speakers[self.rows(indices)])) + 1
        return [
            windows[at : at + size] for windows in np.split(indices, changes) for at in range(0, len(windows), size)
        ]

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Items -> fairseq's batch: ``id`` (B,) int64, the same as a list ``numbers``, their ``files``, ``net_input`` with ``source`` (B, window) float32 and
        where there are labels those that ``SpeechDataset`` gives. ``{}`` for no items, which a shard may get at the end of an epoch.
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

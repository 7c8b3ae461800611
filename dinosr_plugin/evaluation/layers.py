"""Layers, outputs and codes of a model on some speech, computed in one pass over the sound and kept on the disk.

    CACHE/1f0c...-float32/layer_0, layer_1, ..., teacher, head, mfcc, fbank    feature folders (``units.store``)

The first part of a name is a digest of the model's weights and of the utterances: other weights or another manifest
have another folder, and the same ones are never computed twice. An interrupted pass resumes.
"""

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..checkpoints.readers import FrameReader, Layer
from ..errors import UserError
from ..files import Occupied, claim_name, is_folder, new_folders, read_lock, write_lock
from ..units.batches import Utterance, require_files
from ..units.features import FeatureSpec, acoustic_spec, code_spec, layer_spec, read_rows, write_rows
from ..units.store import FeatureFolder, missing_shards
from .speech import digest_of_utterances

logger = logging.getLogger(__name__)

MAX_BYTES = 50e9  # default maximum size of a cache
ANNOUNCED = 1e9  # bytes; before a pass that writes more, their number is logged


class LayerCache:
    """All layers and codes of one model, and acoustic features, of some utterances.

    Args:
        root: folder of the cache; may contain features of other models and of other speech.
        reader: the model.
        code_sets: names from ``reader.code_sets``.
        outputs: names from ``reader.outputs``.
        acoustic: keys of ``data.acoustic.FEATURES``.
        dtype: of layers and acoustic features, ``float16`` or ``float32``.
        max_bytes: maximum size of the cache; the least recently used entries are removed to make room.

    ``cache[name]`` is the ``FeatureFolder`` of ``layer_0``, ..., of an output, of a set of codes (F, K), or of an
    acoustic kind; the first access computes all of them.

    Raises:
        UserError: on access: from the audio; an entry larger than ``max_bytes`` or than the space on the disk.
    """

    def __init__(
        self,
        root: str | Path,
        reader: FrameReader,
        utterances: Sequence[Utterance],
        code_sets: Sequence[str] = (),
        outputs: Sequence[str] = (),
        acoustic: Sequence[str] = (),
        dtype: str = "float32",
        max_bytes: float = MAX_BYTES,
    ):
        self.root, self.reader, self.utterances, self.max_bytes = Path(root), reader, utterances, max_bytes
        self.code_sets, self.acoustic = list(code_sets), list(acoustic)
        self.layers: list[Layer] = [*range(reader.n_layers), *outputs]
        inputs = f"{reader.fingerprint} {reader.weights} {reader.normalize} {digest_of_utterances(utterances)}"
        self.folder = self.root / f"{hashlib.sha256(inputs.encode()).hexdigest()[:16]}-{dtype}"
        self.specs: Mapping[str, FeatureSpec] = {
            **{folder_of(layer): layer_spec(reader, layer, dtype) for layer in self.layers},
            **{name: code_spec(reader, name) for name in code_sets},
            **{kind: acoustic_spec(kind, dtype) for kind in acoustic},
        }
        self.filled = False

    def __getitem__(self, name: str) -> FeatureFolder:
        if not self.filled:
            self.fill()
        return FeatureFolder(self.folder / name)

    @property
    def size(self) -> int:
        """Bytes of all features together."""
        frames = {
            spec.grid: sum(spec.grid.count(utterance.samples) for utterance in self.utterances)
            for spec in self.specs.values()
        }
        return sum(frames[spec.grid] * spec.width * np.dtype(spec.dtype).itemsize for spec in self.specs.values())

    @contextmanager
    def pin(self) -> Iterator["LayerCache"]:
        """Within this context other processes do not remove the entry to make room."""
        with new_folders(self.root.absolute(), f"--cache {self.root}"), read_lock(self.folder):
            yield self

    def fill(self) -> None:
        """Compute what is missing, in one pass over the sound; wait if another process is computing the same."""
        what = f"--cache {self.root}"
        with new_folders(self.root.absolute(), what), claim_name(self.folder, what, wait=math.inf):
            self.make_room()
            require_files(self.utterances, "the manifest")
            missing = {name: spec for name, spec in self.specs.items() if missing_shards(self.folder / name, 1)}
            writers = [spec.writer(self.folder / name, self.utterances) for name, spec in missing.items()]
            layers = [layer for layer in self.layers if folder_of(layer) in missing]
            code_sets = [name for name in self.code_sets if name in missing]
            acoustic = [kind for kind in self.acoustic if kind in missing]
            reader = self.reader if layers or code_sets else None

            def features(rows: list[int]):
                return read_rows(self.utterances, rows, reader, layers, code_sets, acoustic)

            title = f"{self.reader.name} {'untrained, ' if self.reader.weights == 'random' else ''}all layers"
            if writers:
                write_rows(writers, self.utterances, title, features)
            os.utime(self.folder)  # it is now the most recently used entry
        self.filled = True

    def make_room(self) -> None:
        """Remove the least recently used entries until this one fits into ``max_bytes``, and check the free space.

        Entries that another process uses are not removed.
        """
        kept = sum(size_of(path) for path in [self.folder] if is_folder(path))
        if self.size > self.max_bytes:
            raise UserError(
                f"{self.root}: the layers of {self.reader.name} take {gigabytes(self.size)}, more than the "
                f"{gigabytes(self.max_bytes)} of the cache; raise --cache-gb, or measure a smaller manifest"
            )
        others = sorted((path for path in self.root.glob("*-float*") if path != self.folder), key=os.path.getmtime)
        total = self.size + sum(map(size_of, others))
        for path in others:
            if total <= self.max_bytes:
                break
            with suppress(Occupied), write_lock(path):
                total -= size_of(path)
                shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(self.root).free
        if self.size - kept > free:
            raise UserError(
                f"{self.root}: the layers of {self.reader.name} take {gigabytes(self.size - kept)}, "
                f"but {gigabytes(free)} are free there; free some space or give another folder with --cache"
            )
        if self.size - kept > ANNOUNCED:
            logger.warning(f"{self.root}: the layers of {self.reader.name} take {gigabytes(self.size)} there")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.filled = False


def folder_of(layer: Layer) -> str:
    """The name in the cache of a layer, by its number, or of an output."""
    return f"layer_{layer}" if isinstance(layer, int) else layer


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e9:.3f} GB"

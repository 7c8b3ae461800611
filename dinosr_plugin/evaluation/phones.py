"""Phone alignments: from segments to one phone index per frame; and alignments of words."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError, first_few
from .alignment_files import Row, read_rows

# ARPABET without stress, by manner of articulation; also the order of a plot's rows
PHONE_CLASSES: dict[str, tuple[str, ...]] = {
    "vowels": ("IY", "IH", "EH", "AE", "AA", "AH", "AO", "UH", "UW", "ER"),
    "diphthongs": ("EY", "AY", "OY", "AW", "OW"),
    "glides, liquids": ("W", "Y", "L", "R"),
    "nasals": ("M", "N", "NG"),
    "fricatives": ("F", "V", "TH", "DH", "S", "Z", "SH", "ZH", "HH"),
    "affricates": ("CH", "JH"),
    "stops": ("P", "B", "T", "D", "K", "G"),
    "silence": ("SIL", "SP", "SPN"),
}
OTHER = "other"
CLASS_OF = {phone: name for name, phones in PHONE_CLASSES.items() for phone in phones}
RANK_OF = {phone: rank for rank, phone in enumerate(CLASS_OF)}


def phone_class(phone: str) -> str:
    """The class of an ARPABET phone, a key of ``PHONE_CLASSES``, or ``"other"`` for a name that is not ARPABET.

    Stress does not matter: ``AH0`` is a vowel.
    """
    return CLASS_OF.get(phone.rstrip("012"), OTHER)


def class_order(names: Sequence[str]) -> np.ndarray:
    """(len(names),) int64: indices into ``names`` sorted by phone class, names outside ARPABET last and by alphabet."""
    keys = [(RANK_OF.get(name.rstrip("012"), len(RANK_OF)), name) for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), dtype=np.int64)


@dataclass(frozen=True)
class PhoneAlignment:
    """Phone segments of a corpus, or segments of words (``alignment_files``).

    Attributes:
        path: the file or folder, the first one of several, for messages.
        names: the phones that the files contain, sorted; a phone's index is its place here.
        segments: utterance -> (start in microseconds (S,) int64, phone index (S,) int64), in order of time.
            Whole microseconds, so that a frame centre on a boundary does not depend on float rounding.
        ends: utterance -> end in microseconds (S,) int64 of each segment.
    """

    path: Path
    names: tuple[str, ...]
    segments: dict[str, tuple[np.ndarray, np.ndarray]]
    ends: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: str | Path, *more: str | Path, column: str = "phone") -> "PhoneAlignment":
        """Read a ``.phones.tsv``, whose rows are ``utt start end phone`` in seconds, or a folder of TextGrids.

        Args:
            path, more: of different utterances; each as ``alignment_files.read_rows``.
            column: ``phone`` or ``word``.

        Raises:
            UserError: as ``read_rows``; an utterance in two files.
        """
        path = Path(path)
        rows: dict[str, list[Row]] = {}
        for file in (path, *map(Path, more)):
            of_file = read_rows(file, column)
            if twice := [utt for utt in of_file if utt in rows]:
                raise UserError(
                    f"{file}: {len(twice)} utterance(s) are in another alignment too ({first_few(twice)}); give each "
                    "once"
                )
            rows |= of_file
        names = tuple(sorted({phone for segments in rows.values() for *_, phone in segments}))
        index = {name: i for i, name in enumerate(names)}
        integers = lambda numbers: np.array(numbers, dtype=np.int64)  # a TextGrid may be without words
        segments = {
            utt: (integers([start for start, _, _ in rows[utt]]), integers([index[phone] for *_, phone in rows[utt]]))
            for utt in rows
        }
        ends = {utt: integers([end for _, end, _ in rows[utt]]) for utt in rows}
        return cls(path, names, segments, ends)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content."""
        digest = hashlib.sha256(repr(self.names).encode())
        for utt, (starts, labels) in self.segments.items():
            digest.update(utt.encode())
            for numbers in (starts, labels, self.ends[utt]):
                digest.update(np.asarray(numbers, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def require(self, utts: Iterable[str]) -> None:
        """Raise a ``UserError`` that counts the utterances without alignment and names the first three."""
        utts = list(utts)
        missing = [utt for utt in utts if utt not in self.segments]
        if missing:
            raise UserError(
                f"{self.path}: {len(missing)} of {len(utts)} utterances have no alignment ({first_few(missing)}); "
                "give the alignment of the same corpus as the manifest"
            )

    def frame_phones(self, utt: str, n_frames: int, rate: float, first_centre: float) -> np.ndarray:
        """One phone per frame: that of the segment which contains the frame's centre.

        The centre of frame i is at ``first_centre + i / rate`` seconds. A segment contains its start and not its end.
        A centre in a gap, or past the last segment, gets the phone before it, and one before the first segment the
        first phone: every frame has a label and none is dropped.

        Returns:
            (n_frames,) int64 indices into ``names``.

        Raises:
            UserError: ``utt`` has no alignment.
        """
        self.require([utt])
        starts, phones = self.segments[utt]
        seconds = first_centre + np.arange(n_frames) / rate
        centres = np.rint(seconds * 1e6).astype(np.int64)  # (n_frames,) microseconds
        return phones[np.maximum(np.searchsorted(starts, centres, side="right") - 1, 0)]

"""The speech that is measured on: utterances, their phones and their speakers, validated once."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..data.manifest import read_rows, speaker_of, utterance_id
from ..errors import UserError, first_few
from ..units.batches import Utterance, hours, read_utterances
from .phones import PhoneAlignment


@dataclass(frozen=True)
class Speech:
    """Utterances with their phones and speakers.

    Attributes:
        phones: alignment of every utterance; None without one.
        speakers: utterance -> speaker, of every utterance; None if they are not known.
        utterances: with their files, of the manifest; empty where units come from files.
        manifest: None without one.
    """

    phones: PhoneAlignment | None
    speakers: Mapping[str, str] | None
    utterances: Sequence[Utterance] = ()
    manifest: Path | None = None

    @classmethod
    def read(
        cls,
        manifest: str | Path,
        phones: PhoneAlignment | None,
        skip_missing: bool = False,
        min_samples: int = 1,
    ) -> tuple["Speech", list[str]]:
        """The speech of a manifest, and notes for the user.

        Args:
            skip_missing: leave out utterances without alignment.
            min_samples: as ``read_utterances``.

        Raises:
            UserError: as ``read_utterances``, and for utterances without alignment unless they are skipped.
        """
        utterances = read_utterances(manifest, min_samples)
        if phones is None:
            return cls(None, manifest_speakers(manifest), utterances, Path(manifest)), []
        aligned = [utterance for utterance in utterances if utterance.name in phones.segments]
        notes = []
        if not skip_missing or not aligned:
            phones.require(utterance.name for utterance in utterances)
        elif missing := [utterance.name for utterance in utterances if utterance.name not in phones.segments]:
            notes.append(
                f"{manifest}: {len(missing)} of {len(utterances)} utterances have no alignment in {phones.path} "
                f"({first_few(missing)}); left out"
            )
        return cls(phones, manifest_speakers(manifest), aligned, Path(manifest)), notes

    @property
    def names(self) -> list[str]:
        """Names of the utterances, in the manifest's order."""
        return [utterance.name for utterance in self.utterances]

    def speaker(self, utt: str) -> str:
        """The speaker of an utterance. Raises UserError if the speakers are not known."""
        if self.speakers is None:
            raise UserError(f"{utt}: its speaker is not known; give the manifest, whose folders name the speakers")
        return self.speakers[utt]

    def require_phones(self) -> PhoneAlignment:
        """The alignment. Raises UserError without one."""
        if self.phones is None:
            raise UserError("figures about phones require a phone alignment; give it with --phones")
        return self.phones

    @property
    def hours(self) -> float:
        """Duration of all utterances together."""
        return hours(self.utterances, range(len(self.utterances)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the utterances, their alignment and their speakers."""
        digest = hashlib.sha256(digest_of_utterances(self.utterances).encode())
        digest.update(self.phones.digest.encode() if self.phones else b"no phones")
        digest.update(repr(self.speakers and {name: self.speakers[name] for name in self.names}).encode())
        return digest.hexdigest()


def digest_of_utterances(utterances: Sequence[Utterance]) -> str:
    """SHA-256 of names and lengths. Files with the same names and lengths are assumed to contain the same sound."""
    lines = "".join(f"{utterance.name}\t{utterance.samples}\n" for utterance in utterances)
    return hashlib.sha256(lines.encode()).hexdigest()


# ---- speakers --------------------------------------------------------------------------------------------------------


def librispeech_speaker(utt: str) -> str:
    """``SPEAKER-CHAPTER-NNNN`` -> ``SPEAKER``. Raises UserError for another kind of name."""
    speaker, *rest = utt.split("-")
    if not speaker or len(rest) != 2:
        raise UserError(
            f"utterance {utt!r} is not named SPEAKER-CHAPTER-NUMBER as in LibriSpeech; "
            "give the manifest, whose folders name the speakers"
        )
    return speaker


def manifest_speakers(tsv: str | Path) -> dict[str, str]:
    """Utterance -> speaker, by the folders of a manifest's paths; files in no folder belong to one speaker.

    Raises UserError for a bad manifest.
    """
    return {utterance_id(path): speaker_of(path) or "unknown" for _, path, _ in read_rows(Path(tsv))}


def speakers_of(utts: Collection[str], tsv: str | Path | None) -> dict[str, str] | None:
    """Utterance -> speaker: by the manifest's folders, or without one by LibriSpeech's names; None for other names.

    Raises UserError for an utterance that the manifest lacks.
    """
    if tsv is None:
        try:
            return {utt: librispeech_speaker(utt) for utt in utts}
        except UserError:  # other names
            return None
    known = manifest_speakers(tsv)
    if missing := [utt for utt in utts if utt not in known]:
        raise UserError(
            f"{tsv}: {len(missing)} of {len(utts)} utterances are not in it ({first_few(missing)}); "
            "give the manifest that the units were made from"
        )
    return {utt: known[utt] for utt in utts}

"""What is reported on: everything is read, and what can be wrong is found, before the minutes of work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...checkpoints.load import LayerReader
from ...data.manifest import require_writable
from ...errors import UserError
from ...units.features import MAX_MINUTES, Utterance, hours, read_utterances
from ..codebooks import updates_of
from ..measures.abx.items import make_items, manifest_speakers
from ..phones import PhoneAlignment
from ..training_log import read_pretraining_log
from .frame_map import require_library


@dataclass(frozen=True)
class Inputs:
    """What is reported on. ``speakers``: utterance -> speaker. ``records``: of the training log, empty where none was given."""

    checkpoint: Path
    manifest: Path
    train: Path
    train_hours: float
    out: Path
    phones: PhoneAlignment
    utterances: Sequence[Utterance]
    speakers: Mapping[str, str]
    records: Sequence[Mapping[str, float]]


def read_inputs(
    checkpoint: Path, manifest: Path, phones: Path, train: Path, out: Path, log: str | Path | None
) -> tuple[Inputs, list[str]]:
    """All that can be wrong is found before the minutes of work."""
    require_writable(out)
    require_library()
    alignment = PhoneAlignment.read(phones)
    utterances, heard = read_utterances(manifest, max_minutes=MAX_MINUTES), read_utterances(train)
    alignment.require(utterance.name for utterance in utterances)
    records = read_pretraining_log(log) if log is not None else []
    notes = (
        [] if log is not None else ["no training log was given (--log): nothing is told of the course of the training"]
    )
    return Inputs(
        checkpoint,
        manifest,
        train,
        hours(heard, range(len(heard))),
        out,
        alignment,
        utterances,
        manifest_speakers(manifest),
        records,
    ), notes


def why_no_abx(inputs: Inputs) -> str | None:
    """What keeps a corpus from being compared, if anything does; one speaker alone can be."""
    try:
        make_items(inputs.phones, inputs.speakers)
    except UserError as error:
        return f"no ABX: {error}"
    return None


def about(inputs: Inputs) -> dict:
    """The head of the page: which model, measured on what."""
    reader = LayerReader(inputs.checkpoint)
    model = {
        "name": type(reader.trunk).__name__,
        "parameters": sum(p.numel() for p in reader.trunk.parameters()),
        "layers": reader.n_layers,
        "width": reader.width,
        "codebooks": reader.trunk.n_codebooks if reader.codebook_size else 0,
        "codebook_size": reader.codebook_size,
    }
    speech = {
        "manifest": inputs.manifest.name,
        "utterances": len(inputs.utterances),
        "hours": hours(inputs.utterances, range(len(inputs.utterances))),
        "speakers": len({inputs.speakers[utterance.name] for utterance in inputs.utterances}),
        "phones": len(inputs.phones.names),
        "alignment": inputs.phones.path.name,
    }
    fitted = {"manifest": inputs.train.name, "hours": inputs.train_hours}
    return {
        "checkpoint": inputs.checkpoint.name,
        "updates": known_updates(inputs.checkpoint),
        "model": model,
        "measured_on": speech,
        "fitted_on": fitted,
    }


def known_updates(checkpoint: Path) -> int | None:
    """None where a checkpoint that could be loaded does not tell: one of an old fairseq."""
    try:
        return updates_of(checkpoint)
    except UserError:
        return None

"""The inputs of a report, which are read and checked before any computation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoints.load import updates_of
from ...checkpoints.opening import open_reader
from ...checkpoints.readers import FrameReader
from ...errors import UserError
from ...units.batches import hours, read_utterances
from ..comparison import abx_measure
from ..measures.abx.items import Item, read_items
from ..phones import PhoneAlignment
from ..speech import Speech
from ..training_log import log_beside, read_pretraining_log, validation_losses
from .frame_map import require_library
from .words import NO_PHONES


@dataclass(frozen=True)
class Inputs:
    """Checked inputs.

    ``records``: of the training log, empty without one; ``items``: of ABX, None: those of the alignment; ``notes``: for
    the user; ``validation``: name of each validation subset in the log -> (update, loss).
    """

    reader: FrameReader
    speech: Speech
    train: Path
    train_hours: float
    out: Path
    records: Sequence[Mapping[str, float]]
    items: Sequence[Item] | None = None
    notes: Sequence[str] = ()
    validation: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


def read_inputs(
    checkpoint: Path,
    manifest: Path,
    phones: Path | None,
    train: Path,
    out: Path,
    log: str | Path | None,
    skip_missing: bool = False,
    items: Path | None = None,
) -> Inputs:
    """Read all inputs. Raises UserError if one of them is invalid."""
    require_library()
    alignment = PhoneAlignment.read(phones) if phones else None
    speech, notes = Speech.read(manifest, alignment, skip_missing)
    if alignment is None:
        notes.append(NO_PHONES)
    abx_items = read_items(items) if items else None
    fitted = read_utterances(train)
    log = log or log_beside(checkpoint)
    records = read_pretraining_log(log) if log is not None else []
    validation = validation_losses(log) if log is not None else {}
    if log is None:
        notes.append(
            "no training log was given (--log) or is beside the checkpoint: the page does not show the course of the "
            "training"
        )
    train_hours = hours(fitted, range(len(fitted)))
    return Inputs(open_reader(checkpoint), speech, train, train_hours, out, records, abx_items, notes, validation)


def require_size_of_codebooks(reader: FrameReader, clusters: int | None) -> None:
    """Raise UserError for k-means of another size than the model's codebooks, beside which the page shows it."""
    sizes = {codes.size for codes in reader.code_sets.values()}
    if clusters is not None and sizes and clusters not in sizes:
        raise UserError(
            f"--clusters {clusters}: the codebooks of {reader.path} have {min(sizes)} units, and figures of different "
            "sizes cannot be compared; leave it out"
        )


def why_no_abx(inputs: Inputs) -> str | None:
    """Why there are no ABX errors of the alignment's triphones; None if there are, or if there are other items."""
    if inputs.items is not None:
        return None
    if inputs.speech.phones is None:
        return "no ABX: without a phone alignment it requires items (--items)"
    try:
        abx_measure(inputs.speech)
    except UserError as error:
        return f"no ABX: {error}"
    return None


def about(inputs: Inputs) -> dict[str, Any]:
    """The head of the page: the model, and the speech that it is measured on."""
    reader, speech = inputs.reader, inputs.speech
    assert speech.manifest is not None  # `read_inputs` reads the speech from one
    codes = reader.code_sets[reader.require_codes()] if reader.code_sets else None
    model = {
        "name": type(reader.model).__name__,
        "parameters": sum(p.numel() for p in reader.model.parameters()),
        "layers": reader.n_layers,
        "layer_kind": reader.layer_kind,
        "width": reader.width,
        "rate": reader.rate,
        "first_centre_ms": 1000 * reader.first_centre,
        "codebooks": codes.count if codes else 0,
        "codebook_size": codes.size if codes else None,
        "code_sets": {name: {"title": one.title, "layers": one.layers} for name, one in reader.code_sets.items()},
    }
    measured = {
        "manifest": speech.manifest.name,
        "utterances": len(speech.utterances),
        "hours": speech.hours,
        "speakers": len({speech.speaker(utt) for utt in speech.names}),
        "phones": len(speech.phones.names) if speech.phones else None,
        "alignment": speech.phones.path.name if speech.phones else None,
    }
    return {
        "checkpoint": reader.name,
        "updates": known_updates(reader.path),
        "model": model,
        "measured_on": measured,
        "fitted_on": {"manifest": inputs.train.name, "hours": inputs.train_hours},
    }


def known_updates(checkpoint: Path) -> int | None:
    """Updates that a checkpoint has seen; None if it does not contain the number, as those of old fairseq versions."""
    try:
        return updates_of(checkpoint)
    except UserError:
        return None

"""``dinosr report``: one page of what a checkpoint learned, with baselines beside every figure.

Measuring is ``comparison``'s. Here: ``inputs``, what is reported on; ``pictures``; ``words``, what the page says; ``page``, its HTML.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ...data.manifest import write_files
from ..comparison import compare
from .inputs import about, read_inputs, why_no_abx
from .page import page
from .pictures import code_pictures, layer_pictures, map_pictures, training_pictures


def write_report(
    checkpoint: str | Path,
    manifest: str | Path,
    phones: str | Path,
    train: str | Path,
    out: str | Path,
    log: str | Path | None = None,
    abx: bool = True,
    clusters: int | None = None,
    notes: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Measure, draw, and write ``report.html`` (which needs nothing beside it), its pictures and ``figures.json`` into ``out``.

    What takes long is kept in ``out/work``: the same command goes on where it was killed.

    Args:
        checkpoint: a DinoSR pre-training checkpoint; of another model the page tells of its layers only.
        manifest, phones: the speech that is measured on, with its phone alignment.
        train: manifest of the speech that k-means is fitted on.
        log: TensorBoard's folder or the JSON log of the training, ``training_log.read_training_log``.
        abx: with ABX errors.
        clusters: as ``comparison.compare``.
        notes: what stands on top of the page besides its own.
        say: is told what is being done.

    Raises:
        UserError: from the checkpoint, manifests, audio, alignment, log or folder.
    """
    inputs, own_notes = read_inputs(Path(checkpoint), Path(manifest), Path(phones), Path(train), Path(out), log)
    notes = [*notes, *own_notes]
    if abx and (why := why_no_abx(inputs)):
        notes.append(why)
        abx = False
    elif not abx:
        notes.append("no ABX: it was left out (--no-abx)")
    for note in notes:
        say(f"note: {note}")
    head = about(inputs)
    say(f"figures of every layer and codebook, and of the baselines; finished ones are kept in {inputs.out / 'work'}")
    rows = compare(
        inputs.checkpoint,
        inputs.train,
        inputs.manifest,
        inputs.phones,
        inputs.speakers,
        inputs.out / "work",
        abx,
        clusters,
    )
    figures = {**head, "rows": rows, "notes": notes}
    pictures = {"layers": layer_pictures(inputs, figures), **training_pictures(inputs, figures)}
    if figures["model"]["codebooks"]:
        say("units of every codebook")
        for section, own in code_pictures(inputs, figures).items():
            pictures.setdefault(section, []).extend(own)
    say("map of frames")
    pictures["map"] = map_pictures(inputs, figures)
    written = {
        "figures.json": json.dumps(figures, indent=1).splitlines(),
        "report.html": page(figures, pictures).splitlines(),
    }
    write_files(inputs.out, written)
    return inputs.out / "report.html"

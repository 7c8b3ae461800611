"""``dinosr report``: one page about what a checkpoint has learned, with baselines for every figure.

``inputs`` reads and checks, ``comparison`` measures, ``pictures`` draws, ``words`` has the texts, ``page`` the HTML.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import UserError
from ...files import write_files
from ..comparison import Comparison, measures_for
from ..layers import MAX_BYTES
from .inputs import about, read_inputs, require_size_of_codebooks, why_no_abx
from .page import page
from .pictures import code_pictures, layer_pictures, map_pictures, training_pictures


def write_report(
    checkpoint: str | Path,
    manifest: str | Path,
    phones: str | Path | None,
    train: str | Path,
    out: str | Path,
    log: str | Path | None = None,
    abx: bool = True,
    clusters: int | None = None,
    skip_missing: bool = False,
    cache: str | Path | None = None,
    max_bytes: float = MAX_BYTES,
    say: Callable[[str], None] = lambda line: None,
    items: str | Path | None = None,
) -> Path:
    """Measure, draw, and write ``report.html`` (self-contained), its pictures and ``figures.json`` into ``out``.

    The checkpoint is loaded once; the sound is read once for the trained and once for the untrained model. Finished
    rows are kept in ``out/work``: the same command resumes.

    Args:
        checkpoint: a pre-training checkpoint of DinoSR or Spin; for a model without codebooks the page is about its
            layers only.
        manifest, phones: the speech to measure on, with its phone alignment; None: the page is without figures that
            need one.
        train: manifest of the speech that k-means is fitted on.
        log: TensorBoard's folder or the JSON log of the training, ``training_log.read_training_log``.
        abx: with ABX errors.
        clusters: of k-means, as ``Comparison``; the page of a model with codebooks has their size.
        cache, max_bytes: as ``Comparison``.
        skip_missing: leave out utterances without alignment.
        say: receives lines about the progress.
        items: ``.item`` file for ABX; None: the triphones of the alignment.

    Raises:
        UserError: from the checkpoint, manifests, audio, alignment, log or folder.
    """
    alignment, item_file = (None if path is None else Path(path) for path in (phones, items))
    inputs = read_inputs(
        Path(checkpoint), Path(manifest), alignment, Path(train), Path(out), log, skip_missing, item_file
    )
    require_size_of_codebooks(inputs.reader, clusters)
    notes = list(inputs.notes)
    if items and not abx:
        raise UserError("--items: not used with --no-abx; remove one of them")
    if abx and (why := why_no_abx(inputs)):
        notes.append(why)
        abx = False
    elif not abx:
        notes.append("no ABX: it was left out (--no-abx)")
    for note in notes:
        say(f"note: {note}")
    work = inputs.out / "work"
    measures = measures_for(inputs.speech, abx, items=inputs.items)
    with Comparison(inputs.reader, train, inputs.speech, measures, work, clusters, cache, max_bytes) as comparison:
        say(f"measuring every layer, every codebook and the baselines; finished rows are kept in {work}")
        figures = {**about(inputs), "rows": comparison.rows(), "notes": notes}
        pictures = {"layers": layer_pictures(inputs, figures), **training_pictures(inputs, figures)}
        if figures["model"]["codebooks"]:
            say("drawing the units of every codebook")
            for section, of_codes in code_pictures(inputs, figures, comparison).items():
                pictures.setdefault(section, []).extend(of_codes)
        say("drawing a map of frames")
        pictures["map"] = map_pictures(inputs, figures, comparison)
    written = {
        "figures.json": json.dumps(figures, indent=1).splitlines(),
        "report.html": page(figures, pictures).splitlines(),
    }
    write_files(inputs.out, written)
    return inputs.out / "report.html"


__all__: Sequence[str] = ["write_report"]

"""One page about a speaker model: ``dinosr speaker report``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...files import temporary_folder, text_output
from ..measures.verification import Rates, det_points
from ..plots import frame_map as map_plots
from ..plots import speaker_training as training_plots
from ..plots.verification import plot_verification
from ..web_page import Picture
from .embeddings import Embeddings
from .epochs import measure_epochs
from .label_history import mean_weights, measure_labels
from .page import speaker_page
from .recordings import speaker_of_name
from .scores import Scored, score_list
from .speaker_map import SpeakerMap, speaker_map
from .training_run import epoch_checkpoints
from .verification import verify


def write_speaker_report(
    embeddings: str | Path,
    trials: str | Path,
    out: str | Path,
    save_dir: str | Path | None = None,
    manifest: str | Path | None = None,
    recordings: str | Path | None = None,
    log: str | Path | None = None,
    data: str | Path | None = None,
    skip_missing: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure, draw, and write one self-contained HTML file.

    Args:
        embeddings, trials, skip_missing: as ``score_list``.
        out: the file.
        save_dir: ``checkpoint.save_dir`` of the training, for ``manifest`` and ``recordings``.
        manifest: of its training split: adds the course of its pseudo-labels.
        recordings: manifest of the recordings in the trials: adds their verification with the checkpoint of each epoch,
            whose embeddings are kept in ``OUT.work``, so that an interrupted run resumes.
        log: its JSON log: adds the mean weights to the pseudo-labels.
        data: file for all figures and curves, as JSON.
        resamples: as ``verify``; ``seed``: of the bootstrap and the map.
        say: receives lines about the progress.

    Raises:
        UserError: from the embeddings, the trials, the training, the manifests, the log or the output.
    """
    scored = score_list(embeddings, trials, skip_missing=skip_missing)
    notes = [*scored.notes, *what_is_left_out(save_dir, recordings)]
    for note in notes:
        say(f"note: {note}")
    weights = mean_weights(log) if log else {}
    labels = measure_labels(save_dir, manifest) if save_dir and manifest else []
    labels = [row | {"mean_weight": weights.get(row["epoch"])} for row in labels]
    verification, rates = verify(scored, resamples, seed, trials)
    epochs = []
    if save_dir and recordings:
        work = f"{out}.work"
        epochs = measure_epochs(save_dir, recordings, scored.trials, trials, work, resamples, seed, say)
    folder = Embeddings(embeddings)
    drawn = speaker_map(folder, seed)
    figures = {
        **about(folder, trials, drawn),
        "verification": verification.to_json(),
        "det": dict(zip(("false_alarm", "miss"), (rate.tolist() for rate in det_points(rates)))),
        "labels": labels,
        "epochs": epochs,
        "notes": notes,
    }
    with temporary_folder() as pictures:
        page = speaker_page(figures, verification, draw(pictures, scored, rates, drawn, figures))
    if data:
        with text_output(data, "--json") as file:
            file.write(json.dumps(figures, indent=1) + "\n")
    with text_output(out) as file:
        file.write(page + "\n")


def what_is_left_out(save_dir: str | Path | None, recordings: str | Path | None) -> list[str]:
    """Notes about parts of the page that the training has data for."""
    if not save_dir or recordings or len(epoch_checkpoints(save_dir)) < 2:
        return []
    return [f"{save_dir} contains checkpoints of several epochs; --recordings adds verification with each of them"]


def about(embeddings: Embeddings, trials: str | Path, drawn: SpeakerMap) -> dict[str, Any]:
    """The head of the page, and what the map shows. ``speakers``: 0 if the folders do not name all of them."""
    speakers = {speaker_of_name(name) for name in embeddings.names}
    n_speakers = 0 if "" in speakers else len(speakers)
    return {
        "embeddings": embeddings.path.name,
        "source": embeddings.source,
        "width": embeddings.width,
        "recordings": len(embeddings),
        "speakers": n_speakers,
        "trials": Path(trials).name,
        "map": {"method": drawn.method, "recordings": len(drawn.speakers), "speakers": n_speakers},
    }


def draw(
    folder: Path, scored: Scored, rates: Rates, drawn: SpeakerMap, figures: dict[str, Any]
) -> dict[str, list[Picture]]:
    """The pictures of each section."""
    det = plot_verification(rates, *scored.by_kind(), folder / "verification.png")
    pictures = {
        "verification": [Picture(det, "DET curve, and histograms of the scores of both kinds of trials", wide=True)],
        "map": [map_picture(folder / "map.png", drawn)],
    }
    if labels := figures["labels"]:
        pictures["labels"] = label_pictures(folder, labels)
    if epochs := figures["epochs"]:
        pictures["epochs"] = [
            Picture(training_plots.plot_eer(epochs, folder / "eer.png"), "EER over epochs"),
            Picture(training_plots.plot_min_dcf(epochs, folder / "min_dcf.png"), "minDCF over epochs"),
        ]
    return pictures


def label_pictures(folder: Path, labels: list[dict[str, Any]]) -> list[Picture]:
    """Without those of figures that are not known."""
    drawn = [
        (training_plots.plot_clusters(labels, folder / "clusters.png"), "Clusters in use"),
        (training_plots.plot_agreement(labels, folder / "agreement.png"), "NMI, accuracy and purity of the labels"),
        (training_plots.plot_changes(labels, folder / "changes.png"), "Share of changed labels"),
        (training_plots.plot_weights(labels, folder / "weights.png"), "Mean weight of the recordings"),
    ]
    return [Picture(path, f"{title} over epochs") for path, title in drawn if path]


def map_picture(path: Path, drawn: SpeakerMap) -> Picture:
    points, variance = drawn.projection
    title = f"{len(points):,} recordings"
    if variance is None:
        map_plots.plot_map_of_speakers(points, drawn.speakers, path, title)
    else:
        axes = f"principal components, with {variance[0]:.0%} (across) and {variance[1]:.0%} of the variance"
        map_plots.plot_map_of_speakers(points, drawn.speakers, path, title, axes)
    return Picture(path, f"{drawn.method} map of recordings, coloured by speaker")

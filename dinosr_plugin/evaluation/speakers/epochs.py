"""Speaker verification after each epoch of a training: the recordings of a trial list, embedded by each checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...checkpoints.file import read_fairseq_checkpoint
from ...checkpoints.opening import open_embedder
from ...errors import UserError
from ...units.features import default_device
from .embeddings import Embeddings
from .extraction import embed_recordings
from .recordings import read_recordings, select
from .scores import Scored, cosines
from .training_run import epoch_checkpoints
from .trials import Trial, names_of
from .verification import verify


def measure_epochs(
    save_dir: str | Path,
    manifest: str | Path,
    trials: Sequence[Trial],
    what: str | Path,
    work: str | Path,
    resamples: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """A row for each checkpoint of an epoch: ``epoch``, the figures of ``verify``, and ``intervals``.

    Args:
        save_dir: ``checkpoint.save_dir`` of the training, with ``checkpoint1.pt`` ...
        manifest: of the recordings in the trials.
        what: how messages name the trials.
        work: folder that keeps the embeddings of each checkpoint, in ``epoch1`` ...: an interrupted run resumes.
        resamples, seed: as ``verify``.
        say: receives a line before the work.

    Raises:
        UserError: fewer than two checkpoints, or one that cannot be read; from the manifest, the audio, or the folder;
            embeddings there of another training.
    """
    checkpoints = epoch_checkpoints(save_dir)
    if len(checkpoints) < 2:
        raise UserError(
            f"{save_dir}: {len(checkpoints)} checkpoint(s) of whole epochs (checkpoint1.pt ...), and a curve takes "
            "two; train with checkpoint.no_epoch_checkpoints=false checkpoint.save_interval=1, or omit --recordings"
        )
    recordings = select(read_recordings(manifest), names_of(trials), f"{what}")
    for path in checkpoints.values():  # before any of the work; each file is compared with its checksums once
        read_fairseq_checkpoint(path)
    say(f"embedding {len(recordings)} recordings with {len(checkpoints)} checkpoints; the results are kept in {work}")
    rows = []
    for epoch, path in tqdm(checkpoints.items(), desc="checkpoints", unit="checkpoint", disable=None):
        folder = Path(work) / f"epoch{epoch}"
        embedder = open_embedder(path, device=default_device())
        embed_recordings(embedder, recordings, manifest, folder, max_minutes=float("inf"))
        figures, _ = verify(Scored(list(trials), cosines(Embeddings(folder), trials), []), resamples, seed, what)
        rows.append({"epoch": epoch, **figures.figures, "intervals": figures.intervals})
    return rows

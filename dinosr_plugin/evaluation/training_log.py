"""Training curves from fairseq's logs: TensorBoard event files (``common.tensorboard_logdir``), or the text log with
``common.log_format=json`` (``common.log_file``, or stdout)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..files import is_file, is_folder, parse_json, read_lines, require_file, scan

Records = list[dict[str, float]]
INNER = "train_inner"  # the folder of TensorBoard's files that are written every ``common.log_interval`` updates


UPDATES = "_num_updates"  # what the key with the number of updates ends with, after the name of the subset
REMEDY = "give the log of a training"
NAME = "training.log"  # in checkpoint.save_dir: the log of a training, runs.run_log


def log_beside(checkpoint: Path) -> Path | None:
    """The log in the folder of a checkpoint, if there is one with the loss of its training."""
    path = checkpoint.parent / NAME
    return path if is_file(path) and _records_with_loss(path) else None


def read_training_log(path: str | Path, subset: str = "") -> Records:
    """Records {name: number}, ``num_updates`` included, in order of updates.

    An update that a resumed run repeats counts once, as it was logged last.

    Args:
        path: the JSON log, or the folder of TensorBoard's files.
        subset: "" for the values of every ``common.log_interval`` updates, "train" for those of whole epochs, or the
            name of a validation subset.

    Raises:
        UserError: the file or folder does not exist, or a folder is given and the package tensorboard is not installed.
    """
    path = Path(path)
    if is_folder(path):
        records = _event_records(path, subset)
    else:
        require_log(path)
        records = _json_records(path, subset)
    return [records[update] for update in sorted(records)]


def require_log(path: Path) -> None:
    """Raise UserError unless there is such a file."""
    if not is_file(path):
        raise UserError(f"{path}: no such log; give the training.log beside the checkpoints, or TensorBoard's folder")


def read_pretraining_log(path: str | Path) -> Records:
    """Records of every ``common.log_interval`` updates; of whole epochs if the training was shorter than that.

    Raises UserError as ``read_training_log``, and if the log contains no loss.
    """
    records = _records_with_loss(path)
    if not records:
        raise UserError(
            f"{path}: contains no training loss; give the training.log or TensorBoard's folder of the pre-training, "
            "or omit --log"
        )
    return records


def validation_losses(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Name of each validation subset in a log -> its ``loss_curve``.

    Raises UserError as ``read_training_log``.
    """
    path = Path(path)
    if is_folder(path):
        names = {Path(entry.path).name for entry in scan(path) if is_folder(entry.path)} - {INNER}
    else:
        require_log(path)
        keys = {key for line in read_lines(path, REMEDY, tolerate_damage=True) for key in _numbers(line)}
        names = {key.removesuffix(UPDATES) for key in keys if key.endswith(UPDATES)}
    curves = {name: loss_curve(read_training_log(path, name)) for name in sorted(names - {"train"})}
    return {name: points for name, points in curves.items() if points}


def _records_with_loss(path: str | Path) -> Records:
    """As ``read_pretraining_log``; [] if there is no loss."""
    readings = (read_training_log(path, subset) for subset in ("", "train"))
    return next((records for records in readings if loss_curve(records)), [])


def _json_records(path: Path, subset: str) -> dict[int, dict[str, float]]:
    prefix = f"{subset}_" if subset else ""
    records: dict[int, dict[str, float]] = {}
    for line in read_lines(path, REMEDY, tolerate_damage=True):
        record = _numbers(line)
        updates = record.get(f"{prefix}num_updates", math.nan)
        if math.isfinite(updates):
            records[int(updates)] = {key.removeprefix(prefix): value for key, value in record.items()}
    return records


def _event_records(folder: Path, subset: str) -> dict[int, dict[str, float]]:
    """Records by update, from fairseq's log folder or its subfolder for the subset.

    Each start of the run adds a file.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
    except ImportError as error:
        raise UserError(
            f"{folder}: reading it requires the package tensorboard; "
            "install it with `pip install tensorboard`, or give the JSON log"
        ) from error
    inside = folder / (subset or INNER)
    read = inside if inside.is_dir() else folder
    for entry in scan(read):
        if "tfevents" in entry.name:  # TensorBoard would wait for ever for a pipe
            require_file(entry.path, "remove it")
    events = EventAccumulator(str(read), size_guidance={SCALARS: 0}, purge_orphaned_data=False).Reload()
    records: dict[int, dict[str, float]] = {}
    for name in events.Tags()[SCALARS]:
        for event in sorted(events.Scalars(name), key=lambda event: event.wall_time):
            records.setdefault(event.step, {"num_updates": float(event.step)})[name] = event.value
    return records


def curve(records: Sequence[Mapping[str, float]], key: str) -> list[tuple[int, float]]:
    """(update, value) of the records that contain ``key``."""
    return [(int(record["num_updates"]), record[key]) for record in records if key in record]


def loss_curve(records: Sequence[Mapping[str, float]]) -> list[tuple[int, float]]:
    """The loss, in nats per unit of the objective; of a DinoSR model with several losses, the one on masked frames."""
    return curve(records, "loss_dinosr") or curve(records, "loss")


def _numbers(line: str) -> dict[str, float]:
    """The numbers in a line that ends with a JSON object, in which fairseq writes them as strings.

    {} for other lines, and for one that is cut off because the run was killed.
    """
    _, brace, rest = line.partition("{")
    try:
        record = parse_json(brace + rest)
    except ValueError:
        return {}
    numbers = {}
    for key, value in record.items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError, OverflowError):  # a number of 400 digits
            continue
    return numbers

"""``dinosr export safetensors``: a checkpoint as one small file, to share or to ship."""

from pathlib import Path

from ..checkpoints.contents import Damaged
from ..checkpoints.file import REMEDY, read_fairseq_checkpoint
from ..checkpoints.load import load_model
from ..checkpoints.packed import packed
from ..checkpoints.weights import require_finite
from ..errors import UserError
from ..files import output, write_bytes


def export(path: Path, out: Path) -> int:
    """Write the model of a checkpoint as ``checkpoints.packed`` says; returns the number of its parameters.

    Raises:
        UserError: as ``load_model`` does; a fine-tuned model; weights that half precision cannot hold.
    """
    try:
        content = packed(read_fairseq_checkpoint(path))
    except Damaged as error:
        raise UserError(f"{path}: {error}; {error.remedy or REMEDY}") from None
    with output(out, "OUT") as unfinished:
        write_bytes(unfinished, content)
        model = load_model(unfinished).model
        require_finite(model, path)
    return sum(parameter.numel() for parameter in model.parameters())

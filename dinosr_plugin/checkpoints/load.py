"""Load a checkpoint file: of this plug-in, of fairseq's speech models, of CPC_audio, or of SpidR."""

from pathlib import Path
from typing import Any, NamedTuple

from fairseq import checkpoint_utils
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig

from .. import register
from ..errors import UserError
from ..files import kind_of
from ..interop.cpc_audio import from_cpc_audio
from ..interop.fairseq_checkpoints import make_self_contained, require_speech_model
from ..interop.spidr import from_spidr, updates_in
from .building import building
from .file import read_checkpoint, read_fairseq_checkpoint


class Loaded(NamedTuple):
    """A model in eval mode, on the CPU, with its whole config and its task."""

    model: BaseFairseqModel
    cfg: DictConfig
    task: FairseqTask


def load_model(path: str | Path) -> Loaded:
    """Load a checkpoint from its file alone: neither the data folder nor, for a fine-tuned model, the pre-training
    checkpoint is needed.

    Raises:
        UserError: no such file, damaged, not a checkpoint, or of a fairseq model that cannot be built.
    """
    if kind_of(path) == "nothing":
        raise UserError(f"{path}: no such checkpoint; give a file that a training saved")
    state = read_checkpoint(path)
    register()  # the task of the checkpoint, too
    with building([path], str(path)):
        converted = from_cpc_audio(state, path) or from_spidr(state, path)
        state = converted or checkpoint_utils.load_checkpoint_to_cpu(str(path))
        require_speech_model(state["cfg"], str(path))
        make_self_contained(state)
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    return Loaded(models[0].eval(), cfg, task)


def updates_of(path: str | Path) -> int:
    """Number of updates that a checkpoint of fairseq or SpidR has seen.

    Raises UserError for another file, and for an old checkpoint that does not contain the number.
    """
    if (of_spidr := updates_in(read_checkpoint(path))) is not None:
        return of_spidr
    history = read_fairseq_checkpoint(path).get("optimizer_history", [{}])
    if "num_updates" not in history[-1]:
        raise UserError(f"{path}: does not contain its number of updates; give a newer checkpoint")
    return history[-1]["num_updates"]


def expects_normalized_waves(cfg: Any) -> bool:
    """Whether a model was trained on recordings scaled to mean 0 and variance 1 (``task.normalize``)."""
    return bool(cfg.task.get("normalize", False))

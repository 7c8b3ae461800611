"""Load a checkpoint file: of this plug-in, of fairseq's speech models, or of CPC_audio."""

from pathlib import Path
from typing import Any, NamedTuple

from fairseq import checkpoint_utils
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig

from .. import register
from ..errors import UserError
from ..interop.cpc_audio import read_cpc_audio
from ..interop.fairseq_checkpoints import make_self_contained
from .formats import is_torch_file


class Loaded(NamedTuple):
    """A model in eval mode, on the CPU, with its whole config and its task."""

    model: BaseFairseqModel
    cfg: DictConfig
    task: FairseqTask


def load_model(path: str | Path) -> Loaded:
    """Load a checkpoint from its file alone: neither the data folder nor, for a fine-tuned model, the pre-training
    checkpoint is needed.

    Raises:
        UserError: no such file, not a checkpoint, truncated, or of a fairseq model that cannot be built.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; give a file that a training saved")
    try:
        if not is_torch_file(path):
            raise UserError(f"{path}: not a PyTorch file; give a checkpoint that a training saved")
        state = read_cpc_audio(path) or checkpoint_utils.load_checkpoint_to_cpu(str(path))
        make_self_contained(state)
        register()  # the task of the checkpoint, too
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    except UserError:
        raise
    except Exception as error:  # torch, pickle, zipfile, omegaconf and fairseq each raise their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: cannot be loaded as a fairseq checkpoint ({reason[0]}); check that the file is complete"
        ) from error
    return Loaded(models[0].eval(), cfg, task)


def expects_normalized_waves(cfg: Any) -> bool:
    """Whether a model was trained on recordings scaled to mean 0 and variance 1 (``task.normalize``)."""
    return bool(cfg.task.get("normalize", False))

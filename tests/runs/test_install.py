"""What ``runs`` adds to fairseq, and that it is added once."""

import re
from pathlib import Path

import fairseq_cli.train
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.optim.adam import Adam
from fairseq.optim.fp16_optimizer import FP16Optimizer, _FP16OptimizerMixin
from fairseq.trainer import Trainer
from torch.utils.data._utils import signal_handling

from dinosr_plugin import compat, runs

WRAPPED = {  # in the order of the wrappers, the innermost first
    (Adam, "step"): ["fused_adam"],
    (PathManager, "copy"): ["saving"],
    (checkpoint_utils, "_torch_persistent_save"): ["saving"],
    (checkpoint_utils, "torch_persistent_save"): ["saving"],
    (checkpoint_utils, "save_checkpoint"): ["saving", "stopping"],
    (checkpoint_utils, "load_checkpoint"): ["resuming", "state"],
    (checkpoint_utils, "verify_checkpoint_directory"): ["messages", "save_dir"],
    (distributed_utils, "call_main"): ["ending"],
    (distributed_utils, "_infer_single_node_init"): ["settings"],
    (fairseq_cli.train, "train"): ["stopping", "stopping", "validating"],
    (fairseq_cli.train, "validate"): ["validating"],
    (fairseq_cli.train, "should_stop_early"): ["stopping"],
    (fairseq_cli.train, "validate_and_save"): ["stopping", "updates"],
    (Trainer, "load_checkpoint"): ["state"],
    (Trainer, "save_checkpoint"): ["origin", "state"],
    (Trainer, "get_train_iterator"): ["resuming"],
    (Trainer, "train_step"): ["training", "updates"],
    (signal_handling, "_set_worker_signal_handlers"): ["stopping"],
    (torch.multiprocessing, "spawn"): ["stopping"],
    (FP16Optimizer, "build_optimizer"): ["training", "dino_sgd"],
    (_FP16OptimizerMixin, "state_dict"): ["state"],
    (_FP16OptimizerMixin, "load_state_dict"): ["state"],
}


@pytest.mark.parametrize("owner, name", WRAPPED)
def test_each_function_is_wrapped_once_and_in_order(owner, name):
    function = getattr(owner, name)
    assert [wrapper.split(".")[2] for wrapper in function.dinosr_wrappers] == WRAPPED[owner, name]
    compat.apply()
    runs.install()
    assert getattr(owner, name) is function


def test_compat_does_not_import_runs():
    sources = [path.read_text() for path in Path(compat.__file__).parent.glob("*.py")]
    assert sources and not any(re.search(r"^\s*(from|import)\s.*\bruns\b", source, re.M) for source in sources)

"""What importing the plug-in changes in fairseq, torch and NumPy, and what it does not change."""

import io
import logging
import os
import subprocess
import sys
import traceback
import warnings
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data.dictionary import Dictionary
from fairseq.distributed import utils as distributed_utils
from fairseq_cli import generate
from omegaconf import OmegaConf

from dinosr_plugin import compat
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.compat import messages
from dinosr_plugin.errors import UserError
from support.checkpoints import Ranks, put


class Arbitrary:
    """Pickled by name, as an attacker's class would be."""

    def __reduce__(self):
        return os.getcwd, ()


@pytest.mark.parametrize(
    "state", [{"model": {}, "extra": Arbitrary()}, {"model": {}, "args": np.dtype("float32").__class__}]
)
def test_weights_only_stays_on(tmp_path, state):
    """A checkpoint cannot run code: torch, fairseq's loader and, in one line, ours refuse arbitrary classes."""
    path = tmp_path / "evil.pt"
    torch.save(state, path)
    with pytest.raises(Exception, match="[Ww]eights"):
        torch.load(path)
    for load in (checkpoint_utils.load_checkpoint_to_cpu, load_model):
        with pytest.raises(UserError, match="evil.pt: contains a Python object of") as refused:
            load(str(path))
        shown = "".join(traceback.format_exception(refused.value))
        assert "weights_only=False" not in shown and "safe_globals" not in shown  # what torch advises


def test_a_checkpoint_with_fairseqs_dictionary_loads(tmp_path):
    dictionary = Dictionary()
    dictionary.add_symbol("A")
    torch.save({"task_state": {"target_dictionary": dictionary}}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["task_state"]["target_dictionary"].symbols == dictionary.symbols


def test_no_other_classes_are_allowed():
    """Only the dictionary and the options of older checkpoints."""
    allowed = torch.serialization.get_safe_globals()  # torch adds some of its own classes
    assert {item for item in allowed if not getattr(item, "__module__", "").startswith("torch.")} == {
        Dictionary,
        Namespace,
    }


def test_numpy_aliases():
    assert np.int is int and np.float is float and np.compat.long is int


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_in_a_fresh_interpreter():
    """Importing changes no logging and prints nothing, nor does weight_norm; a UserError is one line and status 1."""
    code = """
import logging
root = logging.getLogger()
before = root.level, list(root.handlers)
import dinosr_plugin
dinosr_plugin.register()
assert (root.level, list(root.handlers)) == before, (root.level, root.handlers)
from dinosr_plugin.errors import UserError
from fairseq.models.wav2vec.wav2vec2 import make_conv_pos
make_conv_pos(4, 3, 1)
raise UserError("data/train.tsv: empty; write a manifest with `dinosr manifest`")
"""
    result = python(code)
    assert result.stderr == "error: data/train.tsv: empty; write a manifest with `dinosr manifest`\n"
    assert result.stdout == "" and result.returncode == 1


def test_the_hook_does_not_change_other_errors(monkeypatch, capsys):
    """It is set once, however often ``apply`` is called."""
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args))
    compat.messages.one_line_errors()
    hook = sys.excepthook
    compat.apply()
    assert sys.excepthook is hook
    error = ValueError("a bug")
    hook(ValueError, error, None)
    assert seen == [(ValueError, error, None)] and capsys.readouterr().err == ""
    hook(UserError, UserError("fix this"), None)
    assert len(seen) == 1 and capsys.readouterr().err == "error: fix this\n"


def test_an_error_about_a_file_is_one_line_and_nothing_follows_ctrl_c(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args))
    compat.messages.one_line_errors()
    for error, printed in (
        (PermissionError(13, "Permission denied", "a\n.pt"), "error: a\\n.pt: Permission denied; give another folder"),
        (KeyboardInterrupt(), ""),
    ):
        sys.excepthook(type(error), error, None)
        assert capsys.readouterr().err.startswith(printed) and not seen
    sys.excepthook(OSError, OSError("no file"), None)
    assert len(seen) == 1


class Killed(torch.utils.data.Dataset):
    """A dataset whose worker process dies."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os._exit(9)


def test_a_killed_worker_is_one_line():
    with pytest.raises(
        UserError, match="dataset.num_workers: a worker process was killed, .*; lower it, or dataset.max_tokens,"
    ):
        next(iter(torch.utils.data.DataLoader(Killed(), num_workers=1)))


def test_a_log_on_a_full_disk_is_one_line(capsys):
    handler = logging.FileHandler("/dev/full")
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"name": "train", "msg": "update 1"}))
    handler.stream = None  # closing would flush what cannot be written
    line = "warning: /dev/full: cannot be written (No space left on device); free some space; lines are missing until"
    printed = capsys.readouterr().err
    assert printed.startswith(line) and printed.count("\n") == 1


def test_an_error_about_a_file_is_one_line_in_hydra(monkeypatch, capsys):
    from hydra._internal.utils import run_and_report

    def job():
        raise OSError(28, "No space left on device", "train.log")

    with pytest.raises(SystemExit) as stopped:
        run_and_report(job)
    assert stopped.value.code == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "train.log: No space left on device; free some space" and "HYDRA_FULL_ERROR" in last
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError) as raised:
        run_and_report(job)
    assert isinstance(raised.value.__cause__, OSError)


def test_log_records_do_not_control_the_terminal(caplog):
    for name, expected in (("dinosr_plugin.data", "a\\x1b[2J\\nb\\tc"), ("fairseq", "a\\x1b[2J\nb\tc")):
        logging.getLogger(name).error("%s", "a\x1b[2J\nb\tc")
        assert caplog.records[-1].getMessage() == expected


def test_no_other_warning_is_silenced():
    """Only the one about weight_norm: neither another text nor another category."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        compat.messages.silence_weight_norm_warning()
        torch.nn.utils.weight_norm(torch.nn.Linear(1, 1))
        others = [
            ("`torch.nn.utils.spectral_norm` is deprecated", FutureWarning),
            ("`torch.nn.utils.weight_norm` is deprecated", UserWarning),
        ]
        for message, category in others:
            warnings.warn(message, category, stacklevel=1)
    assert [(str(warning.message), warning.category) for warning in seen] == others


def test_log_file_is_opened_once(tmp_path):
    """fairseq builds a progress bar in every epoch; each line still appears once in common.log_file."""
    from fairseq.logging import progress_bar

    log = tmp_path / "train.log"
    handlers = list(progress_bar.logger.handlers)
    try:
        for _ in range(3):
            progress_bar.progress_bar([1], log_format="json", log_file=str(log))
        assert len(progress_bar.logger.handlers) == len(handlers) + 1
    finally:
        progress_bar.logger.handlers[:] = handlers


@pytest.mark.parametrize("takes_float32, expected", [(True, torch.float32), (False, torch.bfloat16)])
def test_the_waveform_stays_float32_for_models_that_ask_for_it(takes_float32, expected):
    """Other models' waveforms, and other inputs, are in half precision."""
    from fairseq.trainer import Trainer

    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    if takes_float32:
        model[0].takes_float32 = True
    common = SimpleNamespace(fp16=False, bf16=True)
    trainer = SimpleNamespace(cfg=SimpleNamespace(common=common), get_model=lambda: model)
    sample = {"net_input": {"source": torch.zeros(1, 8), "other": torch.zeros(1)}}
    converted = Trainer._fp_convert_sample(trainer, sample)["net_input"]
    assert converted["source"].dtype == expected and converted["other"].dtype == torch.bfloat16


def test_a_loaded_checkpoint_reaches_the_other_ranks(tmp_path, monkeypatch):
    """torch >= 2.6 would refuse the placeholders that fairseq sends for tensors, and the config."""
    path = put(tmp_path / "checkpoint_last.pt", 4)
    ranks, state = Ranks(monkeypatch), checkpoint_utils.load_checkpoint_to_cpu(str(path))
    allowed = set(torch.serialization.get_safe_globals())
    distributed_utils.broadcast_object(state, 0, None, torch.device("cpu"))
    ranks.rank = 1
    received = distributed_utils.broadcast_object(None, 0, None, torch.device("cpu"))
    assert torch.equal(received["model"]["w"], state["model"]["w"])
    assert received["cfg"] == OmegaConf.to_container(state["cfg"])
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_fairseq_generate_prints_no_control_characters(monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(generate, "_main", lambda cfg, output_file: print("H-0\t\x1b[31mA", file=output_file))
    messages.printable_generation()
    generate._main(None, printed)
    assert printed.getvalue() == "H-0\t\\x1b[31mA\n"

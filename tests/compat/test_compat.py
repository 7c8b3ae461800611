"""What importing the plug-in changes in fairseq, torch and NumPy, and what it leaves alone."""

import ctypes
import os
import subprocess
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data.dictionary import Dictionary
from fairseq.optim.adam import Adam

from dinosr_plugin import compat
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.errors import UserError


class Arbitrary:
    """Pickled by name, as an attacker's class would be."""

    def __reduce__(self):
        return os.getcwd, ()


@pytest.mark.parametrize(
    "state", [{"model": {}, "extra": Arbitrary()}, {"model": {}, "args": np.dtype("float32").__class__}]
)
def test_weights_only_stays_on(tmp_path, state):
    """A checkpoint can run no code: arbitrary classes are refused by torch, by fairseq's loader and, in one line, by ours."""
    path = tmp_path / "evil.pt"
    torch.save(state, path)
    with pytest.raises(Exception, match="[Ww]eights"):
        torch.load(path)
    with pytest.raises(Exception, match="[Ww]eights"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    with pytest.raises(UserError, match="evil.pt"):
        load_model(path)


def test_a_checkpoint_with_fairseqs_dictionary_loads(tmp_path):
    dictionary = Dictionary()
    dictionary.add_symbol("A")
    torch.save({"task_state": {"target_dictionary": dictionary}}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["task_state"]["target_dictionary"].symbols == dictionary.symbols


def test_nothing_else_was_allowed():
    """... than that and the options of older checkpoints."""
    allowed = torch.serialization.get_safe_globals()  # torch adds some of its own
    assert {item for item in allowed if not getattr(item, "__module__", "").startswith("torch.")} == {
        Dictionary,
        Namespace,
    }


def test_numpy_aliases():
    assert np.int is int and np.float is float and np.compat.long is int


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_in_a_fresh_interpreter():
    """Importing leaves the root logger as it was and prints nothing, nor does fairseq's weight_norm; a UserError is one line and exit status 1."""
    code = """
import logging
root = logging.getLogger()
before = root.level, list(root.handlers)
import dinosr_plugin
assert (root.level, list(root.handlers)) == before, (root.level, root.handlers)
from dinosr_plugin.errors import UserError
from fairseq.models.wav2vec.wav2vec2 import make_conv_pos
make_conv_pos(4, 3, 1)
raise UserError("data/train.tsv: empty; write a manifest with `dinosr manifest`")
"""
    result = python(code)
    assert result.stderr == "error: data/train.tsv: empty; write a manifest with `dinosr manifest`\n"
    assert result.stdout == "" and result.returncode == 1


def test_the_hook_leaves_other_errors_alone(monkeypatch, capsys):
    """... and is set once, however often ``apply`` is called."""
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args))
    compat.messages.one_line_errors()
    hook = sys.excepthook
    compat.apply()
    assert sys.excepthook is hook
    error = ValueError("a bug")
    hook(ValueError, error, None)
    assert seen == [(ValueError, error, None)] and capsys.readouterr().err == ""
    hook(UserError, UserError("mend this"), None)
    assert len(seen) == 1 and capsys.readouterr().err == "error: mend this\n"


def test_no_other_warning_is_silenced():
    """... than the one about weight_norm: neither other words nor another category."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        compat.messages.no_warning_about_weight_norm()
        torch.nn.utils.weight_norm(torch.nn.Linear(1, 1))
        others = [
            ("`torch.nn.utils.spectral_norm` is deprecated", FutureWarning),
            ("`torch.nn.utils.weight_norm` is deprecated", UserWarning),
        ]
        for message, category in others:
            warnings.warn(message, category, stacklevel=1)
    assert [(str(warning.message), warning.category) for warning in seen] == others


def test_a_kill_while_a_checkpoint_is_copied_leaves_the_older_one(tmp_path, monkeypatch):
    """fairseq copies the newest checkpoint to checkpoint_last.pt: it is replaced in one moment, or not at all."""
    from fairseq.file_io import PathManager

    new, last = tmp_path / "checkpoint_1_2.pt", tmp_path / "checkpoint_last.pt"
    new.write_text("new")
    last.write_text("old")

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            PathManager.copy(str(new), str(last), overwrite=True)
    assert last.read_text() == "old"
    assert PathManager.copy(str(new), str(last), overwrite=True) and last.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, last.name]


def test_log_file_is_opened_once(tmp_path):
    """fairseq asks for a progress bar in every epoch; each line of common.log_file still stands there once."""
    from fairseq.logging import progress_bar

    log = tmp_path / "train.log"
    handlers = list(progress_bar.logger.handlers)
    try:
        for _ in range(3):
            progress_bar.progress_bar([1], log_format="json", log_file=str(log))
        assert len(progress_bar.logger.handlers) == len(handlers) + 1
    finally:
        progress_bar.logger.handlers[:] = handlers


def test_the_waveform_is_not_rounded_for_models_that_want_it_whole():
    """... and only it: what other models get, and other inputs, are in half precision as ever."""
    from fairseq.trainer import Trainer

    ours, other = torch.nn.Sequential(torch.nn.Linear(1, 1)), torch.nn.Linear(1, 1)
    ours[0].takes_float32 = True
    for model, expected in ((ours, torch.float32), (other, torch.bfloat16)):
        trainer = SimpleNamespace(
            cfg=SimpleNamespace(common=SimpleNamespace(fp16=False, bf16=True)), get_model=lambda: model
        )
        sample = Trainer._fp_convert_sample(
            trainer, {"net_input": {"source": torch.zeros(1, 8), "other": torch.zeros(1)}}
        )
        assert sample["net_input"]["source"].dtype == expected and sample["net_input"]["other"].dtype == torch.bfloat16


FAULTS = """
import ctypes, resource, sys
import torch
import dinosr_plugin
from dinosr_plugin import compat

if sys.argv[1] == "kept":
    compat.keep_freed_memory(torch.nn.Linear(1, 1))
else:
    ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: larger blocks straight from the system; by default some are and some not, as the heap happens to lie
for _ in range(3):
    [torch.zeros(7 << 20) for _ in range(4)]  # of 28 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
[torch.zeros(7 << 20) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_freed_memory_is_used_again():
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", FAULTS, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("given back", "kept")
    }
    assert faults["kept"] < 100
    assert faults["given back"] > 10 * faults["kept"] or Path(
        "/sys/kernel/mm/transparent_hugepage/enabled"
    ).read_text().startswith("[always]")


def test_memory_of_a_model_elsewhere_is_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *option: asked.append(option)))
    compat.keep_freed_memory(torch.nn.Linear(1, 1, device="meta"))
    assert not asked
    compat.keep_freed_memory(torch.nn.Linear(1, 1))
    assert asked == [(-3, 32 << 20), (-1, -1)]


def fairseqs_adam(p, grad, state: dict, lr: float, betas, eps: float, weight_decay: float):
    """One step on one parameter, as fairseq's code does it, in float64."""
    state["step"] += 1
    state["exp_avg"] = betas[0] * state["exp_avg"] + (1 - betas[0]) * grad
    state["exp_avg_sq"] = betas[1] * state["exp_avg_sq"] + (1 - betas[1]) * grad**2
    size = lr * (1 - betas[1] ** state["step"]) ** 0.5 / (1 - betas[0] ** state["step"])
    return p * (1 - weight_decay * lr) - size * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + eps)


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_fused_adam_is_fairseqs(eps, weight_decay):
    """Also where gradients are of the size of eps, where a parameter has none at times, and where it goes on from a checkpoint."""
    settings = {"lr": 0.01, "betas": (0.9, 0.98), "eps": eps, "weight_decay": weight_decay}
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 5), (7,), (2, 3, 4))]
    expected = [p.detach().double() for p in parameters]
    states = [{"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)} for p in expected]
    optimizer = Adam(parameters, **settings)
    for number in range(6):
        for i, p in enumerate(parameters):
            p.grad = None
            if i != 1 or number % 2:
                p.grad = torch.randn(p.shape, generator=generator) * 10 ** (i - 3)
                expected[i] = fairseqs_adam(expected[i], p.grad.double(), states[i], **settings)
        optimizer.step()
        if number == 3:
            saved = optimizer.state_dict()
            optimizer = Adam(parameters, **settings)
            optimizer.load_state_dict(saved)
        for p, value in zip(parameters, expected):
            torch.testing.assert_close(p.detach().double(), value, rtol=1e-6, atol=1e-6)
    for i, state in enumerate(states):
        assert {"step", "exp_avg", "exp_avg_sq"} == set(optimizer.state_dict()["state"][i]) and optimizer.state_dict()[
            "state"
        ][i]["step"] == state["step"]


@pytest.mark.parametrize("dtype, amsgrad", [(torch.bfloat16, False), (torch.float32, True)])
def test_what_the_fused_adam_cannot_do_is_left_to_fairseq(dtype, amsgrad, monkeypatch):
    monkeypatch.setattr(torch, "_fused_adamw_", None)
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    p.grad = torch.ones_like(p)
    Adam([p], lr=0.1, amsgrad=amsgrad).step()
    assert torch.allclose(p.float(), torch.full((3,), 0.9), atol=0.01)

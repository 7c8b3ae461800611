"""What importing the plug-in changes in fairseq, torch and NumPy, and what it leaves alone."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from dinosr_plugin import compat
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.checkpoint import load_model
from fairseq import checkpoint_utils
from fairseq.data.dictionary import Dictionary


class Arbitrary:
    """Pickled by name, as an attacker's class would be."""

    def __reduce__(self):
        return os.getcwd, ()


@pytest.mark.parametrize("state", [{"model": {}, "extra": Arbitrary()}, {"model": {}, "args": np.dtype("float32").__class__}])
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


def test_nothing_but_the_dictionary_was_allowed():
    allowed = torch.serialization.get_safe_globals()  # torch adds some of its own
    assert [item for item in allowed if not getattr(item, "__module__", "").startswith("torch.")] == [Dictionary]


def test_numpy_aliases():
    assert np.int is int and np.float is float


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_in_a_fresh_interpreter():
    """Importing leaves the root logger as it was and prints nothing; a UserError is one line and exit status 1."""
    code = """
import logging
root = logging.getLogger()
before = root.level, list(root.handlers)
import dinosr_plugin
assert (root.level, list(root.handlers)) == before, (root.level, root.handlers)
from dinosr_plugin.errors import UserError
raise UserError("data/train.tsv: empty; write a manifest with `dinosr manifest`")
"""
    result = python(code)
    assert result.stderr == "error: data/train.tsv: empty; write a manifest with `dinosr manifest`\n"
    assert result.stdout == "" and result.returncode == 1


def test_the_hook_leaves_other_errors_alone(monkeypatch, capsys):
    """... and is set once, however often ``apply`` is called."""
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args))
    compat.one_line_errors()
    hook = sys.excepthook
    compat.apply()
    assert sys.excepthook is hook
    error = ValueError("a bug")
    hook(ValueError, error, None)
    assert seen == [(ValueError, error, None)] and capsys.readouterr().err == ""
    hook(UserError, UserError("mend this"), None)
    assert len(seen) == 1 and capsys.readouterr().err == "error: mend this\n"

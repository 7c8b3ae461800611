"""Imports: torch and fairseq, which take seconds, only where they are used; and what the plug-in adds to fairseq."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dinosr_plugin.cli import main
from support.paths import GOLDEN, PLUGIN

HEAVY = {"torch", "fairseq", "hydra", "scipy", "matplotlib", "faiss"}


def python(code: str, *arguments) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(code: str, *arguments) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after ``code``."""
    output = python(f"import atexit, sys\natexit.register(lambda: print('\\n', *sys.modules))\n{code}", *arguments)
    modules = {name.split(".")[0] for name in output.splitlines()[-1].split()}
    assert "dinosr_plugin" in modules
    return modules


# ---- light imports ---------------------------------------------------------------------------------------------------


COMMAND = "from dinosr_plugin.cli import main; sys.exit(main(sys.argv[1:]))"


def test_importing_the_package_is_light():
    modules = modules_after("import dinosr_plugin; dinosr_plugin.__version__; dir(dinosr_plugin)")
    assert not modules & {*HEAVY, "numpy"}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["abx"],
        ["manifest", "folder"],
        ["check"],
        ["features"],
        ["transcribe"],
        ["inspect"],
        ["perturb"],
        ["speaker"],
    ],
)
def test_help_is_light(command):
    assert not modules_after(COMMAND, *command, "--help") & {*HEAVY, "numpy"}


def test_manifest_check_and_abx_are_light(tmp_path):
    """None of them imports torch or fairseq, ABX of a folder of features included."""
    rng = np.random.default_rng(0)
    for speaker in "ab":
        (tmp_path / f"audio/{speaker}").mkdir(parents=True)
        soundfile.write(tmp_path / f"audio/{speaker}/{speaker}1.wav", rng.normal(0, 0.1, 16000), 16000)
    manifest, phones, features = tmp_path / "train.tsv", tmp_path / "train.phones.tsv", tmp_path / "mfcc"
    times = [f"{speaker}1\t{n / 10:.1f}\t{(n + 1) / 10:.1f}\t{'KATKITKAT'[n]}" for speaker in "ab" for n in range(9)]
    phones.write_text("\n".join(["utt\tstart\tend\tphone", *times]) + "\n")

    arguments = ["manifest", "folder", tmp_path / "audio", "--out", tmp_path, "--valid-share", "0"]
    assert not modules_after(COMMAND, *arguments) & HEAVY
    assert not modules_after(COMMAND, "check", manifest) & HEAVY
    assert main(["features", str(manifest), "--mfcc", "--out", str(features)]) == 0
    arguments = ["abx", features, "--phones", phones, "--manifest", manifest, "--out", tmp_path / "abx"]
    assert not modules_after(COMMAND, *arguments) & {"torch", "fairseq"}
    assert (tmp_path / "abx/abx.json").is_file()


def test_help_is_fast():
    """... measured in starts of Python, since other programs may take the CPU: `dinosr --help` takes about two."""

    def seconds(*arguments) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=300)
        return time.perf_counter() - start

    def is_fast() -> bool:
        start = min(seconds("-c", "pass") for _ in range(3))
        return min(seconds("-m", "dinosr_plugin.cli", "--help") for _ in range(3)) < 10 * start

    assert is_fast() or is_fast()


# ---- what the plug-in adds to fairseq --------------------------------------------------------------------------------


CHECK_REGISTERED = """
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
from fairseq.trainer import Trainer
assert {"dinosr", "dinosr_hubert", "cpc", "cpc_deepcluster"} <= set(MODEL_REGISTRY), sorted(MODEL_REGISTRY)
assert {"dinosr_pretraining", "dinosr_finetuning"} <= set(TASK_REGISTRY), sorted(TASK_REGISTRY)
assert "dinosr" in CRITERION_REGISTRY, sorted(CRITERION_REGISTRY)
assert hasattr(Trainer.train_step, "dinosr_wrappers") and hasattr(Trainer._fp_convert_sample, "dinosr_wrappers")
"""
IMPORT_USER_DIR = """
from argparse import Namespace
from fairseq import utils
utils.import_user_module(Namespace(user_dir=sys.argv[1]))
"""


@pytest.mark.parametrize("before", ["sys", "dinosr_plugin.cli", "dinosr_plugin.models.dinosr"])
def test_user_dir_registers_everything(before):
    """... whatever part of the package was imported before."""
    python(f"import sys, {before}\n{IMPORT_USER_DIR}\n{CHECK_REGISTERED}", PLUGIN)


def test_importing_it_after_fairseq_registers_everything():
    python(f"import fairseq, dinosr_plugin\n{CHECK_REGISTERED}")


def test_load_on_first_use():
    """``dinosr_plugin.load`` needs nothing else, registers everything, and leaves the root logger as it was."""
    code = """
import logging, sys
import dinosr_plugin
model = dinosr_plugin.load(sys.argv[1])
assert type(model).__name__ == "SpeechModel"
assert logging.getLogger().level == logging.WARNING and not logging.getLogger().handlers
"""
    python(code + CHECK_REGISTERED, GOLDEN / "official_format_tiny.pt")


def test_unknown_names():
    import dinosr_plugin

    with pytest.raises(AttributeError, match="module 'dinosr_plugin' has no attribute 'nonsense'"):
        _ = dinosr_plugin.nonsense
    assert {"load", "register"} <= set(dir(dinosr_plugin))


def imported_at_the_top(path: Path) -> list[list[str]]:
    """The modules that a file imports outside of functions, in its order, as parts of their names."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(node.module or alias.name).split(".") for alias in node.names]
    return names


def imports_fairseq(path: Path) -> bool:
    return any(name[0] in ("fairseq", "fairseq_cli") for name in imported_at_the_top(path))


@pytest.mark.parametrize(
    "path", sorted(filter(imports_fairseq, PLUGIN.rglob("*.py"))), ids=lambda path: str(path.relative_to(PLUGIN))
)
def test_compat_is_applied_before_fairseq_is_imported(path):
    """A module that imports fairseq imports ``compat`` before it, or its package does."""
    names = imported_at_the_top(path)
    before = names[: [name[0] for name in names].index("fairseq")]
    assert ["compat"] in before or ["compat"] in imported_at_the_top(path.parent / "__init__.py")

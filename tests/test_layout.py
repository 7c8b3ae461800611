"""Who may import whom, and what stands nowhere in the code. Read from the source; nothing is imported."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.paths import REPOSITORY

ROOT = REPOSITORY
PACKAGE = ROOT / "dinosr_plugin"
SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "examples").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def imports(path: Path) -> set:
    """Dotted names of all modules that a file imports, at the top or inside functions; relative ones resolved."""
    names = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*here, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = ROOT.joinpath(
                    *base.split("."), alias.name
                )  # `from ..models import checkpoint` imports a module
                names.add(f"{base}.{alias.name}" if inside.is_dir() or inside.with_suffix(".py").is_file() else base)
    return names


def room(name: str) -> str:
    """dinosr_plugin.modules.ema -> modules; empty for anything outside the package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "dinosr_plugin" and len(parts) > 1 else ""


def files_of(name: str) -> list:
    return [path for path in SOURCES if path.is_relative_to(PACKAGE / name)]


def test_relative_imports_are_resolved():
    found = imports(PACKAGE / "models" / "dinosr.py")
    assert {"dinosr_plugin.models.encoder", "dinosr_plugin.modules.codebook", "dinosr_plugin.errors", "torch"} <= found
    assert "dinosr_plugin.data.check" in imports(PACKAGE / "tasks" / "pretraining.py")  # inside a function


@pytest.mark.parametrize("path", files_of("modules"), ids=lambda path: path.name)
def test_modules_know_torch_only(path):
    for name in imports(path):
        top = name.split(".")[0]
        assert top == "torch" or top in sys.stdlib_module_names or room(name) == "modules", name


@pytest.mark.parametrize("path", files_of("models"), ids=lambda path: path.name)
def test_models_know_modules_and_fairseq(path):
    assert {room(name) for name in imports(path)} <= {"", "models", "modules", "errors"}


def test_criterions_know_modules_only():
    for path in files_of("criterions"):
        assert {room(name) for name in imports(path)} <= {"", "criterions", "modules", "errors"}


@pytest.mark.parametrize("name", ["data", "decoding", "units", "evaluation", "interop"])
def test_models_come_through_the_checkpoint_loader(name):
    for path in files_of(name):
        found = {
            imported for imported in imports(path) if room(imported) in ("models", "modules", "tasks", "criterions")
        }
        own = {imported for imported in found if room(imported) == name}
        assert found - own <= {"dinosr_plugin.models.checkpoint"}, path


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if PACKAGE / "cli" not in path.parents],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_imports_the_command_line(path):
    assert "cli" not in {room(name) for name in imports(path)}


def test_tasks_do_not_ask_what_a_model_has():
    """They call the methods of ``Objective``, whose defaults do nothing."""
    for path in files_of("tasks"):
        asked = [ast.unparse(call) for call in ast.walk(TREES[path]) if isinstance(call, ast.Call)]
        assert not [call for call in asked if call.startswith(("hasattr(model", "getattr(model"))], path


FORBIDDEN_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_from_strings_and_no_shell(path):
    calls = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
    assert not FORBIDDEN_CALLS & {ast.unparse(call.func) for call in calls}
    for call in calls:
        for keyword in call.keywords:
            unsafe = (keyword.arg, getattr(keyword.value, "value", None)) in {("shell", True), ("weights_only", False)}
            assert not unsafe, f"{path}:{call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_torchaudio(path):
    """Its releases are tied to torch's, and since 2.9 it reads no audio by itself."""
    assert "torchaudio" not in {name.split(".")[0] for name in imports(path)}


# ---- optional packages -----------------------------------------------------------------------------------------------

OPTIONAL = {  # distribution -> what is imported
    "espeakng-loader": "espeakng_loader",
    "flashlight-text": "flashlight",
    "sentencepiece": "sentencepiece",
    "scikit-learn": "sklearn",
    "tensorboard": "tensorboard",
}


def test_all_optional_packages_are_checked():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    used = [requirement for name in ("synth", "decode", "bpe", "report") for requirement in extras[name]]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in used} == set(OPTIONAL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_optional_packages_are_imported_late(path):
    """Inside functions only: the rest of the package works without them."""
    inside = {
        node
        for function in ast.walk(TREES[path])
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    early = [node for node in ast.walk(TREES[path]) if node not in inside]
    names = {alias.name for node in early if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in early if isinstance(node, ast.ImportFrom) and not node.level}
    assert not {name.split(".")[0] for name in names} & set(OPTIONAL.values())


def test_gpl_code_is_loaded_by_the_synthetic_corpus_only():
    """eSpeak NG's licence is GPL-3, that of this package MIT."""
    users = [path for path in SOURCES if "espeakng_loader" in imports(path)]
    assert users == [PACKAGE / "data" / "synth" / "espeak.py"]


def test_workarounds_stand_in_compat_only():
    pattern = re.compile(
        r"add_safe_globals|np\.(int|float)\s*=|setattr\(np|sys\.excepthook\s*=|filterwarnings|simplefilter"
    )
    found = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text())}
    assert found == {"compat"}


# ---- the repository --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked() -> list:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_top_level_is_tidy(tracked):
    top = {path.relative_to(ROOT).parts[0] for path in tracked}
    rest = {name for name in top if not name.startswith(".")}
    assert rest <= {"pyproject.toml", "README.md", "LICENSE", "dinosr_plugin", "examples", "tests", "manifests"}


def test_no_path_of_a_developers_machine(tracked):
    pattern = re.compile("/" + r"(?:root|home|work|Users)/\w")
    for path in tracked:
        data = path.read_bytes()
        if b"\0" in data:  # no text
            continue
        found = pattern.search(data.decode("utf-8", "replace"))
        assert not found, f"{path.relative_to(ROOT)}: {found.group()}"

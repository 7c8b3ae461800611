"""Rules about imports, and code that must not occur. The source is parsed; nothing is imported."""

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


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, at the top or in functions; relative imports are resolved."""
    names = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*here, *([node.module] if node.module else [])])
            for alias in node.names:  # `from ..models import encoder` imports a module
                module = ROOT.joinpath(*base.split("."), alias.name)
                names.add(f"{base}.{alias.name}" if module.is_dir() or module.with_suffix(".py").is_file() else base)
    return names


def part_of(path: Path) -> str:
    """dinosr_plugin/modules/ema.py -> modules; dinosr_plugin/api.py -> api."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files_of(part: str) -> list[Path]:
    return [path for path in SOURCES if path.is_relative_to(PACKAGE) and part_of(path) == part]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- imports ---------------------------------------------------------------------------------------------------------

ALLOWED = {
    "modules": set(),
    "models": {"modules"},
    "criterions": {"modules"},
    "config": set(),
    "data": {"modules.frame_grid"},
    "tasks": {
        "checkpoints", "criterions", "data", "decoding", "interop", "models", "modules", "pretrained", "runs", "units"
    },
    "runs": {"checkpoints.contents", "checkpoints.file"},
    "compat": {"checkpoints.building", "checkpoints.file", "checkpoints.packed", "modules.literals"},
    "checkpoints": {"interop", "models", "modules", "pretrained"},
    "interop": {"checkpoints", "models", "modules", "pretrained"},
    "units": {"checkpoints", "data", "modules.frame_grid"},
    "decoding": {"checkpoints", "data", "modules.frame_grid"},
    "evaluation": {"checkpoints", "data", "modules.frame_grid", "units"},
    "inspection": {"checkpoints", "data", "interop", "modules", "pretrained", "units"},
    "pretrained": set(),
}  # fmt: skip
"""Part of the package -> the parts, or single modules, that it may import.

All may also import ``errors``, ``files`` and ``ranges``; all but ``modules`` and ``evaluation`` may import ``compat``,
which must be imported before fairseq. The table in .github/CONTRIBUTING.md states the same.
"""
WITHOUT_COMPAT = {"modules", "evaluation"}
REGISTERING = {"dinosr_plugin/checkpoints/load.py", "dinosr_plugin/inspection/fairseq_files.py"}  # with `register`
REST = {"__init__", "api", "cli", "errors", "files", "hf", "ranges"}


def is_allowed(name: str, part: str) -> bool:
    allowed = ALLOWED[part] | {part, "errors", "files", "ranges"} | (set() if part in WITHOUT_COMPAT else {"compat"})
    return any(f"{name}.".startswith(f"dinosr_plugin.{one}.") for one in allowed)


def test_relative_imports_are_resolved():
    found = imports(PACKAGE / "models" / "dinosr.py")
    assert {"dinosr_plugin.models.encoder", "dinosr_plugin.modules.codebook", "dinosr_plugin.errors", "torch"} <= found
    assert "dinosr_plugin.data.validation" in imports(PACKAGE / "tasks" / "base.py")  # in a function


def test_the_table_contains_every_part_of_the_package():
    assert {part_of(path) for path in SOURCES if path.is_relative_to(PACKAGE)} == ALLOWED.keys() | REST


@pytest.mark.parametrize("path", [path for part in ALLOWED for path in files_of(part)], ids=relative)
def test_imports_are_allowed(path):
    exceptions = {"dinosr_plugin"} if relative(path) in REGISTERING else set()
    found = {name for name in imports(path) if name.split(".")[0] == "dinosr_plugin"}
    assert {name for name in found if not is_allowed(name, part_of(path))} <= exceptions


@pytest.mark.parametrize("path", files_of("modules"), ids=relative)
def test_modules_import_only_torch(path):
    top_level = {name.split(".")[0] for name in imports(path)}
    assert top_level <= {"torch", "dinosr_plugin", *sys.stdlib_module_names}


def test_errors_imports_nothing_of_the_package():
    assert not {name for name in imports(PACKAGE / "errors.py") if name.startswith("dinosr_plugin")}


@pytest.mark.parametrize("path", files_of("files"), ids=relative)
def test_files_imports_only_errors(path):
    found = {name for name in imports(path) if name.startswith("dinosr_plugin") and ".files" not in name}
    assert found <= {"dinosr_plugin.errors"}


def test_ranges_imports_only_errors():
    found = imports(PACKAGE / "ranges.py")
    assert {name for name in found if name.startswith("dinosr_plugin")} == {"dinosr_plugin.errors"}


def test_the_api_reads_models_through_checkpoints():
    found = {name for name in imports(PACKAGE / "api.py") if name.startswith("dinosr_plugin")}
    assert {name.split(".")[1] for name in found} == {"checkpoints", "errors", "pretrained"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_tests_and_the_command_line_are_not_imported(path):
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & {"tests", "support", "conftest"}
    if PACKAGE / "cli" not in path.parents:
        assert not {name for name in names if name.startswith("dinosr_plugin.cli")}


def test_the_contributors_guide_has_the_same_table():
    lines = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| `\w+/` \|", line)]
    table = {folder.strip("`/"): set(re.findall(r"`([\w.]+)`", names)) for folder, _, names in rows}
    assert table.pop("cli") == set()  # anything
    assert table == ALLOWED


MODELS = {"DinoSR", "Hubert", "CPC", "CPCDeepCluster", "Trunk", "Wav2Vec2Model", "HubertModel", "Data2VecAudioModel"}


def test_only_adapters_depend_on_the_class_of_a_model():
    """``isinstance`` with classes of models: elsewhere, a ``FrameReader`` or the methods of ``Objective`` are used."""
    users = set()
    for path in (path for path in SOURCES if path.is_relative_to(PACKAGE)):
        for call in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in ("isinstance", "issubclass"):
                names = {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(call.args[1])}
                users |= {path} if names & MODELS else set()
    assert PACKAGE / "models" / "dinosr.py" in users
    assert {part_of(path) for path in users - {PACKAGE / "checkpoints" / "opening.py"}} <= {"interop", "models"}


def test_tasks_do_not_test_for_attributes_of_models():
    """They call the methods of ``Objective``, whose defaults do nothing."""
    for path in files_of("tasks"):
        calls = [ast.unparse(call) for call in ast.walk(TREES[path]) if isinstance(call, ast.Call)]
        assert not [call for call in calls if call.startswith(("hasattr(model", "getattr(model"))], path


def test_one_function_reads_the_files_of_pytorch():
    calls = {
        path for path in SOURCES for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    }  # fmt: skip
    assert calls == {PACKAGE / "checkpoints" / "file.py"}


FORBIDDEN_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_code_from_strings_and_no_shell(path):
    calls = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
    assert not FORBIDDEN_CALLS & {ast.unparse(call.func) for call in calls}
    for call in calls:
        for keyword in call.keywords:
            unsafe = (keyword.arg, getattr(keyword.value, "value", None)) in {("shell", True), ("weights_only", False)}
            assert not unsafe, f"{path}:{call.lineno}"


WRITING = {"write_text", "write_bytes", "replace", "rename", "save", "savez", "savez_compressed", "tofile", "savefig"}
MODULES = {"os", "np", "numpy", "shutil", "path", "unfinished", "figure"}  # whose `replace`, `save` ... write
WRITES_ELSEWHERE = {
    "dinosr_plugin/data/conversion.py": {"sf.write"},  # into memory
    "dinosr_plugin/data/synth/espeak.py": {"shutil.copy"},  # a library, which is removed at once
    "dinosr_plugin/evaluation/plots/style.py": {"figure.savefig"},  # to the temporary name of an output
    "dinosr_plugin/evaluation/similarity/output.py": {"np.savez"},  # into memory
    "dinosr_plugin/runs/resuming.py": {"os.replace"},  # a damaged checkpoint gets another name
    "dinosr_plugin/runs/saving.py": {"os.replace", "shutil.copyfile"},  # fairseq's checkpoints
    "dinosr_plugin/units/kmeans.py": {"np.savez"},  # into memory
    "dinosr_plugin/units/store.py": {"open", "os.open", "os.replace"},  # features that a killed run resumes
    "examples/quickstart/run.py": {"open"},  # logs of running programs
}


def writes(call: ast.Call) -> bool:
    """Whether a call writes or renames a file: ``open`` for writing, ``path.write_text``, ``os.replace`` ..."""
    name = ast.unparse(call.func)
    owner, _, method = name.rpartition(".")
    if method == "open" and (owner in ("", "os", "io") or owner.endswith("path")):
        given = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        modes = [ast.unparse(argument) for argument in (given if owner in ("", "io", "os") else call.args[:1])]
        return any(re.search(r"O_RDWR|O_CREAT|^'[rwaxbt]*[wax+][bt+]*'$", mode) for mode in modes)
    if name in ("sf.write", "soundfile.write", "shutil.copy", "shutil.copyfile", "shutil.move", "json.dump"):
        return True
    return method in WRITING and (method.startswith("write") or owner.rpartition(".")[2] in MODULES)


@pytest.mark.parametrize("path", [path for path in SOURCES if PACKAGE / "files" not in path.parents], ids=relative)
def test_output_is_written_through_files(path):
    calls = [call for call in ast.walk(TREES[path]) if isinstance(call, ast.Call) and writes(call)]
    names = {ast.unparse(call.func) for call in calls if not ast.unparse(call.func).startswith(("write_", "files."))}
    assert names == WRITES_ELSEWHERE.get(relative(path), set())


def test_the_search_for_writing_finds_it():
    for text in (
        "open(p, 'w')",
        "open(p, mode='ab')",
        "path.open('w')",
        "self.path.write_text(x)",
        "os.replace(a, b)",
        "os.open(p, os.O_RDWR | os.O_CREAT)",
        "np.save(p, x)",
        "figure.savefig(p)",
    ):
        assert writes(ast.parse(text).body[0].value), text
    for text in ("open(p)", "open(p, 'rb')", "text.replace(a, b)", "path.open()", "os.open(os.devnull, os.O_WRONLY)"):
        assert not writes(ast.parse(text).body[0].value), text


READERS = {
    "text": ("files/", {"json.load", "json.loads", "codecs.open", "io.open"}),
    "arrays": ("data/arrays.py", {"np.load", "np.fromfile", "np.memmap", "np.genfromtxt"}),
    "sound": (
        ("data/audio.py", "data/conversion.py"),  # the latter writes copies
        {"sf.read", "sf.SoundFile", "sf.info", "soundfile.read", "soundfile.SoundFile"},
    ),
}
"""What a file contains -> the module or package that reads such files, and the calls that only it may use."""


def opens_text(call: ast.Call) -> bool:
    """``open``, ``path.open`` or ``read_text`` of a text file for reading."""
    name = ast.unparse(call.func)
    if name.endswith(".read_text"):
        return True
    if name not in ("open", "gzip.open") and not (name.endswith(".open") and "path" in name.lower()):
        return False
    modes = [argument.value for argument in [*call.args, *(keyword.value for keyword in call.keywords)]
             if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]  # fmt: skip
    return not any(set(mode) & set("bwax") and set(mode) <= set("rbwax+t") for mode in modes)


@pytest.mark.parametrize("kind", READERS)
def test_one_module_reads_each_kind_of_file(kind):
    """It checks encodings, claimed sizes and lengths, and what is not a file. Weights are read by torch."""
    module, forbidden = READERS[kind]
    found = set()
    for path in (path for path in SOURCES if path.is_relative_to(PACKAGE)):
        for call in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in forbidden or (kind == "text" and opens_text(call)):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found and all(path.startswith(module) for path in found)


def test_what_opens_text_is_recognised():
    calls = {
        "open(path)": True, "open(path, encoding='utf-8')": True, "open(path, 'r')": True, "path.open()": True,
        "path.read_text()": True, "gzip.open(path, 'rt')": True, "open(path, 'rb')": False, "open(path, 'w')": False,
        "open(path, mode='wb')": False, "path.open('a')": False, "os.open(name, flags)": False,
    }  # fmt: skip
    for source, expected in calls.items():
        assert opens_text(ast.parse(source, mode="eval").body) == expected, source


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_torchaudio(path):
    """Its releases depend on those of torch, and since 2.9 it cannot read audio by itself."""
    assert "torchaudio" not in {name.split(".")[0] for name in imports(path)}


# ---- optional packages -----------------------------------------------------------------------------------------------

OPTIONAL = {  # distribution -> package
    "espeakng-loader": "espeakng_loader",
    "flashlight-text": "flashlight",
    "sentencepiece": "sentencepiece",
    "scikit-learn": "sklearn",
    "tensorboard": "tensorboard",
    "praat-parselmouth": "parselmouth",
}


def test_all_optional_packages_are_checked():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    used = [
        requirement
        for name in ("synth", "perturb", "decode", "bpe", "report", "speaker")
        for requirement in extras[name]
    ]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in used} == set(OPTIONAL)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_optional_packages_are_imported_in_functions(path):
    """So that the rest of the package works without them."""
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


def test_one_module_each_loads_gpl_code():
    """The licence of eSpeak NG and of Praat is GPL-3, that of this package MIT; Praat runs in a process of its own."""
    for package, user in (("espeakng_loader", "synth/espeak.py"), ("parselmouth", "perturbation/praat_worker.py")):
        users = [path for path in SOURCES if package in {name.split(".")[0] for name in imports(path)}]
        assert users == [PACKAGE / "data" / user]


def test_praats_process_is_started_not_imported():
    """Its constants may be imported; it calls Praat in functions only."""
    users = {path for path in SOURCES if "dinosr_plugin.data.perturbation.praat_worker" in imports(path)}
    assert users == {PACKAGE / "data/perturbation/praat.py"}


def test_only_compat_contains_workarounds():
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
        if b"\0" in data:  # not text
            continue
        found = pattern.search(data.decode("utf-8", "replace"))
        assert not found, f"{path.relative_to(ROOT)}: {found.group()}"

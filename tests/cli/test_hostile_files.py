"""Hostile files and paths in place of every path that a ``dinosr`` command takes, through the Python API and fairseq.

The commands and their arguments come from the parser, so a new command is tested without being named here. Nothing runs
code, waits, or ends in a traceback: a command refuses a file in one line, or accepts it.
"""

import importlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import dinosr_plugin
from dinosr_plugin.errors import UserError
from support.command_server import IMPORTED_ONCE
from support.entry_points import ARGUMENTS, NEW, TOGETHER, Argument, Outcome, arguments_of, call, faults, value_of
from support.hostile_checkpoints import CODE
from support.hostile_files import BYTES, CHECKPOINTS, DEVICES, FEW, FEW_CHECKPOINTS, KINDS, NAMES, make
from support.limits import GB, TooSlow, at_most, in_a_child
from support.reading import copy_valid_files
from support.recogniser import run_generate
from support.two_stages import train_stage
from support.valid_files import write_valid_files

SECONDS = 10
EXPORT_SECONDS = 40  # for `dinosr export onnx`, in which torch traces the model
MEMORY = 3 * GB  # `dinosr kmeans fit` reserves two
ALL = os.environ.get("HOSTILE_FILES") == "all"  # default: some of each kind for each argument, not always the same
SOME = 4
SOME_OF_SLOW = 1  # arguments of commands that read a model, or much sound, before they come to the path
IMPOSSIBLE = ["too long", "null character", "below a file"]  # names of output; with others a command does its work
SOME_NAMES = ["line break", "control characters", "not UTF-8"]
SLOW = {
    *("probe", "similarity", "transcribe", "report", "features checkpoint", "units", "kmeans fit manifest"),
    *("speaker report", "speaker eval plot", "speaker cluster classifier", "speaker embed checkpoint"),
    *("quality train", "lm-features", "lm-score", "synth out", "zerospeech-synth out"),
}
"""Commands and arguments with which a path takes half a second or more."""
PAIRS: list[int] = []  # hostile paths that were tried, for each argument
MEASURES = {"report", "quality train", "quality cache", "quality log", "probe", "export onnx out"}
"""Commands and arguments with which a command that accepts its files works for up to a minute."""


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> None:
    """What commands import when they need it, so that their processes, which are forked, have it already."""
    for module in IMPORTED_ONCE:
        importlib.import_module(module)


@pytest.fixture(scope="module")
def valid(shared_folder) -> Path:
    return shared_folder(write_valid_files)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    """The folder of hostile files, filled as they are needed, and of their markers."""
    return tmp_path_factory.mktemp("zoo")


def measures(argument: Argument) -> bool:
    return bool({argument.command, str(argument)} & MEASURES)


def slow(argument: Argument) -> bool:
    return bool({argument.command, str(argument)} & SLOW)


def run(argument: Argument, path: str | None, valid: Path, folder: Path) -> Outcome:
    """The command with this path, and a new folder for its output."""
    new = folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    seconds = EXPORT_SECONDS if argument.command == "export onnx" else SECONDS
    return call(arguments_of(argument, path, valid, new), seconds)


FIRST = {one.command: one for one in reversed(ARGUMENTS)}.values()
"""The first path of each command."""


@pytest.mark.parametrize(
    "argument", [one for one in ARGUMENTS if not measures(one) and (ALL or one in FIRST or one in TOGETHER)], ids=str
)
def test_the_command_works_with_a_valid_path(argument, valid, tmp_path):
    """Otherwise it might refuse a hostile one for another reason."""
    outcome = in_a_child(lambda: run(argument, None, valid, tmp_path), MEMORY)
    assert outcome.status == 0, outcome


@pytest.mark.parametrize("argument", ARGUMENTS, ids=str)
def test_a_hostile_path(argument, valid, zoo, tmp_path):
    start = time.monotonic()
    wrong, count = in_a_child(lambda: try_all(argument, valid, zoo, tmp_path), MEMORY)
    PAIRS.append(count)
    print(f"{argument}: {count} hostile paths in {time.monotonic() - start:.1f} s")
    failure = "\n".join(wrong)
    assert not failure


def try_all(argument: Argument, valid: Path, zoo: Path, folder: Path) -> tuple[list[str], int]:
    """What is wrong, and how many paths were tried. Ends early if the command waits for several of them."""
    wrong, count, waits = [], 0, 0
    for name, path in hostile_paths(argument, valid, zoo, folder):
        outcome = run(argument, path, valid, folder)
        count += 1
        wrong += markers(name, zoo)
        wrong += [f"{name}: {fault}" for fault in faults(outcome)]
        waits += "TooSlow" in outcome.raised
        if waits == 3:
            break
    return wrong, count


def hostile_paths(argument: Argument, valid: Path, zoo: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """(description, path) of everything that this argument is given."""
    value = value_of(*argument)
    place = folder / "places"
    place.mkdir()
    (place / "file").write_text("a file")
    if value == NEW:
        kinds = {name: KINDS[name] for name in KINDS if not (measures(argument) and "folder" in name)}
        yield from ((name, str(make(name, write, place, ""))) for name, write in some(kinds, argument).items())
        names = [*IMPOSSIBLE, *([] if measures(argument) else [*NAMES] if ALL else SOME_NAMES)]
        yield from ((name, f"{place}/{NAMES[name]}") for name in names)
        return
    suffix = Path(value).suffix
    yield from ((name, f"{place}/{path}{suffix}") for name, path in some(NAMES, argument).items())
    checkpoints = CHECKPOINTS if ALL or suffix == ".pt" else {name: CHECKPOINTS[name] for name in FEW_CHECKPOINTS}
    contents = {**some(BYTES, argument), **some(checkpoints, argument)}
    for name, write in {**contents, **some(KINDS, argument), **DEVICES}.items():
        yield name, str(make(name, write, zoo, suffix))
    if (valid / value).is_dir():
        yield from damaged_folders(valid / value, zoo, folder, FEW if ALL else FEW[: 1 if slow(argument) else 3])


def some(choices: dict[str, Any], argument: Argument) -> dict[str, Any]:
    """A part of them that depends on the argument, so that all of them are tried with some argument."""
    number = SOME_OF_SLOW if slow(argument) else SOME
    if ALL or number >= len(choices):
        return choices
    return {name: choices[name] for name in random.Random(str(argument)).sample(list(choices), number)}


def damaged_folders(valid: Path, zoo: Path, folder: Path, contents: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Copies of a valid folder in which one file, the first of each suffix, is hostile."""
    files = sorted(path.relative_to(valid) for path in valid.rglob("*") if path.is_file())
    for file in {path.suffix: path for path in reversed(files)}.values():
        for name in contents:
            copy = folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(valid, copy)
            shutil.copy(make(name, BYTES[name], zoo, file.suffix), copy / file)
            yield f"{name} as {file}", str(copy)


def test_all_pairs_are_counted():
    """After the tests above, which may have run in other processes."""
    print(f"{sum(PAIRS)} pairs of an argument and a hostile path")
    assert len(ARGUMENTS) > 60 and not {argument for argument in ARGUMENTS if argument.command == "bench"}


# ---- Python ----------------------------------------------------------------------------------------------------------


def test_load_refuses_hostile_files(zoo):
    assert not in_a_child(lambda: refusals(dinosr_plugin.load, [*CHECKPOINTS, *BYTES, *KINDS, *DEVICES], zoo))


def refusals(call: Callable[[Path], object], names: list[str], zoo: Path) -> list[str]:
    """Call with each of these hostile files; returns what is wrong."""
    wrong, writers = [], {**CHECKPOINTS, **BYTES, **KINDS, **DEVICES}
    for name in names:
        try:
            with at_most(SECONDS):
                call(make(name, writers[name], zoo, ".pt"))
                wrong += [] if name in CODE else [f"{name}: accepted"]  # some strings of code are never evaluated
        except UserError as error:
            wrong += [f"{name}: {error}"] if "\n" in str(error) or "\x1b" in str(error) else []
        except (TooSlow, SystemExit, Exception) as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}"[:300])
        wrong += markers(name, zoo)
    return wrong


def markers(name: str, zoo: Path) -> list[str]:
    """A line for each file whose code has run; the markers are removed."""
    found = list(zoo.glob("markers/*"))
    for marker in found:
        marker.unlink()
    return [f"{name}: code of {marker.name} has run" for marker in found]


# ---- fairseq's programs ----------------------------------------------------------------------------------------------


def generate(folder: Path, path: Path, *more: str) -> None:
    run_generate(folder, folder / "results", "--path", path, *more)


FAIRSEQ = {  # field or option -> function(folder of data, hostile file)
    "model.start_from": lambda folder, path: train_stage("pretraining", folder, [f"model.start_from={path}"]),
    "model.w2v_path": lambda folder, path: train_stage("finetuning", folder, [f"model.w2v_path={path}"]),
    "checkpoint.restore_file": lambda folder, path: train_stage(
        "pretraining", folder, [f"checkpoint.restore_file={path}"]
    ),
    "checkpoint.finetune_from_model": lambda folder, path: train_stage(
        "pretraining", folder, [f"checkpoint.finetune_from_model={path}"]
    ),
    "--path": generate,
    "--lm-path": lambda folder, path: generate(
        folder, folder / "model.pt", "--decoder", "beam", "--lm-path", str(path), "--lm-weight", "1"
    ),
}
GIVEN = [*FEW_CHECKPOINTS, "convolutions of fine-tuned wav2vec2", "fconv_lm's layers", "cut at 50 %", "empty", "pipe"]


@pytest.mark.parametrize("field", FAIRSEQ)
def test_fairseq_refuses_hostile_checkpoints(field, valid, zoo, tmp_path):
    folder = copy_valid_files(valid, tmp_path / "data")
    assert not in_a_child(lambda: refusals(lambda path: FAIRSEQ[field](folder, path), GIVEN, zoo))

"""Calls of every ``dinosr`` command, made from its parser: a valid value for each argument, and any path in its place.

A new command needs an entry here only if it has an argument of a new name.
"""

import argparse
import io
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from dinosr_plugin.cli import main, make_parser
from support.limits import TooSlow, at_most

NEW = "NEW"  # a path that does not exist: output
VALID = {  # argument, or (command, argument) -> value; paths are relative to the folder of ``write_valid_files``
    "checkpoint": "dinosr.pt",
    "classifier": "ssrl/run/checkpoint_last.pt",
    "clusters": 4,
    "cache": NEW,
    "cohort": "cohort",
    "convert": NEW,
    "dataset": "dataset",
    "dict": "lm/dict.txt",
    "embeddings": "embeddings",
    "emissions": "emissions.npz",
    "features": "mfcc",
    "figures": "figures.json",
    "files": "corpus/0.wav",
    "folder": "hf",
    "from_labels": "train.km",
    "items": "abx.item",
    "json": NEW,
    "kmeans": "kmeans.npz",
    "lexicon": "lexicon.txt",
    "license": "mit",
    "like": "text_normalization.json",
    "lm": "words.arpa",
    "log": "train.log",
    "manifest": "train.tsv",
    "minutes": 0.5,
    "model": "dinosr.pt",
    "order": 2,
    "out": NEW,
    "pairs": 1,
    "phones": "phones.tsv",
    "plot": NEW,
    "recordings": "ssrl/train.tsv",
    "root": "corpus",
    "save_dir": "ssrl/run",
    "scores": "scores.txt",
    "sound": "corpus/0.wav",
    "speakers": 2,
    "submission": "submission",
    "text": "train.wrd",
    "text_like": "text_normalization.json",
    "text_replace": "replace.txt",
    "train": "train.tsv",
    "trials": "trials.txt",
    "units": "k.units",
    "valid_share": 0,
    "voices": 1,
    "write_items": NEW,
    "bpe": "bpe.model",
    "pieces": "pieces.ap.model",
    ("lm-score", "lm"): "lm/checkpoint_last.pt",
    ("lm-features", "lm"): "lm/checkpoint_last.pt",
    ("manifest librispeech", "root"): "librispeech",
    ("manifest librilight", "root"): "librilight",
    ("manifest folder", "transcripts"): "transcripts.tsv",
    ("manifest folder", "speakers"): "utt2spk",
    ("segment", "files"): "probe",
    ("transcribe", "checkpoint"): "model.pt",
    ("lm-features", "layer"): 1,
    ("export onnx", "layer"): 0,
    ("speaker trials", "manifest"): "speakers.tsv",
    ("speaker cluster", "clusters"): 2,
    ("speaker report", "embeddings"): "ssrl/embeddings",
    ("speaker report", "log"): "ssrl/train.log",
    ("speaker report", "manifest"): "ssrl/train.tsv",
    ("speaker report", "trials"): "ssrl/trials.txt",
    ("similarity", "models"): "dinosr.pt",
    ("probe", "checkpoints"): "ssrl/run",
    ("probe", "genders"): "probe/genders.tsv",
    ("probe", "log"): "ssrl/train.log",
    ("probe", "manifest"): "probe/test.tsv",
    ("probe", "phones"): "probe/phones.tsv",
    ("probe", "task"): "position",
    ("probe", "train"): "probe/train.tsv",
    ("probe", "words"): "probe/words.tsv",
}
ALWAYS = {
    "layer",
    "pairs",
    "valid_share",
    "voices",
}  # given although they are not required, because the defaults take long or differ
# of a training of SSRL, which has a loss of the subset train after each epoch, at which there are checkpoints
GENDER_OF_SSRL = {"task": "gender", "genders": "probe/genders.tsv", "--valid-subset": "train"}
CORPORA = ("folder", "librispeech", "librilight")
TOGETHER = {  # (command, path that is replaced) -> other arguments; None: omitted
    ("features", "manifest"): {"checkpoint": None, "--mfcc": True},
    ("features", "out"): {"checkpoint": None, "--mfcc": True},
    ("kmeans fit", "manifest"): {"features": "dinosr.pt"},
    ("kmeans fit", "from_labels"): {"features": "mfcc"},
    ("units", "kmeans"): {"checkpoint": "mfcc", "manifest": None},
    ("units", "pieces"): {"checkpoint": "k.units"},
    ("quality", "train"): {"units": "dinosr.pt", "manifest": "train.tsv"},
    ("quality", "cache"): {"units": "dinosr.pt", "manifest": "train.tsv", "train": "train.tsv"},
    ("quality", "log"): {"units": "dinosr.pt", "manifest": "train.tsv", "out": NEW},
    ("export onnx", "checkpoint"): {"--no-codes": True},
    ("export onnx", "out"): {"--no-codes": True},
    ("abx", "phones"): {"items": None, "manifest": "train.tsv"},
    ("abx", "manifest"): {"items": None, "phones": "phones.tsv"},
    ("abx", "write_items"): {"items": None, "phones": "phones.tsv", "manifest": "train.tsv"},
    ("manifest folder", "speakers"): {"split_by": "speaker"},
    ("probe", "phones"): {"task": "phone"},
    ("probe", "words"): {"task": "word"},
    ("probe", "genders"): {"task": "gender"},
    ("probe", "checkpoints"): {"checkpoint": None, "log": "ssrl/train.log", **GENDER_OF_SSRL},
    ("probe", "log"): {"checkpoint": None, "checkpoints": "ssrl/run", **GENDER_OF_SSRL},
    ("transcribe", "lm"): {"lexicon": "lexicon.txt", "--decoder": "lexicon"},
    ("transcribe", "lexicon"): {"lm": "words.arpa", "--decoder": "lexicon"},
    ("speaker embed", "manifest"): {"checkpoint": None, "--mfcc": True},
    ("speaker embed", "out"): {"checkpoint": None, "--mfcc": True},
    ("speaker embed", "trials"): {"checkpoint": None, "--mfcc": True},
    ("speaker score", "cohort"): {},
    ("speaker cluster", "classifier"): {"embeddings": "ssrl/embeddings", "clusters": None},
    ("speaker eval", "scores"): {"trials": None},
    ("speaker eval", "trials"): {"scores": "embeddings"},
    ("speaker eval", "plot"): {"trials": None},
    ("speaker report", "save_dir"): {"manifest": "ssrl/train.tsv"},
    ("speaker report", "manifest"): {"save_dir": "ssrl/run"},
    ("speaker report", "recordings"): {"save_dir": "ssrl/run"},
    ("speaker report", "log"): {"save_dir": "ssrl/run", "manifest": "ssrl/train.tsv"},
    ("tune-lm", "lm"): {"lexicon": "lexicon.txt"},
    ("tune-lm", "emissions"): {"lexicon": "lexicon.txt"},
    **{(f"manifest {corpus}", "text_replace"): {"--text-normalize": True} for corpus in CORPORA},
}
REPORT = {"--no-abx": True}


class Argument(NamedTuple):
    """A path that a command takes."""

    command: str
    name: str

    def __str__(self) -> str:
        return f"{self.command} {self.name}"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Command -> its parser, sub-commands included."""
    found, waiting = {}, [("", make_parser())]
    while waiting:
        name, parser = waiting.pop(0)
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for action in inner:
            waiting += [(f"{name} {word}".strip(), child) for word, child in action.choices.items()]
        if not inner:
            found[name] = parser
    return found


def is_path(action: argparse.Action) -> bool:
    """Whether an argument takes a path: its type makes one, or it is text that is called a file or a folder."""
    if action.type is None:
        return action.nargs != 0 and action.choices is None and bool({"FILE", "DIR", "TSV", "PATH"} & {action.metavar})
    try:
        return isinstance(action.type("no/such.file"), Path)  # type: ignore[operator]
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False


PARSERS = parsers()
ARGUMENTS = [
    Argument(command, action.dest)
    for command, parser in PARSERS.items()
    for action in parser._actions
    if is_path(action)
]


def value_of(command: str, name: str):
    if (command, name) in VALID:
        return VALID[command, name]
    assert name in VALID, f"support/entry_points.py: VALID has no value for {name!r} of `dinosr {command}`"
    return VALID[name]


def arguments_of(argument: Argument, path: str | None, valid: Path, new: Path) -> list[str]:
    """The command line in which ``path`` replaces this argument (None: with the valid value)."""
    command, parser = argument.command, PARSERS[argument.command]
    others = TOGETHER.get(argument, {})
    words, options = [], []
    for action in parser._actions:
        needed = (
            action.required or not action.option_strings or action.dest in ALWAYS or is_chosen(parser, action, others)
        )
        if action.dest == argument.name:
            value = value_of(command, action.dest) if path is None else path
        elif action.dest in others:
            value = others[action.dest]
        elif needed and value_of_or_none(command, action) is not None:
            value = value_of(command, action.dest)
        else:
            continue
        if value is not None:
            text = str(value) if action.dest == argument.name and path is not None else place(value, action, valid, new)
            words += [text] if not action.option_strings else []
            options += [action.option_strings[0], text] if action.option_strings else []
    for name, value in {**others, **(REPORT if command == "report" else {})}.items():
        if name.startswith("--"):
            options += [name] if value is True else [name, str(value)]
    return [*command.split(), *options, "--", *words] if words else [*command.split(), *options]


def value_of_or_none(command: str, action: argparse.Action):
    """The valid value; fails for a required argument without one."""
    known = action.dest in VALID or (command, action.dest) in VALID
    return value_of(command, action.dest) if known or action.required else None


def is_chosen(parser: argparse.ArgumentParser, action: argparse.Action, others: dict) -> bool:
    """Whether it is the first of a group of which one is required, and no other is given."""
    for group in parser._mutually_exclusive_groups:
        if group.required and action is group._group_actions[0]:
            return not any(other.dest in others for other in group._group_actions)
    return False


def place(value, action: argparse.Action, valid: Path, new: Path) -> str:
    if value == NEW:
        return str(new / action.dest)
    return str(valid / value) if is_path(action) else str(value)


# ---- calls -----------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """Of a command in this process; ``raised``: the traceback of an exception that it does not handle."""

    status: int | None
    out: str
    err: str
    raised: str = ""


def call(arguments: list[str], seconds: float) -> Outcome:
    """Run ``dinosr ARGUMENTS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    status, raised = None, ""
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with at_most(seconds):
                status = main(arguments)
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 1
        except (TooSlow, Exception):
            raised = traceback.format_exc(limit=-3)
    return Outcome(status, out.getvalue(), err.getvalue(), raised)


def faults(outcome: Outcome) -> Iterator[str]:
    """What is wrong with the way in which a command refused, or accepted, a path: a line each."""
    if outcome.raised:
        yield outcome.raised.strip().splitlines()[-1][:200]
        return
    lines = [line for line in outcome.err.splitlines() if not line.startswith("  ")]  # without details
    errors = [line for line in lines if line.startswith("error: ")]
    if outcome.status not in (0, 1, 2):
        yield f"status {outcome.status}"
    if outcome.status == 1 and "problem" not in outcome.out and (len(errors) != 1 or lines[-1] != errors[0]):
        yield f"not one line: {lines[-3:]}"
    if outcome.status == 2 and "usage: dinosr" not in outcome.err:
        yield f"no usage: {lines[-3:]}"
    if "\x1b" in outcome.out + outcome.err:
        yield "control characters in the output"

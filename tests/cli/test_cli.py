"""The `dinosr` command: help, exit statuses, and output streams."""

import subprocess
import sys
from pathlib import Path

import pytest

import dinosr_plugin
from dinosr_plugin import cli
from dinosr_plugin.cli import corpora, decoding
from dinosr_plugin.errors import UserError

COMMANDS = [
    ["path"],
    ["manifest", "librispeech"],
    ["manifest", "librilight"],
    ["manifest", "folder"],
    ["check"],
    ["synth"],
    ["perturb"],
]
COMMANDS += [
    ["features"],
    ["kmeans", "fit"],
    ["kmeans", "apply"],
    ["units"],
    ["quality"],
    ["abx"],
    ["report"],
    ["speaker", "embed"],
    ["speaker", "trials"],
    ["speaker", "score"],
    ["speaker", "eval"],
    ["speaker", "cluster"],
    ["lm-score"],
    ["lm-features"],
    ["zerospeech"],
    ["zerospeech-synth"],
    ["ngram"],
    ["tune-lm"],
    ["transcribe"],
    ["inspect"],
    ["bench"],
]


def test_path(capsys):
    assert cli.main(["path"]) == 0
    assert cli.main(["path", "configs"]) == 0
    package, configs = map(Path, capsys.readouterr().out.splitlines())
    assert package == Path(dinosr_plugin.__file__).parent
    assert configs.is_relative_to(package) and (configs / "pretraining/dinosr_tiny.yaml").is_file()


def test_the_installed_command():
    command = Path(sys.executable).with_name("dinosr")
    if not command.exists():
        pytest.skip("the package is not installed")
    done = subprocess.run([command, "path"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and (Path(done.stdout.strip()) / "cli").is_dir()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--help"])
    assert stopped.value.code == 0
    parser = cli.make_parser()
    for name in command:
        parser = parser._subparsers._group_actions[0].choices[name]
    assert all(action.help for action in parser._actions)
    assert parser.description and parser.format_help() == capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["manifest"],
        ["check"],
        ["check", "a.tsv", "--workers", "0"],
        ["synth", "--out", "x", "--minutes", "-1", "--speakers", "2"],
    ],
)
def test_exit_status_of_an_invalid_command_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: dinosr" in capsys.readouterr().err


def test_messages_for_invalid_numbers(capsys):
    with pytest.raises(SystemExit):
        cli.main(["check", "a.tsv", "--workers", "0"])
    assert "invalid positive integer value: '0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, status, message",
    [
        (UserError("a.tsv: no such file; create it"), 1, "error: a.tsv: no such file; create it\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_status_of_errors(error, status, message, monkeypatch, capsys):
    def run(options):
        raise error

    monkeypatch.setattr(corpora, "run_path", run)
    assert cli.main(["path"]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", message)


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(corpora, "run_path", lambda options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["path"])


def test_options_of_synth(monkeypatch):
    from dinosr_plugin.data.synth import corpus as synth

    calls = []
    monkeypatch.setattr(synth, "synthesize", lambda *arguments, language: calls.append((*arguments, language)))
    options = ["--minutes", "1.5", "--speakers", "3", "--seed", "7"]
    assert cli.main(["synth", "--out", "corpus", *options]) == 0
    assert cli.main(["synth", "--out", "corpus", *options, "--language", "es"]) == 0
    assert calls == [(Path("corpus"), 1.5, 3, 7, "en"), (Path("corpus"), 1.5, 3, 7, "es")]


def test_a_pipe_that_is_closed_early(tmp_path, commands):
    """`dinosr check ... | head`: no traceback when the pipe closes."""
    tsv = tmp_path / "a.tsv"
    tsv.write_text(f"{tmp_path}\n" + "no tab\n" * 20000)
    process = subprocess.Popen(
        [commands / "dinosr", "check", tsv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(timeout=120) == 1


def test_formats_of_transcripts():
    """The parser has its own list, so that `dinosr --help` does not import torch."""
    from dinosr_plugin.decoding import transcribe

    assert tuple(transcribe.FORMATS) == decoding.FORMATS

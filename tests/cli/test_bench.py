"""`dinosr bench`, and what the benchmarks of a training step consist of (tests/benchmarks)."""

import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import nn

from dinosr_plugin import cli
from dinosr_plugin.cli import bench
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from support.paths import BENCHMARKS, REPOSITORY
from support.voices import write_voices

SMALL = dict(
    encoder_layers=3, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, conv_pos_groups=2
)
SMALL |= dict(
    average_top_k_layers=2,
    codebook_size=8,
    dropout=0.0,
    attention_dropout=0.0,
    mask_prob=0.5,
    mask_length=3,
    ema_decay=0.9,
    ema_end_decay=0.9,
)
TINY_CONV = dict(conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2", conv_pos=12, pos_conv_depth=3)


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


# ---- the command -----------------------------------------------------------------------------------------------------


NEEDS = {"decode": "flashlight.lib.text", "kmeans": "sklearn"}


def main_of(name: str) -> Callable[[list[str]], None]:
    """The function that `dinosr bench NAME` calls in another process."""
    pytest.importorskip(NEEDS.get(name, "torch"))
    return importlib.import_module(bench.SCRIPTS[name]).main


class Started:
    """Replaces ``subprocess.run``: remembers the command and returns a status."""

    def __init__(self, status: int = 0):
        self.status, self.commands, self.environments = status, [], []

    def __call__(self, command, env) -> subprocess.CompletedProcess:
        self.commands.append(command)
        self.environments.append(env)
        return subprocess.CompletedProcess(command, self.status)


@pytest.fixture
def started(monkeypatch) -> Started:
    started = Started()
    monkeypatch.setattr(subprocess, "run", started)
    monkeypatch.setattr(bench, "PACKAGES", {})
    return started


@pytest.mark.parametrize("name", bench.SCRIPTS)
def test_every_benchmark_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main_of(name)(["--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dinosr bench {name} ")


@pytest.mark.parametrize("name", bench.SCRIPTS)
def test_the_script_of_the_checkout_is_started(name, started):
    assert cli.main(["bench", name, "a.tsv", "--rounds", "1"]) == 0
    (command,), (environment,) = started.commands, started.environments
    assert command == [sys.executable, BENCHMARKS / f"{bench.SCRIPTS[name]}.py", "a.tsv", "--rounds", "1"]
    assert command[1].is_file() and environment["PYTHONPATH"].startswith(str(REPOSITORY))


@pytest.mark.parametrize("status, expected", [(0, 0), (1, 1), (2, 2), (130, 130), (-9, 137)])
def test_exit_status_of_the_script(status, expected, started):
    started.status = status
    assert cli.main(["bench", "step"]) == expected


@pytest.mark.parametrize("error, status", [(UserError("a.tsv: missing; add it"), 1), (KeyboardInterrupt(), 130)])
def test_errors_in_a_script(error, status):
    from records import run_script

    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_script(main)
    assert stopped.value.code == (f"error: {error}" if status == 1 else status)  # Python prints a string, status 1


@pytest.fixture
def programs_without_imports(commands, monkeypatch):
    """`dinosr bench` and the programs that a benchmark starts do not import torch and fairseq first."""
    monkeypatch.setattr(sys, "executable", str(commands / "python"))


def test_a_script_prints_its_error_in_one_line(commands):
    """The real command; no config has the field."""
    arguments = ["bench", "step", "--size", "tiny", "--models", "ours,model.nonsense=1"]
    done = subprocess.run([commands / "dinosr", *arguments], capture_output=True, text=True, timeout=600)
    *_, last = done.stderr.splitlines()
    assert done.returncode == 1 and last.startswith("error: ") and "model.nonsense" in last
    assert "Traceback" not in done.stderr


def test_a_record_is_written_into_a_new_folder(tmp_path):
    from records import record_file, write_record

    path = record_file(str(tmp_path / "a/new/record.json"))
    assert not path.parent.exists()
    write_record(path, {"rows": [1, 2]})
    assert json.loads(path.read_text()) == {"rows": [1, 2]} and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["step", "data", "codebook", "kmeans", "similarity"])
@pytest.mark.parametrize(
    "place, message",
    [
        ("file/new/record.json", "file is not a folder); give another folder"),
        ("", "is a folder; give the name of a file"),
    ],
)
def test_a_record_that_cannot_be_written_is_refused_before_the_work(name, place, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main_of(name)(["--json", str(tmp_path / place)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_similarity_agrees_with_a_plain_implementation(tmp_path, capsys):
    size = ["--layers", "2", "--width", "24", "--frames", "5000", "--pairs", "3", "--threads", "1"]
    main_of("similarity")([*size, "--json", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    assert 0 < record["difference"] < 1e-9 and record["ratio"] > 0
    assert "times as fast; largest difference" in capsys.readouterr().out


def test_similarity_that_differs_is_an_error(monkeypatch):
    main = main_of("similarity")
    monkeypatch.setitem(sys.modules["similarity"].PLAIN, "cka", lambda x, y: 0.5)
    with pytest.raises(UserError, match="the figures differ by"):
        main(["--layers", "1", "--width", "8", "--frames", "500", "--pairs", "1", "--measures", "cka"])


def test_an_installed_package_has_no_benchmarks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    assert cli.main(["bench", "step"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / 'tests/benchmarks/step.py'}: no such file")
    assert message.count("\n") == 1


@pytest.mark.parametrize("name", bench.PACKAGES)
def test_a_missing_package(name, monkeypatch, capsys):
    module, package = bench.PACKAGES[name]
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["bench", name]) == 1
    assert capsys.readouterr().err == (
        f"error: dinosr bench {name}: package {package} is missing; pip install {package}\n"
    )


@pytest.mark.parametrize("model", ["nonsense", "ours@/nowhere"])
def test_unknown_models(model, capsys):
    with pytest.raises(SystemExit) as stopped:
        main_of("step")(["--models", model])
    assert stopped.value.code == 2
    assert f"{model.split('@')[-1]}: no " in capsys.readouterr().err


def test_a_step_of_the_tiny_size(programs_without_imports, tmp_path, capfd):
    """The whole command: two models, one round, everything counted."""
    record = tmp_path / "record.json"
    arguments = [
        "bench",
        "step",
        "--size",
        "tiny",
        "--rounds",
        "1",
        "--rows",
        "1",
        "--seconds",
        "2",
        "--threads",
        "1",
        "--json",
        str(record),
    ]
    assert cli.main(arguments) == 0
    out, err = capfd.readouterr()
    assert "2048-cubed products at" in out and "Traceback" not in err
    rows = json.loads(record.read_text())["rows"]
    ours, plain = rows
    assert [row["name"] for row in rows] == ["ours", "plain"] and ours["ratio"] == 1
    assert all(
        row[key] > 0
        for row in rows
        for key in ("wall", "cpu", "peak", "model", "flops", "operators", "allocated", "share", "speed")
    )
    assert ours["flops"] == pytest.approx(plain["flops"], rel=0.1)  # the same function
    assert (
        plain["operators"] > 1.5 * ours["operators"]
    )  # fairseq's own Adam, an operator after the other for each parameter, not the fused one
    assert (
        plain["collectives"] - ours["collectives"] == 16 - 1
    )  # each of four codebooks has four, ours one for all; the rest is fairseq's


def test_share_of_the_codebooks(programs_without_imports, tmp_path):
    """On many frames: of a step on more utterances, whose constant part is counted once."""
    path = tmp_path / "record.json"
    arguments = [
        "bench",
        "codebook",
        "--size",
        "tiny",
        "--rounds",
        "1",
        "--rows",
        "3",
        "--seconds",
        "2",
        "--frames",
        "3000",
        "--threads",
        "1",
        "--json",
        str(path),
    ]
    assert cli.main(arguments) == 0
    record = json.loads(path.read_text())
    one, three = record["step_on_one"]["wall"], record["step"]["wall"]
    constant, a_row = (3 * one - three) / 2, (three - one) / 2
    for row in record["rows"]:
        step = constant + a_row * 3 * row["frames"] / record["masked"]
        assert row["of_step"] == pytest.approx(step) and row["share"] == pytest.approx(100 * row["wall"] / step)
    assert [(row["name"], row["frames"]) for row in record["rows"]] == [
        (n, f) for f in (record["masked"], 3000) for n in ("ours", "one-hot loop")
    ]
    assert record["rows"][0]["of_step"] == pytest.approx(three)


def test_codebooks_are_compared_with_a_smaller_step(capsys):
    with pytest.raises(SystemExit):
        main_of("codebook")(["--rows", "1"])
    assert "--rows: at least 2" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--workers", "0", "-1"], ["--updates", "-1"]])
def test_the_loader_takes_no_negative_numbers(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main_of("data")(options)
    assert stopped.value.code == 2
    assert "--workers and --updates: at least 0" in capsys.readouterr().err


# ---- plain DinoSR is ours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [TINY_CONV, dict(front_end="fbank", n_mels=8, conv_pos=4, target="layer", unmasked_weight=0.4)],
    ids=["paper", "tiny"],
)
def test_plain_dinosr_computes_what_ours_does(method):
    from plain_dinosr import PlainDinoSR

    torch.manual_seed(0)
    cfg = DinoSRConfig(**SMALL | method)
    ours, plain = DinoSR(cfg).train(), PlainDinoSR(cfg).train()
    ours.set_num_updates(0)
    state = ours.state_dict()
    plain.load_state_dict({name: value for name, value in state.items() if not name.startswith("_")})
    plain.set_num_updates(0)
    for k in range(ours.n_codebooks):
        plain.sums[k], plain.counts[k] = state[f"_codebook{k}"].clone(), state[f"_codebook_cnts{k}"].clone()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (ours, plain)]
    for update in range(3):
        source = torch.randn(2, 8000)
        mask = ours.draw_mask(torch.tensor([24, 24]), 24)
        outputs = []
        for model, optimizer in zip((ours, plain), optimizers):
            output = model(source, mask_indices=mask)
            optimizer.zero_grad()
            (sum(output.losses.values()) / output.sample_size).backward()
            optimizer.step()
            model.end_update(update + 1)
            outputs.append(output)
        assert outputs[0].sample_size == outputs[1].sample_size
        assert outputs[0].losses.keys() == outputs[1].losses.keys()
        for name in outputs[0].losses:
            torch.testing.assert_close(outputs[1].losses[name], outputs[0].losses[name], rtol=1e-5, atol=1e-5)
    for k in range(ours.n_codebooks):
        torch.testing.assert_close(plain.sums[k], ours.codebooks.sums[k], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain.counts[k], ours.codebooks.counts[k], rtol=1e-5, atol=1e-5)
    for name, average in ours.teacher.average().items():
        torch.testing.assert_close(plain.teacher.fp32_params[name], average, rtol=1e-5, atol=1e-5)


# ---- counters --------------------------------------------------------------------------------------------------------


def count_flops(work) -> int:
    from counters import count

    return count(work)["flops"]


class Squared(torch.autograd.Function):
    """A product in a Function of one's own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x @ x.t()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return (grad + grad.t()) @ x


def test_flops_of_products_and_functions():
    x = torch.randn(6, 4, requires_grad=True)
    assert count_flops(lambda: Squared.apply(x).sum().backward()) == 2 * (2 * 6 * 6 * 4)
    linear = nn.Linear(4, 5)
    assert count_flops(lambda: linear(x).sum().backward()) == 3 * (2 * 6 * 4 * 5)


def test_flops_in_inference_mode():
    linear, x = nn.Linear(4, 5), torch.randn(3, 6, 4)
    with torch.inference_mode():
        assert count_flops(lambda: linear(x)) == count_flops(lambda: x @ linear.weight.t()) == 2 * 3 * 6 * 4 * 5


@pytest.mark.parametrize("groups", [1, 4])
def test_flops_of_convolutions(groups):
    conv, x = nn.Conv1d(8, 8, 3, groups=groups, bias=False), torch.randn(2, 8, 12, requires_grad=True)
    once = 2 * 2 * 10 * 8 * (8 // groups) * 3
    assert count_flops(lambda: conv(x)) == once
    assert count_flops(lambda: conv(x).sum().backward()) == 3 * once
    assert (
        count_flops(lambda: conv(x.detach()).sum().backward()) == 2 * once
    )  # the first layer: no gradient of the waveform


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["flash", "math"])
def test_flops_of_attention(dropout):
    """Two products forwards; backwards four, and where it is fused the scores once more."""
    x = torch.randn(2, 3, 10, 4, requires_grad=True)
    product = 2 * 2 * 3 * 10 * 10 * 4
    assert count_flops(lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=dropout)) == 2 * product
    both = count_flops(lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=dropout).sum().backward())
    assert both == (2 + (5 if dropout == 0 else 4)) * product


def test_operators_and_bytes():
    from counters import Calls

    x, y = torch.randn(10, 10), torch.randn(10, 10)
    with Calls() as calls:
        z = x @ y  # 400 bytes
        z.add_(1)
        z.view(-1)[:3].t()
        torch.exp(x, out=y)
        z.sum()  # 4 bytes
    assert (calls.operators, calls.allocated, calls.collectives) == (4, 404, 0)


def test_counts_are_the_same_every_time():
    from counters import count
    from updates import Update, make_update

    sizes = {
        "encoder_layers": 2,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 32,
        "average_top_k_layers": 2,
        "conv_pos_groups": 2,
    }
    small = [f"model.{name}={value}" for name, value in sizes.items()]
    update = Update(
        "ours",
        "tiny",
        rows=2,
        seconds=1,
        precision="fp32",
        device="cpu",
        threads=1,
        fields=(*small, "model.codebook_init=normal"),
    )
    counts = []
    for _ in range(2):
        work = make_update(dataclasses.asdict(update))
        work()
        work()  # the optimiser has its state
        counts.append(count(work))
    assert counts[0] == counts[1] and all(counts[0][key] > 0 for key in ("operators", "allocated", "flops"))


# ---- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chain, message",
    [
        ("noise", "noise is not measured; give other transforms"),
        ("clean/perturb", "not a chain of transforms"),
    ],
)
def test_the_loader_measures_chains_of_transforms_only(chain, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module("loader").parse(["--views", chain])
    assert stopped.value.code == 2 and f"{chain}: {message}, such as perturb" in capsys.readouterr().err


def test_speeds_of_views(tmp_path):
    """Sounds without a voice are counted; the processor time of Praat is part of that of the view."""
    pytest.importorskip("parselmouth")
    folder = write_voices(tmp_path, {"a": 120.0})
    soundfile.write(folder / "a/silence.wav", np.zeros(16000), 16000)
    (folder / "train.tsv").open("a").write("a/silence.wav\t16000\n")
    views = importlib.import_module("loader_views")
    rows = views.speeds(folder / "train.tsv", ["voice", "equalizer", "crop2+augment"], 16000, rounds=2)
    assert [(row["by"], row["chain"], row["unchanged"]) for row in rows] == [
        ("praat", "voice", 0.5), ("resample", "voice", 0), ("-", "equalizer", None), ("-", "crop2+augment", None)
    ]  # fmt: skip
    assert 0 < rows[0]["least"] <= rows[0]["core"] <= rows[0]["most"] < rows[2]["core"] / 5
    assert rows[3]["core"] > 0

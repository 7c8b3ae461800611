"""Unit language models trained with fairseq's commands: scores compared with fairseq-eval-lm and with one pass per
unit.
"""

import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import eval_lm, preprocess, train
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin import cli
from dinosr_plugin.errors import UserError
from dinosr_plugin.units.language_model import UnitLanguageModel, batches_by_length, score_all
from dinosr_plugin.units.unit_files import read_units, write_units
from support import paths
from support.fairseq_models import fairseq_checkpoint
from support.paths import PLUGIN

CONFIGS = paths.CONFIGS / "lm"
KINDS = ("lstm", "transformer", "bos")
LONGEST = 40  # positions of the Transformer
LSTM = (
    "lstm_lm",
    "--decoder-layers",
    3,
    "--decoder-embed-dim",
    8,
    "--decoder-hidden-size",
    12,
    "--decoder-out-embed-dim",
    8,
)


def sequences(count: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {f"utt-{row}": rng.integers(0, 8, size=rng.integers(0, 25)) for row in range(count)} | {
        "empty": np.zeros(0, dtype=np.int64)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, commands) -> Path:
    """``some.units``, the output of fairseq-preprocess for it, and three models trained for a few updates."""
    folder = tmp_path_factory.mktemp("lm")
    write_units(folder / "some.units", sequences(60).items())
    write_units(folder / "some.txt", read_units(folder / "some.units").items(), plain=True)
    texts = ["--trainpref", folder / "some.txt", "--validpref", folder / "some.txt"]
    preprocess.main(
        options.get_preprocessing_parser().parse_args(
            list(map(str, ["--only-source", *texts, "--destdir", folder / "data"]))
        )
    )
    by_arguments(folder, "lstm", *LSTM)
    sizes = [f"--decoder-{name}-dim" for name in ("embed", "input", "output", "ffn-embed")]
    by_arguments(
        folder,
        "bos",
        "transformer_lm",
        "--add-bos-token",
        "--decoder-layers",
        1,
        "--decoder-attention-heads",
        2,
        *(part for size in sizes for part in (size, 8)),
    )
    by_hydra(commands / "fairseq-hydra-train", folder, "transformer")
    return folder


def by_arguments(folder: Path, name: str, arch: str, *more, updates: int = 6) -> None:
    """Train with fairseq-train, which stores the options of its older models as a Namespace."""
    arguments = [
        folder / "data",
        "--task",
        "language_modeling",
        "--user-dir",
        PLUGIN,
        "--arch",
        arch,
        *more,
        "--tokens-per-sample",
        LONGEST,
    ]
    arguments += [
        "--optimizer",
        "adam",
        "--lr",
        0.02,
        "--max-tokens",
        400,
        "--max-update",
        updates,
        "--save-dir",
        folder / name,
        "--cpu",
    ]
    arguments += ["--disable-validation", "--no-epoch-checkpoints", "--num-workers", 0, "--log-format", "none"]
    namespace = options.parse_args_and_arch(options.get_training_parser(), input_args=list(map(str, arguments)))
    train.main(convert_namespace_to_omegaconf(namespace))


def by_hydra(program: Path, folder: Path, name: str) -> None:
    """Train with fairseq-hydra-train and the configuration in examples/."""
    command = [
        program,
        "--config-dir",
        CONFIGS,
        "--config-name",
        "unit_transformer",
    ]
    command += [
        f"task.data={folder / 'data'}",
        f"common.user_dir={PLUGIN}",
        f"checkpoint.save_dir={folder / name}",
        f"task.tokens_per_sample={LONGEST}",
    ]
    command += [
        "common.cpu=true",
        "common.fp16=false",
        "dataset.max_tokens=400",
        "dataset.num_workers=0",
        "optimization.max_update=6",
    ]
    command += [
        "distributed_training.distributed_backend=gloo",
        "optimization.lr=[0.02]",
        "lr_scheduler.warmup_updates=2",
        "model.decoder_layers=2",
    ]
    command += [f"model.decoder_{size}_dim=8" for size in ("embed", "input", "output", "ffn_embed")] + [
        "model.decoder_attention_heads=2"
    ]
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(params=KINDS)
def checkpoint(request, folder) -> Path:
    return folder / request.param / "checkpoint_last.pt"


@torch.no_grad()
def step_by_step(lm: UnitLanguageModel, units: np.ndarray) -> float:
    """The definition: for each unit and for the end, one forward pass over all that precedes it."""
    symbols = lm.dictionary
    text = [symbols.bos(), symbols.eos()] if lm.name.split("/")[-2] == "bos" else [symbols.eos()]
    total = 0.0
    for token in [*(symbols.index(str(unit)) for unit in units), symbols.eos()]:
        total += lm.model(torch.tensor([text]))[0][0, -1].double().log_softmax(0)[token].item()
        text.append(token)
    return total


def test_scores_follow_the_definition(checkpoint):
    lm = UnitLanguageModel(checkpoint, device="cpu")
    some = list(sequences(8, seed=1).values())
    assert lm.score(some) == pytest.approx([step_by_step(lm, units) for units in some], abs=1e-4)


def test_scores_are_those_of_fairseq_eval_lm(checkpoint, folder):
    lm = UnitLanguageModel(checkpoint, device="cpu")
    units = read_units(folder / "some.units")
    ours = score_all(lm, units)
    arguments = [
        folder / "data",
        "--path",
        checkpoint,
        "--gen-subset",
        "valid",
        "--sample-break-mode",
        "eos",
        "--cpu",
        "--num-workers",
        0,
        "--max-tokens",
        500,
    ]
    arguments += ["--add-bos-token"] if checkpoint.parent.name == "bos" else []
    namespace = options.parse_args_and_arch(options.get_eval_lm_parser(), input_args=list(map(str, arguments)))
    theirs = float(eval_lm.main(convert_namespace_to_omegaconf(namespace))["loss"])
    tokens = sum(len(own) + 1 for own in units.values())
    assert -sum(ours.values()) / tokens / math.log(2) == pytest.approx(theirs, abs=1e-5)


def test_batches_do_not_matter(checkpoint):
    lm = UnitLanguageModel(checkpoint, device="cpu")
    units = sequences(30, seed=2)
    units |= {f"again-{name}": own for name, own in units.items()}
    together, alone = score_all(lm, units), score_all(lm, units, batch_tokens=1)
    assert list(together) == list(units)
    assert list(together.values()) == pytest.approx(list(alone.values()), abs=1e-4)
    assert all(together[name] == together[f"again-{name}"] for name in sequences(30, seed=2))  # a tie is a tie


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 200))
def test_batches_by_length(lengths, batch_tokens):
    batches = list(batches_by_length([np.zeros(length) for length in lengths], batch_tokens))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (max(lengths[row] for row in batch) + 2) <= batch_tokens


def test_hidden_states(checkpoint):
    """The last layer's states give the logits, so layer and padding are right; an LSTM's lower ones are its cells'
    outputs.
    """
    lm = UnitLanguageModel(checkpoint, device="cpu")
    some = list(sequences(6, seed=3).values())
    last = lm.hidden_states(some, lm.layers)
    first = lm.hidden_states(some, 1)
    for units, top, low in zip(some, last, first):
        assert top.shape == low.shape and top.shape[0] == len(units) + 2 and top.dtype == np.float32
        tokens = lm.tokens(units)[None]
        expected = lm.model(tokens)[0][0, len(lm.start) - 1 :]
        decoder, states = lm.model.decoder, torch.from_numpy(top)
        if hasattr(decoder, "additional_fc"):
            states = decoder.additional_fc(states)
        if getattr(decoder, "layer_norm", None) is not None:  # after the layers of a pre-LN Transformer
            states = decoder.layer_norm(states)
        np.testing.assert_allclose(decoder.output_layer(states).detach(), expected.detach(), atol=1e-5)
        alone = lm.hidden_states([units], 1)[0]
        np.testing.assert_allclose(low, alone, atol=1e-5)
    if lm.layers > 1:
        assert np.abs(first[0] - last[0]).max() > 1e-3
    with pytest.raises(ValueError):
        lm.hidden_states(some, lm.layers + 1)


def test_the_command_line(folder, tmp_path, capsys):
    units = read_units(folder / "some.units")
    out = tmp_path / "lexical/dev.txt"
    assert (
        cli.main(["lm-score", str(folder / "lstm/checkpoint_last.pt"), str(folder / "some.units"), "--out", str(out)])
        == 0
    )
    lines = [line.split(" ") for line in out.read_text().splitlines()]
    scores = score_all(UnitLanguageModel(folder / "lstm/checkpoint_last.pt"), units)
    assert [name for name, _ in lines] == list(units)
    assert [float(score) for _, score in lines] == pytest.approx(list(scores.values()), abs=1e-4)
    assert f"{out}: 61 utterances, -" in capsys.readouterr().out
    states = tmp_path / "semantic"
    assert (
        cli.main(
            ["lm-features", str(folder / "lstm/checkpoint_last.pt"), str(folder / "some.units"), "--out", str(states)]
        )
        == 0
    )
    assert {path.stem for path in states.glob("*.npy")} == set(units) and len(list(states.iterdir())) == len(units)
    assert np.load(states / "utt-0.npy").shape == (len(units["utt-0"]) + 2, 12)


def test_bad_input(folder, tmp_path, capsys):
    lstm, transformer = (str(folder / name / "checkpoint_last.pt") for name in ("lstm", "transformer"))

    def error(lm, units: dict, *more) -> str:
        write_units(
            tmp_path / "bad.units", {name: np.array(ids, dtype=np.int64) for name, ids in units.items()}.items()
        )
        assert (
            cli.main(
                ["lm-score", str(lm), str(tmp_path / "bad.units"), "--out", str(tmp_path / "out.txt"), *map(str, more)]
            )
            == 1
        )
        assert not (tmp_path / "out.txt").exists()
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        return line

    assert "unit 9 is not in its dictionary" in error(lstm, {"a": [1, 2, 9]})
    assert "reads at most 39 units, but a sequence has 40" in error(transformer, {"a": [1] * 40, "b": [1] * 39})
    assert "bad.units: no units in it" in error(lstm, {})
    assert "no such file; give one made by fairseq-train" in error(tmp_path / "nowhere.pt", {"a": [1]})
    (tmp_path / "text.pt").write_text("no model")
    shutil.copy(folder / "data/dict.txt", tmp_path)
    assert "not a PyTorch file; give one made by fairseq-train" in error(tmp_path / "text.pt", {"a": [1]})
    fairseq_checkpoint(tmp_path / "speech.pt", "wav2vec2")
    assert "not a language model, its task is audio_pretraining" in error(tmp_path / "speech.pt", {"a": [1]})
    state = torch.load(lstm, weights_only=False)
    state["model"] = {name: tensor * float("nan") for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "diverged.pt")
    assert "diverged.pt: has diverged, because its scores contain NaN or infinity" in error(
        tmp_path / "diverged.pt", {"a": [1]}, "--dict", folder / "data/dict.txt"
    )
    assert "--dict other.txt: not a file called dict.txt" in error(lstm, {"a": [1]}, "--dict", "other.txt")
    (tmp_path / "dict.txt").write_text("1 4\n2 2\n")
    assert "another dictionary" in error(lstm, {"a": [1]}, "--dict", tmp_path / "dict.txt")
    assert (
        cli.main(["lm-features", lstm, str(folder / "some.units"), "--layer", "4", "--out", str(tmp_path / "out")]) == 1
    )
    assert "--layer 4: " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_training_of_an_lstm_resumes(folder, caplog):
    """Its checkpoints contain a Namespace, which torch refuses to load by default; fairseq would fail."""
    shutil.copytree(folder / "lstm", folder / "longer")
    with caplog.at_level("INFO"):
        by_arguments(folder, "longer", *LSTM, updates=8)
    assert any(
        f"Loaded checkpoint {folder}/longer/checkpoint_last.pt (epoch" in line and "@ 6 updates" in line
        for line in caplog.messages
    )


def test_the_dictionary_is_found(folder, tmp_path):
    """Next to the model, in the folder that it was trained on, or as given."""
    shutil.copy(folder / "lstm/checkpoint_last.pt", tmp_path / "lm.pt")
    units = list(sequences(3).values())
    expected = UnitLanguageModel(folder / "lstm/checkpoint_last.pt", device="cpu").score(units)
    np.testing.assert_allclose(UnitLanguageModel(tmp_path / "lm.pt", device="cpu").score(units), expected)
    (folder / "data").rename(folder / "moved")
    try:
        with pytest.raises(UserError, match=r"no dict.txt \(its dictionary\) in"):
            UnitLanguageModel(tmp_path / "lm.pt")
        np.testing.assert_allclose(
            UnitLanguageModel(tmp_path / "lm.pt", folder / "moved/dict.txt", device="cpu").score(units), expected
        )
    finally:
        (folder / "moved").rename(folder / "data")

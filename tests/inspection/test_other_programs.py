"""PyTorch files of other programs than fairseq, recognised by their entries and the names of their tensors."""

import time
from argparse import Namespace

import pytest
import torch

from dinosr_plugin.errors import UserError
from dinosr_plugin.inspection.describe import describe
from support import hostile_checkpoints

WIDTH, LAYERS, CODES = 8, 3, 4


def spidr_state(one_tensor: bool = False) -> dict:
    """The names of https://github.com/facebookresearch/spidr (models/components.py, models/dinosr.py)."""
    state = {"feature_extractor.conv_layers.0.conv.weight": torch.zeros(6, 1, 10), "mask_embedding": torch.zeros(WIDTH)}
    state |= {"feature_projection.projection.weight": torch.zeros(WIDTH, 6), "current_step": torch.tensor([9])}
    for part in ("student", "teacher"):
        state |= {f"{part}.layers.{n}.attention.qkv.weight": torch.zeros(3 * WIDTH, WIDTH) for n in range(LAYERS)}
        state[f"{part}.layer_norm.weight"] = torch.zeros(WIDTH)
    counts = torch.tensor([[1.0, 1.0, 2.5, 3.0], [1.0, 0.9, 2.0, 7.0]])
    for k in range(2):
        state[f"heads.{k}.0.weight"] = torch.zeros(CODES, WIDTH)
        if not one_tensor:
            state |= {f"codebooks.{k}.codebook": torch.zeros(CODES, WIDTH), f"codebooks.{k}.counts": counts[k]}
    if one_tensor:
        state |= {"codebooks.codebook": torch.zeros(2, CODES, WIDTH), "codebooks.counts": counts}
    return state


@pytest.mark.parametrize("one_tensor", [False, True])
def test_spidr(one_tensor, tmp_path):
    state = {"model": spidr_state(one_tensor), "optimizer": {"state": {0: {"exp_avg": torch.zeros(99)}}}}
    state |= {"scheduler": {}, "scaler": {}, "epoch": torch.tensor([2]), "step": torch.tensor([400])}
    torch.save(state, tmp_path / "step_400.pt")
    described = describe(tmp_path / "step_400.pt")
    assert described.kind.startswith("SpidR") and described.written_by == "spidr"
    assert (described.updates, described.epochs, described.sizes) == (400, 2, {"layers": LAYERS})
    books = described.codebooks
    assert (books.count, books.size, books.layers, books.in_use) == (2, CODES, [1, 2], [2, 3])
    layers = LAYERS * 3 * WIDTH * WIDTH + WIDTH
    assert described.parameters == {
        "front end": 60 + WIDTH * 6 + WIDTH, "layers": layers, "heads": 2 * CODES * WIDTH,
        "codebooks": 2 * CODES * WIDTH, "teacher": layers,
    }  # fmt: skip
    assert not described.commands and "SpidR model" in described.instead  # most tensors are missing
    torch.save(spidr_state(one_tensor), tmp_path / "weights.pt")
    assert describe(tmp_path / "weights.pt").kind.startswith("SpidR")


LINEAR = {"encoder.layers.0.weight": torch.zeros(4, 4), "encoder.layers.1.weight": torch.zeros(4, 4)}
PROGRAMS = {
    "Whisper": (
        {"dims": {"n_audio_layer": 2, "n_audio_state": 4, "n_audio_head": 2, "n_vocab": 9}, "model_state_dict": LINEAR},
        dict(kind="Whisper", sizes={"layers": 2, "width": 4, "heads": 2, "outputs": 9}),
    ),
    "PyTorch Lightning": (
        {"state_dict": LINEAR, "pytorch-lightning_version": "2.0", "epoch": 3, "global_step": 70},
        dict(kind="model of PyTorch Lightning", updates=70, epochs=3, sizes={"layers": 2}),
    ),
    "s3prl's copy of a fairseq checkpoint": (
        {"model_weight": LINEAR, "model_cfg": {"encoder_layers": 2}, "task_cfg": {"normalize": False}},
        dict(sizes={"layers": 2}, instead="give the checkpoint of fairseq that s3prl converted"),
    ),
    "s3prl": (
        {"Step": 50, "Args": Namespace(), "Config": {}, "Transformer": LINEAR, "Optimizer": {"x": torch.zeros(1000)}},
        dict(kind="model of s3prl", updates=50),
    ),
    "an unknown program": (
        {"net": LINEAR, "optimizer": {"x": torch.zeros(1000)}, "step": 8},
        dict(kind="unknown model", updates=8),
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(program, tmp_path):
    state, expected = PROGRAMS[program]
    torch.save(state, tmp_path / "x.pt")
    described = describe(tmp_path / "x.pt")
    assert described.written_by == program and described.instead and not described.commands
    assert {name: getattr(described, name) for name in expected} == expected
    assert sum(described.parameters.values()) == 32 and described.precision == ["float32"]


def test_the_released_layout_of_wavlm(tmp_path):
    """https://github.com/microsoft/unilm/tree/master/wavlm: a flat ``cfg``, and fairseq's names."""
    model = {"post_extract_proj.weight": torch.zeros(4, 2), "mask_emb": torch.zeros(4)}
    model["encoder.layers.0.self_attn.grep_linear.weight"] = torch.zeros(8, 4)
    torch.save({"cfg": {"encoder_layers": 1, "encoder_embed_dim": 4}, "model": model}, tmp_path / "WavLM.pt")
    described = describe(tmp_path / "WavLM.pt")
    assert described.kind == "WavLM in the layout of fairseq" and described.sizes == {"layers": 1}


@pytest.mark.parametrize("kind", [*hostile_checkpoints.OTHER_FILES, *hostile_checkpoints.DAMAGED])
def test_what_is_not_a_model_is_refused(kind, tmp_path):
    path = tmp_path / "x.pt"
    hostile_checkpoints.HOSTILE[kind](path, tmp_path / "marker")
    if kind in ("Hugging Face", "safetensors", "TorchScript", "weights without a config"):
        assert describe(path).instead
        return
    with pytest.raises(UserError) as error:
        describe(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_dictionaries_that_contain_each_other_many_times_are_refused(tmp_path):
    """45 dictionaries, 2**45 tensors."""
    state = {"w": torch.zeros(1)}
    for _ in range(45):
        state = {"a": state, "b": state}
    torch.save(state, tmp_path / "x.pt")
    start = time.monotonic()
    with pytest.raises(UserError, match="contains more than 1000000 values"):
        describe(tmp_path / "x.pt")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("value", [torch.zeros(1).expand(10**12), torch.zeros(2, device="meta")])
def test_tensors_that_are_larger_than_the_file_are_refused(value, tmp_path):
    torch.save({"net": {"w": value}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="is larger than the file, or has no values"):
        describe(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "state",
    [
        {"gEncoder": {"gEncoder.conv0.weight": torch.zeros(())}},
        {"gEncoder": {"gEncoder.conv0.weight": torch.zeros(4, 1, 10), "gAR.baseNet.weight_hh_l0": torch.zeros(3, 0)}},
        {"weights": {"gEncoder.x": torch.zeros(2)}, "config": {"negativeSamplingExt": "many"}},
        {"model": spidr_state() | {"codebooks.0.counts": torch.zeros(()), "codebooks.1.codebook": torch.zeros(3)}},
        {"model": spidr_state() | {"codebooks.99999999999999999999.codebook": torch.zeros(CODES, WIDTH)}},
        {"dims": [1], "model_state_dict": LINEAR},
        {"state_dict": LINEAR, "pytorch-lightning_version": 7, "epoch": "many", "global_step": torch.zeros(2)},
        {("a", 1): torch.zeros(2), 7: {None: torch.zeros(3)}},
        {"x" * 10_000: torch.zeros(2), "\x1b[2J": {"y": torch.zeros(1, dtype=torch.complex64)}},
    ],
)
def test_senseless_entries_are_described_or_refused(state, tmp_path):
    torch.save(state, tmp_path / "x.pt")
    try:
        described = describe(tmp_path / "x.pt")
        assert described.instead and all(len(line) < 1000 for line in described.contents)
    except UserError as error:
        assert str(tmp_path / "x.pt") in str(error)

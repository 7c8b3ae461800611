"""Packed checkpoints: the same model in half precision, read by everything that reads a checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dinosr_plugin
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.packed import without_paths
from dinosr_plugin.errors import UserError
from dinosr_plugin.inspection.describe import describe
from dinosr_plugin.interop.safetensors_export import export
from dinosr_plugin.pretrained import find_checkpoint
from support import paths

ORIGINAL = paths.GOLDEN / "official_format_tiny.pt"
WAVE = torch.randn(32000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    export(ORIGINAL, path)
    return path


def test_the_weights_are_rounded_to_half_precision_and_the_codebooks_are_exact(packed):
    before = torch.load(ORIGINAL, weights_only=True)["model"]
    after = load_file(packed)
    average = before.pop("_ema")
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        of_encoder = name.startswith("encoder.")
        original = average[name.removeprefix("encoder.")] if of_encoder else before[name]
        assert torch.equal(tensor, original if name.startswith("_codebook") else original.half()), name


def test_student_and_teacher_are_the_average(packed):
    student, teacher = (open_reader(packed, weights) for weights in ("student", "teacher"))
    before = open_reader(ORIGINAL, "teacher")
    features = [one.read([one.prepare(WAVE)], ["last"])[0].layers[0] for one in (student, teacher, before)]
    assert torch.allclose(features[0], features[1], atol=1e-6)
    assert torch.allclose(features[0], features[2], atol=0.02)
    same = dinosr_plugin.load(packed).units(WAVE) == dinosr_plugin.load(ORIGINAL).units(WAVE)
    assert same.float().mean() > 0.99


def test_fairseq_loads_it(packed):
    state = checkpoint_utils.load_checkpoint_to_cpu(str(packed), {"normalize": False})
    assert state["cfg"].model._name == "dinosr" and state["cfg"].task.normalize is False
    assert all(tensor.dtype == torch.float32 for tensor in state["model"]["_ema"].values())


def test_what_it_is(packed):
    described = describe(packed)
    assert (described.kind, described.format, described.updates) == ("DinoSR", "safetensors", 3)
    assert described.precision == ["float16", "float32"]


def test_there_are_no_paths_in_it(packed):
    with safe_open(packed, "pt") as file:
        assert "/" not in json.dumps(json.loads(file.metadata()["checkpoint"]))
    cfg = {"task": {"data": "corpora/anna", "views": "clean/perturb", "noise": "noise/train.tsv", "labels": ["km"]}}
    kept = {"task": {"data": "", "views": "clean/perturb", "noise": "", "labels": ["km"]}}
    assert without_paths(cfg) == kept


def damaged(packed: Path, path: Path, **metadata: str) -> Path:
    with safe_open(packed, "pt") as file:
        save_file(load_file(packed), path, file.metadata() | metadata)
    return path


def test_a_file_that_has_changed_is_refused(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    content[-3] ^= 1
    (tmp_path / "bit.safetensors").write_bytes(content)
    (tmp_path / "cut.safetensors").write_bytes(packed.read_bytes()[:-100])
    other_config = damaged(packed, tmp_path / "config.safetensors", checkpoint='{"model": {}}')
    for path in (tmp_path / "bit.safetensors", other_config):
        with pytest.raises(UserError, match=f"^{path}: damaged .checksums do not match.; give a checkpoint"):
            load_model(path)
    with pytest.raises(UserError, match=r"cut.safetensors: .*safetensors"):
        load_model(tmp_path / "cut.safetensors")


def test_other_safetensors_are_refused(packed, tmp_path):
    path = damaged(packed, tmp_path / "hf.safetensors", format="pt")
    with pytest.raises(UserError, match="not a PyTorch file but safetensors, a format of Hugging Face; make a check"):
        load_model(path)


def of_a_recogniser(state):
    state["task_state"] = {"target_dictionary": Dictionary()}


def beyond_half_precision(state):
    state["model"]["mask_emb"][0] = 1e6


@pytest.mark.parametrize(
    "change, message",
    [(of_a_recogniser, "a fine-tuned model, whose dictionary"), (beyond_half_precision, ".*mask_emb")],
)
def test_models_that_cannot_be_packed(change, message, tmp_path):
    state = torch.load(ORIGINAL, weights_only=True)
    change(state)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        export(path, tmp_path / "out.safetensors")
    assert [one.name for one in tmp_path.iterdir()] == ["other.pt"]


def test_a_file_of_the_same_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("tiny").parent == Path(dinosr_plugin.__file__).parent / "pretrained"
    Path("tiny").mkdir()  # of a training, perhaps
    assert find_checkpoint("tiny").parent.name == "pretrained" and find_checkpoint("tiny", or_folder=True) == Path(
        "tiny"
    )
    shutil.rmtree("tiny")
    shutil.copy(ORIGINAL, "tiny")
    assert find_checkpoint("tiny") == Path("tiny")
    assert find_checkpoint("other") == Path("other")

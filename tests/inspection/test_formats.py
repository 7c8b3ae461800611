"""Files of other formats: safetensors, Hugging Face, ONNX, TorchScript; compared with the libraries of these."""

import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dinosr_plugin.errors import UserError
from dinosr_plugin.inspection import safetensors
from dinosr_plugin.inspection.describe import describe
from dinosr_plugin.inspection.onnx_files import MAX_FIELDS
from support import hostile_checkpoints
from support.other_models import HF_CONFIG, HF_TENSORS, field, onnx_bytes, safetensors_bytes, write_hugging_face
from support.transformers import import_transformers


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        describe(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


# ---- safetensors -----------------------------------------------------------------------------------------------------


def test_the_header_has_the_names_shapes_and_formats_of_the_library(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {f"layers.{n}.w": torch.zeros(n, 3, dtype=kind) for n, kind in enumerate(kinds)}
    tensors["scalar"] = torch.tensor(1.0)
    library.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    header = safetensors.read_header(tmp_path / "x.safetensors")
    assert {name: (weight.shape, f"torch.{weight.dtype}") for name, weight in header.weights.items()} == {
        name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()
    }
    assert header.metadata == {"format": "pt"}


def test_every_format_of_the_library_is_known():
    library = pytest.importorskip("safetensors.torch")
    known = {name: f"torch.{dtype}" for name, (dtype, _) in safetensors.DTYPES.items()}
    theirs = {name: str(dtype) for name, dtype in library._TYPES.items() if name in known}
    assert known.items() >= theirs.items() and {"F32", "F16", "BF16", "I64"} <= theirs.keys()


def test_a_terabyte_is_described_by_its_header(tmp_path):
    """The file is sparse: there is nothing to read."""
    path, rows = tmp_path / "x.safetensors", 1 << 30
    content = json.dumps({"w": {"dtype": "F32", "shape": [rows, 256], "data_offsets": [0, rows << 10]}}).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    os.truncate(path, 8 + len(content) + (rows << 10))
    start = time.monotonic()
    assert describe(path).parameters == {"all tensors": rows * 256}
    assert time.monotonic() - start < 5


VALID = {"a": ("F32", (2, 3)), "b": ("F16", (4,))}


def with_entry(**changed) -> bytes:
    """A file whose tensor ``a`` has other fields."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}
    content = json.dumps({"a": {name: value for name, value in entry.items() if value is not None}}).encode()
    return struct.pack("<Q", len(content)) + content + bytes(8)


def with_header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


DAMAGED = {
    "cut": safetensors_bytes(VALID)[:-1],
    "longer": safetensors_bytes(VALID) + b"\0",
    "cut in the header": safetensors_bytes(VALID)[:40],
    "overlap": with_header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    + bytes(4),
    "unknown format": with_entry(dtype="F31"),
    "format that is a list": with_entry(dtype=[]),
    "shape that is too large": with_entry(shape=[3]),
    "shape of large numbers": with_entry(shape=[10**30, 10**30]),
    "negative shape": with_entry(shape=[-2]),
    "shape of booleans": with_entry(shape=[True, 2]),
    "no shape": with_entry(shape=None),
    "place of text": with_entry(data_offsets="04"),
    "place backwards": with_entry(data_offsets=[8, 0]),
    "many dimensions": with_entry(shape=[2] + [1] * 1000),
    "an entry that is a number": with_header(b'{"a":1}'),
    "metadata of numbers": with_header(b'{"__metadata__":{"a":1}}'),
    "metadata that is a list": with_header(b'{"__metadata__":[]}'),
    "nested": with_header(b'{"a":' + b"[" * 100_000),
    "not JSON": with_header(b'{"a"'),
    "not text": with_header(b'{"\xff\xfe'),
    "large number": with_header(b'{"a":' + b"9" * 10_000 + b"}"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_safetensors_are_refused(name, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[name])
    assert "safetensors" in refusal(path)


@pytest.mark.parametrize("name", [name for name in DAMAGED if name != "many dimensions"])
def test_the_library_refuses_them_too(name, tmp_path):
    library = pytest.importorskip("safetensors")
    with pytest.raises(Exception):  # noqa: B017, PT011  (classes of the library's own)
        library.deserialize(DAMAGED[name])


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(b'{"a":1}', 1 << 40))
    assert "not a PyTorch file" in refusal(path)
    path.write_bytes(with_header(b'{"a":1}', 1 << 24))
    assert "whose header does not fit into it" in refusal(path)


# ---- Hugging Face ----------------------------------------------------------------------------------------------------


def test_a_folder_of_hugging_face(tmp_path):
    write_hugging_face(tmp_path / "hf")
    for path in (tmp_path / "hf", tmp_path / "hf/model.safetensors"):
        described = describe(path)
        assert described.kind == "HuBERT, recogniser (HubertForCTC)" and described.written_by == "transformers 4.41.0"
        assert described.objective == "predicts symbols of the transcript by CTC" and described.normalized_waves
        assert described.sizes == {"layers": 2, "width": 8, "heads": 2, "feed_forward": 16, "outputs": 5}
        assert (described.rate, described.first_centre) == (800.0, 45 / 2 / 16000)  # 10 + 7 x 5 samples
        assert described.parameters == {"front end": 200, "layers": 128, "heads": 40}
        assert (described.dictionary.count, described.dictionary.first) == (5, ["|", "T", "E"])
        assert described.instead and not described.commands


@pytest.fixture
def transformers():
    return import_transformers()


@pytest.mark.parametrize("name", ["Wav2Vec2ForCTC", "HubertModel", "Data2VecAudioModel", "WavLMModel"])
def test_folders_that_transformers_writes(name, transformers, tmp_path):
    model_class = getattr(transformers, name)
    config = model_class.config_class(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, conv_dim=[8, 8, 8],
        conv_kernel=[10, 3, 3], conv_stride=[5, 2, 4], num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        vocab_size=11, num_feat_extract_layers=3,
    )  # fmt: skip
    model = model_class(config)
    model.save_pretrained(tmp_path / "hf")
    described = describe(tmp_path / "hf")
    assert sum(described.parameters.values()) == model.num_parameters()
    assert (described.sizes["layers"], described.sizes["width"], described.sizes["heads"]) == (3, 16, 2)
    field, second = round(2 * 16000 * described.first_centre), round(described.rate)
    frames = lambda samples: int(model._get_feat_extract_output_lengths(torch.tensor(samples)))
    assert (frames(field - 1), frames(field), frames(field + 16000)) == (0, 1, 1 + second)
    assert name in described.kind and described.rate == 400.0  # strides 5, 2, 4


def test_shards_and_the_binary_format(tmp_path):
    write_hugging_face(tmp_path / "hf")
    whole = describe(tmp_path / "hf").parameters
    (tmp_path / "hf/model.safetensors").unlink()
    places = {}
    for number, name in enumerate(HF_TENSORS):
        places[name] = f"part-{number % 2}.safetensors"
    for shard in set(places.values()):
        of_shard = {name: HF_TENSORS[name] for name in places if places[name] == shard}
        (tmp_path / "hf" / shard).write_bytes(safetensors_bytes(of_shard))
    index = tmp_path / "hf/model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert describe(tmp_path / "hf").parameters == whole
    for wrong in ({"a": "../x.safetensors"}, {"a": 7}, {}, [], {f"a{n}": f"{n}.safetensors" for n in range(2000)}):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(UserError):
            describe(tmp_path / "hf")
    index.unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(tmp_path / "hf")
    torch.save(
        {name: torch.zeros(*shape) for name, (_, shape) in HF_TENSORS.items()}, tmp_path / "hf/pytorch_model.bin"
    )
    assert describe(tmp_path / "hf").parameters == whole == describe(tmp_path / "hf/pytorch_model.bin").parameters


def test_weights_without_a_config_are_recognised_by_their_names(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(HF_TENSORS))
    described = describe(tmp_path / "x.safetensors")
    assert described.kind == "HuBERT in the layout of Hugging Face" and described.sizes["layers"] == 2
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes({f"t{n}": ("F16", (n, 2)) for n in range(20)}))
    described = describe(tmp_path / "x.safetensors")
    assert described.kind == "tensors of an unknown model" and described.precision == ["float16"]
    assert described.contents == [*(f"t{n} {n} x 2" for n in range(8)), "and 12 more"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": ["wav2vec2"], "architectures": {"a": 1}},
        {"model_type": None, "architectures": [7], "conv_kernel": [10**30], "conv_stride": [1]},
        {**HF_CONFIG, "num_hidden_layers": "many", "conv_kernel": "[10]", "hidden_size": 10**40},
        {**HF_CONFIG, "conv_kernel": [2] * 90, "conv_stride": [60000] * 90},
        {**HF_CONFIG, "conv_kernel": [10, 0], "transformers_version": ["4"], "model_type": "\x1b[2J" * 1000},
        {"auto_map": {"AutoModel": "code.Model"}},
        {},
    ],
)
def test_configs_of_nonsense_are_described_without_it(config, tmp_path):
    write_hugging_face(tmp_path / "hf")
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    described = describe(tmp_path / "hf")
    assert described.rate is None or 0 < described.rate < 16000
    assert described.sizes["layers"] == 2 and all(0 < size < 10**12 for size in described.sizes.values())
    assert ("auto_map" in described.instead) == ("auto_map" in config) and len(described.kind) < 300


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_refused(name, content, tmp_path):
    write_hugging_face(tmp_path / "hf")
    (tmp_path / "hf" / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        describe(tmp_path / "hf")
    with open(tmp_path / "hf" / name, "wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    with pytest.raises(UserError, match="larger than 16 MiB"):
        describe(tmp_path / "hf")


def test_a_link_to_a_device_is_refused(tmp_path):
    write_hugging_face(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").unlink()
    (tmp_path / "hf/model.safetensors").symlink_to("/dev/zero")
    assert "neither" in refusal(tmp_path / "hf")


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def test_onnx(tmp_path):
    (tmp_path / "x.onnx").write_bytes(onnx_bytes())
    described = describe(tmp_path / "x.onnx")
    assert described.kind == "model in ONNX format" and described.written_by == "pytorch 2.6.0"
    assert described.parameters == {"weights": 12} and described.sizes == {"nodes": 1}
    assert described.contents == ["inputs x", "outputs y"] and described.precision == ["float32"]


def test_onnx_of_the_library(tmp_path):
    onnx = pytest.importorskip("onnx")
    weights = [
        onnx.numpy_helper.from_array(np.zeros(shape, dtype), name)
        for name, shape, dtype in (("w1", (3, 4), "float32"), ("w2", (5,), "float16"), ("i", (2,), "int64"))
    ]
    value = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3])
    nodes = [onnx.helper.make_node("MatMul", ["wave", "w1"], ["y"]), onnx.helper.make_node("Relu", ["y"], ["units"])]
    graph = onnx.helper.make_graph(nodes, "g", [value("wave"), value("w1")], [value("units")], weights)
    onnx.save(onnx.helper.make_model(graph, producer_name="library", producer_version="7"), tmp_path / "x.onnx")
    described = describe(tmp_path / "x.onnx")
    assert described.written_by == "library 7" and described.sizes == {"nodes": 2}
    assert described.parameters == {"weights": 17} and described.precision == ["float32", "float16"]
    assert described.contents == ["inputs wave", "outputs units"]


HEAD = field(1, 8) + field(2, "p")
BAD_ONNX = {
    "no graph": HEAD,
    "cut": onnx_bytes()[:-30],
    "longer than the file": HEAD + b"\x3a\xff\xff\xff\xff\x0f",
    "number without end": HEAD + b"\x3a" + b"\xff" * 30,
    "unknown wire type": HEAD + b"\x3f",
    "shape too large": HEAD + field(7, field(5, b"".join(field(1, 1 << 40) for _ in range(9)))),
    "name too long": HEAD + field(3, "x" * 20_000) + field(7, b""),
    "many fields": HEAD + field(7, b"\x08\x01" * MAX_FIELDS),
}


@pytest.mark.parametrize("name", BAD_ONNX)
def test_damaged_onnx_is_refused(name, tmp_path):
    (tmp_path / "x.onnx").write_bytes(BAD_ONNX[name])
    start = time.monotonic()
    assert "a damaged ONNX file" in refusal(tmp_path / "x.onnx")
    assert time.monotonic() - start < 5


# ---- TorchScript, k-means, folders -----------------------------------------------------------------------------------


def test_torchscript_is_not_loaded(tmp_path, monkeypatch):
    hostile_checkpoints.torchscript(tmp_path / "x.pt", tmp_path / "marker")
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("loaded"))
    described = describe(tmp_path / "x.pt")
    assert described.kind.startswith("program of TorchScript") and "code, which is not run" in described.instead
    assert any("torch.nn.modules.linear" in name for name in described.contents)


def test_arrays_that_are_not_kmeans_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", centroids=np.zeros((2, 3)))
    assert "not a k-means file" in refusal(tmp_path / "x.npz")


def test_a_folder_of_checkpoints(tmp_path):
    (tmp_path / "checkpoint_last.pt").touch()
    assert "give a file in it, such as checkpoint_last.pt" in refusal(tmp_path)


LIGHT = """
import sys
from dinosr_plugin.cli import main
for path in sys.argv[1:]:
    assert main(["inspect", path]) == 0
assert not {"torch", "fairseq"} & set(sys.modules), "heavy"
"""


def test_safetensors_and_onnx_are_described_without_torch(tmp_path):
    write_hugging_face(tmp_path / "hf")
    (tmp_path / "x.onnx").write_bytes(onnx_bytes())
    paths = [tmp_path / "hf", tmp_path / "hf/model.safetensors", tmp_path / "x.onnx"]
    done = subprocess.run([sys.executable, "-c", LIGHT, *map(str, paths)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

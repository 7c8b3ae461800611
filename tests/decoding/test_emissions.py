"""Emission files: they return what was written, are complete or absent, and are tied to a model, dictionary and
manifest.
"""

import gc
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from dinosr_plugin.decoding.emissions import EmissionMetadata, EmissionReader, EmissionWriter, fingerprint, padded
from dinosr_plugin.errors import UserError

META = EmissionMetadata(
    "abc", ["<s>", "<pad>", "</s>", "<unk>", "|", "Ä"], 0, "/data", ["a/1.wav", "b/2.wav"], [32000, 8000], ["Ä |", ""]
)


def write(path):
    """Write random emissions for ``META``; returns them."""
    tables = torch.randn(7, 6), torch.randn(5, 6)
    writer = EmissionWriter(path, META)
    for row in reversed(range(len(tables))):  # batches come in any order
        writer.add(row, tables[row])
    writer.close()
    return tables


def test_round_trip(tmp_path):
    tables = write(tmp_path / "new" / "dev.npz")
    emissions = EmissionReader(tmp_path / "new" / "dev.npz")
    assert emissions.meta == META and len(emissions) == 2 and emissions.meta.seconds == 2.5
    assert all(torch.equal(one, other) for one, other in zip(emissions, tables))
    assert emissions.meta.dictionary().symbols == META.symbols
    with np.load(tmp_path / "new" / "dev.npz") as archive:  # readable with NumPy alone
        assert archive["0"].shape == (7, 6)


def test_no_partial_file(tmp_path):
    writer = EmissionWriter(tmp_path / "dev.npz", META)
    writer.add(0, torch.zeros(1, 6))
    with pytest.raises(
        UserError, match="--emissions .*dev.npz: not written, because 1 of 2 utterances were not decoded"
    ):
        writer.close()
    assert list(tmp_path.iterdir()) == []
    writer = EmissionWriter(tmp_path / "dev.npz", META)
    writer.add(0, torch.zeros(1, 6))
    del writer  # decoding ended in an error
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "field, value, what",
    [
        ("model", "xyz", "another model, .*--fp16."),
        ("symbols", ["<s>"], "a model with another dictionary"),
        ("root", "/noisy", "another manifest"),
        ("files", ["c"], "another manifest"),
        ("samples", [32000, 8001], "another manifest"),
        ("labels", ["Ä |", "Ä |"], "other transcripts"),
    ],
)
def test_emissions_of_another_model_dictionary_or_manifest(tmp_path, field, value, what):
    write(tmp_path / "dev.npz")
    emissions = EmissionReader(tmp_path / "dev.npz")
    emissions.require_same(META)
    with pytest.raises(UserError, match=f"{what}; remove the file to create it again"):
        emissions.require_same(replace(META, **{field: value}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_damaged(tmp_path, content):
    (tmp_path / "dev.npz").write_bytes(content)
    with pytest.raises(UserError, match="dev.npz: not an emission file, or damaged; remove it"):
        EmissionReader(tmp_path / "dev.npz")
    np.savez(tmp_path / "other.npz", meta=np.frombuffer(b'{"a": 1}', dtype=np.uint8))
    with pytest.raises(UserError, match="not an emission file"):
        EmissionReader(tmp_path / "other.npz")
    with pytest.raises(UserError, match="no such file; create it with `fairseq-generate"):
        EmissionReader(tmp_path / "none.npz")
    with pytest.raises(UserError, match="is a folder; give the name of an emission file"):
        EmissionReader(tmp_path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="one.npy: not an emission file"):
        EmissionReader(tmp_path / "one.npy")


@pytest.mark.parametrize(
    "field, value",
    [("blank", 6), ("blank", -1), ("blank", "0"), ("samples", [1]), ("samples", [1, "2"]), ("samples", [0, 1]),
     ("files", "ab"), ("symbols", 1), ("labels", []), ("other", 1)],
)  # fmt: skip
def test_impossible_metadata_is_refused(field, value, tmp_path):
    meta = json.dumps({**asdict(META), field: value}).encode()
    np.savez(tmp_path / "dev.npz", meta=np.frombuffer(meta, dtype=np.uint8))
    with pytest.raises(UserError, match="dev.npz: not an emission file, or damaged; remove it"):
        EmissionReader(tmp_path / "dev.npz")


@pytest.mark.parametrize("table", [np.zeros((7, 5), np.float32), np.zeros((7, 6)), np.zeros(6, np.float32)])
def test_a_row_that_does_not_fit_the_dictionary(table, tmp_path):
    meta = np.frombuffer(json.dumps(asdict(META)).encode(), dtype=np.uint8)
    np.savez(tmp_path / "dev.npz", **{"meta": meta, "0": table})
    with pytest.raises(UserError, match="dev.npz: not an emission file, or damaged; remove it"):
        EmissionReader(tmp_path / "dev.npz")[0]


def test_a_damaged_row(tmp_path):
    write(tmp_path / "dev.npz")
    data = bytearray((tmp_path / "dev.npz").read_bytes())
    data[data.index(b"1.npy") + 200] ^= 1  # within the numbers of a row
    (tmp_path / "dev.npz").write_bytes(data)
    with pytest.raises(UserError, match="dev.npz: not an emission file, or damaged"):
        list(EmissionReader(tmp_path / "dev.npz"))


def test_a_folder_that_cannot_be_written():
    with pytest.raises(UserError, match="/proc/nowhere"):
        EmissionWriter("/proc/nowhere/dev.npz", META)


def test_fingerprint_depends_on_the_weights():
    model, same = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    same.load_state_dict(model.state_dict())
    assert fingerprint([model]) == fingerprint([same]) != fingerprint([model, same])
    with torch.no_grad():
        same.weight[0, 0] += 1e-6
    assert fingerprint([model]) != fingerprint([same])
    assert fingerprint([model]) != fingerprint([model.half()])


def test_padded():
    table, lengths = padded([torch.ones(2, 3), torch.ones(0, 3)])
    assert table.shape == (2, 2, 3) and lengths.tolist() == [2, 0]

"""The file of emissions: what goes in comes out, all of it or nothing, and only for the model that made it."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from dinosr_plugin.decoding.emissions import EmissionReader, EmissionWriter, Meta, fingerprint, padded
from dinosr_plugin.errors import UserError

META = Meta(
    "abc", ["<s>", "<pad>", "</s>", "<unk>", "|", "Ä"], 0, "/data", ["a/1.wav", "b/2.wav"], [32000, 8000], ["Ä |", ""]
)


def write(path, tables=(torch.randn(7, 6), torch.randn(5, 6))):
    writer = EmissionWriter(path, META)
    for row in reversed(range(len(tables))):  # batches come in any order
        writer.add(row, tables[row])
    writer.close()
    return tables


def test_there_and_back(tmp_path):
    tables = write(tmp_path / "new" / "dev.npz")
    emissions = EmissionReader(tmp_path / "new" / "dev.npz")
    assert emissions.meta == META and len(emissions) == 2 and emissions.meta.seconds == 2.5
    assert all(torch.equal(one, other) for one, other in zip(emissions, tables))
    assert emissions.meta.dictionary().symbols == META.symbols
    with np.load(tmp_path / "new" / "dev.npz") as archive:  # anyone can read it
        assert archive["0"].shape == (7, 6)


def test_nothing_half_written(tmp_path):
    writer = EmissionWriter(tmp_path / "dev.npz", META)
    writer.add(0, torch.zeros(1, 6))
    with pytest.raises(UserError, match="--emissions .*dev.npz: not written, for 1 of 2 utterances were not decoded"):
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
def test_of_something_else(tmp_path, field, value, what):
    write(tmp_path / "dev.npz")
    emissions = EmissionReader(tmp_path / "dev.npz")
    emissions.require_same(META)
    with pytest.raises(UserError, match=f"{what}; remove it to have it made again"):
        emissions.require_same(replace(META, **{field: value}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_damaged(tmp_path, content):
    (tmp_path / "dev.npz").write_bytes(content)
    with pytest.raises(UserError, match="dev.npz: not a file of emissions, or damaged; remove it"):
        EmissionReader(tmp_path / "dev.npz")
    np.savez(tmp_path / "other.npz", meta=np.frombuffer(b'{"a": 1}', dtype=np.uint8))
    with pytest.raises(UserError, match="not a file of emissions"):
        EmissionReader(tmp_path / "other.npz")
    with pytest.raises(UserError, match="no such file; `fairseq-generate"):
        EmissionReader(tmp_path / "none.npz")
    with pytest.raises(UserError, match="a folder; give the name of a file"):
        EmissionReader(tmp_path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="one.npy: not a file of emissions"):
        EmissionReader(tmp_path / "one.npy")


def test_a_damaged_row(tmp_path):
    write(tmp_path / "dev.npz")
    data = bytearray((tmp_path / "dev.npz").read_bytes())
    data[data.index(b"1.npy") + 200] ^= 1  # within the numbers of a row
    (tmp_path / "dev.npz").write_bytes(data)
    with pytest.raises(UserError, match="dev.npz: not a file of emissions, or damaged"):
        list(EmissionReader(tmp_path / "dev.npz"))


def test_a_folder_that_cannot_be_written():
    with pytest.raises(UserError, match="/proc/nowhere"):
        EmissionWriter("/proc/nowhere/dev.npz", META)


def test_fingerprint_is_of_the_weights():
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

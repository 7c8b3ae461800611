"""The cache of layers: one pass, kept by weights and utterances, bounded, and never larger than the disk."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from dinosr_plugin.checkpoints.adapters import HEAD, TEACHER
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.readers import FrameReader
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation import layers
from dinosr_plugin.evaluation.layers import LayerCache, size_of
from dinosr_plugin.units import features
from dinosr_plugin.units.batches import read_utterances
from dinosr_plugin.units.codes import read_codes
from dinosr_plugin.units.features import LiveFeatures
from support import paths
from support.training import write_corpus

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), lengths=(9000, 16000, 12345)) / "train.tsv"


def cache_of(root: Path, corpus: Path, reader: FrameReader | None = None, **settings) -> LayerCache:
    settings = {"code_sets": [TEACHER, HEAD], "acoustic": ["mfcc", "fbank"], **settings}
    return LayerCache(root, reader or open_reader(GOLDEN), read_utterances(corpus), **settings)


def test_everything_of_one_pass(corpus, tmp_path):
    """Layers, codes and acoustic features equal those computed one by one."""
    cache, reader = cache_of(tmp_path, corpus), open_reader(GOLDEN)
    for layer in range(reader.n_layers):
        for utt, frames in LiveFeatures.of_layer(GOLDEN, corpus, layer):
            np.testing.assert_allclose(cache[f"layer_{layer}"][utt], frames, rtol=0, atol=1e-4)
    for kind in ("mfcc", "fbank"):
        for utt, frames in LiveFeatures.of_sound(kind, corpus):
            np.testing.assert_array_equal(cache[kind][utt], frames)
    for code_set, codes in read_codes(reader, read_utterances(corpus), [TEACHER, HEAD]).items():
        for utt, own in codes.items():
            np.testing.assert_array_equal(cache[code_set][utt].T, own)


def test_the_sound_is_read_once(corpus, tmp_path, monkeypatch):
    loaded, load = [], features.load_checked_wave
    monkeypatch.setattr(features, "load_checked_wave", lambda one: loaded.append(one.name) or load(one))
    cache = cache_of(tmp_path, corpus)
    for name in cache.specs:
        assert len(cache[name]) == 3
    assert sorted(loaded) == ["train0", "train1", "train2"]
    assert cache_of(tmp_path, corpus)["layer_0"].utterances == ["train0", "train1", "train2"]  # by another object
    assert len(loaded) == 3


def test_other_weights_and_other_utterances_have_other_entries(corpus, tmp_path):
    reader = open_reader(GOLDEN)
    first = cache_of(tmp_path / "cache", corpus, reader)
    assert cache_of(tmp_path / "cache", corpus).folder == first.folder
    state = torch.load(GOLDEN, weights_only=True)
    state["model"]["post_extract_proj.bias"] += 1
    torch.save(state, tmp_path / "other.pt")
    lines = corpus.read_text().splitlines()
    (tmp_path / "part.tsv").write_text("\n".join(lines[:-1]) + "\n")
    others = [
        cache_of(tmp_path / "cache", corpus, open_reader(tmp_path / "other.pt")),
        cache_of(tmp_path / "cache", corpus, reader.untrained(), code_sets=(), acoustic=()),
        cache_of(tmp_path / "cache", tmp_path / "part.tsv", reader),
        cache_of(tmp_path / "cache", corpus, reader, dtype="float16"),
    ]
    assert len({cache.folder for cache in (first, *others)}) == 5


def test_an_interrupted_pass_resumes(corpus, tmp_path, monkeypatch):
    """What was computed before is not computed again."""
    real, read = FrameReader.read, []

    def interrupted(self, waves, *rest):
        read.extend(len(wave) for wave in waves)
        if len(read) == 2:
            raise KeyboardInterrupt
        return real(self, waves, *rest)

    monkeypatch.setattr(FrameReader, "read", interrupted)
    monkeypatch.setattr(
        features.read_rows, "__defaults__", (*features.read_rows.__defaults__[:-1], 1)
    )  # a row at a time
    with pytest.raises(KeyboardInterrupt):
        cache_of(tmp_path, corpus).fill()
    cache = cache_of(tmp_path, corpus)
    assert len(cache["layer_1"]) == 3 and read == [16000, 12345, 12345, 9000]


def test_the_size_is_known_before(corpus, tmp_path):
    cache = cache_of(tmp_path, corpus)
    expected = cache.size
    cache.fill()
    data = sum(np.asarray(shard).nbytes for name in cache.specs for shard in cache[name].shards)
    assert expected == data


def test_a_disk_that_is_too_small(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(UserError) as error:
        cache_of(tmp_path / "cache", corpus)["layer_0"]
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'cache'}: the layers of {GOLDEN.name} take ") and "\n" not in message
    assert "free some space or give another folder with --cache" in message and not (tmp_path / "cache").exists()


def test_what_was_not_used_for_longest_makes_room(corpus, tmp_path):
    """... and what does not fit at all is refused before anything is removed."""
    reader = open_reader(GOLDEN)
    old, recent = (cache_of(tmp_path, corpus, reader, dtype=dtype) for dtype in ("float16", "float32"))
    for age, cache in ((20, old), (10, recent)):
        cache.fill()
        os.utime(cache.folder, (1e9 - age, 1e9 - age))
    new = cache_of(tmp_path, corpus, reader.untrained(), code_sets=(), acoustic=())
    new.max_bytes = new.size - 1
    with pytest.raises(UserError, match="more than the .* of the cache; raise --cache-gb"):
        new.fill()
    assert old.folder.is_dir() and recent.folder.is_dir()
    new.max_bytes = new.size + size_of(recent.folder)
    new.fill()
    assert not old.folder.exists() and recent.folder.is_dir() and new.folder.is_dir()
    new.remove()
    assert not new.folder.exists()


def test_a_large_entry_is_announced(corpus, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(layers, "ANNOUNCED", 1)
    cache_of(tmp_path, corpus).fill()
    (record,) = [record for record in caplog.records if record.name == layers.__name__]
    assert "take" in record.getMessage() and str(tmp_path) in record.getMessage()


HOLD = """
import sys, time
from dinosr_plugin import files
with getattr(files, sys.argv[1])(sys.argv[2], *sys.argv[3:]):
    print("held", flush=True)
    time.sleep(float(sys.stdin.readline()))
"""


@contextmanager
def another_process(what: str, *arguments):
    """Holds a lock; after a line on its standard input, for so many seconds more."""
    command = [sys.executable, "-c", HOLD, what, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_another_process_uses_does_not_make_room(corpus, tmp_path):
    reader = open_reader(GOLDEN)
    used = cache_of(tmp_path, corpus, reader, dtype="float16")
    used.fill()
    os.utime(used.folder, (1e9, 1e9))
    new = cache_of(tmp_path, corpus, reader)
    new.max_bytes = new.size
    with another_process("read_lock", used.folder):
        new.fill()
        assert used.folder.is_dir()
    new.make_room()
    assert not used.folder.exists()


def test_a_pass_waits_for_another_process_that_computes_the_same(corpus, tmp_path, caplog):
    cache = cache_of(tmp_path, corpus)
    tmp_path.mkdir(exist_ok=True)
    with another_process("claim_name", cache.folder, "x") as other:
        other.stdin.write("1\n")
        other.stdin.flush()
        began = time.monotonic()
        assert len(cache["layer_0"]) == 3 and time.monotonic() - began > 0.5
    assert any("waiting for another process" in record.getMessage() for record in caplog.records)
    with cache.pin():
        pass
    assert [path.name for path in tmp_path.iterdir()] == [cache.folder.name]

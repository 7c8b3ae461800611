"""Feature folders: written in any order, in shards and after a kill; errors are one line."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.errors import UserError
from dinosr_plugin.units import store
from dinosr_plugin.units.store import FeatureFolder, layer_folders, shard_rows
from support.feature_folder import FRAMES, LENGTHS, NAMES, writer


def write(folder: Path, shards: int = 1, **changes) -> Path:
    for shard in range(1, shards + 1):
        with writer(folder, shard, shards, **changes) as one:
            for row in reversed(one.missing()):  # any order is allowed
                one.add(row, FRAMES[row])
            one.close()
    return folder


def open_error(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        FeatureFolder(folder)
    message = str(error.value)
    assert str(folder) in message and "\n" not in message
    return message


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("dtype", store.DTYPES)
def test_written_features_are_read_back(tmp_path, shards, dtype):
    features = FeatureFolder(write(tmp_path / "new" / "mfcc", shards, dtype=dtype))
    assert (features.rate, features.first_centre) == (50.0, 0.0125)
    assert (features.width, features.dtype) == (6, np.dtype(dtype))
    assert features.utterances == NAMES and len(features) == 5 and features.lengths.tolist() == LENGTHS
    for (name, array), expected, again in zip(features, FRAMES, NAMES, strict=True):
        assert name == again and (isinstance(array, np.memmap) or name == "none") and array.dtype == dtype
        np.testing.assert_array_equal(array, expected.astype(dtype))
        np.testing.assert_array_equal(features[name], array)
    np.testing.assert_array_equal(np.concatenate(features.shards), np.concatenate(FRAMES).astype(dtype))
    assert "a" in features and "b" not in features
    with pytest.raises(UserError, match="mfcc: no features of utterance 'b'; compute them"):
        features["b"]


def test_files_are_ordinary_npy_and_tsv_files(tmp_path):
    """NumPy can read them, and no temporary files remain."""
    write(tmp_path, 2)
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["meta.json", *(f"features_{i}_of_2.{suffix}" for i in (1, 2) for suffix in ("npy", "tsv"))]
    )
    assert (tmp_path / "features_1_of_2.tsv").read_text() == "c\t5\na\t3\n"
    assert np.load(tmp_path / "features_1_of_2.npy").shape == (8, 6)
    assert json.loads((tmp_path / "meta.json").read_text())["source"] == {"kind": "mfcc"}


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.data())
def test_shards_partition_the_manifest(lengths, data):
    shards = data.draw(st.integers(1, len(lengths)))
    parts = [shard_rows(lengths, shard, shards) for shard in range(1, shards + 1)]
    assert [row for part in parts for row in part] == list(range(len(lengths))) and all(parts)


def test_shards_have_similar_sizes():
    lengths = np.random.default_rng(0).integers(1, 1000, 1000)
    sizes = [lengths[list(shard_rows(lengths, shard, 4))].sum() for shard in (1, 2, 3, 4)]
    assert max(sizes) - min(sizes) < 2000


@pytest.mark.parametrize(
    "shard, shards, message",
    [(0, 2, "the first number must be between"), (3, 2, "the first"), (1, 6, "only 5 utterances; give")],
)
def test_invalid_shards(tmp_path, shard, shards, message):
    with pytest.raises(UserError, match=f"--shard {shard}/{shards}: .*{message}"):
        writer(tmp_path, shard, shards)


def write_three_utterances_and_die(folder: Path) -> None:
    store.SAVE_SECONDS = 0
    one = writer(folder)
    for row in (4, 0, 2):
        one.add(row, FRAMES[row] + 100)
    os.kill(os.getpid(), signal.SIGKILL)


def test_writing_resumes_after_a_kill(tmp_path):
    folder = tmp_path / "mfcc"
    killed = multiprocessing.get_context("fork").Process(target=write_three_utterances_and_die, args=[folder])
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    assert "shard(s) 1 of 1 are missing or unfinished; run `dinosr features" in open_error(folder)
    with writer(folder) as one:
        assert one.missing() == [1, 3]
        for row in range(5):  # rows that are already written are ignored
            one.add(row, FRAMES[row])
        one.close()
    for name, expected in zip(NAMES, [FRAMES[0] + 100, FRAMES[1], FRAMES[2] + 100, FRAMES[3], FRAMES[4] + 100]):
        np.testing.assert_array_equal(FeatureFolder(folder)[name], expected)
    with writer(folder) as one:
        assert one.missing() == []
        one.close()


def test_writing_resumes_after_an_error(tmp_path):
    """What was added before an error is kept, and only what was written is marked."""
    with pytest.raises(KeyboardInterrupt), writer(tmp_path) as one:
        one.add(1, FRAMES[1])
        raise KeyboardInterrupt
    with writer(tmp_path) as one:
        assert one.missing() == [0, 2, 3, 4]
        with pytest.raises(UserError, match="4 of 5 utterances are missing; run the same command again"):
            one.close()
    write(tmp_path)
    np.testing.assert_array_equal(FeatureFolder(tmp_path)["a"], FRAMES[1])


def test_frames_are_marked_after_they_are_saved(tmp_path):
    """Frames are marked once they are saved, so that at most ``SAVE_SECONDS`` of work are lost."""
    one = writer(tmp_path)
    one.add(0, FRAMES[0])
    assert set((tmp_path / ".features_1_of_1.npy.done").read_bytes()) == {0}
    one.save()
    assert (tmp_path / ".features_1_of_1.npy.done").read_bytes() == b"\1\0\0\0\0"


def test_two_processes_cannot_write_one_shard(tmp_path):
    with (
        writer(tmp_path),
        pytest.raises(
            UserError,
            match="features_1_of_1.npy: another process is writing it; wait, or give each process a different --shard",
        ),
    ):
        writer(tmp_path)
    write(tmp_path)


def hold_a_writer(folder: Path, ready) -> None:
    one = writer(folder)
    ready.set()
    time.sleep(60)
    del one


def test_a_shard_belongs_to_its_process_until_that_is_killed(tmp_path):
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    other = fork.Process(target=hold_a_writer, args=[tmp_path / "out", ready])
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UserError, match="another process is writing it; wait, or give each process a different"):
            writer(tmp_path / "out")
    finally:
        other.kill()
        other.join()
    write(tmp_path / "out")
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(width=7), "with width 6, not 7"),
        (dict(dtype="float16"), "with dtype float32, not float16"),
        (dict(shards=2), "with shards 1, not 2"),
        (dict(source={"kind": "fbank"}), "with kind mfcc, not fbank"),
        (dict(lengths=[5, 3, 8, 1, 3]), "of other utterances"),
    ],
)
def test_a_folder_with_other_features(tmp_path, changes, message):
    write(tmp_path)
    with pytest.raises(UserError) as error:
        writer(tmp_path, **changes)
    assert f"{tmp_path}: contains features {message}; remove it, or give another folder with --out" == str(error.value)


def test_invalid_features_are_rejected(tmp_path):
    with (
        writer(tmp_path / "a", dtype="float16") as one,
        pytest.raises(UserError, match="c: features exceed the range of float16 .*--dtype float32"),
    ):
        one.add(0, FRAMES[0] + 1e6)
    with writer(tmp_path / "b") as one:
        with pytest.raises(UserError, match="c: NaN or infinity in its features"):
            one.add(0, FRAMES[0] * np.nan)
        with pytest.raises(ValueError, match=r"c: features of shape \(4, 6\), expected \(5, 6\)"):
            one.add(0, FRAMES[0][1:])
        assert one.missing() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="--dtype float64: choose one of float16, float32"):
        writer(tmp_path / "c", dtype="float64")


def test_a_missing_and_an_empty_folder(tmp_path):
    assert "no such folder; create it with `dinosr features" in open_error(tmp_path / "none")
    assert "contains no features (no meta.json)" in open_error(tmp_path)


def test_a_folder_of_layers(tmp_path):
    for layer in (10, 9, 0):
        write(tmp_path / f"layer_{layer}")
    (tmp_path / "layer_x").mkdir()
    assert [path.name for path in layer_folders(tmp_path)] == ["layer_0", "layer_9", "layer_10"]
    assert f"contains a folder for each layer; give one of {tmp_path / 'layer_0'}, " in open_error(tmp_path)


def test_missing_shards(tmp_path):
    write(tmp_path, 5)
    (tmp_path / "features_2_of_5.npy").unlink()
    (tmp_path / "features_4_of_5.tsv").unlink()
    assert "shard(s) 2, 4 of 5 are missing or unfinished; run `dinosr features ... --shard 2/5` (again)" in open_error(
        tmp_path
    )


def test_damaged_folders(tmp_path):
    folder = write(tmp_path / "mfcc")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    cut = files["features_1_of_1.npy"][:-30]
    for name, content, message in [
        ("meta.json", b"{", "meta.json: not JSON"),
        ("meta.json", b'{"rate": 50}', "damaged, meta.json: field digest is missing"),
        ("meta.json", b"[]", "meta.json: contains no JSON object"),
        ("features_1_of_1.npy", cut, "features_1_of_1.npy cannot be read, or is truncated"),
        ("features_1_of_1.npy", b"", "features_1_of_1.npy cannot be read"),
        ("features_1_of_1.tsv", b"c 5\n", "features_1_of_1.tsv line 1 is not `utt<TAB>frames`"),
        ("features_1_of_1.tsv", b"a\t5\nc\t3\nd\t8\nnone\t0\ne\t4\n", "name different utterances"),
        ("features_1_of_1.tsv", b"a\t5\n", "contains 20 frames, its .tsv says 5"),
    ]:
        (folder / name).write_bytes(content)
        assert (
            "damaged, " in open_error(folder)
            and message in open_error(folder)
            and "remove the folder and create it again" in open_error(folder)
        )
        (folder / name).write_bytes(files[name])
    np.save(folder / "features_1_of_1.npy", np.zeros((20, 7), np.float32))
    assert "contains float32 of shape (20, 7), meta.json says float32 of width 6" in open_error(folder)


@pytest.mark.parametrize(
    "field, value",
    [
        ("shards", "2"), ("shards", 10**12), ("shards", 0), ("shards", 6), ("dtype", "x"), ("dtype", 1), ("dtype", "O"),
        ("source", 1), ("source", None), ("width", 0), ("width", -1), ("width", 6.0), ("rate", "50"), ("rate", 0),
        ("rate", float("nan")), ("rate", 1e300), ("first_centre", "x"), ("first_centre", 1e300), ("utterances", "5"),
        ("utterances", 0), ("frames", -1), ("frames", 10**30), ("digest", 1), ("other", 1),
    ],
)  # fmt: skip
def test_impossible_metadata_is_refused(field, value, tmp_path):
    folder = write(tmp_path / "mfcc")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, field: value}))
    message = open_error(folder)
    assert "damaged, meta.json: " in message and field in message and "remove the folder" in message


@pytest.mark.parametrize("length", ["9" * 30, "²", "-5", "5.0"])
def test_impossible_numbers_of_frames_are_refused(length, tmp_path):
    folder = write(tmp_path / "mfcc")
    index = folder / "features_1_of_1.tsv"
    index.write_text(index.read_text().replace("\t5\n", f"\t{length}\n"))
    assert "features_1_of_1.tsv line" in open_error(folder)


def test_an_archive_in_place_of_an_array(tmp_path):
    folder = write(tmp_path / "mfcc")
    with open(folder / "features_1_of_1.npy", "wb") as file:
        np.savez(file, a=np.zeros(3))
    assert "features_1_of_1.npy cannot be read" in open_error(folder)


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="--out .*: cannot be written .No space left on device.; free some space"):
        writer(tmp_path)
    assert not list(tmp_path.glob(".*.unfinished"))  # it would occupy the remaining space
    with pytest.raises(UserError, match="--out /proc/nowhere/.*: cannot be written"):
        writer(Path("/proc/nowhere"))


def test_a_folder_without_first_centre(tmp_path):
    """``first_centre`` is then half a frame, and the folder can still be completed."""
    folder = write(tmp_path / "mfcc")
    meta = json.loads((folder / "meta.json").read_text())
    del meta["first_centre"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert FeatureFolder(folder).first_centre == 0.01
    with writer(folder) as one:
        assert one.missing() == []

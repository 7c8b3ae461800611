"""Windows lie within one utterance and batches within one speaker; both differ from epoch to epoch.

They do not depend on workers, ranks or restarts.
"""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.windows import WindowDataset, read_window
from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask

WINDOW = 500
UNIT = 2.0**-15  # sample n of every file is n * UNIT, exact in 16 bits, so that a window shows where it was cut
SIZES = {
    "anna/a.wav": 2100,
    "anna/b.wav": 500,
    "anna/c.wav": 499,
    "bert/x/d.wav": 1700,
    "bert/y/e.wav": 3333,
    "cleo/f.wav": 999,
}


@pytest.fixture(autouse=True)
def do_not_wait(monkeypatch):
    monkeypatch.setattr("dinosr_plugin.data.audio.WAITS", (0, 0))


def write(folder: Path, sizes=SIZES, split="train", suffix=".flac") -> Path:
    rows = [str(folder)]
    for name, samples in sizes.items():
        path = (folder / name).with_suffix(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, (np.arange(samples) * UNIT).astype(np.float32), 16000, subtype="PCM_16")
        rows.append(f"{path.relative_to(folder)}\t{samples}")
    (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def make_task(data, **fields) -> DinoSRPretrainingTask:
    fields = {"data": str(data), "seed": 1, "window_samples": WINDOW, "min_sample_size": None, **fields}
    return DinoSRPretrainingTask.setup_task(OmegaConf.structured(DinoSRPretrainingConfig(tpu=False, **fields)))


def load(data, training=True, **fields) -> WindowDataset:
    task = make_task(data, **fields)
    task.load_dataset("train", **({"data_selector": None} if training else {}))  # as fairseq's trainer does
    return task.dataset("train")


def iterator(data, epoch=1, workers=0, shards=1, shard=0, batch=2, **fields):
    task = make_task(data, **fields)
    task.load_dataset("train", data_selector=None)
    options = {
        "max_sentences": batch,
        "seed": 1,
        "num_workers": workers,
        "epoch": epoch,
        "num_shards": shards,
        "shard_id": shard,
    }
    return task.get_batch_iterator(task.dataset("train"), **options)


def windows_of(batches) -> list:
    """(file, first sample) of all windows of each batch; checks every sample."""
    seen = []
    for batch in batches:
        starts = batch["net_input"]["source"][:, :1] / UNIT
        assert torch.equal(batch["net_input"]["source"] / UNIT, starts + torch.arange(WINDOW))
        seen.append([(Path(file).name, int(start)) for file, start in zip(batch["files"], starts)])
    return seen


# ---- position of windows ---------------------------------------------------------------------------------------------


def test_windows_lie_inside_utterances_and_do_not_overlap(tmp_path):
    dataset = load(write(tmp_path))
    assert len(dataset) == 4 + 1 + 3 + 6 + 1
    places = {}
    for epoch in range(1, 9):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            item = dataset[index]
            assert item["id"] == index and torch.equal(item["source"] / UNIT, item["start"] + torch.arange(WINDOW))
            places.setdefault((epoch, item["row"]), []).append(item["start"])
    for (_, row), starts in places.items():
        size = dataset.utterances.sizes[row]
        assert starts == list(range(starts[0], size - WINDOW + 1, WINDOW)) and len(starts) == size // WINDOW
        assert 0 <= starts[0] <= size % WINDOW
    first = {row: {places[epoch, row][0] for epoch in range(1, 9)} for row in range(5)}
    assert first[1] == {0} and all(len(first[row]) > 4 for row in (0, 2, 3, 4))  # b.wav is exactly one window


def test_starts_depend_on_seed_epoch_and_utterance_only(tmp_path):
    starts = lambda dataset: [dataset[index]["start"] for index in range(len(dataset))]
    one, same, other = (load(write(tmp_path), seed=seed) for seed in (1, 1, 2))
    same[7], same[3]
    assert starts(one) == starts(same) != starts(other)
    one.set_epoch(2)
    assert starts(one) != starts(same)


def test_a_validation_has_fixed_windows(tmp_path):
    dataset = load(write(tmp_path), training=False)
    dataset.set_epoch(5)
    assert [dataset[index]["start"] for index in range(len(dataset))] == [
        0,
        500,
        1000,
        1500,
        0,
        0,
        500,
        1000,
        0,
        500,
        1000,
        1500,
        2000,
        2500,
        0,
    ]
    assert [batch.tolist() for batch in dataset.batch_by_size(dataset.ordered_indices(), max_sentences=3)] == [
        [0, 1, 2],
        [3, 4],
        [5, 6, 7],
        [8, 9, 10],
        [11, 12, 13],
        [14],
    ]


def test_only_the_window_is_read(tmp_path, monkeypatch):
    dataset = load(write(tmp_path))
    read = []
    monkeypatch.setattr(soundfile, "read", lambda *args, **kwargs: pytest.fail("a whole file"))
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames, **kwargs: read.append(frames) or original(self, frames, **kwargs),
    )
    dataset[0]
    assert read == [WINDOW]


def test_utterances_left_out_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        load(write(tmp_path))
    assert f"{tmp_path}/train.tsv: 15 windows of 500 samples, from 5 utterances of 3 speaker(s); " in caplog.text
    assert "1 shorter utterance(s) left out" in caplog.text


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_batches_are_of_one_speaker(tmp_path):
    """All are full except the last of each speaker; each epoch has every window once, in other batches."""
    data, epochs = write(tmp_path), []
    batches = iterator(data)
    for _ in range(3):
        seen = windows_of(batches.next_epoch_itr())
        assert sorted(len(batch) for batch in seen) == [1, 1, 1] + [2] * 6
        speakers = [
            {name[0] in "de" and "bert" or name[0] in "ab" and "anna" or "cleo" for name, _ in batch} for batch in seen
        ]
        assert all(len(each) == 1 for each in speakers) and Counter(map(min, speakers)) == {
            "anna": 3,
            "bert": 5,
            "cleo": 1,
        }
        assert Counter(name for batch in seen for name, _ in batch) == {
            "a.flac": 4,
            "b.flac": 1,
            "d.flac": 3,
            "e.flac": 6,
            "f.flac": 1,
        }
        epochs.append([tuple(name for name, _ in batch) for batch in seen])
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_mixed_batches(tmp_path):
    seen = windows_of(iterator(write(tmp_path), negatives="mixed", batch=4).next_epoch_itr())
    assert sorted(map(len, seen)) == [3, 4, 4, 4] and any(len({name for name, _ in batch}) > 2 for batch in seen)


def test_a_batch_may_be_given_in_samples(tmp_path):
    task = make_task(write(tmp_path))
    task.load_dataset("train", data_selector=None)
    batches = task.get_batch_iterator(task.dataset("train"), max_tokens=4 * WINDOW + 499, seed=1).next_epoch_itr()
    assert max(map(len, windows_of(batches))) == 4
    with pytest.raises(UserError, match="dataset.max_tokens=499 .* 500 samples"):
        task.get_batch_iterator(task.dataset("train"), max_tokens=499, seed=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_is_the_same(tmp_path, workers):
    """Also a second epoch, from any batch on, and with workers, which are kept from epoch to epoch."""
    data = write(tmp_path)
    whole = iterator(data)
    first, second = (windows_of(whole.next_epoch_itr()) for _ in range(2))
    parts = iterator(data, epoch=2, workers=workers)
    parts.load_state_dict({"epoch": 2, "iterations_in_epoch": 4, "shuffle": True, "version": 2})
    assert windows_of(parts.next_epoch_itr()) == second[4:]
    again = iterator(data, workers=workers)
    assert [windows_of(again.next_epoch_itr()) for _ in range(2)] == [first, second]


def test_ranks_share_an_epochs_batches(tmp_path):
    data = write(tmp_path)
    whole = windows_of(iterator(data).next_epoch_itr())
    for shard in range(2):
        assert (
            windows_of(batch for batch in iterator(data, shards=2, shard=shard).next_epoch_itr() if batch)
            == whole[shard::2]
        )


# ---- invalid input ---------------------------------------------------------------------------------------------------


def test_a_manifest_without_speakers(tmp_path):
    write(tmp_path, {"anna/a.wav": 600, "b.wav": 600})
    with pytest.raises(UserError, match=r"train.tsv: b.flac is not in a folder, .* or set task.negatives=mixed"):
        load(tmp_path)
    assert len(load(tmp_path, negatives="mixed")) == 2


def test_utterances_that_are_all_too_short(tmp_path):
    expected = r"every file is shorter than task.window_samples=500 .* the longest has 499 samples; lower it"
    with pytest.raises(UserError, match=r"train.tsv: " + expected):
        load(write(tmp_path, {"anna/a.wav": 499}))
    with pytest.raises(UserError, match="shorter than task.min_sample_size=501"):
        load(tmp_path, min_sample_size=501)


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"normalize": True}, "task.normalize=True"),
        ({"subsample": 0.5}, "task.subsample=0.5"),
        ({"multi_corpus_keys": "a,b"}, "set task.multi_corpus_keys=null"),
        ({"relabel_every": 2}, "task.relabel_every=2"),
    ],
)
def test_settings_that_exclude_windows(tmp_path, fields, named):
    with pytest.raises(UserError, match=named):
        make_task(tmp_path, **fields)


def break_file(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "stereo":
        soundfile.write(path, np.zeros((2100, 2)), 16000)
    elif how == "other length":
        soundfile.write(path, np.zeros(2000), 16000)
    elif how == "no audio":
        path.write_bytes(b"nothing")
    else:
        soundfile.write(path.with_suffix(".wav"), np.full(2100, np.nan, np.float32), 16000, subtype="FLOAT")
        path.with_suffix(".wav").rename(path)


@pytest.mark.parametrize(
    "how, message",
    [
        ("gone", "unreadable|no such"),
        ("stereo", "2 channel"),
        ("other length", "2000 samples, but 2100"),
        ("no audio", "unreadable"),
        ("NaN", "NaN"),
    ],
)
def test_a_bad_file(tmp_path, how, message, caplog):
    """It raises an error or, with skip_bad_audio, is left out of its batches, which keep their other windows."""
    write(tmp_path)
    break_file(tmp_path / "anna/a.flac", how)
    with pytest.raises(UserError, match=f"anna/a.flac: .*({message})"):
        load(tmp_path)[0]
    dataset = load(tmp_path, skip_bad_audio=True)
    batch = dataset.collater([dataset[index] for index in (0, 4, 1, 14)])
    assert batch["id"].tolist() == [4, 14] and [Path(file).name for file in batch["files"]] == ["b.flac", "f.flac"]
    assert "skipped" in caplog.text and dataset.utterances.bad.tolist() == [True, False, False, False, False]
    alone = dataset.collater([dataset[0]])  # replaced by another window
    assert (
        alone["net_input"]["source"].shape == (1, WINDOW)
        and "a.flac" not in alone["files"][0]
        and dataset.collater([]) == {}
    )


def test_read_window(tmp_path):
    write(tmp_path)
    assert torch.equal(read_window(tmp_path / "cleo/f.flac", 999, 900, 99) / UNIT, torch.arange(900.0, 999.0))


def test_real_speech(librispeech_mini, tmp_path):
    """Reading a window of a FLAC file of real speech gives the same samples as reading the whole file."""
    path = sorted((librispeech_mini / "dev").rglob("*.flac"))[0]
    whole, _ = soundfile.read(path, dtype="float32")
    for start in (0, 12345, len(whole) - 20480):
        assert torch.equal(read_window(path, len(whole), start, 20480), torch.from_numpy(whole[start : start + 20480]))


def test_windows_are_cut_from_a_speech_dataset(tmp_path):
    assert type(load(write(tmp_path)).utterances) is SpeechDataset
    assert type(load(tmp_path, window_samples=None, min_sample_size=100)) is SpeechDataset

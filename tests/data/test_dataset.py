"""``SpeechDataset`` in long runs: memory and time per row, full batches, and files that become unreadable.

Crops, and the message for each kind of bad file, are tested in tests/tasks/test_pretraining.py.
"""

import json
import subprocess
import sys
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import FileAudioDataset, SubsampleDataset
from fairseq.data.multi_corpus_dataset import MultiCorpusDataset
from fairseq.data.text_compressor import TextCompressionLevel
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from dinosr_plugin.data.dataset import FileNames, SpeechDataset, longest_utterance
from dinosr_plugin.data.validation import validate_manifest
from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask
from support.paths import BENCHMARKS

BENCHMARK = BENCHMARKS / "data_scale.py"
ROWS = 50_000


def write_rows(folder: Path, sizes, name="corpus/{:08d}.wav", split="train") -> Path:
    manifest = folder / f"{split}.tsv"
    manifest.write_text(
        "".join([f"{folder}\n", *(f"{name.format(row)}\t{samples}\n" for row, samples in enumerate(sizes))])
    )
    return manifest


# ---- names and sizes -------------------------------------------------------------------------------------------------


@given(st.lists(st.binary()))
def test_file_names(names):
    stored = FileNames()
    for name in names:
        stored.append(name)
    assert [stored[index] for index in range(len(names))] == names


@pytest.mark.parametrize("fixed", [True, False])
def test_the_longest_come_first_and_fixed_batches_have_the_same_order_in_every_epoch(tmp_path, fixed):
    """4000 samples and more are equal, because they are cropped. fairseq seeds the generator for each epoch."""
    sizes = [3000 + 500 * (row % 7) for row in range(70)]
    manifest, orders = write_rows(tmp_path, sizes), []
    for epoch in (1, 2):
        dataset = SpeechDataset(str(manifest), 16000, pad=True, max_sample_size=4000, fixed_batches=fixed)
        np.random.seed(epoch)
        orders.append(dataset.ordered_indices().tolist())
        cropped = [min(sizes[row], 4000) for row in orders[-1]]
        assert cropped == sorted(cropped, reverse=True) and sorted(orders[-1]) == list(range(70))
    assert (orders[0] == orders[1]) is fixed
    assert orders[0] != sorted(range(70), key=lambda row: -min(sizes[row], 4000))


@pytest.mark.parametrize("level", [TextCompressionLevel.none, TextCompressionLevel.low])
@pytest.mark.parametrize("shortest", [None, 2000])
def test_rows_are_those_of_fairseq(tmp_path, level, shortest):
    manifest = write_rows(tmp_path, [3000, 1999, 2000, 100, 5000], name="ü {}.wav")
    options = {"min_sample_size": shortest, "max_sample_size": 4000, "text_compression_level": level, "pad": True}
    ours, theirs = SpeechDataset(str(manifest), 16000, **options), FileAudioDataset(str(manifest), 16000, **options)
    assert len(ours) == len(theirs) == (5 if shortest is None else 3)
    assert [ours.fnames[i] for i in range(len(ours))] == list(theirs.fnames)
    assert ours.path(1) == tmp_path / ("ü 1.wav" if shortest is None else "ü 2.wav")
    assert ours.sizes.tolist() == theirs.sizes.tolist() and ours.sizes.dtype == theirs.sizes.dtype
    assert (ours.root_dir, ours.skipped_indices) == (theirs.root_dir, theirs.skipped_indices)
    assert ours.fnames[0].as_py() == theirs.fnames[0]


def test_longest_utterance(tmp_path):
    dataset = SpeechDataset(str(write_rows(tmp_path, [1000, 9000, 5000])), 16000, max_sample_size=4000, pad=True)
    assert [longest_utterance(dataset, limit) for limit in (999, 1000, 8000, 9000)] == [0, 1000, 4000, 4000]
    dataset.max_sample_size = sys.maxsize
    assert [longest_utterance(dataset, limit) for limit in (8000, 9000)] == [5000, 9000]
    other = SpeechDataset(str(write_rows(tmp_path, [100, 9500], split="other")), 16000)
    assert (
        longest_utterance(MultiCorpusDataset(OrderedDict(a=dataset, b=other), [0.5, 0.5], seed=0), sys.maxsize) == 9500
    )
    part = SubsampleDataset(dataset, 0.6, seed=1)
    assert longest_utterance(part, sys.maxsize) == max(dataset.sizes[part.indices])


# ---- scale -----------------------------------------------------------------------------------------------------------


def make_task(folder: Path, **fields) -> DinoSRPretrainingTask:
    fields = {"data": str(folder), "seed": 1, "min_sample_size": 32_000, "max_sample_size": 320_000, **fields}
    return DinoSRPretrainingTask.setup_task(OmegaConf.structured(DinoSRPretrainingConfig(tpu=False, **fields)))


def allocated(work) -> tuple[float, float]:
    """Bytes per row that Python and NumPy have allocated after ``work``, and at most during it."""
    tracemalloc.start()
    try:
        result = work()
        held, peak = tracemalloc.get_traced_memory()
        del result
        return held / ROWS, peak / ROWS
    finally:
        tracemalloc.stop()


def test_memory_of_a_row(tmp_path):
    """A row takes the bytes of its name and two integers, plus an eighth for growing arrays.

    Python objects would take 220 bytes.
    """
    name = "speaker/a_book_of_some_title_librivox_64kb_mp3/chapter_{:08d}.flac"
    manifest = write_rows(tmp_path, range(32_000, 32_000 + ROWS), name)
    held, peak = allocated(lambda: SpeechDataset(str(manifest), 16000))
    assert len(name.format(0)) + 16 <= held < 1.125 * (len(name.format(0)) + 16) + 8
    assert peak < held + 24
    _, peak = allocated(lambda: validate_manifest(manifest, None, None))
    assert peak < 40


def test_loading_and_starting_an_epoch_take_seconds_at_most(tmp_path):
    """Measured in CPU time of this process, which other processes do not affect.

    It is half a second here; a million rows take five seconds.
    """
    write_rows(tmp_path, np.random.default_rng(0).integers(16_000, 500_000, ROWS))
    start = time.process_time()
    task = make_task(tmp_path)
    task.load_dataset("train")
    for epoch in (1, 2):
        task.get_batch_iterator(task.dataset("train"), max_tokens=3_800_000, epoch=epoch).next_epoch_itr().take(0)
    assert time.process_time() - start < 15


@pytest.mark.parametrize("pad", [False, True])
def test_no_python_call_per_row_to_start_an_epoch(tmp_path, pad):
    """A million Python calls would make the start of an epoch slow."""
    write_rows(tmp_path, np.random.default_rng(0).integers(16_000, 500_000, 5000))
    task = make_task(tmp_path, enable_padding=pad)
    task.load_dataset("train")
    calls = []
    sys.setprofile(lambda frame, event, function: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        task.get_batch_iterator(task.dataset("train"), max_tokens=32_000_000).next_epoch_itr()
    finally:
        sys.setprofile(None)
    assert calls.count("num_tokens") <= 1 and len(calls) < len(task.dataset("train"))


@pytest.mark.parametrize("options", [[], ["--padding"]])
def test_batches_are_full_and_waste_little(tmp_path, commands, options):
    """Runs the benchmark on fewer rows."""
    record = tmp_path / "record.json"
    subprocess.run(
        [commands / "python", BENCHMARK, "--rows", "20000", "--json", record, *options],
        check=True,
        capture_output=True,
        timeout=300,
    )
    record = json.loads(record.read_text())
    assert record["rows"] > 19_000 and len(record["steps"]) == 7
    assert 0 < record["wasted"] < 0.005 and 0.93 < record["filled"] <= 1


# ---- files that become unreadable ------------------------------------------------------------------------------------

SIZES = [4000 + 100 * row for row in range(8)]


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Eight files of noise."""
    for row, samples in enumerate(SIZES):
        write_sound(tmp_path / f"{row}.wav", samples)
    return write_rows(tmp_path, SIZES, name="{}.wav")


def write_sound(path: Path, samples: int) -> None:
    soundfile.write(path, np.random.default_rng(samples).normal(0, 0.1, samples), 16000)


def remove(manifest: Path, *rows: int) -> None:
    for row in rows:
        (manifest.parent / f"{row}.wav").unlink()


def skipping(manifest: Path, **options) -> SpeechDataset:
    return SpeechDataset(str(manifest), 16000, max_sample_size=1000, skip_bad_audio=True, **options)


def batches(dataset: SpeechDataset, workers: int) -> list[dict]:
    """One epoch, two rows a batch, in the manifest's order."""
    iterator = iter(DataLoader(dataset, batch_size=2, collate_fn=dataset.collater, num_workers=workers))
    try:
        return list(iterator)
    finally:
        if workers:
            iterator._shutdown_workers()  # now: left to the garbage collector this takes 5 s each


@pytest.fixture
def waits(monkeypatch) -> list:
    """Replaces ``time.sleep``; the list contains the requested durations."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


class Meanwhile(list):
    """A list of durations that calls ``work`` when the ``number``-th is added."""

    def __init__(self, number: int, work):
        self.number, self.work = number, work

    def append(self, seconds):
        super().append(seconds)
        if len(self) == self.number:
            self.work()


@pytest.mark.parametrize("skip_bad_audio", [False, True])
def test_a_file_that_is_restored_is_not_a_bad_file(manifest, monkeypatch, skip_bad_audio):
    remove(manifest, 3)
    waited = Meanwhile(2, lambda: write_sound(manifest.parent / "3.wav", SIZES[3]))
    monkeypatch.setattr("time.sleep", waited.append)
    dataset = SpeechDataset(str(manifest), 16000, skip_bad_audio=skip_bad_audio, max_bad_files=0)
    assert len(dataset[3]["source"]) == SIZES[3]
    assert waited == [1, 2] and not dataset.bad.any()


@pytest.mark.parametrize("skip_bad_audio", [False, True])
def test_a_file_that_is_just_being_written_is_read_again(manifest, monkeypatch, skip_bad_audio):
    write_sound(manifest.parent / "3.wav", 700)
    waited = Meanwhile(1, lambda: write_sound(manifest.parent / "3.wav", SIZES[3]))
    monkeypatch.setattr("time.sleep", waited.append)
    dataset = SpeechDataset(str(manifest), 16000, skip_bad_audio=skip_bad_audio, max_bad_files=0)
    assert len(dataset[3]["source"]) == SIZES[3]
    assert waited == [1] and not dataset.bad.any()


@pytest.mark.parametrize("name", ["{}.WAV", "12:30 {}.WAV", "a:1:{}.wav", "{}:0:100", "{}.npy", "{}.zip:0:100"])
def test_any_name_is_that_of_a_file(tmp_path, waits, name):
    """fairseq would take some of these for members of ZIP archives, and others for arrays."""
    for row, samples in enumerate(SIZES):
        soundfile.write(tmp_path / name.format(row), np.full(samples, 0.1), 16000, format="WAV")
    remaining = skipping(write_rows(tmp_path, SIZES, name=name), max_bad_files=1)
    assert [len(remaining[row]["source"]) for row in range(8)] == SIZES
    (tmp_path / name.format(2)).unlink()
    assert remaining[2]["source"] is None
    with pytest.raises(UserError, match="no such file; restore it"):
        SpeechDataset(remaining.manifest_path, 16000)[2]


def test_a_file_of_another_format_is_read_once(manifest, waits, decoded):
    soundfile.write(manifest.parent / "3.wav", np.zeros((SIZES[3], 2)), 16000)
    assert skipping(manifest)[3]["source"] is None
    assert waits == [] and decoded == []


def test_a_file_of_another_length_is_not_decoded(manifest, waits, decoded):
    soundfile.write(manifest.parent / "3.wav", np.zeros(SIZES[3] + 1), 16000)
    assert skipping(manifest)[3]["source"] is None
    assert waits == [1, 2] and decoded == []


def test_masks_are_those_of_fairseq(manifest):
    options = {
        "compute_mask": True, "mask_prob": 0.5, "mask_length": 3, "mask_prob_adjust": 0, "inverse_mask": False,
        "clone_batch": 2, "expand_adjacent": False, "mask_dropout": 0.0, "non_overlapping": False,
        "feature_encoder_spec": "[(8, 10, 5), (8, 8, 4)]",
    }  # fmt: skip
    masks = []
    for kind in (SpeechDataset, FileAudioDataset):
        torch.manual_seed(0)
        np.random.seed(0)
        masks.append(kind(str(manifest), 16000, pad=True, **options)[3]["precomputed_mask"])
    assert masks[0].shape[0] == 2 and torch.equal(*masks)


def test_a_missing_file_is_tried_three_times(manifest, waits):
    remove(manifest, 3)
    dataset = skipping(manifest)
    assert dataset[3] == {"id": 3, "source": None}
    assert waits == [1, 2]
    assert dataset.bad.nonzero().flatten().tolist() == [3]
    write_sound(manifest.parent / "3.wav", SIZES[3])
    assert dataset[3]["source"] is not None  # in a later epoch


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_max_bad_files_end_the_run_and_all_are_listed(manifest, waits, workers):
    remove(manifest, 0, 2, 3, 6)
    dataset = skipping(manifest, max_bad_files=4)
    for epoch in (1, 2, 3):  # the same four in each
        dataset.set_epoch(epoch)
        assert (
            sum(len(batch["id"]) for batch in batches(dataset, workers)) == 5
        )  # rows 2 and 3 are a batch, which is replaced by another row
    assert dataset.bad.tolist() == [row in (0, 2, 3, 6) for row in range(8)]
    remove(manifest, 7)
    with pytest.raises(UserError) as caught:
        batches(dataset, workers)
    message = str(caught.value)
    assert message.startswith("task.max_bad_files=4: 5 files cannot be used. Check that the disk is mounted;")
    assert "\n" not in message and f"`dinosr check {manifest}` shows what is wrong" in message
    assert message.endswith(f"Under {manifest.parent}: 0.wav, 2.wav, 3.wav, 6.wav, 7.wav")


def test_none_means_no_limit_and_0_allows_no_bad_file(manifest, waits):
    remove(manifest, *range(7))
    assert [skipping(manifest)[row]["source"] is None for row in range(8)] == [True] * 7 + [False]
    with pytest.raises(UserError, match=r"max_bad_files=0: 1 files cannot be used.*: 5\.wav$"):
        skipping(manifest, max_bad_files=0)[5]


@pytest.mark.parametrize("limit", [None, 3])
def test_the_task_passes_the_limit_on(manifest, limit):
    task = make_task(manifest.parent, skip_bad_audio=True, max_bad_files=limit, min_sample_size=720)
    task.load_dataset("train")
    assert task.dataset("train").max_bad_files == limit
    assert DinoSRPretrainingConfig(tpu=False).max_bad_files == 100


@pytest.mark.parametrize("pad", [False, True])
def test_the_number_of_workers_changes_no_batch(manifest, waits, pad):
    remove(manifest, 1)
    epochs = {}
    for workers in (0, 1, 2):
        dataset = skipping(manifest, seed=5, pad=pad)
        for epoch in (1, 2):
            dataset.set_epoch(epoch)
            epochs[workers, epoch] = batches(dataset, workers)
    for epoch in (1, 2):
        for workers in (1, 2):
            for ours, reference in zip(epochs[workers, epoch], epochs[0, epoch], strict=True):
                assert torch.equal(ours["id"], reference["id"])
                assert torch.equal(ours["net_input"]["source"], reference["net_input"]["source"])
    sources = [torch.cat([batch["net_input"]["source"] for batch in epochs[0, epoch]]) for epoch in (1, 2)]
    assert (sources[0] != sources[1]).any(dim=1).all()  # every row is cropped at another place in the second epoch


# ---- only the crop is read -------------------------------------------------------------------------------------------


class WholeFiles(SpeechDataset):
    """Without ``__getitems__``, torch's loader requests items one by one, and each is a whole file."""

    __getitems__ = None


@pytest.fixture
def decoded(monkeypatch) -> list:
    """Number of samples decoded by each read in this process."""
    samples, read = [], soundfile.SoundFile.read

    def noted(self, *args, **kwargs):
        wave = read(self, *args, **kwargs)
        samples.append(len(wave))
        return wave

    monkeypatch.setattr(soundfile.SoundFile, "read", noted)
    return samples


def write_sounds(folder: Path, suffix: str, **format) -> Path:
    """Eight files of noise with varying loudness and offset: mean and deviation of a part differ from the whole."""
    for row, samples in enumerate(SIZES):
        envelope = 0.1 * np.sin(np.arange(samples) / 700) ** 2
        soundfile.write(
            folder / f"{row}{suffix}", np.random.default_rng(row).normal(0.01 * row, envelope), 16000, **format
        )
    return write_rows(folder, SIZES, name="{}" + suffix)


def same_batches(ours: list, reference: list) -> None:
    for a, b in zip(ours, reference, strict=True):
        assert a["files"] == b["files"] and a["net_input"].keys() == b["net_input"].keys()
        assert torch.equal(a["id"], b["id"]) and torch.equal(a["net_input"]["source"], b["net_input"]["source"])


@pytest.mark.parametrize("pad, workers", [(False, 0), (True, 0), (False, 2)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("suffix, longest", [(".flac", 1000), (".wav", 4450)])
def test_crops_are_those_of_whole_files_to_the_last_bit(tmp_path, suffix, longest, normalize, pad, workers):
    manifest = str(write_sounds(tmp_path, suffix))
    options = {"seed": 3, "normalize": normalize, "pad": pad, "max_sample_size": longest}
    ours, reference = SpeechDataset(manifest, 16000, **options), WholeFiles(manifest, 16000, **options)
    for epoch in (1, 2, 3):
        for dataset in (ours, reference):
            dataset.set_epoch(epoch)
        same_batches(batches(ours, workers), batches(reference, 0))
    theirs = FileAudioDataset(manifest, 16000, normalize=normalize)
    for row in range(8):
        start = ours.crop_start(SIZES[row], 900, row)
        assert torch.equal(ours.read_crop(row, 900), theirs[row]["source"][start : start + 900])
        assert torch.equal(ours[row]["source"], theirs[row]["source"])


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
def test_a_file_is_read_completely_once(tmp_path, decoded, suffix):
    """Later epochs read no more than the crop, also of files that another process has read before."""
    dataset = SpeechDataset(str(write_sounds(tmp_path, suffix)), 16000, max_sample_size=1000, normalize=True)
    epochs = []
    for _ in range(2):
        decoded.clear()
        batches(dataset, 0)
        epochs.append(sorted(decoded))
    assert epochs == [SIZES, [1000] * 8]
    dataset = SpeechDataset(str(tmp_path / "train.tsv"), 16000, max_sample_size=1000)
    batches(dataset, 2)  # two other processes
    decoded.clear()
    batches(dataset, 0)
    assert decoded == [1000] * 8


def test_a_codec_with_memory_is_read_completely_each_time(tmp_path, decoded):
    manifest = write_sounds(tmp_path, ".ogg", format="OGG", subtype="OPUS")
    dataset = SpeechDataset(str(manifest), 16000, max_sample_size=1000)
    for _ in range(2):
        decoded.clear()
        batches(dataset, 0)
        assert sorted(decoded) == SIZES


def test_damage_outside_the_crop_is_detected(tmp_path):
    wave = np.zeros(9000, np.float32)
    wave[-1] = np.nan
    soundfile.write(tmp_path / "0.wav", wave, 16000, subtype="FLOAT")
    manifest = write_rows(tmp_path, [9000], name="{}.wav")
    dataset = SpeechDataset(str(manifest), 16000, max_sample_size=10)
    for _ in range(2):
        with pytest.raises(UserError, match="0.wav: contains NaN"):
            dataset.__getitems__([0])


@pytest.mark.parametrize("normalize, workers", [(False, 0), (True, 0), (True, 2)])
def test_a_file_that_goes_bad_after_it_was_read(manifest, waits, normalize, workers):
    """Without the shortest file of a batch, the crop of the other one is longer."""
    ours, reference = (
        kind(str(manifest), 16000, skip_bad_audio=True, normalize=normalize) for kind in (SpeechDataset, WholeFiles)
    )
    same_batches(batches(ours, workers), batches(reference, 0))
    remove(manifest, 2)
    (manifest.parent / "4.wav").write_bytes(b"nothing")
    same_batches(batches(ours, workers), batches(reference, 0))
    assert [len(batch["net_input"]["source"][0]) for batch in batches(ours, workers)] == [
        SIZES[row] for row in (0, 3, 5, 6)
    ]
    assert ours.bad.nonzero().flatten().tolist() == [2, 4]
    ours.skip_bad_audio = False
    with pytest.raises(UserError, match=r"2\.wav: "):
        batches(ours, workers)


def test_workers_are_kept_and_share_what_they_read(tmp_path):
    """The trainer requests an iterator before each epoch; it gets the same one, whose workers are kept."""
    write_sounds(tmp_path, ".flac")
    task = make_task(tmp_path, min_sample_size=720, max_sample_size=1000)
    task.load_dataset("train", data_selector=None)
    dataset, workers = task.dataset("train"), []
    for epoch in (1, 2, 3):
        iterator = task.get_batch_iterator(dataset, max_sentences=2, num_workers=2, seed=1, epoch=epoch)
        assert len(list(iterator.next_epoch_itr())) == 4 and int(dataset.epoch) == epoch
        workers.append([worker.pid for worker in iterator.dataloader._iterator._workers])
    iterator.dataloader._iterator._shutdown_workers()
    assert len(workers[0]) == 2 and workers[0] == workers[1] == workers[2]
    assert dataset.scales.tolist() == [1] * 8


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> str:
    return str(write_sounds(tmp_path_factory.mktemp("sounds"), ".wav"))


@given(rows=st.lists(st.integers(0, 7), max_size=8, unique=True), known=st.sets(st.integers(0, 7)))
def test_items_are_in_the_requested_order(sounds, rows, known):
    dataset = SpeechDataset(sounds, 16000, max_sample_size=4250)
    for row in known:
        dataset[row]
    items = dataset.__getitems__(rows)
    assert [item["id"] for item in items] == rows
    assert all(
        len(item["source"]) == (min([4250, *(SIZES[other] for other in rows)]) if row in known else SIZES[row])
        for row, item in zip(rows, items)
    )


def test_loader_benchmark(tmp_path, commands):
    """Checks what the benchmark counts, on a minute of noise, without workers."""
    record = tmp_path / "record.json"
    command = [
        commands / "python",
        BENCHMARK.with_name("loader.py"),
        "--synth",
        "--hours",
        "0.02",
        "--what",
        "crop",
        "windows",
    ]
    command += ["--workers", "0", "--rounds", "1", "--json", record]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    rows = json.loads(record.read_text())["throughput"]
    assert len(rows) == 10 and all(row["realtime"] > 0 for row in rows)
    decoded = {(row["format"], row["what"], row["way"]): row["decoded"] for row in rows}
    for format in ("flac", "wav"):
        assert decoded[format, "crop", "later epochs"] == decoded[format, "windows", "window only"] == 1
        assert decoded[format, "crop", "fairseq"] == decoded[format, "crop", "first epoch"] > 2
        assert decoded[format, "windows", "whole file"] > 5

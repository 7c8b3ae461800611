"""The pre-training task: reproducible crops, batches without gaps, bad files, and settings that cannot work."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import FileAudioDataset
from fairseq.tasks import audio_pretraining
from omegaconf import MISSING, OmegaConf

import dinosr_plugin  # noqa: F401  (registers the task)
from dinosr_plugin import compat
from dinosr_plugin.data import dataset as dataset_module
from dinosr_plugin.data.audio import AudioError
from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.dinosr import DinoSRConfig
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask

SAMPLES = [4000 + 100 * i for i in range(8)]
UNIT = 2.0**-15  # sample number n of every file is n * UNIT, exact in float32: a crop shows where it was cut
CROP = 1000


@pytest.fixture
def data(tmp_path) -> Path:
    write_ramps(tmp_path, "train", SAMPLES)
    return tmp_path


def write_ramps(folder: Path, split: str, sizes) -> None:
    rows = [str(folder)]
    for i, samples in enumerate(sizes):
        soundfile.write(
            folder / f"{split}{i}.wav", (np.arange(samples) * UNIT).astype(np.float32), 16000, subtype="FLOAT"
        )
        rows.append(f"{split}{i}.wav\t{samples}")
    (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")


def make_task(data, **fields) -> DinoSRPretrainingTask:
    fields = {"data": str(data), "seed": 1, "min_sample_size": 720, "max_sample_size": CROP, **fields}
    return DinoSRPretrainingTask.setup_task(OmegaConf.structured(DinoSRPretrainingConfig(tpu=False, **fields)))


def load(data, **fields) -> SpeechDataset:
    task = make_task(data, **fields)
    task.load_dataset("train", data_selector=None)  # as fairseq's trainer does
    return task.dataset("train")


# -- crops -----------------------------------------------------------------------------------------------------------


def batch_iterator(data, workers=0, batch=2, epoch=1, **fields):
    task = make_task(data, **fields)
    task.load_dataset("train", data_selector=None)  # as fairseq's trainer does
    options = {
        "max_sentences": batch,
        "required_batch_size_multiple": 8,
        "seed": 1,
        "num_workers": workers,
        "epoch": epoch,
    }
    return task.get_batch_iterator(task.dataset("train"), **options)


def close(iterator) -> None:
    """End the worker processes now: left to the garbage collector this takes 5 s each."""
    if iterator.num_workers:
        iterator.dataloader._iterator._shutdown_workers()


def starts(batches) -> dict[int, int]:
    """Row of the manifest -> first sample of its crop."""
    found = {}
    for batch in batches:
        for index, row in zip(batch["id"].tolist(), batch["net_input"]["source"]):
            assert index not in found and torch.equal(row.diff(), torch.full((len(row) - 1,), UNIT))
            found[index] = round(float(row[0]) / UNIT)
    return found


def three_epochs(*args, **options) -> list[dict[int, int]]:
    iterator = batch_iterator(*args, **options)
    epochs = [starts(iterator.next_epoch_itr()) for _ in range(3)]
    close(iterator)
    return epochs


def test_crops_depend_on_seed_epoch_and_file_only(data):
    reference = three_epochs(data)
    assert all(sorted(epoch) == list(range(8)) for epoch in reference)
    assert all(0 <= start <= SAMPLES[i] - CROP for epoch in reference for i, start in epoch.items())
    assert all(len({epoch[i] for epoch in reference}) == 3 for i in range(8))  # another one each epoch
    assert len({start / (SAMPLES[i] - CROP) for i, start in reference[0].items()}) == 8  # and for each file
    np.random.seed(7)
    torch.manual_seed(7)
    assert three_epochs(data, workers=1) == reference
    assert three_epochs(data, workers=2, batch=5) == reference
    assert three_epochs(data, seed=2) != reference


def test_a_resumed_epoch_has_the_same_crops(data):
    iterator = batch_iterator(data)
    _, whole = (list(iterator.next_epoch_itr()) for _ in (1, 2))
    for workers in (0, 1):
        resumed = batch_iterator(data, workers, epoch=2)  # what fairseq's trainer asks for when it loads a checkpoint
        resumed.load_state_dict({"epoch": 2, "iterations_in_epoch": 2, "version": 2})
        assert starts(resumed.next_epoch_itr()) == starts(whole[2:])
        close(resumed)


def test_crops_are_uniform_over_the_utterance(data):
    dataset = load(data)
    found = []
    for epoch in range(2000):
        dataset.set_epoch(epoch)
        found.append(dataset.crop_start(1010, CROP, 3))
    counts = np.bincount(found, minlength=11)
    assert len(counts) == 11 and counts.min() > 120 and counts.max() < 250  # 182 expected, standard deviation 13


def test_rows_are_cropped_to_the_shortest_or_padded(data):
    items = [0, 7]
    dataset = load(data, max_sample_size=None)
    assert dataset.collater([dataset[i] for i in items])["net_input"]["source"].shape == (2, 4000)
    dataset = load(data, max_sample_size=4500, enable_padding=True)
    net_input = dataset.collater([dataset[i] for i in items])["net_input"]
    assert net_input["source"].shape == (2, 4500) and net_input["padding_mask"].sum(1).tolist() == [500, 0]
    assert dataset.collater([]) == {}


def test_normalisation_is_over_the_whole_utterance(data):
    dataset = load(data, normalize=True)
    expected = torch.nn.functional.layer_norm(torch.arange(4000) * UNIT, (4000,))
    crop = dataset.collater([dataset[0]])["net_input"]["source"][0]
    assert crop.shape == (CROP,) and (expected.unfold(0, CROP, 1) - crop).abs().amax(1).min() < 1e-5


def test_mixed_corpora_get_new_crops_each_epoch(data):
    write_ramps(data, "more", [5000, 5100])
    task = make_task(data, multi_corpus_keys="a,b", multi_corpus_sampling_weights="0.5,0.5")
    split = "a:train,b:more"
    task.load_dataset(split)
    rows = []
    for epoch in (1, 2):
        task.get_batch_iterator(task.dataset(split), max_sentences=2, epoch=epoch)
        rows.append(
            [
                float(corpus.collater([corpus[1]])["net_input"]["source"][0, 0])
                for corpus in task.dataset(split).datasets.values()
            ]
        )
    assert rows[0][0] != rows[1][0] and rows[0][1] != rows[1][1]


def test_batches_of_mixed_corpora_are_read_as_those_of_one(data, monkeypatch):
    """fairseq alone puts rows of both into a batch, and takes all of them for rows of the first one's corpus."""
    write_ramps(data, "more", range(3900, 4900, 50))
    task = make_task(data, multi_corpus_keys="a,b", multi_corpus_sampling_weights="0.5,0.5")
    split = "a:train,b:more"
    task.load_dataset(split, data_selector=None)
    read, read_part = [], dataset_module.read_part
    monkeypatch.setattr(
        dataset_module, "read_part", lambda path, *rest: read.append(path.name) or read_part(path, *rest)
    )
    for epoch in (1, 2, 3):
        read.clear()
        seen = []
        for batch in task.get_batch_iterator(task.dataset(split), max_sentences=3, epoch=epoch).next_epoch_itr():
            names = [Path(file).name for file in batch["files"]]
            corpus = task.dataset(split).datasets["a" if names[0].startswith("train") else "b"]
            assert names == [corpus.path(row).name for row in batch["numbers"]]
            alone = [{"id": row, "source": torch.arange(int(corpus.sizes[row])) * UNIT} for row in batch["numbers"]]
            assert torch.equal(batch["net_input"]["source"], corpus.collater(alone)["net_input"]["source"])
            seen += names
        assert len(seen) == 28
        assert epoch == 1 or len(read) > 10  # crops of files that were read before


# -- bad files -------------------------------------------------------------------------------------------------------


def ramp(samples=SAMPLES[2], channels=1):
    return np.repeat(np.arange(samples)[:, None] * UNIT, channels, 1).astype(np.float32)


def write(sound, rate=16000):
    return lambda path: soundfile.write(path, sound, rate, subtype="FLOAT")


BAD = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "zero bytes": (lambda path: path.write_bytes(b""), "zero bytes long; remove it"),
    "text": (lambda path: path.write_text("words " * 4000), "unreadable or truncated .*; remove it"),
    "cut": (
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
        "[0-9]+ samples, but 4200 in the manifest; make the manifest again",
    ),
    "longer": (write(ramp(4300)), "4300 samples, but 4200 in the manifest"),
    "8 kHz": (write(ramp(), 8000), "8000 Hz, 1 channel.* instead of 16000 Hz.*--convert"),
    "stereo": (write(ramp(channels=2)), "16000 Hz, 2 channel.*--convert"),
    "no samples": (write(ramp(0)), "contains no samples"),
    "NaN": (write(np.append(ramp()[:-1], np.nan)), "contains NaN or infinite"),
    "infinity": (write(np.append(ramp()[:-1], np.inf)), "contains NaN or infinite"),
}


@pytest.fixture
def no_sleep(monkeypatch):
    """Attempts to read a file are 3 s apart."""
    monkeypatch.setattr("dinosr_plugin.data.audio.WAITS", (0, 0))


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_named_or_skipped(data, fault, no_sleep, caplog):
    breaks, message = BAD[fault]
    breaks(data / "train2.wav")
    strict = load(data, normalize=True)
    with pytest.raises(UserError, match=rf"/train2\.wav: {message}.*`dinosr check {data}/train\.tsv`") as caught:
        strict[2]
    assert "\n" not in str(caught.value)
    dataset = load(data, normalize=True, skip_bad_audio=True)
    for _ in range(2):  # logged once
        assert dataset.collater([dataset[i] for i in (1, 2, 3)])["id"].tolist() == [1, 3]
    skipped = [record.getMessage() for record in caplog.records if record.getMessage().startswith("skipped")]
    assert len(skipped) == 1 and f"{data}/train2.wav: " in skipped[0] and "(1 bad file(s) so far" in skipped[0]


def test_many_bad_files_do_not_flood_the_log(data, caplog):
    dataset = load(data, skip_bad_audio=True)
    dataset.path = lambda index: f"{index}.wav"
    for index in range(250):
        dataset.log_skipped(index, AudioError("broken"))
    skipped = [record.getMessage() for record in caplog.records if "broken" in record.getMessage()]
    assert len(skipped) == 12 and "(200 bad file(s)" in skipped[-1]


def test_a_batch_without_a_good_file_gets_another(data, no_sleep):
    """The first batch of an epoch too: fairseq's trainer keeps it as its dummy batch, which must not be empty."""
    for i in (6, 7):
        (data / f"train{i}.wav").unlink()
    iterator = batch_iterator(data, max_sample_size=None, skip_bad_audio=True)
    assert sorted(iterator.frozen_batches[0]) == [6, 7]
    assert len(iterator.first_batch["id"]) == 1 and int(iterator.first_batch["id"]) < 6
    batches = list(iterator.next_epoch_itr())
    assert sorted(len(batch["id"]) for batch in batches) == [1, 2, 2, 2]


def test_when_all_files_are_bad_training_stops(data):
    for path in data.glob("*.wav"):
        write(ramp(channels=2))(path)
    dataset = load(data, skip_bad_audio=True)
    with pytest.raises(
        UserError, match=r"no file of a batch can be used.*train\.tsv.*Check that the disk is mounted.*dinosr check"
    ):
        dataset.collater([dataset[0], dataset[1]])


def test_an_error_in_a_worker_stays_one_line(data):
    write(ramp(channels=2))(data / "train2.wav")
    iterator = batch_iterator(data, workers=1)
    with pytest.raises(UserError) as caught:
        list(iterator.next_epoch_itr())
    close(iterator)
    message = str(caught.value)
    assert (
        message.startswith(f"{data}/train2.wav: 16000 Hz, 2 channel(s)")
        and "\n" not in message
        and "Traceback" not in message
    )


def test_other_errors_of_workers_keep_their_traceback():
    try:
        raise IndexError("of ours")
    except IndexError:
        wrapped = torch._utils.ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(IndexError, match=r"(?s)Caught IndexError in DataLoader worker.*Traceback.*of ours"):
        wrapped.reraise()


def test_the_dataset_class_is_swapped_for_one_call_only(data):
    assert isinstance(load(data), SpeechDataset)
    assert audio_pretraining.FileAudioDataset is FileAudioDataset
    with pytest.raises(KeyError), compat.audio_dataset(SpeechDataset):
        raise KeyError
    assert audio_pretraining.FileAudioDataset is FileAudioDataset


# -- batches and settings --------------------------------------------------------------------------------------------


def test_no_utterance_is_left_out(data):
    """fairseq alone would drop the last batch: 3 is not a multiple of 8."""
    assert sorted(np.concatenate(batch_iterator(data, batch=5).frozen_batches)) == list(range(8))


def test_a_batch_must_hold_the_longest_crop(data):
    def batches(max_tokens, **fields):
        task = make_task(data, **fields)
        task.load_dataset("train", data_selector=None)  # as fairseq's trainer does
        return task.get_batch_iterator(task.dataset("train"), max_tokens=max_tokens).frozen_batches

    assert len(batches(1000)) == 8
    with pytest.raises(
        UserError,
        match=r"dataset.max_tokens=999 .* 1000 samples after cropping; raise it or lower task.max_sample_size",
    ):
        batches(999)
    with pytest.raises(UserError, match="dataset.max_tokens=1000 .* 4700 samples"):
        batches(1000, max_sample_size=None)


TINY = {
    "front_end": "fbank",
    "encoder_layers": 1,
    "average_top_k_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
}
TINY |= {"encoder_attention_heads": 2, "codebook_size": 2, "conv_pos": 4, "conv_pos_groups": 2}


def build(task, **options):
    return task.build_model(OmegaConf.structured(DinoSRConfig(_name="dinosr", **TINY)), **options)


@pytest.mark.parametrize(
    "field, value", [("min_sample_size", 719), ("min_sample_size", None), ("max_sample_size", 500)]
)
def test_utterances_of_one_frame_are_refused(data, field, value):
    build(make_task(data, min_sample_size=720))
    task = make_task(data, **{field: value})
    with pytest.raises(UserError, match=rf"task\.{field}={value or 0} allows utterances of fewer than 2 frames"):
        build(task)
    build(task, from_checkpoint=True)  # which was trained by then


def test_data_must_be_given():
    for missing in (MISSING, ""):
        with pytest.raises(UserError, match=r"task\.data: not given; add task\.data=DIR"):
            build(make_task(missing))
        with pytest.raises(UserError, match=r"task\.data: not given"):
            make_task(missing).load_dataset("train")
    build(make_task(MISSING), from_checkpoint=True)


def test_faulty_manifests_give_one_line(data):
    with pytest.raises(UserError, match=r"nowhere\.tsv: no such file.*dinosr manifest"):
        make_task(data).load_dataset("nowhere")
    with pytest.raises(UserError, match=r"train\.tsv: every file is shorter than task.min_sample_size=4701"):
        make_task(data, min_sample_size=4701).load_dataset("train")


def test_our_fields_have_help():
    fields = {field.name: field for field in dataclasses.fields(DinoSRPretrainingConfig)}
    assert all(fields[name].metadata["help"] for name in DinoSRPretrainingConfig.__annotations__)
    assert not fields["skip_bad_audio"].default

"""Views depend on seed, epoch, utterance and view only: not on batches, order, workers, ranks or a restart."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from fairseq.data import FairseqDataset, SubsampleDataset
from fairseq.utils import apply_to_sample
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.views import Gain, ViewDataset
from dinosr_plugin.data.windows import WindowDataset
from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask

SIZES = [1500 + 100 * row for row in range(9)]
LONGEST = 2000  # samples; longer utterances are cropped, at another place in each epoch


class Crop:
    """A random part of at most ``samples`` samples."""

    def __init__(self, samples: int):
        self.samples = samples

    def __call__(self, wave: np.ndarray, rng: np.random.Generator, utterance: int) -> np.ndarray:
        start = rng.integers(max(0, len(wave) - self.samples) + 1)
        return wave[start : start + self.samples]


VIEWS = [[], [Gain(-6, 6)], [Crop(700), Gain(-20, 0)]]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Nine files of noise, in three speakers' folders."""
    folder = tmp_path_factory.mktemp("views")
    rows = [str(folder)]
    for row, samples in enumerate(SIZES):
        path = folder / f"speaker{row // 3}/{row}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.random.default_rng(row).normal(0, 0.1, samples), 16000)
        rows.append(f"{path.relative_to(folder)}\t{samples}")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    return folder


def speech(data: Path, **options) -> SpeechDataset:
    options = {"pad": True, "max_sample_size": LONGEST, "seed": 1, **options}
    return SpeechDataset(str(data / "train.tsv"), 16000, **options)


def viewed(data: Path, views=VIEWS, seed: int = 1, **options) -> ViewDataset:
    return ViewDataset(speech(data, **options), views, seed)


def iterator(data: Path, epoch: int = 1, workers: int = 0, shards: int = 1, shard: int = 0, batch: int = 2, **options):
    """fairseq's, made by the pre-training task."""
    config = DinoSRPretrainingConfig(tpu=False, data=str(data), seed=1, max_sample_size=LONGEST)
    task = DinoSRPretrainingTask.setup_task(OmegaConf.structured(config))
    return task.get_batch_iterator(
        viewed(data, **options),
        max_sentences=batch,
        seed=1,
        num_workers=workers,
        epoch=epoch,
        num_shards=shards,
        shard_id=shard,
    )


def views_of(batch: dict) -> dict[int, list[bytes]]:
    """Utterance -> its views without padding; checks shapes, types and padding."""
    sources, masks = batch["net_input"]["source"], batch["net_input"]["padding_mask"]
    found: dict[int, list[bytes]] = {utterance: [] for utterance in batch["id"].tolist()}
    for source, mask in zip(sources, masks, strict=True):
        assert source.dtype == torch.float32 and mask.dtype == torch.bool
        assert source.shape == mask.shape and len(source) == len(batch["id"])
        assert not source[mask].any() and not mask.all(1).any() and not mask.all(0).any()
        for utterance, row, padding in zip(found, source, mask):
            assert not padding[: (~padding).sum()].any()  # only at the end
            found[utterance].append(row[~padding].numpy().tobytes())
    return found


def epoch_views(batches) -> dict[int, list[bytes]]:
    """All views of an epoch, independent of its batches; every utterance occurs once."""
    found: dict[int, list[bytes]] = {}
    for batch in batches:
        if batch:  # a shard may get an empty one at the end
            one = views_of(batch)
            assert not found.keys() & one.keys()
            found |= one
    return found


@pytest.fixture(scope="module")
def reference(data) -> dict[int, list[bytes]]:
    """The views of epoch 1, one utterance a batch."""
    dataset = viewed(data)
    return epoch_views(dataset.collater([dataset[row]]) for row in range(len(dataset)))


# ---- what a view depends on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 4, 9])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_and_workers_change_no_view(data, reference, batch, workers):
    assert epoch_views(iterator(data, workers=workers, batch=batch).next_epoch_itr()) == reference
    assert len(reference) == len(SIZES) and all(len(views) == len(VIEWS) for views in reference.values())


def test_order_changes_no_view(data, reference):
    dataset = viewed(data)
    for rows in ([8, 0, 3, 7], [7, 3, 0, 8]):
        one_by_one = dataset.collater([dataset[row] for row in rows])
        together = dataset.collater(dataset.__getitems__(rows))
        assert views_of(one_by_one) == views_of(together) == {row: reference[row] for row in rows}
        assert together["id"].tolist() == together["numbers"] == rows
        assert [Path(file).stem for file in together["files"]] == [str(row) for row in rows]


def test_epochs_rows_views_and_seeds_differ(data):
    """The gain of a constant waveform is the random number itself."""
    wave, gains = np.ones(1, np.float32), set()
    for seed in (1, 2):
        dataset = viewed(data, [[Gain(-6, 6)], [Gain(-6, 6)]], seed)
        for epoch in (1, 2, 3):
            dataset.set_epoch(epoch)
            gains |= {dataset.make_view(wave, row, view).item() for row in range(9) for view in range(2)}
    assert len(gains) == 2 * 3 * 9 * 2


@pytest.mark.parametrize("moving", [True, False])
def test_views_of_a_validation_are_the_same_in_every_epoch(data, moving):
    dataset = ViewDataset(speech(data, max_sample_size=max(SIZES)), VIEWS, seed=1, moving=moving)
    epochs = []
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        epochs.append(views_of(dataset.collater([dataset[0]]))[0])
    assert (epochs[0] == epochs[1]) == (not moving)


def test_every_epoch_has_its_own_views(data, reference):
    batches = iterator(data)
    epochs = [epoch_views(batches.next_epoch_itr()) for _ in range(3)]
    assert epochs[0] == reference
    for row, size in enumerate(SIZES):
        clean, louder, cropped = ({epoch[row][view] for epoch in epochs} for view in range(3))
        assert len(louder) == len(cropped) == 3
        assert len(clean) == 1 if size <= LONGEST else len(clean) > 1
    again = viewed(data)
    again.set_epoch(3)
    assert views_of(again.collater([again[8]]))[8] == epochs[2][8] and int(again.dataset.epoch) == 3


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("done", [1, 3])
def test_a_resumed_epoch_has_the_same_views(data, workers, done):
    """Saved and restored through fairseq's iterator, in its second epoch."""
    whole = iterator(data)
    whole.next_epoch_itr()
    for _ in whole.next_epoch_itr():
        pass
    whole = iterator(data, epoch=2)
    batches = whole.next_epoch_itr()
    before = [views_of(next(batches)) for _ in range(done)]
    state = whole.state_dict()
    assert state["iterations_in_epoch"] == done and len(before) == done
    rest = [views_of(batch) for batch in batches]
    resumed = iterator(data, epoch=state["epoch"], workers=workers)  # as fairseq's load_checkpoint does
    resumed.load_state_dict(state)  # starts the workers
    assert [views_of(batch) for batch in resumed.next_epoch_itr()] == rest and len(rest) == 5 - done


@pytest.mark.parametrize("workers", [0, 2])
def test_persistent_workers_receive_the_epoch(data, workers):
    batches, alone = iterator(data, workers=workers), viewed(data)
    for epoch in (1, 2, 3):
        alone.set_epoch(epoch)
        expected = epoch_views(alone.collater([alone[row]]) for row in range(len(alone)))
        assert epoch_views(batches.next_epoch_itr()) == expected


def test_two_ranks_together_have_the_views_of_one(data, reference):
    shards = [epoch_views(iterator(data, shards=2, shard=shard).next_epoch_itr()) for shard in range(2)]
    assert not shards[0].keys() & shards[1].keys() and shards[0] | shards[1] == reference


# ---- what a batch contains -------------------------------------------------------------------------------------------


def test_views_are_the_transformed_crops(data):
    """View 0 is the crop of the dataset; view 1 is the same crop with a gain; view 2 is a part of it with a gain."""
    dataset, plain = viewed(data), speech(data)
    rows = list(range(9))
    batch, clean = dataset.collater([dataset[row] for row in rows]), plain.collater([plain[row] for row in rows])
    sources, masks = batch["net_input"]["source"], batch["net_input"]["padding_mask"]
    assert torch.equal(sources[0], clean["net_input"]["source"]) and sources[0].shape == (9, LONGEST)
    assert torch.equal(masks[0], clean["net_input"]["padding_mask"]) and torch.equal(masks[0], masks[1])
    assert torch.cat(sources[:2]).shape == (18, LONGEST)
    gains = sources[1].norm(dim=1) / sources[0].norm(dim=1)
    torch.testing.assert_close(sources[1], gains[:, None] * sources[0])
    assert (gains > 10 ** (-6 / 20)).all() and (gains < 10 ** (6 / 20)).all() and len(gains.unique()) == 9
    assert sources[2].shape == (9, 700) and not masks[2].any()


def test_views_are_normalised_after_their_transforms(data):
    """Each to mean 0 and variance 1, as fairseq normalises a waveform; padding stays 0."""
    rows = [0, 4, 8]
    for normalize in (True, False):
        dataset = ViewDataset(speech(data), VIEWS, 1, normalize)
        batch = dataset.collater([dataset[row] for row in rows])
        for view, (sources, masks) in enumerate(zip(batch["net_input"]["source"], batch["net_input"]["padding_mask"])):
            assert not sources[masks].any()
            for source, mask, plain in zip(sources, masks, reference_view(data, rows, view)):
                expected = F.layer_norm(plain, plain.shape) if normalize else plain
                assert torch.equal(source[~mask], expected)


def reference_view(data: Path, rows: list[int], view: int) -> list[torch.Tensor]:
    """The waveforms of one view, not normalised."""
    dataset = viewed(data)
    waves = speech(data)
    crops = [waves.collater([waves[row]])["net_input"]["source"][0].numpy() for row in rows]
    return [torch.from_numpy(np.array(dataset.make_view(crop, row, view))) for crop, row in zip(crops, rows)]


@pytest.mark.parametrize("normalize", [True, False])
def test_the_task_normalises_views_and_not_what_they_are_made_from(data, normalize):
    config = DinoSRPretrainingConfig(tpu=False, data=str(data), seed=1, views="clean/equalizer", normalize=normalize)
    config.min_sample_size = 400
    task = DinoSRPretrainingTask.setup_task(OmegaConf.structured(config))
    task.load_dataset("train")
    dataset = task.datasets["train"]
    assert (dataset.normalize, dataset.dataset.normalize) == (normalize, False)
    inputs = dataset.collater([dataset[0]])["net_input"]
    for source in inputs["source"]:
        assert (abs(source.std(correction=0).item() - 1) < 1e-3) is normalize


def test_a_transform_cannot_change_another_view(data):
    def in_place(wave, rng, utterance):
        wave *= 2
        return wave

    for chain in ([in_place], [Gain(0, 0), in_place]):
        dataset = viewed(data, [[], chain])
        with pytest.raises(ValueError, match="read-only"):
            dataset.collater([dataset[0]])


def test_labels_and_other_inputs_are_kept(data, tmp_path):
    labels = [" ".join(["1"] * max(1, round(size / 320))) for size in SIZES]
    (tmp_path / "train.tsv").write_text((data / "train.tsv").read_text())
    (tmp_path / "train.km").write_text("\n".join(labels) + "\n")
    (tmp_path / "dict.km.txt").write_text("0 1\n1 1\n")
    dataset = viewed(tmp_path, labels=["km"])
    inputs = dataset.collater([dataset[8], dataset[0]])["net_input"]
    plain = dataset.dataset.collater([dataset[8], dataset[0]])["net_input"]
    assert inputs.keys() == plain.keys() and inputs["label_rate"] == 50
    assert torch.equal(inputs["labels"], plain["labels"]) and torch.equal(inputs["label_starts"], plain["label_starts"])


def test_fairseq_moves_and_converts_every_view(data):
    dataset = viewed(data)
    halved = apply_to_sample(lambda t: t.half() if t.is_floating_point() else t, dataset.collater([dataset[0]]))
    assert [source.dtype for source in halved["net_input"]["source"]] == [torch.half] * 3


# ---- interface of the dataset ----------------------------------------------------------------------------------------


def test_it_behaves_like_the_dataset(data):
    dataset, plain = viewed(data), speech(data)
    assert len(dataset) == len(plain) and dataset.sizes.tolist() == plain.sizes.tolist()
    rows = np.arange(9)
    assert dataset.num_tokens_vec(rows).tolist() == plain.num_tokens_vec(rows).tolist()
    assert [dataset.num_tokens(row) for row in rows] == [plain.num_tokens(row) for row in rows]
    assert [dataset.size(row) for row in rows] == [plain.size(row) for row in rows]
    assert dataset.supports_prefetch is plain.supports_prefetch
    assert dataset.supports_fetch_outside_dataloader and dataset.can_reuse_epoch_itr_across_epochs
    for ours, theirs in zip(dataset.filter_indices_by_size(rows, 1600), plain.filter_indices_by_size(rows, 1600)):
        assert list(ours) == list(theirs)
    np.random.seed(0)
    order = dataset.ordered_indices()
    np.random.seed(0)
    assert order.tolist() == plain.ordered_indices().tolist()
    batches, expected = (each.batch_by_size(order, max_tokens=4500) for each in (dataset, plain))
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in expected] and len(batches) > 3


def test_an_empty_batch(data):
    assert viewed(data).collater([]) == {}


def test_windows_and_subsets(data, reference):
    windows = WindowDataset(speech(data, max_sample_size=None), 500, same_speaker=True, moving=True)
    dataset = ViewDataset(windows, VIEWS, seed=1)
    batch = dataset.collater([dataset[window] for window in (0, 5, 11)])
    views = views_of(batch)
    assert views[5] == views_of(dataset.collater([dataset[5]]))[5]
    assert torch.equal(batch["net_input"]["source"][0][1], windows[5]["source"])
    subset = SubsampleDataset(viewed(data), 0.5, seed=1)
    part = views_of(subset.collater([subset[index] for index in range(len(subset))]))
    assert len(part) == len(subset) and part == {row: reference[row] for row in part}


class Tones(FairseqDataset):
    """A minimal dataset that is not part of this package."""

    def __getitem__(self, index):
        return {"id": index, "source": torch.full((100,), float(index + 1))}

    def __len__(self):
        return 3

    def collater(self, samples):
        sources = torch.stack([sample["source"] for sample in samples])
        return {"id": torch.tensor([sample["id"] for sample in samples]), "net_input": {"source": sources}}


def test_any_dataset(data):
    dataset = ViewDataset(Tones(), [[], [Gain(20, 20)]], seed=0)
    inputs = dataset.collater(dataset.__getitems__([2, 0]))["net_input"]
    assert inputs["source"][0][:, 0].tolist() == [3, 1] and inputs["source"][1][:, 0].tolist() == [30, 10]
    assert [mask.any().item() for mask in inputs["padding_mask"]] == [False, False]


def test_crops_that_depend_on_the_batch_are_rejected(data):
    with pytest.raises(UserError, match="task.enable_padding=False: .*; set task.enable_padding=True"):
        viewed(data, pad=False)


# ---- bad files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(data, tmp_path, monkeypatch) -> Path:
    """The same manifest; files 2 and 5 are missing."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "train.tsv").write_text((data / "train.tsv").read_text().replace(str(data), str(tmp_path), 1))
    for path in data.glob("*/*.flac"):
        if path.stem not in "25":
            target = tmp_path / path.relative_to(data)
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_skipped(damaged, reference, workers):
    batches = iterator(damaged, workers=workers, batch=3, skip_bad_audio=True)
    expected = {row: views for row, views in reference.items() if row not in (2, 5)}
    assert epoch_views(batches.next_epoch_itr()) == expected
    assert batches.dataset.dataset.bad.nonzero().flatten().tolist() == [2, 5]


def test_a_batch_of_bad_files_gets_another_utterance(damaged, reference):
    dataset = viewed(damaged, skip_bad_audio=True)
    ((row, views),) = views_of(dataset.collater([dataset[2], dataset[5]])).items()
    assert row not in (2, 5) and views == reference[row]


def test_a_bad_file_raises_an_error_by_default(damaged):
    with pytest.raises(UserError, match=r"speaker0/2\.flac: .*no such file"):
        viewed(damaged)[2]


# ---- gain ------------------------------------------------------------------------------------------------------------

DECIBELS = st.floats(-60, 60)


@given(
    wave=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30),
    gains=st.tuples(DECIBELS, DECIBELS).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_gain_multiplies_by_one_factor_within_its_limits(wave, gains, seed):
    wave, (low, high) = np.array(wave, np.float32), gains
    original = wave.copy()
    louder = Gain(low, high)(wave, np.random.default_rng(seed))
    assert louder.dtype == np.float32 and louder.shape == wave.shape and np.array_equal(wave, original)
    assert np.array_equal(louder, Gain(low, high)(wave, np.random.default_rng(seed)))
    factor = Gain(low, high)(np.ones(1, np.float32), np.random.default_rng(seed)).item()
    assert 10 ** (low / 20) * (1 - 1e-6) <= factor <= 10 ** (high / 20) * (1 + 1e-6)
    assert np.array_equal(louder, wave * np.float32(factor))


def test_gain_is_uniform_in_decibels():
    rng, one = np.random.default_rng(0), np.ones(1, np.float32)
    drawn = np.array([20 * np.log10(Gain(-10, 30)(one, rng).item()) for _ in range(4000)])
    counts, _ = np.histogram(drawn, bins=8, range=(-10, 30))
    assert counts.sum() == 4000 and (abs(counts - 500) < 100).all()  # 4.8 standard deviations


@pytest.mark.parametrize("low, high", [(6, -6), (-np.inf, 0), (0, np.inf), (np.nan, 0)])
def test_limits_of_the_gain(low, high):
    with pytest.raises(UserError, match="two finite gains in dB"):
        Gain(low, high)

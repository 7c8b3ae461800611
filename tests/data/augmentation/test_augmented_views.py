"""Crops and augmentation in the data loader of a task: what they depend on, settings, and real speech."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from dinosr_plugin.data.augmentation.augment import peak
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.r_spin import RSpin
from dinosr_plugin.models.spin import Spin
from dinosr_plugin.tasks.checks import check_needs
from dinosr_plugin.tasks.finetuning import DinoSRFinetuningConfig, DinoSRFinetuningTask
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask
from support.recordings import white_noise, write_recordings

LENGTHS = [2000, 4000, 6000, 8000, 5000, 3000, 7000]
VIEWS = "crop0.2+augment/crop0.4+peak"  # 3200 and 6400 samples
SHARES = [0.4, 0.4, 0.2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    waves = [white_noise(length, seed) for seed, length in enumerate(LENGTHS)]
    folder = tmp_path_factory.mktemp("corpus")
    write_recordings(folder, waves, name="train")
    write_recordings(folder / "valid", waves[:3], name="valid")
    (folder / "valid.tsv").write_text((folder / "valid/valid.tsv").read_text())
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """A manifest for each field; the second room is shorter than a crop, the first longer."""
    folder = tmp_path_factory.mktemp("sources")
    made = {name: [white_noise(length) for length in (1000, 9000)] for name in ("noise", "music", "babble")}
    made["rooms"] = [white_noise(9000) * np.exp(-np.arange(9000) / 500, dtype=np.float32), np.eye(1, 400, 30)[0]]
    return {name: str(write_recordings(folder / name, waves)) for name, waves in made.items()}


def make_task(data: Path, **settings) -> DinoSRPretrainingTask:
    fields = {"views": VIEWS, "augment_shares": SHARES, "seed": 1, "enable_padding": True, **settings}
    config = DinoSRPretrainingConfig(tpu=False, data=str(data), min_sample_size=0, **fields)
    return DinoSRPretrainingTask.setup_task(OmegaConf.structured(config))


def load(data: Path, split: str = "train", **settings):
    task = make_task(data, **settings)
    task.load_dataset(split, **({"data_selector": None} if split == "train" else {}))
    return task, task.dataset(split)


def iterator(data: Path, workers: int = 0, size: int = 1, epoch: int = 1, split: str = "train", **settings):
    sharding = {key: settings.pop(key) for key in ("num_shards", "shard_id") if key in settings}
    task, dataset = load(data, split, **settings)
    return task.get_batch_iterator(dataset, max_sentences=size, seed=1, num_workers=workers, epoch=epoch, **sharding)


def views_of(batches) -> dict[int, list[bytes]]:
    """Utterance -> its views."""
    found = {}
    for batch in batches:
        if batch:
            short, long = batch["net_input"]["source"]
            assert short.shape[1:] == (3200,) and long.shape[1:] == (6400,)
            assert not any(mask.any() for mask in batch["net_input"]["padding_mask"])
            for view in (short, long):
                torch.testing.assert_close(view.abs().amax(1), torch.ones(len(view)), rtol=0, atol=0)
            found |= {
                row: [view[place].numpy().tobytes() for view in (short, long)]
                for place, row in enumerate(batch["id"].tolist())
            }
    return found


# ---- what a view depends on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers, size", [(1, 2), (2, 3)])
@pytest.mark.parametrize("recorded", [False, True])
def test_workers_batches_and_ranks_change_no_view(corpus, sources, workers, size, recorded):
    settings = sources if recorded else {}
    reference = views_of(iterator(corpus, **settings).next_epoch_itr())
    batches = iterator(corpus, workers, size, **settings)
    assert views_of(batches.next_epoch_itr()) == reference and len(reference) == len(LENGTHS)
    second = views_of(batches.next_epoch_itr())
    assert views_of(iterator(corpus, epoch=2, **settings).next_epoch_itr()) == second
    assert all(second[row][0] != reference[row][0] for row in reference if LENGTHS[row] > 3200)
    ranks = [
        views_of(iterator(corpus, size=size, num_shards=2, shard_id=rank, **settings).next_epoch_itr())
        for rank in range(2)
    ]
    assert not ranks[0].keys() & ranks[1].keys() and ranks[0] | ranks[1] == reference


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_has_the_same_views(corpus, workers):
    whole = iterator(corpus, size=2, epoch=2)
    batches = whole.next_epoch_itr()
    next(batches)
    state = whole.state_dict()
    rest = views_of(batches)
    resumed = iterator(corpus, workers, 2, epoch=state["epoch"])
    resumed.load_state_dict(state)
    assert views_of(resumed.next_epoch_itr()) == rest and 0 < len(rest) < len(LENGTHS)


def test_the_seed_changes_every_view(corpus):
    one, other = (views_of(iterator(corpus, seed=seed).next_epoch_itr()) for seed in (1, 2))
    assert all(one[row][0] != other[row][0] for row in one if LENGTHS[row] > 3200)


def test_views_of_a_validation_are_the_same_in_every_epoch(corpus):
    first, second = (views_of(iterator(corpus, epoch=epoch, split="valid").next_epoch_itr()) for epoch in (1, 2))
    assert first == second and len(first) == 3


def test_the_clean_view_is_a_crop_or_repeated(corpus):
    _, dataset = load(corpus)
    views = dataset.collater([dataset[row] for row in range(len(LENGTHS))])["net_input"]["source"][1].numpy()
    for row, view in enumerate(views):
        wave = white_noise(LENGTHS[row], row)
        if LENGTHS[row] < 6400:
            np.testing.assert_array_equal(view, peak(np.resize(wave, 6400)))
        else:
            parts = np.lib.stride_tricks.sliding_window_view(wave, 6400)
            assert any(np.array_equal(view, peak(part)) for part in parts)


def test_the_log_says_what_is_used(corpus, sources, caplog):
    caplog.set_level(logging.INFO, "dinosr_plugin.tasks.views")
    load(corpus)
    load(corpus, **sources)
    manifest = corpus / "train.tsv"
    shorter = [f"{manifest}: {count} of 7 utterances are shorter than {name} and are repeated to its length"
               for name, count in (("crop0.2", 2), ("crop0.4", 5))]  # fmt: skip
    assert caplog.messages == [
        f"{manifest}: augment takes noise from coloured noise, generated; music from the noise, because task.music is "
        "not given; babble from the other utterances; room responses from a simulation",
        *shorter,
        f"{manifest}: augment takes noise from {sources['noise']}; music from {sources['music']}; babble from "
        f"{sources['babble']}; room responses from {sources['rooms']}",
        *shorter,
    ]


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"music": "a.tsv", "views": "noise", "noise": "b.tsv"}, "task.music=a.tsv: task.views=noise does not use it; "
         "add augment to a view, or remove it"),
        ({"rooms": "a.tsv", "views": None}, "task.rooms=a.tsv: task.views does not use it; add augment to a view"),
        ({"rooms": "a.tsv", "augment_shares": [0.0, 1.0, 0.0]}, "task.rooms=a.tsv: task.augment_shares=[0.0, 1.0, 0.0] "
         "does not use it; raise share number 1, or remove it"),
        ({"noise": "a.tsv", "augment_shares": [1.0, 0.0, 0.0]}, "task.noise=a.tsv: task.augment_shares=[1.0, 0.0, 0.0] "
         "does not use it; raise share number 2, or remove it"),
        ({"augment_shares": [0.5, 0.6, 0.0]}, "task.augment_shares=[0.5, 0.6, 0.0]: give three shares whose sum is 1, "
         "of reverberation, additive noise and neither"),
        ({"augment_shares": [0.5, 0.5]}, "task.augment_shares=[0.5, 0.5]: give three shares whose sum is 1"),
        ({"augment_snr": [20.0, 0.0]}, "task.augment_snr=[20.0, 0.0]: give two ratios in dB, the lower one first"),
        ({"max_sample_size": 6399}, "task.max_sample_size=6399: utterances are cropped to it before crop0.4, which has "
         "6400 samples; raise it, or set task.max_sample_size=null"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(corpus, settings, message):
    with pytest.raises(UserError) as refused:
        make_task(corpus, **settings)
    assert str(refused.value).startswith(message)


def test_noise_of_a_view_needs_no_share(corpus, sources):
    make_task(corpus, views="noise/augment", noise=sources["noise"], augment_shares=[1.0, 0.0, 0.0])


def test_thirds_are_shares(corpus):
    make_task(corpus, augment_shares=[0.333333, 0.666667, 0.0])


def test_an_empty_manifest_is_named(corpus, tmp_path):
    (tmp_path / "rooms.tsv").write_text(f"{tmp_path}\n")
    with pytest.raises(UserError, match="rooms.tsv: empty manifest"):
        load(corpus, rooms=str(tmp_path / "rooms.tsv"))


def test_fine_tuning_refuses_crops():
    config = DinoSRFinetuningConfig(data="none", tpu=False, views="crop2+augment")
    with pytest.raises(UserError, match=r"task.views=crop2\+augment: the transcript would not match a crop"):
        DinoSRFinetuningTask(OmegaConf.structured(config))


@pytest.mark.parametrize("objective, what", [(Spin, "the frames of views"), (RSpin, "labels of frames")])
def test_models_that_compare_frames_refuse_crops(objective, what):
    config = OmegaConf.structured(DinoSRPretrainingConfig(tpu=False, views="crop2/crop2+augment", labels="km"))
    with pytest.raises(UserError, match=f"a crop has other frames than its utterance, but model=x compares {what}"):
        check_needs(config, objective, "x")


# ---- real speech -----------------------------------------------------------------------------------------------------


def test_real_speech(librispeech_mini, tmp_path):
    """Additive noise and reverberation change the signal as much as they should; what is added differs."""
    files = sorted((librispeech_mini / "dev").rglob("*.flac"))[:6]
    rows = [f"{path.relative_to(librispeech_mini)}\t{soundfile.info(path).frames}" for path in files]
    (tmp_path / "train.tsv").write_text("\n".join([str(librispeech_mini), *rows]) + "\n")
    ratios = {}
    for kind, shares in {
        "reverberation": [1.0, 0.0, 0.0],
        "additive": [0.0, 1.0, 0.0],
        "none": [0.0, 0.0, 1.0],
    }.items():
        _, dataset = load(tmp_path, views="augment", augment_shares=shares, max_sample_size=32000)
        clean = dataset.dataset
        source = dataset.collater([dataset[row] for row in range(6)])["net_input"]["source"].numpy()
        wave = clean.collater([clean[row] for row in range(6)])["net_input"]["source"].numpy()
        gains = (source * wave).sum(1) / (wave * wave).sum(1)  # what the view has of the utterance
        rest = source - gains[:, None] * wave
        ratios[kind] = 10 * np.log10((gains[:, None] * wave).var(1) / np.maximum(rest.var(1), 1e-30))
    assert (ratios["none"] > 100).all()
    assert (ratios["additive"] > -1).all() and (ratios["additive"] < 21).all() and np.ptp(ratios["additive"]) > 3
    assert (ratios["reverberation"] > -10).all() and (ratios["reverberation"] < 10).all()

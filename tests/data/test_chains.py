"""``task.views``: the names of transforms, and the views that the data loader makes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dinosr_plugin.data.augmentation.augment import peak
from dinosr_plugin.data.chains import change_voices, clip, find_crops, make_views, parse_views
from dinosr_plugin.data.crops import Crop
from dinosr_plugin.data.perturbation import praat
from dinosr_plugin.data.perturbation.equalizer import Equalizer
from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask
from support.voices import RATE, write_voices


def test_views_are_parsed():
    assert parse_views("clean/perturb") == [[], ["perturb"]]
    assert parse_views(" voice + equalizer /clean") == [["voice", "equalizer"], []]
    assert [change_voices(text) for text in ("clean/perturb", "voice", "clean/equalizer")] == [True, True, False]


@pytest.mark.parametrize(
    "text, name",
    [("clean/echo", "echo"), ("", ""), ("voice/", ""), ("equalizer+/clean", ""), ("clean+equalizer", "clean")],
)
def test_unknown_names_are_refused(text, name):
    with pytest.raises(UserError) as refused:
        parse_views(text)
    known = "clean, crop2 (seconds), voice, equalizer, perturb, noise, augment, peak, joined by +"
    assert str(refused.value).startswith(f"task.views={text}: {name!r} is not a transform; give a chain of {known}")


@pytest.mark.parametrize(
    "name",
    ["crop", "crop0", "crop0.0", "crop-2", "cropnan", "cropinf", "crop1e1", "crop2s", "crop601", "crop.", "crop_2"],
)
def test_crops_need_a_number_of_seconds(name):
    with pytest.raises(UserError) as refused:
        parse_views(f"{name}+augment/clean")
    message = f"{name!r}: give the seconds of the crop, above 0 and at most 600, such as crop2 or crop2.5"
    assert str(refused.value) == f"task.views={name}+augment/clean: {message}"


@pytest.mark.parametrize("text, name", [("augment+crop2", "crop2"), ("clean/crop2+crop1", "crop1")])
def test_a_crop_comes_first(text, name):
    with pytest.raises(UserError) as refused:
        parse_views(text)
    assert str(refused.value) == f"task.views={text}: {name} must be the first of its chain, such as {name}+augment"


def test_crops_and_augmentation():
    made = []
    augment = lambda: made.append("augment") or made[-1]
    views = make_views("crop2+augment/crop2.5+augment+equalizer/crop0.00001+peak", pytest.fail, pytest.fail, augment)
    assert views == [
        [Crop(32000), "augment"],
        [Crop(40000), "augment", Equalizer(), clip],
        [Crop(1), peak],
    ]
    assert made == ["augment"]
    assert find_crops("crop2+augment/crop6/clean/crop2") == {"crop2": 32000, "crop6": 96000}


def test_clipping_limits_samples():
    wave = np.array([-3, -0.5, 0.25, 1.5], np.float32)
    wave.flags.writeable = False
    assert clip(wave, np.random.default_rng(0)).tolist() == [-1, -0.5, 0.25, 1]


def test_voices_are_made_once_and_only_if_a_view_has_them():
    made = []
    voice = lambda: made.append("voice") or made[-1]
    assert make_views("clean/equalizer", voice, pytest.fail, pytest.fail) == [[], [Equalizer(), clip]] and not made
    views = make_views("voice/perturb", voice, pytest.fail, pytest.fail)
    assert views == [["voice", clip], ["voice", Equalizer(), clip]] and made == ["voice"]


def test_the_equaliser_is_followed_by_a_limit():
    clean, equalized = make_views("clean/equalizer", pytest.fail, pytest.fail, pytest.fail)
    assert clean == [] and isinstance(equalized[0], Equalizer) and equalized[1:] == [clip]
    wave = np.array([-3, -0.5, 0.25, 1.5], np.float32)
    wave.flags.writeable = False
    assert clip(wave, np.random.default_rng(0)).tolist() == [-1, -0.5, 0.25, 1]


# ---- in the data loader ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    pytest.importorskip("parselmouth")
    folder = write_voices(tmp_path_factory.mktemp("voices"), {"a": 110.0, "b": 210.0}, lengths=(RATE, 12000, 20000))
    return write_voices(folder, {"a": 110.0, "b": 210.0}, "valid", lengths=(9000,))


def epoch_views(data: Path, run: Path, epoch: int = 1, split: str = "train", **options) -> dict[int, torch.Tensor]:
    """Utterance -> its second view, through fairseq's iterator of the task."""
    fields = {"views": "clean/perturb", "max_sample_size": RATE, "save_dir": str(run), "enable_padding": True}
    config = DinoSRPretrainingConfig(
        tpu=False,
        data=str(data),
        seed=options.pop("seed", 1),
        min_sample_size=None,
        **fields,
        **options.pop("task", {}),
    )
    task = DinoSRPretrainingTask.setup_task(OmegaConf.structured(config))
    task.load_dataset(split, **({"data_selector": None} if split == "train" else {}))
    options = {"max_sentences": 2, "seed": 1, **options}
    found = {}
    for batch in task.get_batch_iterator(task.dataset(split), epoch=epoch, **options).next_epoch_itr():
        clean, perturbed = batch["net_input"]["source"]
        clean_mask, mask = batch["net_input"]["padding_mask"]
        assert clean.shape == perturbed.shape and torch.equal(mask, clean_mask)
        assert perturbed.abs().max() <= 1
        found |= {row: wave[~padding] for row, wave, padding in zip(batch["id"].tolist(), perturbed, mask)}
    praat.close()
    return found


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> list[bool]:
    assert one.keys() == other.keys()
    return [torch.equal(one[row], other[row]) for row in sorted(one)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def reference(data, run) -> dict[int, torch.Tensor]:
    return epoch_views(data, run)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_batches_change_no_voice(data, run, reference, workers):
    """With workers, each of which starts a Praat of its own."""
    assert len(reference) == 6
    assert all(same(epoch_views(data, run, num_workers=workers, max_sentences=3), reference))


def test_the_voices_of_a_run_that_resumes_are_those_of_the_run(data, run, reference):
    """Measured in the run's folder, or again in another one."""
    second = epoch_views(data, run, epoch=2)
    assert all(same(epoch_views(data, run / "other", epoch=2), second)) and not any(same(second, reference))
    assert (run / "f0_ranges.tsv").read_text() == (run / "other/f0_ranges.tsv").read_text()


def test_the_seed_changes_every_voice(data, run, reference):
    assert not any(same(epoch_views(data, run, seed=2), reference))


def test_voices_of_other_splits_are_the_same_in_each_epoch(data, run):
    first = epoch_views(data, run, split="valid")
    assert all(same(first, epoch_views(data, run, epoch=2, split="valid"))) and len(first) == 2


def test_resampling_is_chosen_by_a_setting(data, run, reference, monkeypatch):
    monkeypatch.setattr(praat, "ask", None)
    resampled = epoch_views(data, run, task={"perturb_by": "resample"})
    assert not any(same(resampled, reference))
    assert all(np.isfinite(wave.numpy()).all() for wave in resampled.values())


def test_a_missing_package_is_named_when_the_data_are_loaded(data, run, monkeypatch):
    monkeypatch.setattr(praat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"parselmouth is missing.*pip install .*task.perturb_by=resample"):
        epoch_views(data, run)

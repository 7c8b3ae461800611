"""Noise in views: the ratio is the one that was drawn, and depends on nothing but the generator; bad recordings."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from dinosr_plugin.data.chains import make_views
from dinosr_plugin.data.noise import Noise, add_noise
from dinosr_plugin.data.recordings import Recordings
from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingConfig, DinoSRPretrainingTask
from support.recordings import white_noise, write_recordings
from support.training import write_corpus

LENGTHS = (1000, 8000, 30000)


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    """Every sample occurs once, so that the place of a part can be found."""
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.01 * 10**number, length).astype(np.float32) for number, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, recordings) -> Path:
    return write_recordings(tmp_path_factory.mktemp("noise"), recordings)


def ratio(wave: np.ndarray, noisy: np.ndarray) -> float:
    """Signal-to-noise ratio in dB, measured."""
    added = noisy.astype(np.float64) - wave
    return 10 * np.log10(np.mean(wave.astype(np.float64) ** 2) / np.mean(added**2))


# ---- the transform ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr", [-20.0, -3.0, 0.0, 7.5, 40.0])
def test_the_ratio_is_as_given(snr, recordings):
    for noise in recordings[1:]:
        noisy = add_noise(white_noise(), noise[:5000], snr)
        assert ratio(white_noise(), noisy) == pytest.approx(snr, abs=0.01) and noisy.dtype == np.float32


def test_ratios_are_uniform_between_the_bounds(manifest):
    noise = Noise(Recordings.read(manifest), -10, 10)
    found = [ratio(white_noise(), noise(white_noise(), np.random.default_rng(seed))) for seed in range(400)]
    assert min(found) >= -10.01 and max(found) <= 10.01
    # Kolmogorov-Smirnov: the bound holds with a probability of 0.999
    steps = np.abs((np.sort(found) + 10) / 20 - (np.arange(400) + 0.5) / 400)
    assert steps.max() < 1.95 / 20


def test_equal_bounds_are_one_ratio(manifest):
    noisy = Noise(Recordings.read(manifest), 3, 3)(white_noise(), np.random.default_rng(0))
    assert ratio(white_noise(), noisy) == pytest.approx(3, abs=0.01)


def test_silence_is_left_as_it_is(tmp_path, manifest):
    silent = Noise(Recordings.read(write_recordings(tmp_path, [np.zeros(6000)])), 0, 0)
    np.testing.assert_array_equal(silent(white_noise(), np.random.default_rng(0)), white_noise())
    zeros = np.zeros(3000, np.float32)
    np.testing.assert_array_equal(Noise(Recordings.read(manifest), 0, 0)(zeros, np.random.default_rng(0)), zeros)


def test_the_same_generator_gives_the_same_noise(manifest):
    first, again = Noise(Recordings.read(manifest), -10, 10), Noise(Recordings.read(manifest), -10, 10)
    first(white_noise(), np.random.default_rng(99))  # what was drawn before does not matter
    results = [
        noise(white_noise(), np.random.default_rng(5), utterance) for noise, utterance in ((first, 0), (again, 8))
    ]
    np.testing.assert_array_equal(*results)
    assert not np.array_equal(results[0], again(white_noise(), np.random.default_rng(6)))


# ---- in a task -------------------------------------------------------------------------------------------------------


def task(data: Path, **settings) -> DinoSRPretrainingTask:
    config = DinoSRPretrainingConfig(
        tpu=False, data=str(data), seed=1, enable_padding=True, max_sample_size=6000, min_sample_size=0, **settings
    )
    return DinoSRPretrainingTask.setup_task(OmegaConf.structured(config))


def batches(data: Path, workers: int, size: int, **settings) -> dict[int, list[np.ndarray]]:
    """Utterance -> its views in the first epoch."""
    made = task(data, **settings)
    made.load_dataset("train")
    epoch = made.get_batch_iterator(made.datasets["train"], max_sentences=size, seed=1, num_workers=workers)
    found = {}
    for batch in epoch.next_epoch_itr():
        for row, utterance in enumerate(batch["id"].tolist()):
            found[utterance] = [view[row].numpy() for view in batch["net_input"]["source"]]
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), lengths=(6000,) * 4 + (9000,) * 3)


def test_both_views_have_noise_of_their_own(corpus, manifest):
    views = {"views": "noise/noise", "noise": str(manifest), "noise_snr": [4.0, 5.0]}
    noisy, clean = batches(corpus, 0, 3, **views), batches(corpus, 0, 3, views="clean/clean")
    assert noisy.keys() == clean.keys() and len(noisy) == 7
    for utterance, (first, second) in noisy.items():
        wave = clean[utterance][0]
        assert all(3.99 <= ratio(wave, view) <= 5.01 for view in (first, second))
        assert abs(np.corrcoef(first - wave, second - wave)[0, 1]) < 0.5


@pytest.mark.parametrize("workers, size", [(0, 7), (1, 2), (2, 3)])
def test_workers_and_batches_change_no_noise(corpus, manifest, workers, size):
    views = {"views": "noise/noise", "noise": str(manifest)}
    reference, found = batches(corpus, 0, 1, **views), batches(corpus, workers, size, **views)
    assert reference.keys() == found.keys()
    for utterance, (first, second) in reference.items():
        np.testing.assert_array_equal(found[utterance], [first, second])
        assert not np.array_equal(first, second)


def test_noise_is_read_once_for_all_views(manifest):
    made = []

    def noise() -> Noise:
        made.append(Noise(Recordings.read(manifest), 0, 0))
        return made[-1]

    first, second = make_views("noise/equalizer+noise", pytest.fail, noise, pytest.fail)
    assert len(made) == 1 and first == made and second[-1] is made[0] and len(second) == 3
    assert make_views("clean/equalizer", pytest.fail, pytest.fail, pytest.fail)[0] == []


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"views": "clean/noise"},
            "task.views=clean/noise: adds noise, but task.noise is not given; set it to a manif",
        ),
        (
            {"views": "clean/equalizer", "noise": "a.tsv"},
            "task.noise=a.tsv: task.views=clean/equalizer does not use it",
        ),
        ({"noise": "a.tsv"}, "task.noise=a.tsv: task.views does not use it; add noise or augment to a view"),
        ({"views": "noise", "noise": "a.tsv", "noise_snr": [5.0]}, r"task.noise_snr=\[5.0\]: give two ratios in dB"),
        ({"views": "noise", "noise": "a.tsv", "noise_snr": [5.0, 1.0]}, r"task.noise_snr=\[5.0, 1.0\]: give two"),
    ],
)
def test_settings_that_cannot_work(corpus, settings, message):
    with pytest.raises(UserError, match=message):
        task(corpus, **settings)


def test_recordings_that_cannot_be_used(corpus, tmp_path):
    def load(path: Path) -> None:
        task(corpus, views="noise", noise=str(path)).load_dataset("train")

    with pytest.raises(UserError, match="absent.tsv: no such file; make it with `dinosr manifest`"):
        load(tmp_path / "absent.tsv")
    with pytest.raises(UserError, match="8000 Hz, 1 channel.* instead of 16000 Hz, 1 channel; make 16 kHz mono copies"):
        load(write_recordings(tmp_path / "slow", [white_noise()], rate=8000))
    (tmp_path / "empty.tsv").write_text(f"{tmp_path}\n")
    with pytest.raises(UserError, match="empty.tsv: empty manifest"):
        load(tmp_path / "empty.tsv")


def test_bad_recordings_are_skipped_if_the_task_says_so(corpus, tmp_path, caplog):
    """The next one of the manifest takes the place of a bad one, in all epochs and workers."""
    manifest = write_recordings(tmp_path, [white_noise(9000, seed) for seed in range(3)])
    (tmp_path / "0.wav").write_bytes(b"")
    (tmp_path / "1.wav").unlink()
    views = {"views": "noise/noise", "noise": str(manifest), "skip_bad_audio": True}
    with caplog.at_level("WARNING"):
        found = batches(corpus, 0, 3, **views)
    assert sorted(message.split(":")[0] for message in caplog.messages) == [
        f"skipped {tmp_path}/{number}.wav" for number in range(2)
    ]
    again = batches(corpus, 2, 2, **views)
    for utterance, waves in found.items():
        np.testing.assert_array_equal(again[utterance], waves)
    with pytest.raises(UserError, match="task.max_bad_files=1: 2 files .*noise.tsv.*or raise task.max_bad_files"):
        batches(corpus, 0, 3, **views, max_bad_files=1)
    (tmp_path / "2.wav").unlink()
    with pytest.raises(UserError, match="none of its recordings can be used; `dinosr check "):
        batches(corpus, 0, 3, **views)

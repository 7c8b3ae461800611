"""MFCC and log-Mel k-means: deterministic clusters, the whole path from files to figures."""

import numpy as np
import pytest
import soundfile

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation import baselines
from dinosr_plugin.evaluation.baselines import assign, corpus_features, fit_kmeans, kmeans_baseline, kmeans_counts, manifest_utterances
from dinosr_plugin.evaluation.phones import PhoneAlignment, trunk_frames
from dinosr_plugin.evaluation.quality import Quality

RATE = 16_000


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def blobs(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 4, n)
    return (np.eye(4)[which] * 20 + rng.normal(0, 1, (n, 4))).astype(np.float32), which


def test_kmeans_finds_blobs_and_repeats_itself():
    features, which = blobs()
    centroids = fit_kmeans(features, 4, seed=1)
    assert centroids.shape == (4, 4) and centroids.dtype == np.float32
    np.testing.assert_array_equal(centroids, fit_kmeans(features, 4, seed=1))
    assert not np.array_equal(fit_kmeans(features, 60, seed=1), fit_kmeans(features, 60, seed=2))
    codes = assign(features, centroids)
    assert codes.dtype == np.int64 and codes.shape == (3000,)
    assert len(set(zip(codes, which))) == 4


def test_assign_is_the_nearest_centroid_on_any_layout():
    rng = np.random.default_rng(0)
    features, centroids = rng.normal(size=(50, 6)), rng.normal(size=(7, 6)).astype(np.float32)
    expected = ((features[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(assign(np.asfortranarray(features), centroids), expected)


def test_kmeans_sees_a_bounded_number_of_frames(monkeypatch):
    monkeypatch.setattr(baselines, "FIT_FRAMES", 500)
    features, _ = blobs()
    chosen = np.random.default_rng(3).permutation(len(features))[:500]
    np.testing.assert_allclose(fit_kmeans(features, 1, seed=3)[0], features[chosen].mean(axis=0), rtol=1e-4)


def test_too_few_frames_for_k():
    with pytest.raises(UserError, match="3 frames are too few for 4 clusters"):
        fit_kmeans(np.zeros((3, 2), np.float32), 4, seed=0)


@pytest.fixture
def tone_corpus(tmp_path):
    """Four files of tones that change every 0.2 s; phone and tone agree, so that clusters can find the phones."""
    tones = {"AA": 300.0, "IY": 1200.0, "S": 5000.0}
    time = np.arange(RATE // 5) / RATE
    manifest, rows = [str(tmp_path)], ["utt\tstart\tend\tphone"]
    for number in range(4):
        order = np.random.default_rng(number).permutation([*tones] * 4)
        wave = np.concatenate([0.3 * np.sin(2 * np.pi * tones[phone] * time) for phone in order])
        wave += noise(len(wave), seed=number) * 0.02
        soundfile.write(tmp_path / f"tone{number}.wav", wave, RATE)
        manifest.append(f"tone{number}.wav\t{len(wave)}")
        rows += [f"tone{number}\t{i / 5:.2f}\t{(i + 1) / 5:.2f}\t{phone}" for i, phone in enumerate(order)]
    (tmp_path / "all.tsv").write_text("\n".join(manifest) + "\n")
    (tmp_path / "all.phones.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
def test_from_files_to_figures(tone_corpus, kind):
    manifest = tone_corpus / "all.tsv"
    phones = PhoneAlignment.read(tone_corpus / "all.phones.tsv")
    counts = kmeans_counts(kind, manifest, manifest, phones, k=8, seed=0)
    assert counts.shape == (3, 8)
    assert counts.sum() == 4 * trunk_frames(12 * RATE // 5)
    quality = kmeans_baseline(kind, manifest, manifest, phones, k=8, seed=0)
    assert quality == Quality.from_counts(counts)
    assert quality.phone_purity > 0.9 and quality.pnmi > 0.7


def test_manifest_rows(tone_corpus):
    first = manifest_utterances(tone_corpus / "all.tsv")[0]
    assert first == ("tone0", tone_corpus / "tone0.wav", 12 * RATE // 5)


def test_a_large_corpus_is_read_in_part(tone_corpus, monkeypatch):
    utterances = manifest_utterances(tone_corpus / "all.tsv")
    assert sorted(baselines._random_hours(utterances, seed=0)) == utterances
    monkeypatch.setattr(baselines, "FIT_SAMPLES", 2 * utterances[0].samples)
    assert len(baselines._random_hours(utterances, seed=0)) == 2
    monkeypatch.setattr(baselines, "FIT_SAMPLES", 1)
    assert len(baselines._random_hours(utterances, seed=0)) == 1


@pytest.mark.parametrize(
    "text, message",
    [("{}\na.wav\n", "line 2"), ("{}\na.wav\tx\n", "line 2"), ("{}\n", "empty manifest"), ("/no/such/root\na.wav\t800\n", "/no/such/root")],
)
def test_bad_manifests(tmp_path, text, message):
    path = tmp_path / "bad.tsv"
    path.write_text(text.format(tmp_path))
    with pytest.raises(UserError, match=message):
        manifest_utterances(path)
    with pytest.raises(UserError, match="absent.tsv.*dinosr manifest"):
        manifest_utterances(tmp_path / "absent.tsv")


@pytest.mark.parametrize(
    "wave, rate, found", [(noise(399), RATE, "399 samples"), (noise(800), 8000, "8000 Hz"), (noise(800).reshape(-1, 2), RATE, "2 channel")]
)
def test_audio_that_the_baselines_cannot_use(tmp_path, wave, rate, found):
    soundfile.write(tmp_path / "a.wav", wave, rate)
    (tmp_path / "a.tsv").write_text(f"{tmp_path}\na.wav\t{len(wave)}\n")
    with pytest.raises(UserError, match=f"a.wav: .*{found}"):
        corpus_features(manifest_utterances(tmp_path / "a.tsv"), "mfcc")


def test_missing_audio_and_unknown_features(tmp_path):
    (tmp_path / "a.tsv").write_text(f"{tmp_path}\nabsent.wav\t800\n")
    utterances = manifest_utterances(tmp_path / "a.tsv")
    with pytest.raises(UserError, match="absent.wav: unreadable"):
        corpus_features(utterances, "mfcc")
    with pytest.raises(UserError, match="'plp' are not known; choose one of mfcc, fbank"):
        corpus_features(utterances, "plp")


def test_missing_alignment_is_found_before_any_work(tone_corpus, monkeypatch):
    phones = PhoneAlignment.read(tone_corpus / "all.phones.tsv")
    monkeypatch.setattr(baselines, "corpus_features", lambda *_: pytest.fail("features were computed"))
    (tone_corpus / "other.tsv").write_text(f"{tone_corpus}\nstranger.wav\t800\n")
    with pytest.raises(UserError, match="1 of 1 utterances have no alignment"):
        kmeans_baseline("mfcc", tone_corpus / "all.tsv", tone_corpus / "other.tsv", phones, k=2, seed=0)


def test_real_speech_gives_the_known_level(librispeech_mini, tmp_path):
    """Fitted and measured on the 20 minutes of dev alone, to be quick; on train it is 0.35 at k = 64 as well."""
    files = sorted((librispeech_mini / "dev").rglob("*.flac"))
    lines = [f"{file}\t{soundfile.info(file).frames}" for file in files]
    (tmp_path / "dev.tsv").write_text("\n".join(["/", *lines]) + "\n")
    phones = PhoneAlignment.read(librispeech_mini / "dev.phones.tsv")
    quality = kmeans_baseline("mfcc", tmp_path / "dev.tsv", tmp_path / "dev.tsv", phones, k=64, seed=0)
    assert quality.frames == 58_762
    assert 0.33 < quality.pnmi < 0.38
    assert 0.36 < quality.phone_purity < 0.41
    assert quality.active == 64 and 45 < quality.perplexity < 62

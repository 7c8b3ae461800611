"""Discrete units from codebooks and k-means do not depend on batches; their files, also as input of fairseq."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import Dictionary, data_utils
from fairseq_cli import preprocess
from hypothesis import given
from hypothesis import strategies as st

import dinosr_plugin
from dinosr_plugin.checkpoints.adapters import HEAD, TEACHER
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.readers import CodeSet, FrameReader
from dinosr_plugin.errors import UserError
from dinosr_plugin.units.batches import read_utterances
from dinosr_plugin.units.codes import at_rate, dedup, read_codes, write_codebook_units, write_kmeans_units
from dinosr_plugin.units.features import LiveFeatures, code_spec
from dinosr_plugin.units.kmeans import KMeans, KMeansMetadata
from dinosr_plugin.units.store import FeatureFolder, FeatureWriter
from dinosr_plugin.units.unit_files import UnitInfo, info_path, read_info, read_units, write_units
from support import paths
from support.fairseq_models import fairseq_checkpoint
from support.training import write_corpus

GOLDEN = paths.GOLDEN / "official_format_tiny.pt"
SEQUENCES = st.lists(st.integers(0, 5), max_size=30).map(lambda ids: np.array(ids, dtype=np.int64))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), lengths=(9000, 16000, 400, 16000, 12345)) / "train.tsv"


def waves(corpus: Path) -> list:
    return [soundfile.read(utterance.path, dtype="float32")[0] for utterance in read_utterances(corpus)]


# ---- deduplication and rates -----------------------------------------------------------------------------------------


@given(SEQUENCES)
def test_dedup_keeps_one_of_each_run(units):
    once = dedup(units)
    assert not (once[1:] == once[:-1]).any()
    runs = np.cumsum(np.concatenate([[0], units[1:] != units[:-1]]))[: len(units)].astype(int)
    np.testing.assert_array_equal(once[runs], units)  # each run in its position
    np.testing.assert_array_equal(dedup(once), once)


@given(SEQUENCES)
def test_at_rate_repeats_or_drops_units(units):
    np.testing.assert_array_equal(at_rate(units, 50.0, 50), units)
    np.testing.assert_array_equal(at_rate(at_rate(units, 50, 100), 100, 50), units)  # repeating loses nothing
    assert at_rate(units, 50, 100).tolist() == [unit for unit in units.tolist() for _ in range(2)]
    assert at_rate(units, 50, 25).tolist() == units.tolist()[::2]
    assert at_rate(units, 100, 100 / 3).tolist() == units.tolist()[::3]


@pytest.mark.parametrize("wanted", [40, 75, 0, -50, 33.3])
def test_rates_that_are_not_a_multiple_or_fraction(wanted):
    with pytest.raises(UserError, match=f"--rate {wanted:g}: not a whole multiple or fraction of these units' 50 Hz"):
        at_rate(np.arange(4), 50.0, wanted)


# ---- files -----------------------------------------------------------------------------------------------------------


@given(st.lists(SEQUENCES, min_size=1, max_size=5))
def test_written_units_are_read_back(tmp_path_factory, sequences):
    path = tmp_path_factory.mktemp("units") / "a.units"
    units = {f"é {n}": ids for n, ids in enumerate(sequences)}
    write_units(path, units.items())
    again = read_units(path)
    assert list(again) == list(units) and all(np.array_equal(again[utt], ids) for utt, ids in units.items())
    assert all(ids.dtype == np.int64 for ids in again.values())


def test_format_of_unit_files(tmp_path):
    units = [("b", np.array([3, 3, 12], dtype=np.int32)), ("a", np.array([], dtype=np.int64))]
    assert write_units(tmp_path / "new" / "a.units", units).read_text() == "b\t3 3 12\na\t\n"
    assert write_units(tmp_path / "a.txt", units, plain=True).read_text() == "3 3 12\n\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\t1 2\nb 3\n", "line 2: expected `utt<TAB>unit ids`; make it with `dinosr units`"),
        ("\t1\n", "line 1: expected `utt<TAB>unit ids`"),
        ("a\t1\na\t2\n", "line 2: duplicate utterance 'a'"),
        ("a\t1 -2\n", "line 1: '-2' is not a unit id"),
        ("a\t1.0\n", "line 1: '1.0' is not a unit id"),
        ("a\t1 9999999999999999999\n", "line 1: '9999999999999999999' is not a unit id"),
        ("", "no units in it"),
    ],
)
def test_invalid_unit_files(tmp_path, text, message):
    (tmp_path / "a.units").write_text(text)
    with pytest.raises(UserError) as error:
        read_units(tmp_path / "a.units")
    assert str(tmp_path / "a.units") in str(error.value) and message in str(error.value)


def test_unit_files_are_written_completely_or_not_at_all(tmp_path):
    def stopped():
        yield "a", np.arange(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_units(tmp_path / "a.units", stopped())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="--out /proc/nowhere/a.units: cannot be written"):
        write_units("/proc/nowhere/a.units", [])
    with pytest.raises(UserError, match="none.units: no such file"):
        read_units(tmp_path / "none.units")


def test_fairseq_preprocess_reads_plain_files(tmp_path, monkeypatch):
    """``fairseq-preprocess --only-source`` of the plain file: ids are words, utterances are lines, also empty ones."""
    units = {"a": np.array([7, 7, 100, 3]), "b": np.array([], dtype=np.int64), "c": np.array([3])}
    write_units(tmp_path / "train.txt", units.items(), plain=True)
    command = [
        "fairseq-preprocess",
        "--only-source",
        "--trainpref",
        str(tmp_path / "train.txt"),
        "--destdir",
        str(tmp_path / "bin"),
    ]
    monkeypatch.setattr(sys, "argv", command)
    preprocess.cli_main()
    dictionary = Dictionary.load(str(tmp_path / "bin" / "dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(tmp_path / "bin" / "train"), dictionary)
    lines = [dictionary.string(dataset[row]) for row in range(len(dataset))]
    assert lines == ["7 7 100 3", "", "3"] and dictionary.unk() not in dataset[0].tolist()


# ---- rates and centres -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rate, first_centre",
    [
        (None, 0.0125),
        (50, 0.0125),
        (100, 0.0075),
        (25, 0.0125),
        (200, 0.005),
    ],  # the first of two copies is 5 ms earlier
)
def test_first_centre_at_another_rate(corpus, tmp_path, rate, first_centre):
    path = write_codebook_units(GOLDEN, corpus, tmp_path, codebooks=[0], rate=rate).files[0]
    info = read_info(path)
    assert (info.rate, info.size) == (rate or 50, 8) and info.first_centre == pytest.approx(first_centre)


def test_units_without_repetitions_have_no_rate(corpus, tmp_path):
    path = write_codebook_units(GOLDEN, corpus, tmp_path, codebooks=[0], deduplicate=True).files[0]
    assert read_info(path).rate is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"rate": 0, "first_centre": 0}', '{"rate": "x", "first_centre": 0}', "{}"]
)
def test_damaged_info_files(tmp_path, text):
    assert read_info(tmp_path / "a.units") is None
    info_path(tmp_path / "a.units").write_text(text)
    with pytest.raises(UserError, match="a.units.json: .*; remove it and give --rate and --first-centre"):
        read_info(tmp_path / "a.units")
    write_units(tmp_path / "a.units", [], info=UnitInfo(50.0, 0.0125))
    assert read_info(tmp_path / "a.units") == UnitInfo(50.0, 0.0125)


# ---- units of codebooks ----------------------------------------------------------------------------------------------


def codes_of_single_utterances(corpus: Path, predicted: bool) -> list:
    """(K, F) of each utterance, computed separately, without batches."""
    model, reader = load_model(GOLDEN).model, open_reader(GOLDEN)
    read = model.predicted_codes if predicted else model.codes
    return [read(reader.prepare(torch.from_numpy(wave))[None])[:, 0].numpy() for wave in waves(corpus)]


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("batch_samples", [1, 10**9])
def test_units_of_codebooks_do_not_depend_on_batches(corpus, tmp_path, predicted, batch_samples):
    paths = write_codebook_units(GOLDEN, corpus, tmp_path, predicted, batch_samples=batch_samples).files
    assert [path.name for path in paths] == ["codebook_0.units", "codebook_1.units"]
    for k, path in enumerate(paths):
        units = read_units(path)
        assert list(units) == [f"train{n}" for n in range(5)]
        for utterance, alone in zip(units.values(), codes_of_single_utterances(corpus, predicted), strict=True):
            assert utterance.shape == alone[k].shape
            assert (utterance != alone[k]).mean() <= 0.04  # ties may be resolved differently; none were here
    if not predicted:
        np.testing.assert_array_equal(units["train1"], dinosr_plugin.load(GOLDEN).units(waves(corpus)[1])[1])


def test_one_codebook_in_other_forms(corpus, tmp_path, monkeypatch):
    """Other forms of the same units require no second pass."""
    (whole,) = write_codebook_units(GOLDEN, corpus, tmp_path, codebooks=[1]).files
    monkeypatch.setattr(FrameReader, "read", lambda *_: pytest.fail("computed again"))
    (plain,) = write_codebook_units(
        GOLDEN, corpus, tmp_path, codebooks=[1], rate=25, deduplicate=True, plain=True
    ).files
    names = ["codebook_1.txt", "codebook_1.units", "codebook_1.units.json", "codes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    lines = plain.read_text().splitlines()
    for line, units in zip(lines, read_units(whole).values(), strict=True):
        assert line == " ".join(map(str, dedup(units[::2])))


def test_shards_give_the_same_files(corpus, tmp_path):
    """The shard that ends last writes the unit files."""
    whole = write_codebook_units(GOLDEN, corpus, tmp_path / "whole").files
    for shard in (3, 1):
        done = write_codebook_units(GOLDEN, corpus, tmp_path / "parts", shard=shard, shards=3)
        assert done.files == [] and f"shard(s) {'1, 2' if shard == 3 else '2'} of 3 are missing" in done.summary
    assert not list((tmp_path / "parts").glob("*.units"))
    parts = write_codebook_units(GOLDEN, corpus, tmp_path / "parts", shard=2, shards=3).files
    assert [path.read_text() for path in parts] == [path.read_text() for path in whole]


def test_resumes_after_an_interruption(corpus, tmp_path, monkeypatch):
    real, lengths = FrameReader.read, []

    def read(self, batch, *rest):
        lengths.extend(len(wave) for wave in batch)
        if len(lengths) == 4:
            raise KeyboardInterrupt
        return real(self, batch, *rest)

    monkeypatch.setattr(FrameReader, "read", read)
    with pytest.raises(KeyboardInterrupt):
        write_codebook_units(GOLDEN, corpus, tmp_path, batch_samples=1)
    assert not list(tmp_path.glob("*.units"))
    paths = write_codebook_units(GOLDEN, corpus, tmp_path, batch_samples=1).files
    assert lengths == [16000, 16000, 12345, 9000, 9000, 400]  # longest first; the interrupted one twice
    assert [path.read_text() for path in paths] == [
        path.read_text() for path in write_codebook_units(GOLDEN, corpus, tmp_path / "whole").files
    ]


def test_a_folder_with_other_units(corpus, tmp_path):
    """Other units are neither mixed with existing ones nor written over them."""
    write_codebook_units(GOLDEN, corpus, tmp_path)
    with pytest.raises(
        UserError,
        match="codes: contains features with weights teacher, not student; remove it, or give another folder with "
        "--out",
    ):
        write_codebook_units(GOLDEN, corpus, tmp_path, predicted=True)


def test_nan_in_the_weights(corpus, tmp_path):
    state = torch.load(GOLDEN, weights_only=True)
    state["model"]["_codebook1"][3] = np.nan
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(UserError, match="nan.pt: NaN or infinity in its weights .*; give an earlier checkpoint"):
        write_codebook_units(tmp_path / "nan.pt", corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "size, dtype", [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_dtype_for_codebooks_of_any_size(size, dtype):
    reader = open_reader(GOLDEN)
    reader.code_sets = {TEACHER: CodeSet(3, size, (0, 1, 2))}
    spec = code_spec(reader, TEACHER)
    assert (spec.dtype, spec.width) == (dtype, 3)


def test_codes_without_files(corpus):
    reader = open_reader(GOLDEN)
    codes = read_codes(reader, read_utterances(corpus), [TEACHER, HEAD])
    assert list(codes[TEACHER]) == list(codes[HEAD]) == [f"train{n}" for n in range(5)]
    assert codes[TEACHER]["train2"].shape == (2, 1) and codes[HEAD]["train0"].shape == (2, reader.frames(9000))


def test_bad_requests(corpus, tmp_path):
    with pytest.raises(UserError, match="--codebooks 2: .* has codebooks 0 to 1"):
        write_codebook_units(GOLDEN, corpus, tmp_path, codebooks=[0, 2])
    with pytest.raises(UserError, match="--rate 40: not a whole multiple or fraction"):
        write_codebook_units(GOLDEN, corpus, tmp_path, rate=40)
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    with pytest.raises(UserError, match="contains HubertModel, which has no codebooks; give a pre-training checkpoint"):
        write_codebook_units(tmp_path / "hubert.pt", corpus, tmp_path)
    write_corpus(tmp_path, "short", [399])
    with pytest.raises(UserError, match="shorter than one frame, 400 samples"):
        write_codebook_units(GOLDEN, tmp_path / "short.tsv", tmp_path)
    assert not list(tmp_path.glob("*.units"))


# ---- units of k-means ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Frames close to four points, with the expected units."""
    names, lengths = ["b", "a", "none"], [30, 20, 0]
    which = [np.random.default_rng(row).integers(0, 4, length) for row, length in enumerate(lengths)]
    with FeatureWriter(tmp_path / "features", 50, 0.0125, 4, "float16", {"kind": "mfcc"}, names, lengths) as writer:
        for row, points in enumerate(which):
            writer.add(row, np.eye(4)[points] * 10 + np.random.default_rng(9).normal(size=(len(points), 4)))
        writer.close()
    meta = KMeansMetadata(
        k=4,
        width=4,
        rate=50.0,
        seed=0,
        init="random",
        restarts=1,
        passes=0,
        inertia=0.0,
        measured=50,
        frames=50,
        features={"kind": "mfcc"},
    )
    KMeans(np.eye(4, dtype=np.float32) * 10, meta).save(tmp_path / "four.npz")
    write_units(tmp_path / "expected.units", zip(names, which))
    return tmp_path


def test_units_of_kmeans_in_all_forms(folder):
    features = FeatureFolder(folder / "features")
    path = write_kmeans_units(features, folder / "four.npz", folder / "kmeans.units")
    assert path.read_text() == (folder / "expected.units").read_text()
    doubled = read_units(write_kmeans_units(features, folder / "four.npz", folder / "twice.units", rate=100))
    np.testing.assert_array_equal(doubled["a"][::2], read_units(path)["a"])
    once = write_kmeans_units(features, folder / "four.npz", folder / "once.txt", deduplicate=True, plain=True)
    assert once.read_text().splitlines()[0] == " ".join(map(str, dedup(read_units(path)["b"])))


def test_kmeans_requires_the_features_it_was_fitted_on(folder, corpus):
    """Features of another width or layer are rejected; features may come directly from a checkpoint."""
    live = LiveFeatures.of_layer(GOLDEN, corpus, layer=0)
    with pytest.raises(UserError, match="fitted on"):
        write_kmeans_units(live, folder / "four.npz", folder / "a.units")
    meta = KMeansMetadata(
        k=2,
        width=32,
        rate=50.0,
        seed=0,
        init="random",
        restarts=1,
        passes=0,
        inertia=0.0,
        measured=9,
        frames=9,
        features=live.source,
    )
    KMeans(np.stack([live["train1"][0], live["train1"][9]]), meta).save(folder / "layer.npz")
    units = read_units(write_kmeans_units(live, folder / "layer.npz", folder / "b.units"))
    assert list(units) == live.utterances and (units["train1"][0], units["train1"][9]) == (0, 1)
    with pytest.raises(UserError, match="layer 1"):
        write_kmeans_units(LiveFeatures.of_layer(GOLDEN, corpus, layer=1), folder / "layer.npz", folder / "c.units")
    assert not (folder / "a.units").exists() and not (folder / "c.units").exists()


def test_kmeans_rejects_nan(folder):
    """NaN would otherwise be assigned to some cluster."""
    features = FeatureFolder(folder / "features")
    damaged = [np.array(shard) for shard in features.shards]
    damaged[0][-1, 0] = np.nan
    features.shards = damaged
    with pytest.raises(UserError, match="its features contain NaN or infinity"):
        write_kmeans_units(features, folder / "four.npz", folder / "nan.units")
    assert not list(folder.glob("*nan.units*"))


def test_units_on_the_gpu(corpus):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    on_cpu, on_gpu = (
        read_codes(open_reader(GOLDEN, device=device), read_utterances(corpus), [TEACHER])[TEACHER]
        for device in ("cpu", "cuda")
    )
    assert all((on_cpu[utt] == on_gpu[utt]).mean() > 0.9 for utt in on_cpu)

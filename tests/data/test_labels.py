"""Frame labels: valid and invalid label files, and the labels in a batch."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.labels import FrameLabels, collate_labels, count_classes, label_kinds, label_lines, read_labels
from dinosr_plugin.errors import UserError

SIZES = [16_000, 3_000, 24_000, 8_000]  # samples; the second is skipped with min_sample_size=4000


def line(samples: int, rate: int = 50, label: int = 1) -> str:
    return " ".join([str(label)] * (samples * rate // 16_000))


@pytest.fixture
def manifest(tmp_path):
    """Four audio files. Their labels (50 Hz) are the frame numbers; those of a second set are the row numbers."""
    rows = [str(tmp_path)]
    for row, samples in enumerate(SIZES):
        soundfile.write(tmp_path / f"{row}.wav", np.arange(samples, dtype=np.float32) / 2**15, 16_000, subtype="PCM_16")
        rows.append(f"{row}.wav\t{samples}")
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "train.km").write_text("".join(" ".join(map(str, range(samples // 320))) + "\n" for samples in SIZES))
    (tmp_path / "train.row").write_text("".join(line(samples, label=row) + "\n" for row, samples in enumerate(SIZES)))
    (tmp_path / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(75)))
    (tmp_path / "dict.row.txt").write_text("3 1\n2 1\n0 1\n1 7\n")
    return tmp_path / "train.tsv"


def write(manifest, *lines: str):
    manifest.with_suffix(".km").write_text("".join(f"{line}\n" for line in lines))


def read(manifest, sizes=SIZES, rate=50, skipped=()) -> FrameLabels:
    return read_labels(manifest.with_suffix(".km"), count_classes(manifest.parent, "km"), sizes, rate, skipped)


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_labels_of_every_utterance(manifest):
    labels = read(manifest)
    assert len(labels) == 4 and [row.tolist() for row in map(labels.__getitem__, range(4))] == [
        list(range(n // 320)) for n in SIZES
    ]
    assert labels.values.dtype == torch.int16 and labels.values.is_shared()


def test_skipped_rows_skip_their_labels(manifest):
    labels = read(manifest, [SIZES[0], *SIZES[2:]], skipped={1})
    assert [len(labels[index]) for index in range(3)] == [50, 75, 25]
    assert [len(text.split()) for text in label_lines(labels, {1})] == [50, 0, 75, 25]
    write(manifest, line(SIZES[0]), "ignored", line(SIZES[2]), line(SIZES[3]))
    read(manifest, [SIZES[0], *SIZES[2:]], skipped={1})


@given(st.lists(st.lists(st.integers(0, 40_000), min_size=1, max_size=20), min_size=1, max_size=6))
def test_labels_survive_writing_and_reading(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("labels") / "train.km"
    path.write_text("".join(f"{' '.join(map(str, row))}\n" for row in rows))
    labels = read_labels(path, 40_001, [len(row) * 320 for row in rows], 50)
    assert labels.values.dtype == torch.int32
    assert list(label_lines(labels)) == path.read_text().splitlines()


def test_the_kind_of_a_path():
    assert (
        label_kinds(None) == label_kinds("") == []
        and label_kinds("km") == ["km"]
        and label_kinds("km, km2") == ["km", "km2"]
    )


@pytest.mark.parametrize("extra, good", [(0, True), (4, True), (-4, True), (6, False), (-6, False)])
def test_tolerance(manifest, extra, good):
    write(manifest, *(" ".join(["1"] * (samples // 320 + extra)) for samples in SIZES))
    if good:
        read(manifest)
        return
    expected = r"of 4 utterance\(s\) differ by more than 0\.1 s at task\.label_rate=50 \(line 1: "
    with pytest.raises(UserError, match=r"train\.km: labels and audio " + expected):
        read(manifest)


def test_labels_at_another_rate(manifest):
    """The message is one line that lists the first few."""
    with pytest.raises(UserError) as caught:
        read(manifest, rate=100)
    assert str(caught.value) == (
        f"{manifest.with_suffix('.km')}: labels and audio of 3 utterance(s) differ by more than 0.1 s "
        "at task.label_rate=100 (line 1: 50 labels for 1.00 s, line 3: 75 labels for 1.50 s, "
        "line 4: 25 labels for 0.50 s); "
        "make the labels again with `dinosr kmeans apply`, or correct task.label_rate"
    )


def test_an_invalid_rate(manifest):
    with pytest.raises(UserError, match="task.label_rate=0: must be at least 1"):
        read(manifest, rate=0)


def test_an_utterance_without_labels(manifest):
    write(manifest, line(SIZES[0]), "", line(SIZES[2]), line(SIZES[3]))
    with pytest.raises(UserError, match=r"of 1 utterance\(s\) .*line 2: 0 labels for 0\.05 s"):
        read(manifest, [SIZES[0], 800, *SIZES[2:]])


@pytest.mark.parametrize(
    "second, message",
    [
        ("1 2 x", r"train\.km line 2: 'x' is not a label, which is an integer from 0 to 74; make the labels again"),
        ("1.5", r"line 2: '1\.5' is not a label"),
        ("1 99999999999", r"line 2: label 99999999999 is not in the dictionary"),
        ("1 75", r"line 2: label 75 is not in the dictionary, whose labels are 0 to 74"),
        ("-1", r"line 2: '-1' is not a label"),
    ],
)
def test_invalid_labels(manifest, second, message):
    write(manifest, line(SIZES[0]), second, line(SIZES[2]), line(SIZES[3]))
    with pytest.raises(UserError, match=message):
        read(manifest)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_another_number_of_lines(manifest, count):
    write(manifest, *(line(samples) for samples in [*SIZES, 16_000][:count]))
    with pytest.raises(UserError, match=rf"train\.km: {count} lines for the 4 rows of train\.tsv"):
        read(manifest)


def test_missing_files(manifest):
    manifest.with_suffix(".km").unlink()
    with pytest.raises(UserError, match=r"train\.km: no such file; make it with `dinosr kmeans apply`"):
        read(manifest)
    (manifest.parent / "dict.km.txt").unlink()
    with pytest.raises(UserError, match=r"dict\.km\.txt: no such file; `dinosr kmeans apply` writes it"):
        read(manifest)


@pytest.mark.parametrize("text", ["0 1\n2 1\n", "a 1\nb 1\n", "00 1\n1 1\n"])
def test_invalid_dictionaries(manifest, text):
    (manifest.parent / "dict.km.txt").write_text(text)
    with pytest.raises(UserError, match=r"dict\.km\.txt: frame labels must be the numbers 0 to 1, each once"):
        count_classes(manifest.parent, "km")


# ---- in batches ------------------------------------------------------------------------------------------------------


def test_memory_of_a_label(manifest):
    """Two bytes per label, and eight per utterance."""
    labels = read(manifest)
    assert labels.values.nbytes == 2 * sum(samples // 320 for samples in SIZES) and labels.ends.nbytes == 8 * len(SIZES)


def test_a_batch_has_the_labels_of_its_utterances(manifest):
    dataset = SpeechDataset(
        str(manifest), 16_000, labels=["km", "row"], min_sample_size=4000, max_sample_size=6400, pad=False
    )
    for epoch in range(5):
        dataset.set_epoch(epoch)
        batch = dataset.collater([dataset[index] for index in (2, 0, 1)])
        inputs = batch["net_input"]
        assert (
            inputs["labels"].shape == (2, 3, 75)
            and inputs["labels"].dtype == torch.int64
            and inputs["label_rate"] == 50
        )
        for row, (index, length) in enumerate([(3, 25), (0, 50), (2, 75)]):  # rows of the manifest
            assert inputs["labels"][0, row].tolist() == [*range(length), *[-1] * (75 - length)]
            assert set(inputs["labels"][1, row, :length].tolist()) == {index}
            assert inputs["source"][row, 0] * 2**15 == inputs["label_starts"][row]  # samples are their own index
    assert len(batch["net_input"]["source"][0]) == 6400


def test_without_labels_a_batch_has_none(manifest):
    dataset = SpeechDataset(str(manifest), 16_000)
    assert not {"labels", "label_starts", "label_rate"} & dataset.collater([dataset[0]])["net_input"].keys()


def test_refreshed_labels_reach_the_workers(manifest):
    """fairseq keeps its worker processes; refreshed labels must reach them."""
    dataset = SpeechDataset(str(manifest), 16_000, labels=["km"])
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, collate_fn=dataset.collater, num_workers=1, persistent_workers=True
    )
    assert next(iter(loader))["net_input"]["labels"].max() == 49
    dataset.labels[0].values.fill_(7)
    assert {7, -1} == {label for batch in loader for label in batch["net_input"]["labels"].unique().tolist()}
    loader._iterator._shutdown_workers()


def test_collating_views():
    one = FrameLabels(torch.tensor([1, 2, 3], dtype=torch.int16), np.array([2, 3]), 4)
    other = FrameLabels(torch.tensor([4, 5, 6, 7], dtype=torch.int16), np.array([1, 4]), 8)
    assert collate_labels([one, other], [1, 0]).tolist() == [[[3, -1, -1], [1, 2, -1]], [[5, 6, 7], [4, -1, -1]]]

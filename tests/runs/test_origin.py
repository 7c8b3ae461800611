"""A run resumes only with the data, labels, dictionary and model that its checkpoint was made with."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq_cli.hydra_train import _hydra_main

from dinosr_plugin.data.dataset import SpeechDataset
from dinosr_plugin.data.fingerprint import SAMPLE, digest, fingerprint
from dinosr_plugin.errors import UserError
from dinosr_plugin.runs.origin import Source, require_same_data, require_same_dictionary
from dinosr_plugin.runs.run_log import NAME
from support.paths import PLUGIN
from support.training import checkpoint, differences, read_config, train, train_on_two_ranks, write_corpus

LENGTHS = [16000, 16160, 16320, 16480, 16640, 16800]
SMALL = ["dataset.max_tokens=16800", "lr_scheduler.phase_ratio=null", "+lr_scheduler.warmup_steps=2"]
SMALL += ["+lr_scheduler.hold_steps=30", "+lr_scheduler.decay_steps=9"]
HUBERT = ["dataset.max_tokens=16800", "model.final_dim=8", "lr_scheduler.warmup_updates=1", "task.labels='km,other'"]
HUBERT += ["+lr_scheduler.total_num_update=40"]
LAST = "checkpoint_last.pt"


def write_data(folder: Path, names: str = "train") -> Path:
    """Six utterances with two sets of frame labels, and letters."""
    write_corpus(folder, names, LENGTHS)
    rng = np.random.default_rng(0)
    for kind in ("km", "other"):
        rows = (rng.integers(5, size=length // 320) for length in LENGTHS)
        (folder / f"{names}.{kind}").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
        (folder / f"dict.{kind}.txt").write_text("".join(f"{label} 1\n" for label in range(5)))
    (folder / f"{names}.ltr").write_text("A B | B A |\n" * len(LENGTHS))
    (folder / "dict.ltr.txt").write_text("| 9\nA 8\nB 7\n")
    return folder


def dinosr(data: Path, save_dir: Path, updates: int, *more: str):
    return train(data, save_dir, *SMALL, f"optimization.max_update={updates}", *more)


def hubert(data: Path, save_dir: Path, updates: int, *more: str):
    return train(data, save_dir, *HUBERT, f"optimization.max_update={updates}", *more, config="hubert_tiny")


def fine_tune(data: Path, save_dir: Path, updates: int, *more: str):
    common = [f"common.user_dir={PLUGIN}", "dataset.num_workers=0", "common.tensorboard_logdir=null"]
    common += [f"task.data={data}", f"checkpoint.save_dir={save_dir}", f"optimization.max_update={updates}"]
    common += ["dataset.disable_validation=true", "model.mask_channel_prob=0", "dataset.max_tokens=16800"]
    _hydra_main(read_config("finetuning", "tiny", [*common, *more]))


def write_runs(folder: Path) -> None:
    """``data``, and the checkpoint of two updates of a pre-training, one with labels, and a fine-tuning."""
    data = write_data(folder / "data")
    dinosr(data, folder / "dinosr", 2)
    hubert(data, folder / "hubert", 2)
    fine_tune(data, folder / "finetuned", 2, f"model.w2v_path={folder}/dinosr/{LAST}")


@pytest.fixture
def runs(shared_folder, tmp_path) -> Path:
    """A copy of those folders, to be changed."""
    folder = shared_folder(write_runs)
    shutil.copytree(folder, tmp_path / "runs")
    edit(tmp_path / "runs/data/train.tsv", lambda rows: [f"{tmp_path}/runs/data", *rows[1:]])
    return tmp_path / "runs"


def edit(path: Path, change) -> None:
    """Replace the lines of a file with ``change(lines)``."""
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


# ---- whole runs ----------------------------------------------------------------------------------------------------


def test_an_unchanged_run_resumes_in_another_folder(runs):
    for start, name in ((dinosr, "dinosr"), (hubert, "hubert")):
        start(runs / "data", runs / name, 3)
        assert checkpoint(runs / name)["updates"] == 3
    fine_tune(runs / "data", runs / "finetuned", 3, f"model.w2v_path={runs}/dinosr/{LAST}")
    assert checkpoint(runs / "finetuned")["updates"] == 3


def rename(rows):
    """Another name for the third file."""
    copy_sound(rows, "train2.wav")
    return [row.replace("/train2.wav", "/new_train2.wav") for row in rows]


def extend(rows):
    copy_sound(rows, "train0.wav")
    return [*rows, "sounds/new_train0.wav\t16000"]


def copy_sound(rows, name):
    shutil.copy(Path(rows[0]) / "sounds" / name, Path(rows[0]) / f"sounds/new_{name}")


MANIFESTS = {
    "fewer": (lambda rows: rows[:-1], "5 utterances, not the 6 that"),
    "more": (extend, "7 utterances, not the 6 that"),
    "order": (lambda rows: [rows[0], *rows[:0:-1]], "other names, lengths or order of utterances than those that"),
    "names": (rename, "other names, lengths or order of utterances than those that"),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_another_manifest_is_refused_unless_the_data_loader_is_reset(runs, change):
    """In the middle of an epoch, where fairseq goes on at the same place of the other data, and at the end of one."""
    function, message = MANIFESTS[change]
    dinosr(runs / "data", runs / "epoch", 6)
    edit(runs / "data/train.tsv", function)
    for name in ("dinosr", "epoch"):
        before = (runs / name / LAST).read_bytes()
        with pytest.raises(UserError, match=rf"data/train.tsv: {message} .*{name}/checkpoint_last.pt was made with; "):
            dinosr(runs / "data", runs / name, 8)
        assert (runs / name / LAST).read_bytes() == before
    reset = "checkpoint.reset_dataloader=true"
    dinosr(runs / "data", runs / "dinosr", 3, reset)
    dinosr(runs / "data", runs / "dinosr", 4)  # the checkpoint is one of the new data now
    assert checkpoint(runs / "dinosr")["updates"] == 4


def relabel(lines):
    """Another clustering of the same size: the same partition, with other numbers."""
    return [" ".join(str((int(label) + 1) % 5) for label in line.split()) for line in lines]


def test_labels_of_another_clustering_are_refused_also_for_more_data(runs):
    """Each of two label sets, and whatever is reset."""
    data, reset = runs / "data", "checkpoint.reset_dataloader=true"
    for kind in ("km", "other"):
        path = data / f"train.{kind}"
        text = path.read_text()
        edit(path, relabel)
        message = rf"data/train.{kind}: not the labels that .*hubert/checkpoint_last.pt was made with \(other labels"
        for settings in ([], [reset]):
            with pytest.raises(
                UserError, match=message + r" for 6 of 6 utterances compared\); put them back, or start"
            ):
                hubert(data, runs / "hubert", 3, *settings)
        path.write_text(text)
    write_data(data, "more")
    for kind in ("tsv", "km", "other"):
        edit(data / f"train.{kind}", lambda lines, kind=kind: lines + more_rows(data, kind))
    edit(data / "train.km", relabel)
    with pytest.raises(UserError, match=r"train.km: not the labels .* for 6 of 6 utterances compared"):
        hubert(data, runs / "hubert", 3, reset)
    edit(data / "train.km", lambda lines: relabel(relabel(relabel(relabel(lines)))))
    hubert(data, runs / "hubert", 3, reset)


def more_rows(data: Path, kind: str) -> list[str]:
    return (data / f"more.{kind}").read_text().splitlines()[kind == "tsv" :]


def test_a_run_with_refreshed_labels_compares_the_files_that_it_started_from(runs):
    refreshed = ["task.labels=km", "task.relabel_every=1", "task.relabel_layer=0"]
    hubert(runs / "data", runs / "refreshed", 8, *refreshed)
    hubert(runs / "data", runs / "refreshed", 9, *refreshed)
    edit(runs / "data/train.km", relabel)
    with pytest.raises(UserError, match=r"data/train.km: not the labels that"):
        hubert(runs / "data", runs / "refreshed", 10, *refreshed)


DICTIONARIES = {
    "order": (lambda lines: [lines[0], *lines[:0:-1]], r"index 5 is 'B' in the file, 'A' in the checkpoint"),
    "longer": (lambda lines: [*lines, "C 1"], r"index 7 is 'C' in the file, nothing in the checkpoint"),
    "shorter": (lambda lines: lines[:-1], r"index 6 is nothing in the file, 'B' in the checkpoint"),
}


@pytest.mark.parametrize("change", DICTIONARIES)
def test_another_dictionary_is_refused(runs, change):
    function, message = DICTIONARIES[change]
    edit(runs / "data/dict.ltr.txt", function)
    if change == "shorter":
        edit(runs / "data/train.ltr", lambda lines: ["A | A |"] * 6)
    pretrained = f"model.w2v_path={runs}/dinosr/{LAST}"
    for settings in ([], ["checkpoint.reset_dataloader=true"]):
        with pytest.raises(UserError, match=rf"dict.ltr.txt \(\d symbols\): not the dictionary that .*: {message}"):
            fine_tune(runs / "data", runs / "finetuned", 3, pretrained, *settings)
    start = f"checkpoint.finetune_from_model={runs}/finetuned/{LAST}"
    with pytest.raises(UserError, match=message):
        fine_tune(runs / "data", runs / "new", 3, pretrained, start)


def test_other_transcripts_are_other_data(runs):
    edit(runs / "data/train.ltr", lambda lines: ["B B |", *lines[1:]])
    pretrained = f"model.w2v_path={runs}/dinosr/{LAST}"
    with pytest.raises(UserError, match=r"train.tsv: its utterances have other transcripts than those that"):
        fine_tune(runs / "data", runs / "finetuned", 3, pretrained)
    fine_tune(runs / "data", runs / "finetuned", 3, pretrained, "checkpoint.reset_dataloader=true")


SETTINGS = {
    "task.normalize=false": "task.normalize=True, here False",
    "task.sample_rate=8000": "task.sample_rate=16000, here 8000",
    "model.encoder_layers=3": "model.encoder_layers=2, here 3",
    "model.encoder_attention_heads=4": "model.encoder_attention_heads=2, here 4",
    "model.codebook_size=9": "model.codebook_size=8, here 9",
    "model.instance_norm_target_layer=false": "model.instance_norm_target_layer=True, here False",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_change_the_meaning_of_parameters_are_refused(runs, setting):
    """Also those that leave their shapes as they are; and in a new run that starts with these parameters."""
    message = rf"checkpoint_last.pt: was made with {SETTINGS[setting]}; give another checkpoint.save_dir"
    with pytest.raises(UserError, match=message):
        dinosr(runs / "data", runs / "dinosr", 3, setting)
    for field in ("restore_file", "finetune_from_model"):
        message = rf"checkpoint.{field}=.*: was made with {SETTINGS[setting]}; give a checkpoint of the same model"
        with pytest.raises(UserError, match=message):
            dinosr(runs / "data", runs / "new", 3, setting, f"checkpoint.{field}={runs}/dinosr/{LAST}")


def test_another_number_of_labels_is_refused(runs):
    edit(runs / "data/dict.other.txt", lambda lines: [*lines, "5 1"])
    with pytest.raises(UserError, match=r"was made with model.num_classes=\[5, 5\], here \[5, 6\]; give another"):
        hubert(runs / "data", runs / "hubert", 3)


def test_settings_of_the_optimiser_the_batches_and_the_masks_may_be_changed(runs):
    changes = ["optimization.lr=[0.001]", "dataset.max_tokens=34000", "model.mask_prob=0.3", "model.dropout=0.2"]
    dinosr(runs / "data", runs / "dinosr", 3, *changes, "optimization.update_freq=[2]", "task.max_sample_size=15000")


def test_another_kind_of_model_in_the_folder_or_as_the_file_to_start_from(runs):
    with pytest.raises(
        UserError, match=r"dinosr/checkpoint_last.pt: contains model=dinosr, here dinosr_hubert; give a"
    ):
        hubert(runs / "data", runs / "dinosr", 3)
    pretrained, message = f"model.w2v_path={runs}/dinosr/{LAST}", r"contains task=dinosr_pretraining, here dinosr_fine"
    with pytest.raises(UserError, match=rf"hubert/checkpoint_last.pt: {message}"):
        fine_tune(runs / "data", runs / "hubert", 3, pretrained)
    for field in ("restore_file", "finetune_from_model", "continue_once"):
        with pytest.raises(
            UserError, match=rf"checkpoint.{field}=.*: contains model=dinosr_hubert, here dinosr; give a"
        ):
            dinosr(runs / "data", runs / "new", 3, f"checkpoint.{field}={runs}/hubert/{LAST}")
        assert [path.name for path in (runs / "new").iterdir()] == [NAME]  # the log says why


def test_a_new_run_may_start_from_the_model_of_another_with_other_data_and_labels(runs):
    edit(runs / "data/train.km", relabel)
    edit(runs / "data/train.tsv", lambda rows: [rows[0], *rows[:0:-1]])
    for kind in ("km", "other"):
        edit(runs / f"data/train.{kind}", lambda lines: lines[::-1])
    hubert(runs / "data", runs / "new", 1, f"checkpoint.finetune_from_model={runs}/hubert/{LAST}")


def forget_record(path: Path) -> None:
    state = torch.load(path, weights_only=False)
    del state["extra_state"]["made_with"]
    torch.save(state, path)


def test_a_checkpoint_without_a_record_resumes_as_before(runs):
    """What does not fit is one line nevertheless, with the options that fairseq-hydra-train has."""
    data = runs / "data"
    for name in ("dinosr", "hubert"):
        forget_record(runs / name / LAST)
    edit(data / "train.km", relabel)
    hubert(data, runs / "hubert", 3)
    with pytest.raises(UserError, match=r"contains another model \(model.encoder_layers=2, here 3\); give another"):
        dinosr(data, runs / "dinosr", 3, "model.encoder_layers=3")
    edit(data / "train.tsv", lambda rows: rows[:2])
    with pytest.raises(UserError, match=r"last.pt: was saved later in an epoch .* checkpoint.reset_dataloader=true"):
        dinosr(data, runs / "dinosr", 3)


def test_another_optimiser_is_one_line(runs):
    with pytest.raises(UserError, match=r"made with the optimizer FairseqAdam, here SGD.*reset_optimizer=true"):
        dinosr(runs / "data", runs / "dinosr", 3, "optimizer._name=sgd", "+optimizer.lr=[0.1]", "+optimizer.momentum=0")


def test_both_ranks_stop_with_the_same_line(runs):
    edit(runs / "data/train.tsv", MANIFESTS["order"][0])
    with pytest.raises(RuntimeError, match=r"exit statuses \[1, 1\]"):
        train_on_two_ranks(runs / "data", runs / "dinosr", *SMALL, "optimization.max_update=3")


def test_two_ranks_resume_what_one_has_saved(runs):
    train_on_two_ranks(runs / "data", runs / "dinosr", *SMALL, "optimization.max_update=3")
    assert checkpoint(runs / "dinosr")["updates"] == 3


def test_the_record_is_plain_and_changes_nothing_else(runs):
    state = torch.load(runs / "finetuned" / LAST, weights_only=True)
    record = state["extra_state"]["made_with"]
    assert record["dictionary"]["symbols"][4:] == ["|", "A", "B"]
    assert record["settings"] == {"task.sample_rate": 16000, "task.normalize": True}
    (data,) = record["data"]
    assert data["utterances"] == 6 and data.keys() == {"file", "utterances", "digest", "transcripts"}
    dinosr(runs / "data", runs / "whole", 3)
    dinosr(runs / "data", runs / "dinosr", 3)
    assert not differences(checkpoint(runs / "whole"), checkpoint(runs / "dinosr"))


# ---- comparing -----------------------------------------------------------------------------------------------------


def test_samples_of_two_sets_share_their_utterances(tmp_path):
    """1,000 of the many utterances; those that both sets have are found whatever their places are."""
    rng = np.random.default_rng(0)
    names = [f"{n}.wav" for n in range(2 * SAMPLE)]
    labels = {name: " ".join(map(str, rng.integers(5, size=2))) for name in names}

    def write(split: str, chosen: list[str]) -> dict:
        (tmp_path / f"{split}.tsv").write_text(f"{tmp_path}\n" + "".join(f"{name}\t640\n" for name in chosen))
        (tmp_path / f"{split}.km").write_text("".join(f"{labels[name]}\n" for name in chosen))
        return fingerprint(SpeechDataset(str(tmp_path / f"{split}.tsv"), 16000, labels=["km"]))

    (tmp_path / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(5)))
    half, whole = write("half", names[:SAMPLE]), write("whole", names[::-1])
    samples = [record["labels"][0]["sample"] for record in (half, whole)]
    assert [len(sample) for sample in samples] == [SAMPLE, SAMPLE]
    common = samples[0].keys() & samples[1].keys()
    assert len(common) > SAMPLE // 3 and all(samples[0][name] == samples[1][name] for name in common)
    source = Source("last.pt", None)
    require_same_data(source, half, whole, reset_dataloader=True)
    with pytest.raises(UserError, match="2000 utterances, not the 1000 that last.pt was made with"):
        require_same_data(source, half, whole, reset_dataloader=False)
    changed = copy.deepcopy(whole)
    changed["labels"][0]["sample"][next(iter(common))] = "other"
    with pytest.raises(UserError, match=f"other labels for 1 of {len(common)} utterances"):
        require_same_data(source, half, changed, reset_dataloader=True)


def test_digests_depend_on_where_a_buffer_ends():
    assert digest(b"ab", b"c") != digest(b"a", b"bc") and digest(b"", b"a") != digest(b"a", b"")
    assert digest(np.zeros(0, dtype=np.int64), b"") == digest(b"", b"")


def test_a_record_without_a_dictionary_is_compared_with_none():
    require_same_dictionary(Source("last.pt", None), None, {"file": "dict", "symbols": ["A"]})
    require_same_dictionary(Source("last.pt", None), {"file": "dict", "symbols": ["A"]}, None)

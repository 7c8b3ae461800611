"""Training ``dinosr_hubert`` through fairseq: label sets, the log, ranks, resuming, validation, invalid settings."""

import numpy as np
import pytest
import torch

from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.training_log import read_training_log
from support.training import checkpoint, differences, train, train_on_two_ranks, write_corpus

LENGTHS = {"train": [16000, 17000, 21000, 16500, 18000, 16000], "valid": [16000, 17000, 21000, 30000, 16500]}
CLASSES = {"km": 6, "second": 9}
SETTING = [
    "model.final_dim=8",
    "task.max_sample_size=16000",
    "model.require_same_masks=false",
    "lr_scheduler.warmup_updates=2",
]
SETTING += ["+lr_scheduler.total_num_update=40"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, lengths in LENGTHS.items():
        write_corpus(folder, split, lengths)
        for kind, classes in CLASSES.items():
            rows = (np.repeat(rng.integers(classes, size=n // 1600 + 1), 5)[: n // 320] for n in lengths)
            (folder / f"{split}.{kind}").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    for kind, classes in CLASSES.items():
        (folder / f"dict.{kind}.txt").write_text("".join(f"{label} 1\n" for label in range(classes)))
    return folder


def run(corpus, save_dir, updates: int, *more: str, ranks: int = 1):
    return (train if ranks == 1 else train_on_two_ranks)(
        corpus, save_dir, *SETTING, f"optimization.max_update={updates}", *more, config="hubert_tiny"
    )


def test_several_label_sets(corpus, tmp_path):
    run(corpus, tmp_path, 4, "task.labels='km,second'", "model.pred_nomask_weight=0", f"common.log_file={tmp_path}/log")
    record = read_training_log(tmp_path / "log")[-1]
    assert {
        f"{name}_{k}" for name in ("loss", "accuracy", "target_ppl", "pred_ppl", "active_codes") for k in (0, 1)
    } <= record.keys()
    assert (
        record["loss"] == pytest.approx(record["loss_0"] + record["loss_1"], abs=2e-4) and "unmasked_accuracy" in record
    )
    assert record["active_codes_0"] <= 6 and record["active_codes_1"] <= 9 and record["pred_ppl_0"] <= 6
    model, cfg, _ = load_model(tmp_path / "checkpoint_last.pt")
    assert list(cfg.model.num_classes) == model.num_classes == [6, 9]


def test_a_checkpoint_needs_no_data_folder(corpus, tmp_path):
    trainer = run(corpus, tmp_path, 2)
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    state["cfg"]["task"]["data"] = "/nowhere"
    torch.save(state, tmp_path / "moved.pt")
    model, *_ = load_model(tmp_path / "moved.pt")
    assert not differences(model.state_dict(), trainer.get_model().state_dict())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_bit_identical(corpus, tmp_path, precision):
    setting = [
        "model.dropout=0.1",
        "model.encoder_layerdrop=0.2",
        "dataset.num_workers=1",
        "optimization.update_freq=[2]",
        f"common.bf16={precision == 'bf16'}",
    ]
    run(corpus, tmp_path / "whole", 5, *setting)
    for end in (1, 4, 5):
        run(corpus, tmp_path / "parts", end, *setting)
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


def test_two_ranks_equal_one(corpus, tmp_path):
    """3 batches: the second rank has none at an epoch's end."""
    front_end = ["model.front_end=conv", "model.conv_feature_layers='[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2'"]
    first, second = run(corpus, tmp_path / "two", 5, *front_end, "criterion.loss_weights.features_pen=0", ranks=2)
    assert not differences(first, second)
    run(
        corpus, tmp_path / "one", 5, *front_end, "criterion.loss_weights.features_pen=0", "optimization.update_freq=[2]"
    )
    assert not differences(checkpoint(tmp_path / "one")["model"], first, rtol=1e-4, atol=1e-5)


def test_validation_does_not_depend_on_batches(corpus, tmp_path):
    """Utterances of all lengths together or alone, and their labels with them."""
    setting = [
        "dataset.disable_validation=false",
        "dataset.validate_interval_updates=2",
        "task.label_rate=50",
        "model.pred_nomask_weight=0.5",
    ]
    logs = []
    for size in (1, 5):
        run(
            corpus,
            tmp_path / str(size),
            4,
            *setting,
            f"+dataset.batch_size_valid={size}",
            f"common.log_file={tmp_path}/{size}.log",
        )
        logs.append(read_training_log(f"{tmp_path}/{size}.log", "valid"))
    for one, five in zip(*logs, strict=True):
        for name in ("loss", "loss_hubert", "loss_unmasked", "accuracy", "target_ppl", "pred_ppl"):
            assert one[name] == pytest.approx(five[name], abs=2e-4), name


@pytest.mark.parametrize(
    "setting, message",
    [
        ("task.labels=null", r"task\.labels: not given, but model=dinosr_hubert predicts labels; add task\.labels=km"),
        ("task.labels=ltr", r"dict\.ltr\.txt: no such file; `dinosr kmeans apply` writes it"),
        (
            "model.num_classes=[5]",
            r"model\.num_classes=\[5\]: the label sets of task\.labels have \[6\] labels; leave it empty",
        ),
        ("model.num_classes=[6,9]", r"model\.num_classes=\[6, 9\]: the label sets of task\.labels have \[6\]"),
        (
            "task.label_rate=100",
            r"train\.km: labels and audio of 6 utterance\(s\) differ by more than 0\.1 s at task\.label_rate=100",
        ),
        ("task.relabel_every=1", r"task\.relabel_layer=None: give the layer"),
        (
            "task.relabel_layer=0 task.relabel_every=1 task.subsample=0.5",
            "cannot be combined with task.multi_corpus_keys or task.subsample",
        ),
        ("dataset.disable_validation=false dataset.valid_subset=more", r"more\.tsv: no such file"),
    ],
)
def test_bad_settings_are_one_line(corpus, tmp_path, setting, message):
    with pytest.raises(UserError, match=message) as caught:
        run(corpus, tmp_path, 1, *(part if "subsample" not in part else f"+{part}" for part in setting.split()))
    assert "\n" not in str(caught.value)


def test_more_classes_than_labels_may_be_asked_for(corpus, tmp_path):
    """As fairseq's checkpoints have: four more."""
    assert run(corpus, tmp_path, 1, "model.num_classes=[10]").get_model().label_embs_concat.shape == (10, 8)

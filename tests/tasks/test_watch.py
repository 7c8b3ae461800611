"""The watch over DINO's targets and over pseudo-labels: what counts as a collapse, and when it is reported."""

import logging
import math

import pytest

from dinosr_plugin.models.dino_speaker import DinoSpeaker
from dinosr_plugin.runs import stopping
from dinosr_plugin.tasks.watch import TargetWatch

MOST = math.log(1024)


@pytest.fixture(autouse=True)
def no_stop(monkeypatch):
    monkeypatch.setattr(stopping, "_agreed", None)


def watch(action: str = "warn", patience: int = 1) -> TargetWatch:
    made = TargetWatch(action, patience)
    made.remedy, made.guessing_remedy = DinoSpeaker.collapse_remedy, DinoSpeaker.guessing_remedy
    return made


def figures(entropy: float, divergence: float) -> dict[str, float]:
    """Shares of ln 1024 -> nats."""
    return {"target_entropy": entropy * MOST, "divergence": divergence * MOST, "log_outputs": MOST}


UNIFORM = "the targets are uniform (their entropy is "
SAME = "the targets are the same for all utterances (the student's divergence from them is "
GUESSED = "nothing is learned (the loss is "


@pytest.mark.parametrize(
    ("entropy", "divergence", "what"),
    [
        (0.999, 0.001, UNIFORM),
        (0.999, 0.5, UNIFORM),
        (0.97, 0.002, SAME),  # a small training that collapsed
        (0.0, 0.001, SAME),
        (0.75, 0.25, GUESSED),
        (0.75, 0.261, GUESSED),
        (0.72, 0.262, GUESSED),
        (0.75, 0.28, None),  # wrong and sure, early in a training
        (0.73, 0.17, None),
        (0.14, 0.085, None),  # a small training that has learned
        (math.nan, 0.25, None),
        (0.5, math.inf, None),
    ],
)
def test_what_counts_as_a_collapse(caplog, entropy, divergence, what):
    watch().update(figures(entropy, divergence), 7, ["a.wav", "b.wav"])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (what is not None)
    for message in messages:
        assert message.startswith(f"update 7: {what}") and "ln 1024 = 6.931" in message and "\n" not in message
        remedy = DinoSpeaker.guessing_remedy if what == GUESSED else DinoSpeaker.collapse_remedy
        assert f", for 1 updates); {remedy}. target_entropy " in message
        assert message.endswith(". Last batch: a.wav, b.wav")
    assert stopping.agreed() is None


def test_the_whole_message(caplog):
    watch("stop", 2).update(figures(0.75, 0.25), 1, ["a.wav"])
    made = watch("stop", 2)
    for number in (1, 2):
        made.update(figures(0.75, 0.25), number, ["a.wav"])
    assert str(stopping.agreed()) == (
        "update 2: nothing is learned (the loss is 6.931; ln 1024 = 6.931, that of guessing, for 2 updates); change "
        "optimization.lr, lengthen lr_scheduler.warmup_updates, lower model.teacher_temperature, or raise "
        "dataset.batch_size; stopped because of task.on_collapse=stop"
    )
    assert len(caplog.records) == 1


def test_only_updates_in_a_row_count(caplog):
    """A warning after every third one; what is wrong may differ."""
    made = watch(patience=3)
    bad, good = figures(0.99, 0.001), figures(0.5, 0.2)
    for number, one in enumerate([bad, bad, good, bad, bad, figures(0.75, 0.25), bad, bad, bad, bad, good], 1):
        made.update(one, number, [])
    reported = [record.getMessage().split(":")[0] for record in caplog.records]
    assert reported == ["update 6", "update 9"]
    assert "for 6 updates" in caplog.records[1].getMessage() and caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("clusters", "largest", "what"),
    [
        (1, 1.0, "(one cluster has all utterances); "),
        (300, 0.612, "(one of 300 clusters has 61.2% of the utterances); "),
        (3, 0.5, None),
    ],
)
@pytest.mark.parametrize("action", ["warn", "stop"])
def test_labels_that_collapse(caplog, action, clusters, largest, what):
    watch(action).check_clusters({"clusters": clusters, "largest_cluster": largest, "labels_nmi": 0.25}, 6)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (what is not None) and (stopping.agreed() is not None) == (action == "stop" and bool(what))
    for message in messages:
        assert message.startswith(f"epoch 6: the labels of utterances have collapsed {what}lower optimization.lr")
        assert message.endswith(f"clusters {clusters}, largest_cluster {largest:.4g}, labels_nmi 0.25")

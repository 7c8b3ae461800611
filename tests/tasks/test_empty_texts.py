"""Validations of fine-tuning count empty texts, over batches and ranks."""

import logging
from types import SimpleNamespace

import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics

from dinosr_plugin.tasks.empty_texts import EmptyTexts

PATHS = {"empty": [[0, 0, 0], [0, 4, 0]], "spoken": [[0, 5, 0]]}  # blank 0, boundary 4
SHARE = "all 2 hypotheses of the validation are empty, which is usual in the first updates of CTC; if they still are"


class Model(torch.nn.Module):
    def forward(self, path):
        return {"encoder_out": torch.eye(6)[torch.tensor(path)].transpose(0, 1), "padding_mask": None}


class FairseqTask:
    def valid_step(self, sample, model, criterion):
        model(sample["path"])
        return 0.0, 1, {"loss": 0.0}

    def reduce_metrics(self, logging_outputs, criterion):
        pass


class Task(EmptyTexts, FairseqTask):
    blank_symbol = "<s>"

    def __init__(self):
        self.target_dictionary = Dictionary()
        for symbol in "|A":
            self.target_dictionary.add_symbol(symbol)


def validate(*kinds):
    """The share of empty texts, in percent, of a validation with these batches."""
    task, model = Task(), Model()
    with metrics.aggregate(new_root=True) as meters:
        for kind in kinds:
            sample = {"id": torch.arange(len(PATHS[kind])), "path": PATHS[kind]}
            _, _, log = task.valid_step(sample, model, None)
            task.reduce_metrics([log], SimpleNamespace(training=False))
        task.post_validate(model, meters.get_smoothed_values(), meters)
        assert not model._forward_hooks
        return meters.get_smoothed_values()["empty_texts"]


def test_the_share_of_empty_texts(caplog):
    assert validate("empty", "spoken") == 66.7 and validate("spoken") == 0.0
    assert not caplog.records


def test_all_texts_are_empty(caplog):
    with caplog.at_level(logging.WARNING):
        assert validate("empty") == 100.0
    assert caplog.messages[0].startswith(SHARE)


def test_updates_are_not_counted():
    task = Task()
    with metrics.aggregate(new_root=True) as meters:
        task.reduce_metrics([{"loss": 1.0}], SimpleNamespace(training=True))
        task.post_validate(Model(), {}, meters)
    assert "empty_texts" not in meters

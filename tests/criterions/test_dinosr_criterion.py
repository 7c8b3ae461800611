"""From the output of an objective to fairseq's loss, sample size and log."""

import pytest
import torch
from fairseq.logging import metrics

from dinosr_plugin.criterions.dinosr import DinoSRCriterion
from dinosr_plugin.modules.output import Output

SAMPLE = {"id": torch.tensor([3, 8]), "net_input": {"source": torch.zeros(2, 16000)}}


def model(source):
    return Output(
        losses={"dinosr": torch.tensor(6.0, requires_grad=True), "other": torch.tensor(2.0)},
        sample_size=4,
        unit="anchors",
        scalars={"accuracy": torch.tensor(0.5), "ema_decay": 0.999},
    )


def reduced(*logs) -> dict:
    with metrics.aggregate(new_root=True) as log:
        DinoSRCriterion.reduce_metrics(list(logs))
    return log.get_smoothed_values()


def test_losses_are_weighted_by_name():
    """A loss that is not named has weight 1; the logged parts are the weighted ones, so that they add up."""
    loss, sample_size, log = DinoSRCriterion(None, loss_weights={"other": 0.25})(model, SAMPLE)
    assert loss.item() == 6.5 and sample_size == 4 and loss.requires_grad
    assert log["loss"].item() == 6.5 and log["loss_dinosr"].item() == 6.0 and log["loss_other"].item() == 0.5
    assert not any(torch.is_tensor(value) and value.requires_grad for value in log.values())
    assert DinoSRCriterion(None)(model, SAMPLE)[0].item() == 8.0


def test_scalars_and_the_number_of_units_are_logged():
    log = DinoSRCriterion(None)(model, SAMPLE)[2]
    assert {name for name in log if name.startswith("mean_")} == {"mean_accuracy", "mean_ema_decay"}
    assert (log["nsentences"], log["samples"], log["ntokens"]) == (2, 32000, 4)
    assert {name: log[name] for name in log if name.startswith("units_")} == {"units_anchors": 4}


def test_averages_go_by_frames():
    """A rank with 300 frames counts three times one with 100."""
    figures = reduced(
        {
            "loss": 100.0,
            "loss_a": 50.0,
            "mean_accuracy": 0.2 * 100,
            "ntokens": 100,
            "units_masked_frames": 100,
            "samples": 16000,
        },
        {
            "loss": 900.0,
            "loss_a": 90.0,
            "mean_accuracy": 0.6 * 300,
            "ntokens": 300,
            "units_masked_frames": 300,
            "samples": 32000,
        },
    )
    assert figures["loss"] == pytest.approx(1000 / 400)
    assert figures["loss_a"] == pytest.approx(140 / 400)
    assert figures["accuracy"] == pytest.approx(0.5)
    assert figures["masked_frames"] == 400 and figures["audio_seconds"] == 3


def test_each_objective_names_its_units():
    figures = reduced({"loss": 1.0, "ntokens": 3, "units_anchors": 3, "samples": 16000})
    assert figures["anchors"] == 3 and "masked_frames" not in figures


def test_a_sum_of_logs_reduces_to_the_same():
    """fairseq sums the logs over ranks before it reduces them."""
    logs = [DinoSRCriterion(None)(model, SAMPLE)[2] for _ in range(2)]
    logs[1] = {
        **logs[1],
        "loss": torch.tensor(1.0),
        "ntokens": 9,
        "units_anchors": 9,
        "mean_accuracy": torch.tensor(3.0),
    }
    summed = {key: logs[0][key] + logs[1][key] for key in logs[0]}
    assert DinoSRCriterion(None).logging_outputs_can_be_summed()
    assert reduced(*logs) == pytest.approx(reduced(summed))


def test_updates_are_averaged_by_frames_too():
    with metrics.aggregate(new_root=True) as log:
        DinoSRCriterion.reduce_metrics([{"loss": 100.0, "ntokens": 100, "samples": 1}])
        DinoSRCriterion.reduce_metrics([{"loss": 900.0, "ntokens": 300, "samples": 1}])
    assert log.get_smoothed_value("loss") == pytest.approx(2.5)


def test_no_frames_divide_by_nothing():
    assert reduced({"loss": 0.0, "ntokens": 0, "samples": 0})["loss"] == 0


def test_samples_of_all_views_are_counted():
    """Views may differ in length, such as SSRL's short and long crops."""
    views = {**SAMPLE, "net_input": {"source": [torch.zeros(2, 16000), torch.zeros(2, 4000)]}}
    assert DinoSRCriterion(None)(model, views)[2]["samples"] == 40000

"""Checkpoints of CPC_audio give the features and predictions of the reference; other files give a one-line error."""

import logging

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dinosr_plugin.api import load
from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC
from dinosr_plugin.models.cpc_deepcluster import CPCDeepCluster
from support.cpc_audio_layout import (
    CHANNELS,
    encode,
    linear_predictors,
    reference,
    save,
    transformer_prediction,
    transformer_predictors,
)

SIZES = [
    ("channel", nn.LSTM, 1, 16),
    ("channel", nn.LSTM, 2, 16),
    ("channel", nn.LSTM, 4, 24),
    ("batch", nn.LSTM, 2, 16),
]
SIZES += [("batch", nn.GRU, 1, 8), ("channel", nn.GRU, 2, 16), ("instance", nn.LSTM, 1, 16), ("none", nn.GRU, 4, 16)]
CASES = [(*size, "of training") for size in SIZES] + [
    (*size, form) for size in SIZES[2:5:2] for form in ("of several GPUs", "of torch.hub", "before torch 1.6")
]


@pytest.fixture
def wave() -> torch.Tensor:
    return 0.1 * torch.randn(4567, generator=torch.Generator().manual_seed(5))


# ---- supported models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, recurrent, layers, width, form", CASES)
@torch.no_grad()
def test_features_equal_those_of_the_reference(tmp_path, wave, norm, recurrent, layers, width, form):
    model = reference(norm, recurrent, layers, width)
    if form == "of torch.hub":
        torch.save({"config": {"hiddenGar": 999}, "weights": model.state_dict()}, path := tmp_path / "60k.pt")
    else:
        path = save(tmp_path, model, linear_predictors(width), prefix="module." * (form == "of several GPUs"))
    if form == "before torch 1.6":
        state = torch.load(path, weights_only=True)
        torch.save(state, path, _use_new_zipfile_serialization=False)
    ours, cfg, _ = load_model(path)
    assert type(ours) is CPC and not ours.training and cfg.task.normalize is False
    z, c = encode(model, wave)
    read = ours.extract_features(wave.unsqueeze(0))
    assert_close(read["features"][0], z, rtol=0, atol=1e-5)
    assert_close(read["x"][0], c, rtol=0, atol=1e-5)
    assert_close(load(path).features(wave), c, rtol=0, atol=1e-5)
    reader = open_reader(path)
    assert (reader.n_layers, reader.width, reader.rate) == (layers, width, 100)
    assert_close(reader.read([wave], [layers - 1])[0].layers[0], c, rtol=0, atol=1e-5)


@torch.no_grad()
def test_linear_predictors_equal_those_of_the_reference(tmp_path, wave):
    model, state = reference(width=24), linear_predictors(24)
    ours, cfg, _ = load_model(save(tmp_path, model, state))
    assert (cfg.model.predictor, cfg.model.steps, cfg.model.n_negatives) == ("linear", 12, 64)
    c = encode(model, wave)[1]
    predicted = ours.predictors(c.unsqueeze(0))
    for k in range(12):
        assert_close(predicted[k, 0], c @ state[f"wPrediction.predictors.{k}.weight"].T, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_transformer_predictors_equal_those_of_the_reference(tmp_path):
    state = transformer_predictors(anchors=9)
    ours, cfg, _ = load_model(save(tmp_path, reference(), state))
    assert (cfg.model.predictor, cfg.model.steps, cfg.model.predictor_positions) == ("transformer", 12, 9)
    c = torch.randn(9, CHANNELS)
    predicted = ours.predictors(c.unsqueeze(0))
    for k in range(12):
        assert_close(predicted[k, 0], transformer_prediction(state, k, c), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "criterion",
    [
        {},
        {"PhoneCriterionClassifier.weight": torch.zeros(40, CHANNELS)},
        {"wPrediction.predictors.0.weight_ih_l0": torch.zeros(64, 16)},
        linear_predictors(CHANNELS + 4) | {"speakerEmb.weight": torch.zeros(9, 4)},
        transformer_predictors(9, feed_forward=4 * CHANNELS),
        transformer_predictors(9, heads=4),
    ],
)
def test_unsupported_predictors_are_left_out(tmp_path, wave, criterion):
    """Features do not require predictors; training does."""
    model = reference()
    ours, cfg, _ = load_model(save(tmp_path, model, criterion))
    assert cfg.model.predictor == "none" and ours.predictors is None
    assert_close(ours.extract_features(wave.unsqueeze(0))["x"][0], encode(model, wave)[1], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="model.predictor=none"):
        ours(torch.randn(2, 3200))


@torch.no_grad()
def test_the_classifier_of_the_fork_is_read(tmp_path):
    classifier = {"classifier.weight": torch.randn(50, CHANNELS), "classifier.bias": torch.randn(50)}
    ours, *_ = load_model(save(tmp_path, reference(), linear_predictors(), cpc_classifier=classifier))
    assert type(ours) is CPCDeepCluster and ours.cfg.num_classes == [50]
    assert torch.equal(ours.classifier.weight, classifier["classifier.weight"]) and torch.equal(
        ours.classifier.bias, classifier["classifier.bias"]
    )


def test_the_fingerprint_is_the_same_for_every_reader(tmp_path):
    """So that an interrupted extraction resumes."""
    path = save(tmp_path, reference(), {})
    assert open_reader(path).fingerprint == open_reader(path).fingerprint


# ---- missing options, unsupported and damaged files ------------------------------------------------------------------


def test_missing_options_give_a_warning(tmp_path, caplog):
    """No size depends on the options; a warning says what is unknown."""
    with caplog.at_level(logging.WARNING):
        _, cfg, _ = load_model(save(tmp_path, reference(), linear_predictors(), args=None))
    assert cfg.model.n_negatives == 128
    assert [record.message for record in caplog.records if "no checkpoint_args.json in its folder" in record.message]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "checkpoint_args.json: not JSON"),
        ("[1]", "checkpoint_args.json: contains no JSON object"),
        ('{"negativeSamplingExt": "many"}', "negativeSamplingExt in its options is not from 1 to"),
        ('{"negativeSamplingExt": 1000000000000}', "negativeSamplingExt in its options is not from 1 to"),
    ],
)
def test_invalid_options(tmp_path, content, message):
    path = save(tmp_path, reference(), {})
    (tmp_path / "checkpoint_args.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_model(path)


def without(name: str) -> dict:
    state = dict(reference().state_dict())
    del state[name]
    return state


@pytest.mark.parametrize(
    "model, message",
    [
        (without("gEncoder.conv0.weight"), "without gEncoder.conv0.weight"),
        (without("gAR.baseNet.weight_hh_l0"), "without gAR.baseNet.weight_hh_l0"),
        (without("gAR.baseNet.bias_ih_l1"), r"context.layers.1.bias_ih_l0 .* is missing"),
        (without("gEncoder.batchNorm3.bias"), r"encoder.norms.3.bias .* is missing"),
        (without("gEncoder.batchNorm0.weight"), "encoder.norms.0.bias"),
        (
            without("gEncoder.conv2.weight") | {"gEncoder.conv2.weight": torch.zeros(16, 16, 3)},
            r"convolutions.2.weight .* is \(16, 16, 3\), not \(16, 16, 4\)",
        ),
        (reference(recurrent=nn.RNN), "1 gates"),
        (
            dict(reference().state_dict()) | {"gAR.baseNet.weight_ih_l0_reverse": torch.zeros(64, 16)},
            "weight_ih_l0_reverse",
        ),
        (
            {"gEncoder.conv.weight": torch.zeros(512, 1, 400), "gEncoder.han": torch.zeros(1, 1, 400)},
            "gEncoder.conv.weight",
        ),
        (
            {f"models.{i}.{name}": value for i in range(2) for name, value in reference().state_dict().items()},
            "without gEncoder.conv0.weight",
        ),
    ],
)
def test_unsupported_and_damaged_models(tmp_path, model, message):
    with pytest.raises(UserError, match=message) as error:
        load_model(save(tmp_path, model, {}))
    assert "checkpoint_30.pt" in str(error.value) and "\n" not in str(error.value)


def test_a_model_trained_backwards_in_time(tmp_path):
    with pytest.raises(UserError, match="cpc_mode=reverse"):
        load_model(save(tmp_path, reference(), {}, args={"cpc_mode": "reverse"}))


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_a_truncated_file(tmp_path, keep):
    path = save(tmp_path, reference(), linear_predictors())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match="checkpoint_30.pt: truncated; give"):
        load_model(path)


@pytest.mark.parametrize(
    "state",
    [{"config": {}, "weights": {"conv.weight": torch.zeros(1)}}, {"gEncoder": {}}, [torch.zeros(1)], torch.zeros(1)],
)
def test_other_files(tmp_path, state):
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: not a checkpoint"):
        load_model(tmp_path / "other.pt")

"""CPC: sizes and losses of the papers, causality to the sample, and features that depend on no padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.modules.infonce import draw_negatives
from dinosr_plugin.modules.log_mel import LogMel
from dinosr_plugin.modules.masking import row_generators

SMALL = dict(encoder_channels=16, context_dim=16, steps=4, n_negatives=8)


def cpc(seed: int = 0, **changes) -> CPC:
    torch.manual_seed(seed)
    return CPC(CPCConfig(**{**SMALL, **changes})).eval()


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def paper() -> CPC:
    torch.manual_seed(0)
    return CPC(CPCConfig())


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_numbers_of_parameters(paper):
    assert (parameters(paper.encoder), parameters(paper.context), parameters(paper.predictors)) == (
        1_317_120,
        1_052_672,
        786_432,
    )


@pytest.mark.parametrize(
    "samples, frames",
    [
        (159, 1),
        (160, 1),
        (319, 2),
        (479, 3),
        (16159, 101),
        (20480, 128),
        (10240, 64),
        (64000, 400),
        (158, 0),
        (1, 0),
        (0, 0),
    ],
)
def test_frames_of_an_utterance(samples, frames):
    model = cpc()
    assert model.frame_counts(torch.tensor(samples)) == frames
    if frames:
        assert model.extract_features(torch.randn(1, samples))["x"].shape == (1, frames, 16)


def test_predictors_have_their_default_initialisation(paper):
    """Each of the K matrices is initialised as a separate layer."""
    weight = paper.predictors.project.weight
    assert weight.shape == (12 * 256, 256) and abs(weight.abs().max() - 1 / 16) < 1e-3
    assert_close(weight.std(), torch.tensor(1 / 16 / 3**0.5), rtol=0.01, atol=0)


@pytest.mark.parametrize("reduction, expected", [("sum", 12 * math.log(129)), ("mean", math.log(129))])
@pytest.mark.parametrize("predictor", ["linear", "transformer"])
@torch.no_grad()
def test_losses_of_an_untrained_model(reduction, expected, predictor):
    """12 ln 129 = 58.32, or as a mean over steps ln 129 = 4.860."""
    torch.manual_seed(0)
    model = CPC(CPCConfig(cpc_reduction=reduction, predictor=predictor)).eval()
    output = model(0.1 * torch.randn(2, 20480))
    assert output.sample_size == 2 * 116
    assert_close(output.losses["cpc"] / 232, torch.tensor(expected), rtol=0.02, atol=0)
    for k in range(1, 13):
        assert_close(output.scalars[f"loss_{k}"], torch.tensor(math.log(129)), rtol=0.02, atol=0)
    assert "loss_0" not in output.scalars and "loss_13" not in output.scalars and 0 <= output.scalars["accuracy"] < 0.1


# ---- the loss ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_is_the_mean_over_anchors_of_each_steps_cross_entropy():
    """From z, c and the matrices W_k, with negatives of known numbers."""
    model, source = cpc(), torch.randn(3, 3200)
    for parameter in model.parameters():
        parameter.mul_(2)  # so that scores differ
    output = model(source, utterances=torch.tensor([5, 6, 7]))
    features = model.extract_features(source)
    z, c = features["features"], features["x"]
    negatives = draw_negatives(20, 16, 8, row_generators(torch.initial_seed(), [5, 6, 7]))
    matrices = model.predictors.project.weight.view(4, 16, 16)
    total = 0.0
    for k in range(1, 5):
        nll, right = [], []
        for b in range(3):
            for t in range(16):
                frames = torch.stack([z[b, t + k], *(z[n // 20, n % 20] for n in negatives[b, t])])
                scores = frames @ (matrices[k - 1] @ c[b, t]) / 16
                nll.append(-scores.log_softmax(0)[0])
                right.append(float(scores.argmax() == 0))
        assert_close(output.scalars[f"loss_{k}"], torch.stack(nll).mean(), rtol=1e-4, atol=1e-6)
        assert_close(output.scalars[f"accuracy_{k}"], torch.tensor(right).mean())
        total += output.scalars[f"loss_{k}"]
    assert_close(output.losses["cpc"] / output.sample_size, total)


def test_right_predictions_have_no_loss():
    """W_k that give z_{t+k} times a large number; what is left is due to negatives that are the true frame."""
    model = cpc(encoder_channels=24, context_dim=24, n_negatives=20)
    z = torch.eye(24)[:20].expand(2, -1, -1)  # frame t of both rows is unit vector t
    weight = torch.zeros(4, 24, 24)
    for k in range(1, 5):
        for t in range(16):
            weight[k - 1, t + k, t] = 1e4
    model.predictors.project.weight.data.copy_(weight.view(96, 24))
    output = model.learn(z, z[:, :16], torch.arange(2))
    negatives = draw_negatives(20, 16, 20, row_generators(torch.initial_seed(), [0, 1]))  # (2, 16, 20)
    for k in range(1, 5):
        same = (negatives % 20 == torch.arange(16).view(16, 1) + k).sum(-1)
        assert (same == 0).sum() > 0 and (same > 0).sum() > 0
        assert_close(output.scalars[f"loss_{k}"], (1.0 + same).log().mean())
    assert output.scalars["accuracy"] == 1


def test_gradients_reach_everything():
    transformer = {"predictor": "transformer", "context": "gru", "predictor_positions": 16}
    for changes in ({}, transformer, {"front_end": "log_mel", "context": "cnn", "encoder_channels": 12}):
        model = cpc(**changes).train()
        model(torch.randn(2, 3200)).losses["cpc"].backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_negatives_depend_on_seed_and_window():
    model, source = cpc(), torch.randn(2, 3200)

    def loss(seed, numbers):
        torch.manual_seed(seed)
        torch.rand(seed)  # not on what was drawn since
        return model(source, utterances=torch.tensor(numbers)).losses["cpc"].item()

    assert loss(3, [8, 9]) == loss(3, [8, 9]) and len({loss(3, [8, 9]), loss(4, [8, 9]), loss(3, [9, 8])}) == 3


# ---- features ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["lstm", "gru", "cnn"])
@torch.no_grad()
def test_causality_to_the_sample(context):
    """Frame t sees samples up to 160 t + 311, and no more of the past than 160 t - 153 in the encoder."""
    model, source, t = cpc(context=context), torch.randn(1, 8000), 20
    before = model.extract_features(source)
    for sample, frame in ((160 * t + 312, t + 1), (160 * t + 311, t)):
        later = source.clone()
        later[:, sample:] += 1
        after = model.extract_features(later)
        assert torch.equal(before["x"][:, :frame], after["x"][:, :frame]) and torch.equal(
            before["features"][:, :frame], after["features"][:, :frame]
        )
        assert not torch.equal(before["x"][:, frame], after["x"][:, frame]) and not torch.equal(
            before["features"][:, frame], after["features"][:, frame]
        )
    earlier = source.clone()
    earlier[:, : 160 * t - 153] += 1
    after = model.extract_features(earlier)
    assert torch.equal(before["features"][:, t:], after["features"][:, t:]) and not torch.equal(
        before["x"][:, t], after["x"][:, t]
    )


@pytest.mark.parametrize("norm", ["channel", "batch", "none"])
@torch.no_grad()
def test_features_depend_on_no_padding_and_no_batch_mate(batch, norm):
    model, sizes = cpc(encoder_norm=norm, context_layers=3), (9000, 5210, 12345, 159)
    for norm in model.encoder.norms:  # so that zeros give something else than zeros
        for parameter in norm.parameters():
            torch.nn.init.normal_(parameter, 1)
    source, padding_mask = batch(*sizes)
    together = model.extract_features(source, padding_mask)
    for row, size in enumerate(sizes):
        alone = model.extract_features(source[row : row + 1, :size])
        n = (size + 1) // 160
        assert alone["padding_mask"] is None and int((~together["padding_mask"]).sum(1)[row]) == n == alone["x"].size(1)
        assert_close(together["x"][row, :n], alone["x"][0], rtol=0, atol=1e-5)
        assert_close(together["features"][row, :n], alone["features"][0], rtol=0, atol=1e-5)
        for (batched, *_), (single, *_) in zip(together["layer_results"], alone["layer_results"]):
            assert_close(batched[:n, row], single[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("front_end", ["waveform", "log_mel"])
@torch.no_grad()
def test_batch_norm_in_training_averages_over_frames_that_are_not_padded(batch, front_end):
    """The averages, of all layers, and the features are those of the same batch with more padding."""
    source, padding_mask = batch(9000, 5210, 12345)
    found = []
    for more in (0, 700, 5000):
        model = cpc(encoder_norm="batch", front_end=front_end).train()
        mask = F.pad(padding_mask, (0, more), value=True)
        features = model.extract_features(F.pad(source, (0, more)), mask)
        found.append([features["x"][~features["padding_mask"]], *model.buffers()])
    for first, *others in zip(*found, strict=True):
        for other in others:
            assert_close(other, first)
    without_padding, with_padding = (cpc(encoder_norm="batch", front_end=front_end).train() for _ in range(2))
    without_padding.extract_features(source[2:])
    with_padding.extract_features(F.pad(source[2:], (0, 700)), F.pad(padding_mask[2:], (0, 700), value=True))
    for first, other in zip(without_padding.buffers(), with_padding.buffers(), strict=True):
        assert_close(other, first)


@torch.no_grad()
def test_layers():
    model, source = cpc(context_layers=3), torch.randn(2, 3200)
    whole = model.extract_features(source)
    assert len(whole["layer_results"]) == 3 and torch.equal(whole["x"], whole["layer_results"][2][0].transpose(0, 1))
    for layer in range(3):
        part = model(source, features_only=True, layer=layer)
        assert (
            torch.equal(part["x"], whole["layer_results"][layer][0].transpose(0, 1))
            and len(part["layer_results"]) == layer + 1
        )
    stacked = torch.nn.LSTM(16, 16, num_layers=3, batch_first=True)  # one module of torch's
    for i, layer in enumerate(model.context.layers):
        for name, value in layer.state_dict().items():
            getattr(stacked, name.replace("_l0", f"_l{i}")).copy_(value)
    assert_close(whole["x"], stacked(whole["features"])[0])


# ---- log-Mel frames, convolutions over z -----------------------------------------------------------------------------


@torch.no_grad()
def test_convolutions_sum_over_nine_frames():
    """By a plain loop: a residual connection around ReLU of a weighted sum of frames t - 8 .. t, normalised."""
    model = cpc(context="cnn", context_layers=2, encoder_channels=12)
    z = torch.randn(1, 30, 12)
    x = z[0]
    for layer in model.context.layers:
        normalised = torch.nn.functional.layer_norm(x, (x.size(1),), layer.norm.weight, layer.norm.bias)
        weight, rows = layer.convolution.weight, []  # (D, C, 9)
        for t in range(30):
            total = layer.convolution.bias.clone()
            for back in range(min(9, t + 1)):
                total += weight[:, :, 8 - back] @ normalised[t - back]
            rows.append(layer.residual(x[t]) + total.relu())
        x = torch.stack(rows)
    assert isinstance(model.context.layers[1].residual, torch.nn.Identity)
    assert_close(model.context(z)[0][0], x)


@pytest.mark.parametrize("context", ["gru", "cnn"])
@torch.no_grad()
def test_causality_above_log_mel_frames(context):
    """z_t is a function of Mel frame t alone, c_t of z_0 .. z_t; the frames are normalised over the whole row."""
    model, frames, t = cpc(front_end="log_mel", n_mels=10, context=context), torch.randn(1, 10, 40), 20
    z = model.encoder.convolve(frames, None)
    later = frames.clone()
    later[:, :, t + 1 :] += 1
    changed = model.encoder.convolve(later, None)
    assert torch.equal(z[:, : t + 1], changed[:, : t + 1]) and not torch.equal(z[:, t + 1], changed[:, t + 1])
    before, after = model.context(z)[0], model.context(changed)[0]
    assert torch.equal(before[:, : t + 1], after[:, : t + 1]) and not torch.equal(before[:, t + 1], after[:, t + 1])
    source = torch.randn(1, 8000)
    expected = LogMel(10, stacked=1)(source, torch.zeros(1, 48, dtype=torch.bool))
    assert torch.equal(model.extract_features(source)["features"], model.encoder.convolve(expected, None))


@pytest.mark.parametrize("context", ["lstm", "gru", "cnn"])
@torch.no_grad()
def test_log_mel_features_depend_on_no_padding_and_no_batch_mate(batch, context):
    model, sizes = cpc(front_end="log_mel", context=context), (9000, 5210, 12345, 2000)
    source, padding_mask = batch(*sizes)
    together = model.extract_features(source, padding_mask)
    for row, size in enumerate(sizes):
        alone, n = model.extract_features(source[row : row + 1, :size]), 1 + (size - 400) // 160
        assert alone["padding_mask"] is None and int((~together["padding_mask"]).sum(1)[row]) == n == alone["x"].size(1)
        for name in ("x", "features"):
            assert_close(together[name][row, :n], alone[name][0], rtol=0, atol=1e-4)


def test_windows_of_log_mel_frames():
    """5 s have 498 frames."""
    model = cpc(front_end="log_mel")
    assert model.count_anchors(80000) == 498 - 4
    output = model(torch.randn(2, 8000))
    assert output.sample_size == 2 * (48 - 4)
    with pytest.raises(UserError, match="task.window_samples=1039: 4 frames"):
        model.count_anchors(1039)


def test_log_mel_frames_stay_float32(batch):
    """... in a model of another precision."""
    model, (source, _) = cpc(front_end="log_mel"), batch(8000)
    expected = model.extract_features(source)["x"]
    assert any(getattr(module, "takes_float32", False) for module in model.modules())
    half = model.to(torch.bfloat16).extract_features(source)["x"]
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), expected, rtol=0, atol=0.05)


def test_structure_and_start_depend_on_the_front_end():
    assert "n_mels" not in cpc().structure() and cpc(front_end="log_mel").structure()["n_mels"] == 80
    source, model = cpc(1, front_end="log_mel", context="cnn"), cpc(front_end="log_mel", context="cnn")
    model.start_from(source, "x.pt")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), source.parameters()))
    with pytest.raises(UserError, match="was trained with model.front_end=log_mel, not waveform"):
        cpc(context="cnn").start_from(source, "x.pt")
    with pytest.raises(UserError, match="was trained with model.n_mels=80, not 40"):
        cpc(front_end="log_mel", n_mels=40, context="cnn").start_from(source, "x.pt")
    with pytest.raises(UserError, match="was trained with model.context=cnn, not gru"):
        cpc(front_end="log_mel", context="gru").start_from(source, "x.pt")


# ---- what cannot work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps=0"),
        ({"n_negatives": -1}, "n_negatives=-1"),
        ({"predictor": "transformer", "context_dim": 32}, "encoder_channels=16"),
        ({"predictor": "transformer", "context_dim": 20, "encoder_channels": 20}, "multiple of 8"),
        ({"predictor_dropout": 1.5}, "predictor_dropout=1.5"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    with pytest.raises(UserError, match=message):
        cpc(**changes)


def test_windows_that_cannot_be_learned_from():
    """... 4 steps and at most 2 anchors: 5 or 6 frames."""
    model = cpc(predictor="transformer", predictor_positions=2)
    assert [model.count_anchors(samples) for samples in (799, 800, 959, 1118)] == [1, 1, 2, 2]
    for samples in (0, 798, 1119):
        with pytest.raises(
            UserError,
            match=rf"task.window_samples={samples}: {(samples + 1) // 160} frames, but at least model.steps \+ 1 = 5",
        ):
            model.count_anchors(samples)
    assert cpc().count_anchors(10**6) == 6246
    with pytest.raises(UserError, match="task.window_samples=639: 4 frames"):
        cpc()(torch.randn(1, 639))

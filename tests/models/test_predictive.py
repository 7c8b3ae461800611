"""APC and MPC: losses against plain loops, causality, and no dependence on padding or on the batch."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.models.predictive import (
    APC,
    MPC,
    APCConfig,
    MPCConfig,
    Predictive,
)
from dinosr_plugin.models.predictive_encoder import ConvolutionalPositions, SinusoidalPositions
from dinosr_plugin.modules.log_mel import LogMel

SMALL = dict(n_mels=10, layers=2, width=8, heads=2, feed_forward=16, conv_pos=4, conv_pos_groups=2, dropout=0.0)
ENCODERS = ["rnn", "transformer"]
KINDS = [
    *((APC, {"encoder": encoder, "direction": direction}) for encoder in ENCODERS for direction in ("forward", "both")),
    *((MPC, {"encoder": encoder}) for encoder in ENCODERS),
    (APC, {"encoder": "transformer", "direction": "both", "positions": "convolution"}),
    (MPC, {"encoder": "transformer", "positions": "convolution"}),
]


def model_of(kind: type[Predictive], seed: int = 0, **changes) -> Predictive:
    torch.manual_seed(seed)
    config = APCConfig if kind is APC else MPCConfig
    return kind(config(**{**SMALL, **changes})).eval()


def name_of(value) -> str:
    return value.__name__ if isinstance(value, type) else "-".join(value.values())


def log_mel(source: torch.Tensor) -> torch.Tensor:
    """One waveform (T,) -> (F, 10)."""
    return LogMel(10, stacked=1)(source[None], torch.zeros(1, 1 + (len(source) - 400) // 160, dtype=torch.bool))[0].T


# ---- the losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_apc_predicts_the_frame_n_steps_ahead(batch, encoder):
    model, (source, padding_mask) = model_of(APC, encoder=encoder, shift=2), batch(3000, 5210)
    output, total, copied, mean, n_frames = model(source, padding_mask), 0.0, 0.0, 0.0, 0
    for wave in (source[0, :3000], source[1]):
        frames = log_mel(wave)
        x = model.extract_features(wave[None])["x"][0]
        for t in range(len(frames) - 2):
            total += (model.post_nets[0](x[t]) - frames[t + 2]).abs().mean()
            copied += (frames[t] - frames[t + 2]).abs().mean()
            mean += frames[t + 2].abs().mean()
            n_frames += 1
    assert (output.sample_size, output.unit) == (n_frames, "predicted_frames")
    assert_close(output.losses["apc"], total, rtol=1e-4, atol=1e-4)
    assert_close(output.scalars["copy_loss"], copied / n_frames, rtol=1e-4, atol=1e-4)
    assert_close(output.scalars["mean_loss"], mean / n_frames, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_both_directions_are_two_forward_models(batch, encoder):
    """... the second on the frames in reverse order, with its output put back in order."""
    both, (source, padding_mask) = model_of(APC, encoder=encoder, direction="both"), batch(4000, 5210)
    parts = [model_of(APC, encoder=encoder) for _ in range(2)]
    for part, layer, net in zip(parts, ("ahead", "back"), both.post_nets):
        part.post_nets[0].load_state_dict(net.state_dict())
        for ours, theirs in zip(part.encoder.layers, both.encoder.layers):
            ours.load_state_dict(theirs.get_submodule(layer).state_dict())
    output = both(source, padding_mask)
    losses = {"forward": 0.0, "backward": 0.0}
    for wave in (source[0, :4000], source[1]):
        frames = log_mel(wave)
        x = both.extract_features(wave[None])["x"][0]
        for part, name, order in zip(parts, losses, (1, -1)):
            ordered = frames if order == 1 else frames.flip(0)
            alone = part.encode(ordered[None], None)[0][0]  # (F, 8)
            half = x[:, :8] if order == 1 else x[:, 8:].flip(0)
            assert_close(half, alone, rtol=0, atol=1e-5)
            losses[name] += (part.post_nets[0](alone[:-3]) - ordered[3:]).abs().mean(-1).sum()
    assert_close(output.losses["apc"], losses["forward"] + losses["backward"], rtol=1e-4, atol=1e-4)
    assert output.sample_size == 2 * (23 - 3 + 31 - 3)
    for name, loss in losses.items():
        assert_close(output.scalars[f"{name}_loss"], loss / (output.sample_size / 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_mpc_reconstructs_masked_frames(batch, encoder):
    """... which are zero in its input; about 15 % of the frames are masked, none of them padded."""
    model, (source, padding_mask) = model_of(MPC, encoder=encoder), batch(16000, 40000)
    utterances = torch.tensor([4, 9])
    masks = model.draw_mask(torch.tensor([98, 248]), 248, utterances)
    assert 0.05 < masks[1].float().mean() < 0.2 and masks[0, :98].any() and not masks[0, 98:].any()
    starts = masks[1] & ~torch.cat([torch.zeros(1, dtype=torch.bool), masks[1, :-1]])
    assert masks[1].sum() >= 7 * starts.sum()  # spans of 7 frames, or longer ones that touch
    output, total = model(source, padding_mask, utterances), 0.0
    for wave, masked in ((source[0, :16000], masks[0, :98]), (source[1], masks[1])):
        frames = log_mel(wave)
        x = model.encode(torch.where(masked.unsqueeze(1), 0.0, frames)[None], None)[0][0]
        total += (model.post_nets[0](x) - frames)[masked].abs().mean(-1).sum()
    assert (output.sample_size, output.unit) == (int(masks.sum()), "masked_frames")
    assert_close(output.losses["mpc"], total, rtol=1e-4, atol=1e-4)
    assert 0.7 < output.scalars["mean_loss"] < 0.9  # of Gaussian frames it is 0.8


def test_masks_depend_on_seed_and_utterance():
    model = model_of(MPC)

    def mask(seed: int, utterances: list[int], width: int = 200) -> list:
        torch.manual_seed(seed)
        torch.rand(seed)  # not on what was drawn since
        masks = model.draw_mask(torch.full((len(utterances),), 200), width, torch.tensor(utterances))
        return masks[:, :200].tolist()

    assert mask(1, [5, 7]) == mask(1, [5, 7]) and mask(1, [7]) == mask(1, [5, 7], 300)[1:]
    assert mask(1, [5]) != mask(2, [5]) and mask(1, [5]) != mask(1, [7])


@pytest.mark.parametrize("kind, changes", KINDS, ids=name_of)
def test_gradients_reach_everything(batch, kind, changes):
    model = model_of(kind, **changes).train()
    sum(model(*batch(4000, 5210)).losses.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


# ---- what features depend on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, changes", KINDS, ids=name_of)
@torch.no_grad()
def test_features_and_losses_depend_on_no_padding_and_no_batch_mate(batch, kind, changes):
    model, sizes = model_of(kind, **changes), (9000, 5210, 12345, 2000)
    source, padding_mask = batch(*sizes)
    together, output = model.extract_features(source, padding_mask), model(source, padding_mask)
    total = n_units = 0
    for row, size in enumerate(sizes):
        alone = model.extract_features(source[row : row + 1, :size])
        n = 1 + (size - 400) // 160
        assert alone["padding_mask"] is None and int((~together["padding_mask"]).sum(1)[row]) == n == alone["x"].size(1)
        for name in ("x", "features"):
            assert_close(together[name][row, :n], alone[name][0], rtol=0, atol=1e-4)
        part = model(source[row : row + 1, :size], utterances=torch.tensor([row]))
        total, n_units = total + sum(part.losses.values()), n_units + part.sample_size
    assert_close(sum(output.losses.values()), total, rtol=1e-4, atol=1e-4)
    assert output.sample_size == n_units


@pytest.mark.parametrize("kind, changes", KINDS, ids=name_of)
@torch.no_grad()
def test_directions(kind, changes):
    """A forward model sees no later frame, a backward model no earlier one; MPC sees both.

    Of the encoder: the normalisation of the frames sees the whole utterance.
    """
    model, t = model_of(kind, **changes), 12
    frames = torch.randn(1, 30, 10, generator=torch.Generator().manual_seed(0))
    later, earlier = frames.clone(), frames.clone()
    later[:, t + 1 :] += 1
    earlier[:, :t] += 1
    for layer in range(2):
        before, after_later, after_earlier = (model.encode(x, None, layer)[0][0, t] for x in (frames, later, earlier))
        sees_later, sees_earlier = (
            [not torch.equal(before[half], after[half]) for half in (slice(0, 8), slice(8, 16)) if before[half].numel()]
            for after in (after_later, after_earlier)
        )
        assert sees_later == ([True] if kind is MPC else [False, True][: len(sees_later)])
        assert sees_earlier == ([True] if kind is MPC else [True, False][: len(sees_earlier)])


@pytest.mark.parametrize("kind, changes", KINDS, ids=name_of)
@torch.no_grad()
def test_layers(kind, changes):
    model, source = model_of(kind, layers=3, **changes), torch.randn(2, 3200)
    outputs = []
    handles = [layer.register_forward_hook(lambda *call: outputs.append(call[2])) for layer in model.encoder.layers]
    whole = model.extract_features(source)
    for handle in handles:
        handle.remove()
    assert len(outputs) == 3 and torch.equal(outputs[2], whole["x"]) and whole["x"].shape == (2, 18, model.width)
    assert model.width == (16 if changes.get("direction") == "both" else 8)
    for layer, output in enumerate(outputs):
        assert torch.equal(model.extract_features(source, layer=layer)["x"], output)


@pytest.mark.parametrize("kind, changes", KINDS, ids=name_of)
def test_half_precision(batch, kind, changes):
    """Frames and losses stay float32; the features are near those of the float32 model."""
    model, (source, padding_mask) = model_of(kind, **changes), batch(4000, 5210)
    expected, output = model.extract_features(source, padding_mask), model(source, padding_mask)
    half = model.to(torch.bfloat16)
    features, loss = half.extract_features(source, padding_mask), sum(half(source, padding_mask).losses.values())
    assert features["x"].dtype == torch.bfloat16 and torch.equal(features["features"], expected["features"])
    assert_close(features["x"][0].float(), expected["x"][0], rtol=0, atol=0.1)
    assert loss.dtype == torch.float32
    assert_close(loss, sum(output.losses.values()), rtol=0.02, atol=0)


@torch.no_grad()
def test_sizes_of_the_reference():
    """APC's released model: 3 GRU layers of 512 on 80 bins, and a linear layer."""
    model = APC(APCConfig())
    gru = torch.nn.GRU(80, 512, num_layers=3)
    expected = sum(p.numel() for p in gru.parameters()) + 512 * 80 + 80
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.structure() == {
        "n_mels": 80, "encoder": "rnn", "layers": 3, "width": 512, "direction": "forward", "shift": 3,
    }  # fmt: skip


@torch.no_grad()
def test_sinusoidal_positions():
    """Frame t, from 0: sines and cosines of t + 1 at wavelengths from 2 pi to 20000 pi; none of padded frames."""
    positions = SinusoidalPositions(APCConfig(**SMALL))(torch.zeros(2, 3, 8), torch.tensor([[0, 0, 0], [0, 0, 1]]) > 0)
    angles = torch.arange(1.0, 4.0).unsqueeze(1) * 10000.0 ** (-torch.arange(4) / 3)  # (3, 4)
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    assert_close(positions[0], expected)
    assert_close(positions[1], expected * torch.tensor([[1.0], [1.0], [0.0]]))


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_frames_of_convolutional_positions(kernel, causal):
    layer = ConvolutionalPositions(APCConfig(**{**SMALL, "conv_pos": kernel}), causal)
    x = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))
    before = layer(x, None)
    assert before.shape == x.shape
    x[:, 10] += 1
    seen_by = (layer(x, None) != before).any(-1)[0].nonzero().squeeze(1).tolist()
    first = 10 if causal else 10 - (kernel - 1) // 2
    assert seen_by == list(range(first, first + kernel))


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        (APC, {"layers": 0}, "model.layers=0: must be"),
        (APC, {"shift": 0}, "model.shift=0: must be"),
        (APC, {"encoder": "transformer", "heads": 3}, "model.width=8 is not a multiple of model.heads=3; change one"),
        (
            APC,
            {"encoder": "transformer", "positions": "convolution", "conv_pos_groups": 3},
            "model.width=8 is not a multiple of model.conv_pos_groups=3; change one",
        ),
        (MPC, {"encoder": "transformer", "width": 2}, "model.width=2: must be at least 4"),
        (MPC, {"width": 9}, "model.width=9: must be even"),
        (MPC, {"mask_prob": 1.5}, "model.mask_prob=1.5: must be"),
    ],
)
def test_settings_that_cannot_work(kind, changes, message):
    config = APCConfig if kind is APC else MPCConfig
    for cfg in (config(**{**SMALL, **changes}), OmegaConf.structured(config(**{**SMALL, **changes}))):
        with pytest.raises(UserError, match=message):
            kind(cfg)


def test_mpc_cannot_be_trained_without_masks():
    """Fine-tuning can do without: nothing is masked there."""
    model = model_of(MPC, mask_prob=0.0)
    with pytest.raises(UserError, match="^model.mask_prob=0.0 masks nothing"):
        model.check(SimpleNamespace(min_sample_size=560, max_sample_size=None))


@pytest.mark.parametrize("kind, frames, samples", [(APC, 6, 1200), (MPC, 2, 560)])
def test_utterances_with_nothing_to_predict_are_refused(kind, frames, samples):
    model = model_of(kind, **({"shift": 5} if kind is APC else {}))
    model.check(SimpleNamespace(min_sample_size=samples, max_sample_size=None))
    model.check(SimpleNamespace(min_sample_size=samples, max_sample_size=samples))
    with pytest.raises(
        UserError, match=f"task.min_sample_size={samples - 1}: .* fewer than {frames} frames.*{samples}"
    ):
        model.check(SimpleNamespace(min_sample_size=samples - 1, max_sample_size=None))
    for sizes in ((None, None), (samples, samples - 1)):
        with pytest.raises(UserError, match="sample_size="):
            model.check(SimpleNamespace(min_sample_size=sizes[0], max_sample_size=sizes[1]))
    shortest = model(torch.randn(1, samples))
    assert shortest.sample_size == 1 and sum(shortest.losses.values()) > 0


@pytest.mark.parametrize("kind, changes", KINDS, ids=name_of)
def test_starts_from_a_model_of_the_same_kind_and_size(kind, changes):
    source, model = model_of(kind, seed=1, **changes), model_of(kind, **changes)
    model.start_from(source, "x.pt")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), source.parameters()))
    with pytest.raises(UserError, match="x.pt: was trained with model.layers=2, not 3; set model.layers=2"):
        model_of(kind, layers=3, **changes).start_from(source, "x.pt")
    other = MPC if kind is APC else APC
    with pytest.raises(UserError, match=f"contains {kind.__name__}; give a checkpoint of model={other.model_name}"):
        model_of(other).start_from(source, "x.pt")


def test_apc_may_start_with_another_shift():
    source = model_of(APC, seed=1, shift=1)
    model_of(APC, shift=5).start_from(source, "x.pt")
    assert (source.structure()["shift"], "shift" in source.sizes()) == (1, False)
    with pytest.raises(UserError, match="direction=forward, not both"):
        model_of(APC, direction="both").start_from(source, "x.pt")

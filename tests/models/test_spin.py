"""Spin: loss, gradients and updates against a plain implementation; which layers are trained; what is taken over."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from dinosr_plugin.models.encoder import TrunkConfig
from dinosr_plugin.models.hubert import Hubert, HubertConfig
from dinosr_plugin.models.spin import Spin, SpinConfig
from dinosr_plugin.runs.master_weights import normalize_rows
from support import plain_spin
from support.plain_spin import PlainAdam, Recipe, spin_loss

HUBERT = dict(pos_conv_depth=1, extractor_mode="default")
"""The kind of trunk of HuBERT base. Its group norm is over all frames of a row, so that features depend on padding."""


@pytest.fixture
def config(tiny_config):
    """config(field=value, ...) -> SpinConfig with the trunk of ``tiny``, but one positional convolution."""

    def build(**changes) -> SpinConfig:
        trunk = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(TrunkConfig)}
        sizes = {"pos_conv_depth": 1, "start_from": None, "projection_dim": 12, "codebook_size": 8}
        return SpinConfig(**{**trunk, **sizes, **changes})

    return build


@pytest.fixture
def spin(config):
    """spin(seed, field=value, ...) -> Spin with random weights, in training mode."""

    def build(seed: int = 0, **changes) -> Spin:
        torch.manual_seed(seed)
        return Spin(config(**changes)).train()

    return build


def two_views(*sizes: int, seed: int = 0) -> tuple[list[list[torch.Tensor]], list[torch.Tensor], list[torch.Tensor]]:
    """Two lists of waveforms; the same padded, two (B, T); and where they are padded, two (B, T) bool."""
    generator = torch.Generator().manual_seed(seed)
    views = [[torch.randn(size, generator=generator) for size in sizes] for _ in range(2)]
    sources = [torch.nn.utils.rnn.pad_sequence(waves, batch_first=True) for waves in views]
    padding = torch.arange(max(sizes)) >= torch.tensor(sizes).unsqueeze(1)
    return views, sources, [padding, padding.clone()]


@torch.no_grad()
def with_larger_weights(model: Spin) -> Spin:
    """With the initial ones, layers hardly change their input, and an error in one would not show."""
    for layer in model.encoder.layers:
        for p in layer.parameters():
            p.mul_(10 if p.dim() > 1 else 1)
    return model


def trained(model: Spin) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


# ---- against the plain implementation --------------------------------------------------------------------------------


OPTIONS = {
    "paper": ({}, (4000, 4000)),
    "HuBERT's trunk": (HUBERT, (4000, 4000)),
    "padding": ({}, (4000, 2600, 700)),
    "hard targets": ({"hard_target": True}, (4000, 2600)),
    "targets of both": ({"prob_ratio": 0.5}, (4000, 2600)),
    "temperatures": ({"epsilon": 0.1, "temperature": 0.3, "iterations": 1}, (4000, 2600)),
    "layer 1": ({"read_layer": 1}, (4000, 2600)),
    "pre-LN": ({"layer_norm_first": True}, (4000, 2600)),
    "all layers": ({"trained_layers": [0, 1, 2], "train_front_end": True}, (4000, 2600)),
    "recomputed": ({"checkpoint_activations": True}, (4000, 2600)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_three_updates_equal_the_plain_implementation(spin, config, name):
    """Loss, all gradients and all weights after each update, within 1e-5."""
    changes, sizes = OPTIONS[name]
    cfg = config(**changes)
    Spin.configure(cfg, [])
    model = with_larger_weights(spin(**{field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}))
    p = {name: value.double() for name, value in model.state_dict().items()}
    ours = trained(model)
    theirs = {name: p[name].requires_grad_() for name in ours}
    settings = ("epsilon", "temperature", "iterations", "hard_target", "prob_ratio")
    recipe = Recipe(4, model.n_layers, 4, cfg.layer_norm_first, **{name: getattr(cfg, name) for name in settings})
    # epsilon: the gradient of the keys' bias is 0, and what Adam would make of its rounding error is not
    optimizer, plain = torch.optim.Adam(ours.values(), lr=1e-3, eps=1e-4), PlainAdam(theirs, epsilon=1e-4)
    for number in range(3):
        views, sources, masks = two_views(*sizes, seed=number)
        output = model(sources, masks)
        loss = output.losses["spin"] / output.sample_size
        expected = spin_loss(p, [[wave.double() for wave in view] for view in views], recipe)
        assert output.sample_size == sum(model.grid.count(size) for size in sizes)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        gradients = plain_spin.gradients(expected, theirs)
        for name, value in ours.items():
            assert_close(
                value.grad.double(), gradients[name], rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )
        optimizer.step()
        normalize_rows(model.unit_rows(), optimizer)
        plain.step(gradients, 1e-3)
        for name, value in model.state_dict().items():
            assert_close(value.double(), p[name].detach(), rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_the_plain_implementation_tells_options_apart(spin):
    """... so that the test above can fail."""
    views, _, _ = two_views(4000, 2600)
    p = {name: value.double() for name, value in with_larger_weights(spin()).state_dict().items()}
    views = [[wave.double() for wave in view] for view in views]
    plain = Recipe(4, 3, 4)
    changes = ({"hard_target": True}, {"prob_ratio": 0.5}, {"epsilon": 0.1}, {"temperature": 0.3}, {"n_layers": 2})
    losses = [spin_loss(p, views, dataclasses.replace(plain, **change)).item() for change in ({}, *changes)]
    assert all(abs(a - b) > 1e-4 for i, a in enumerate(losses) for b in losses[:i])


def frames_of_views(model: Spin, sources: list[Tensor], masks: list[Tensor] | None) -> Tensor:
    """(2, N, D), those that are clustered."""
    return model.encode_views(sources, masks, model.valid_frames(sources, masks))


def test_identical_views_predict_their_own_targets(spin):
    model, (_, (source, _), _) = spin(), two_views(4000, 4000)
    scores = model.scores(frames_of_views(model, [source, source], None))
    assert torch.equal(scores[0], scores[1])
    targets = model.targets(scores)
    log_probs = (scores[0] / 0.1).log_softmax(-1)
    expected = -(targets[0] * log_probs).sum()
    assert_close(model.losses(scores, targets).losses["spin"], expected)


@pytest.mark.parametrize("codes", [8, 64])
def test_the_first_loss_is_near_that_of_chance(spin, codes):
    _, sources, masks = two_views(9000, 9000)
    output = spin(codebook_size=codes, projection_dim=256)(sources, masks)
    assert output.losses["spin"].item() / output.sample_size == pytest.approx(math.log(codes), rel=0.15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cosines_targets_and_losses_are_float32_under_autocast(spin, dtype):
    """Equal to those without autocast for the same projected frames; the frames themselves are half precision."""
    model = spin()
    frames = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype):
        z = model.project_frames(frames)
    model.project_frames = lambda x: z
    expected = model.scores(frames)
    with torch.autocast("cpu", dtype):
        scores = model.scores(frames)
        targets = model.targets(scores)
        loss = model.losses(scores, targets).losses["spin"]
    assert {scores.dtype, targets.dtype, loss.dtype} == {torch.float32}
    assert torch.equal(scores, expected) and torch.equal(targets, model.targets(expected))
    assert torch.equal(loss, model.losses(expected, targets).losses["spin"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_has_float32_targets(spin, dtype):
    _, sources, masks = two_views(4000, 2600)
    model = spin().to(dtype)
    scores = model.scores(frames_of_views(model, sources, masks))
    assert scores.dtype == model.targets(scores).dtype == torch.float32
    half, full = (m(sources, masks).losses["spin"].item() for m in (model, spin()))
    assert half == pytest.approx(full, rel=0.02) and half != full


def test_figures_are_counted_over_both_views(spin):
    model, (_, sources, masks) = spin(), two_views(4000, 2600)
    output = model(sources, masks)
    scores = model.scores(frames_of_views(model, sources, masks))
    targets = model.targets(scores)
    sums = output.codebook_sums
    assert sums["frames"].item() == 2 * output.sample_size and sums["codes"].sum() == sums["frames"]
    assert torch.equal(sums["codes"][0], F.one_hot(scores.argmax(-1), 8).sum((0, 1)).double())
    correct = (scores.argmax(-1) == targets.flip(0).argmax(-1)).sum()
    assert sums["correct"].item() == correct
    assert_close(sums["probs"][0], (scores / 0.1).softmax(-1).sum((0, 1)).double(), rtol=0, atol=1e-4)


def test_a_dummy_batch_changes_nothing(spin):
    """Its loss and gradients are 0, so that they can be added to those of other ranks."""
    model, (_, sources, masks) = spin(), two_views(4000, 2600)
    model.skip_batch(True)
    output = model(sources, masks)
    output.losses["spin"].backward()
    assert output.sample_size == 0 and output.losses["spin"] == 0
    assert all(not value.any() for value in output.codebook_sums.values())
    assert all(p.grad is not None and not p.grad.any() for p in trained(model).values())
    with torch.no_grad():  # a validation after it is not of a dummy batch
        assert model.eval()(sources, masks).sample_size > 0
    model.train().skip_batch(False)
    assert model(sources, masks).sample_size > 0


# ---- what is trained -------------------------------------------------------------------------------------------------


def layers_of(names) -> set[str]:
    return {name.split(".")[2] for name in names if name.startswith("encoder.layers.")}


@pytest.mark.parametrize(
    "changes, layers, others",
    [
        ({}, {"1", "2"}, set()),
        ({"trained_layers": [-1]}, {"2"}, set()),
        ({"trained_layers": [0, -1]}, {"0", "2"}, set()),
        ({"trained_layers": []}, set(), set()),
        ({"trained_layers": [0, 1, 2]}, {"0", "1", "2"}, set()),
        ({"layer_norm_first": True}, {"1", "2"}, {"encoder.layer_norm"}),
        (
            {"train_front_end": True},
            {"1", "2"},
            {"feature_extractor", "layer_norm", "post_extract_proj", "encoder.pos_conv", "encoder.layer_norm"},
        ),
    ],
)
def test_only_the_chosen_layers_change(spin, changes, layers, others):
    """The others keep every bit after two updates with dropout and get neither gradients nor optimiser state."""
    model, (_, sources, masks) = spin(dropout=0.1, **changes), two_views(4000, 2600)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(trained(model).values(), lr=1e-3, weight_decay=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(sources, masks).losses["spin"].backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.grad is not None} == trained(model).keys()
    assert layers_of(changed) == layers
    heads = {"projection", "codebook", "encoder.layers"}
    rest = {name for name in changed if not name.startswith(tuple(heads))}
    assert all(any(name.startswith(other) for other in others) for name in rest)
    assert all(any(name.startswith(other) for name in rest) for other in others)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_graph_below_the_lowest_trained_layer(spin, checkpointing):
    model, (_, sources, _) = spin(checkpoint_activations=checkpointing), two_views(4000)
    needs_gradient = {}
    for i, layer in enumerate(model.encoder.layers):
        layer.register_forward_hook(lambda m, inputs, out, i=i: needs_gradient.update({i: out[0].requires_grad}))
    model.post_extract_proj.register_forward_hook(
        lambda m, inputs, out: needs_gradient.update({"inputs": inputs[0].requires_grad or out.requires_grad})
    )
    model(sources)
    assert needs_gradient == {"inputs": False, 0: False, 1: True, 2: True}


def test_dropout_stays_on_in_frozen_layers(spin):
    """As in the authors' code, where the whole model is in training mode."""
    model, source = spin(dropout=0.5), torch.randn(1, 4000)
    first, second = (model.extract_features(source, layer=0)["x"] for _ in range(2))
    assert not first.requires_grad and not torch.equal(first, second)


def test_layers_above_the_one_that_is_read_are_left_out(spin, config):
    cfg = config(read_layer=1)
    Spin.configure(cfg, [])
    assert cfg.encoder_layers == 2 and Spin(cfg).n_layers == 2
    for number in (3, 12):
        with pytest.raises(UserError, match=f"model.read_layer={number}: the model has 3 layers; give a number from 0"):
            Spin.configure(config(read_layer=number), [])


# ---- starting from another model -------------------------------------------------------------------------------------


SOURCES = {
    "dinosr": (DinoSR, DinoSRConfig, {"average_top_k_layers": 2}),
    "hubert": (Hubert, HubertConfig, {"num_classes": [5], "final_dim": 8}),
    "spin": (Spin, SpinConfig, {"start_from": None, "projection_dim": 12, "codebook_size": 8}),
    "pre-LN": (Hubert, HubertConfig, {"num_classes": [5], "final_dim": 8, "layer_norm_first": True}),
    "log-Mel": (Hubert, HubertConfig, {"num_classes": [5], "final_dim": 8, "front_end": "fbank", "n_mels": 20}),
}


@pytest.fixture
def source(tiny_config):
    """source(kind, field=value, ...) -> a model of ``SOURCES``, in eval mode."""

    def build(kind: str, **changes):
        model, cfg, sizes = SOURCES[kind]
        trunk = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(TrunkConfig)}
        trunk.pop("start_from")
        torch.manual_seed(1)
        return model(cfg(**{**trunk, "pos_conv_depth": 1, **sizes, **changes})).eval()

    return build


def started(model, as_config=lambda cfg: cfg, **changes) -> Spin:
    """A Spin model of the sizes of ``model``, which starts with its weights."""
    settings = {"start_from": "x.pt", "projection_dim": 12, "codebook_size": 8, "mask_channel_length": 8}
    cfg = as_config(SpinConfig(**{**settings, **changes}))
    Spin.configure(cfg, [], model)
    torch.manual_seed(2)
    spin = Spin(cfg)
    spin.start_from(model, "x.pt")
    return spin.eval()


def as_fairseq_passes_it(cfg: SpinConfig):
    """A config with types, and as a plain one, which is how fairseq's programs and its loaders pass it."""
    return OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(cfg), enum_to_str=True))


@pytest.mark.parametrize("as_config", [lambda cfg: cfg, OmegaConf.structured, as_fairseq_passes_it])
@pytest.mark.parametrize("kind", SOURCES)
def test_sizes_and_features_are_those_of_the_other_model(source, kind, as_config):
    """The sizes become part of the config, in a form that OmegaConf saves and reads."""
    theirs, wave = source(kind), torch.randn(2, 6000)
    model = started(theirs, as_config)
    with torch.no_grad():
        assert torch.equal(model.extract_features(wave)["x"], theirs.extract_features(wave)["x"])
    saved = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(model.cfg))), resolve=True)
    again = Spin(SpinConfig(**{name: value for name, value in saved.items() if name != "_name"}))
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval().extract_features(wave)["x"], model.extract_features(wave)["x"])


@pytest.mark.parametrize("kind", ["dinosr", "pre-LN"])
def test_the_lower_layers_of_the_other_model(source, kind):
    theirs, wave = source(kind), torch.randn(2, 6000)
    with torch.no_grad():
        expected = theirs.extract_features(wave, layer=1)["layer_results"][1][0]
        model = started(theirs, read_layer=1)
        found = model.extract_features(wave)["layer_results"]
    assert model.n_layers == len(found) == 2 and torch.equal(found[1][0], expected)
    assert model.cfg.encoder_layers == 2 and model.cfg.read_layer == 1


def test_layers_drawn_anew(source):
    theirs = source("hubert")
    model = started(theirs, redrawn_layers=[0, -1])
    for i, (ours, other) in enumerate(zip(model.encoder.layers, theirs.encoder.layers)):
        same = [
            torch.equal(a, b) for name, a in ours.named_parameters() for b in [other.get_parameter(name)] if a.dim() > 1
        ]
        assert all(same) if i == 1 else not any(same)
    torch.manual_seed(2)
    assert torch.equal(model.encoder.layers[2].fc1.weight, Spin(model.cfg).encoder.layers[2].fc1.weight)


def test_projection_and_codebook_of_another_spin(source, caplog):
    theirs = source("spin")
    model = started(theirs, epsilon=0.05)
    for name, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not caplog.records
    model = started(theirs, codebook_size=16)
    assert (
        "x.pt: was trained with model.codebook_size=8, so that projection and codebook start untrained" in caplog.text
    )
    assert not torch.equal(model.projection.weight, theirs.projection.weight)


def test_a_fine_tuned_spin_has_no_projection_to_take_over(source):
    theirs = source("spin")
    theirs.remove_pretraining_modules()
    assert started(theirs).codebook is not None
    assert torch.equal(started(theirs).encoder.layers[2].fc1.weight, theirs.encoder.layers[2].fc1.weight)


def test_cpc_has_no_trunk(config):
    with pytest.raises(UserError, match="x.pt: contains CPC, which does not have the trunk of Spin; give a check"):
        Spin(config()).start_from(CPC(CPCConfig(encoder_channels=16, context_dim=16)), "x.pt")


def test_models_are_alike_only_if_the_same_layers_are_trained(spin):
    """A run resumes with the optimiser's state, which is that of the trained layers; their names may differ."""
    assert spin().structure() == spin(trained_layers=[2, 1]).structure() == spin(trained_layers=[1, -1]).structure()
    assert spin().structure() != spin(trained_layers=[2]).structure()


# ---- codebook --------------------------------------------------------------------------------------------------------


def row_norms(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().norm(dim=1)


def test_rows_of_the_codebook_start_with_norm_1(spin):
    assert_close(row_norms(spin(projection_dim=256).codebook.weight), torch.ones(8))


def test_fine_tuning_trains_everything_that_is_left(spin):
    model = spin()
    model.remove_pretraining_modules(last_layer=1)
    assert model.n_layers == 2 and model.projection is None and model.codebook is None
    assert all(p.requires_grad for p in model.parameters())
    model.load_state_dict({name: value for name, value in spin().state_dict().items() if ".layers.2." not in name})


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"trained_layers": [-4]},
            r"model.trained_layers=\[-4\]: the model has 3 layers; give numbers from 0 to 2, or",
        ),
        ({"trained_layers": [3]}, r"model.trained_layers=\[3\]: the model has 3 layers; .*from -3 to -1"),
        ({"redrawn_layers": [7]}, r"model.redrawn_layers=\[7\]: the model has 3 layers"),
        ({"epsilon": 0.01}, "model.epsilon=0.01: "),
        ({"codebook_size": 1}, "model.codebook_size=1: "),
        ({"prob_ratio": 1.5}, "model.prob_ratio=1.5: "),
    ],
)
def test_settings_that_cannot_work(config, changes, message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        Spin(config(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, sizes, message",
    [
        (
            {},
            (399, None),
            "task.min_sample_size=399 allows utterances shorter than a frame, which has 400 samples; rai",
        ),
        ({}, (None, None), "task.min_sample_size=0 allows .*; raise it to 400 or more"),
        ({}, (400, 399), "task.max_sample_size=399 allows"),
        ({"encoder_layerdrop": 0.1}, (400, None), "model.encoder_layerdrop=0.1: .*; set model.encoder_layerdrop=0"),
    ],
)
def test_settings_that_it_cannot_be_trained_with(spin, changes, sizes, message):
    with pytest.raises(UserError, match=f"^{message}"):
        spin(**changes).check(SimpleNamespace(min_sample_size=sizes[0], max_sample_size=sizes[1]))
    spin().check(SimpleNamespace(min_sample_size=400, max_sample_size=400))


def test_views_of_different_lengths(spin):
    """... of the whole batch, or only of one utterance in it, whose padding hides it."""
    model, (_, sources, masks) = spin(), two_views(4000, 2600)
    with pytest.raises(UserError, match="^task.views: two views have 4000 and 3000 samples; give transforms that keep"):
        model([sources[0], sources[1][:, :3000]], [masks[0], masks[1][:, :3000]])
    masks[1][1, 2000:] = True
    with pytest.raises(UserError, match="^task.views: two views have 7 and 6 frames; give transforms that keep"):
        model(sources, masks)


def test_fewer_frames_than_codes_are_reported_once(spin, caplog):
    model, (_, sources, masks) = spin(codebook_size=64), two_views(4000)
    for _ in range(2):
        model(sources, masks)
    (record,) = caplog.records
    assert "model.codebook_size=64: a batch has only 12 frames in a view" in record.message
    model = spin(codebook_size=12)
    caplog.clear()
    model(sources, masks)
    model.skip_batch(True)
    model(sources, masks)
    assert not caplog.records

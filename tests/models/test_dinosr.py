"""DinoSR's promises, one test each; figures of whole training steps are held by test_golden.py."""

import copy
import math

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from dinosr_plugin.errors import UserError
from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from dinosr_plugin.modules.codebook_figures import FIGURES
from dinosr_plugin.tasks.pretraining import DinoSRPretrainingTask
from support.paths import CONFIGS

BASE = CONFIGS / "pretraining/dinosr_base.yaml"
SOURCE = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
N_FRAMES = 18


def mask_of(*columns: int) -> torch.Tensor:
    mask = torch.zeros(2, N_FRAMES, dtype=torch.bool)
    mask[:, list(columns)] = True
    return mask


MASK = mask_of(2, 3, 4, 9, 10, 11)


def update(model: DinoSR, optimizer, number: int, source=SOURCE, mask=MASK, **inputs):
    """Update ``number`` (from 1), and the call that ends it."""
    output = model(source, mask_indices=mask, **inputs)
    optimizer.zero_grad()
    (output.losses["dinosr"] / max(output.sample_size, 1)).backward()
    optimizer.step()
    model.end_update(number)
    return output


def adam(model: DinoSR):
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).clone()


def average(model: DinoSR) -> torch.Tensor:
    return flat(model.teacher.average().values())


# ---- size and loss -------------------------------------------------------------------------------------------------


def test_base_size():
    """94.74 M trainable parameters."""
    fields = {name: value for name, value in OmegaConf.load(BASE).model.items() if name != "_name"}
    model = DinoSR(DinoSRConfig(**fields))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == pytest.approx(94.74e6, rel=1e-4)


def test_chance_loss(tiny):
    """An untrained model knows nothing: ln V nats a frame."""
    model = tiny(codebook_size=256)
    with torch.no_grad():
        output = model(torch.randn(4, 16000))
    assert output.losses["dinosr"].item() / output.sample_size == pytest.approx(math.log(256), rel=0.05)


def test_loss_is_the_cross_entropy_summed_over_frames_and_averaged_over_codebooks(tiny):
    model = tiny()
    logits, codes = torch.randn(2, 7, 16), torch.randint(16, (2, 7))
    output = model.losses(logits, codes, torch.ones(7, dtype=torch.bool))
    expected = torch.stack(
        [torch.nn.functional.cross_entropy(row, labels, reduction="sum") for row, labels in zip(logits, codes)]
    ).mean()
    assert_close(output.losses["dinosr"], expected)
    assert output.sample_size == 7
    assert_close(output.codebook_sums["nll"].mean().float(), expected)
    assert torch.equal(output.predictions, logits.argmax(-1)) and torch.equal(output.codes, codes)


def test_unmasked_frames_count_with_their_weight(tiny):
    """They add a separate loss and move the codebooks; the loss of masked frames does not change."""
    plain, weighted = tiny(), tiny(unmasked_weight=0.5)
    outputs = [model(SOURCE, mask_indices=MASK) for model in (plain, weighted)]
    assert_close(outputs[0].losses["dinosr"], outputs[1].losses["dinosr"])
    assert outputs[0].losses.keys() == {"dinosr"} and outputs[1].losses.keys() == {"dinosr", "unmasked"}
    assert outputs[1].sample_size == 12 and torch.equal(outputs[0].codes, outputs[1].codes)
    # with another mask the student differs: only the scale can be compared
    rest = plain(SOURCE, mask_indices=MASK | mask_of(0)).losses
    assert 0.7 < outputs[1].losses["unmasked"] / (0.5 * rest["dinosr"]) * 14 / (2 * N_FRAMES - 12) < 1.4
    assert (
        plain.codebooks.pending[..., -1].sum() == 2 * (12 + 14)
        and weighted.codebooks.pending[..., -1].sum() == 2 * 2 * N_FRAMES
    )


def test_same_seed_same_loss(tiny):
    losses = []
    for seed in (5, 5, 6):
        model = tiny(dropout=0.1, attention_dropout=0.1, encoder_layerdrop=0.3)
        torch.manual_seed(seed)
        losses.append([update_loss(model, number) for number in (1, 2, 3)])
    assert losses[0] == losses[1] != losses[2]


def update_loss(model: DinoSR, number: int) -> float:
    return update(model, adam(model), number, mask=None).losses["dinosr"].item()


def test_it_learns(tiny):
    model = tiny()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = [update(model, optimizer, number).losses["dinosr"].item() for number in range(1, 61)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_batch_without_masked_frames_is_no_accident(tiny):
    """One row of one frame leaves nothing to mask (same count in every row): figures stay finite, nothing moves."""
    model = tiny(codebook_init="frames")
    optimizer = adam(model)
    update(model, optimizer, 1)
    sums = model.codebooks.sums.clone()
    output = update(model, optimizer, 2, source=torch.randn(1, 400), mask=None)
    assert output.sample_size == 0 and output.losses["dinosr"] == 0
    assert all(figure(output.codebook_sums).isfinite().all() for figure in FIGURES.values())
    assert torch.equal(model.codebooks.sums, sums)


# ---- targets -------------------------------------------------------------------------------------------------------


def codes_at(model: DinoSR, frames: torch.Tensor, mask: torch.Tensor, source=SOURCE, padding_mask=None) -> torch.Tensor:
    """Codes (K, n) of the teacher at ``frames``, from a training step that masks ``mask``."""
    codes = model(source, padding_mask, mask_indices=mask).codes
    whole = codes.new_full((len(codes), *mask.shape), -1)
    whole[:, mask] = codes
    return whole[:, frames]


def test_targets_do_not_depend_on_the_mask(tiny):
    model = tiny()
    assert torch.equal(codes_at(model, MASK, MASK), codes_at(model, MASK, MASK | mask_of(0, 1, 5, 6, 7, 8, 16)))


def test_targets_do_not_depend_on_dropout(tiny):
    model = tiny(dropout=0.5, attention_dropout=0.5, activation_dropout=0.5, dropout_input=0.5, encoder_layerdrop=0.5)
    first = codes_at(model, MASK, MASK)
    for _ in range(3):
        assert torch.equal(first, codes_at(model, MASK, MASK))
    assert torch.equal(first, codes_at(model.eval(), MASK, MASK))


@pytest.mark.parametrize("front_end", ["conv", "fbank"])
def test_targets_do_not_depend_on_what_else_is_in_the_batch(tiny, batch, front_end):
    """Mates, their order and padding; also by value, not only by code."""
    model = tiny(front_end=front_end)
    source, padding_mask = batch(5000, 9000, 3000)
    with torch.no_grad():
        padding = model.frame_padding(source, padding_mask)
        together = model.targets(model.encoder_inputs(source, padding), padding)
        for row, size in enumerate((5000, 9000, 3000)):
            alone = source[row : row + 1, :size]
            no_padding = model.frame_padding(alone, None)
            single = model.targets(model.encoder_inputs(alone, no_padding), None)
            n = single.size(2)
            assert_close(together[:, row, :n], single[:, 0], rtol=0, atol=1e-3)
            assert torch.equal(model.codes(source, padding_mask)[:, row, :n], model.codes(alone)[:, 0])
            assert (model.codes(source, padding_mask)[:, row, n:] == -1).all()


def test_training_on_a_padded_batch_is_training_on_each_utterance(tiny, batch):
    """The summed loss of a batch is the sum over its utterances."""
    model = tiny()
    source, padding_mask = batch(6000, 4000)
    mask = MASK.clone()
    together = model(source, padding_mask, mask_indices=mask)
    parts = [model(source[:1], mask_indices=mask[:1]), model(source[1:, :4000], mask_indices=mask[1:, :12])]
    assert together.sample_size == sum(part.sample_size for part in parts)
    assert_close(together.losses["dinosr"], sum(part.losses["dinosr"] for part in parts), rtol=1e-4, atol=1e-4)


def test_targets_are_the_feed_forward_outputs_of_the_top_layers_lowest_first(tiny):
    model = tiny(average_top_k_layers=2)
    x = torch.randn(2, 10, 32)
    _, layer_results = model.teacher.model(x)
    for target, (_, _, ffn) in zip(model.targets(x, None), layer_results[1:]):
        expected = torch.nn.functional.instance_norm(ffn.permute(1, 2, 0)).transpose(1, 2)
        assert_close(target, expected)


def test_no_gradient_reaches_the_targets(tiny):
    """The front end is shared; what it learns comes through the student alone."""
    model = tiny()
    assert not model.targets(model.encoder_inputs(SOURCE, model.frame_padding(SOURCE, None)), None).requires_grad


# ---- what moves, and when ------------------------------------------------------------------------------------------


def test_codebooks_move_in_training_only(tiny):
    model = tiny()
    start = model.codebooks.sums.clone()
    model.eval()
    with torch.no_grad():
        model(SOURCE)
        model.codes(SOURCE)
        model.predicted_codes(SOURCE)
    model.end_update(1)
    assert torch.equal(model.codebooks.sums, start)
    model.train()
    model(SOURCE)
    assert torch.equal(model.codebooks.sums, start), "codes are those of the codebooks before the update"
    model.end_update(2)
    assert not torch.equal(model.codebooks.sums, start)


def test_the_teacher_moves_once_an_update(tiny):
    model = tiny()
    update(model, adam(model), 1)
    once, sums = average(model), model.codebooks.sums.clone()
    for number in (1, 1, 2):  # fairseq repeats the number before every micro-batch
        model.set_num_updates(number)
        assert torch.equal(average(model), once) and torch.equal(model.codebooks.sums, sums)
    update(model, adam(model), 3)
    assert not torch.equal(average(model), once)


def test_loading_a_checkpoint_moves_nothing(tiny):
    model, other = tiny(), tiny(seed=1)
    update(model, adam(model), 1)
    other.load_state_dict(model.state_dict())
    other.set_num_updates(1000)
    assert torch.equal(average(other), average(model)) and torch.equal(other.codebooks.sums, model.codebooks.sums)


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.4])
def test_four_micro_batches_are_one_batch_four_times_as_large(tiny, unmasked_weight):
    """update_freq=[4]: parameters, codebooks and teacher change in the same way.

    fairseq calls ``set_num_updates`` before every micro-batch.
    """
    whole, parts = (tiny(unmasked_weight=unmasked_weight) for _ in range(2))
    optimizers = {model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for model in (whole, parts)}
    generator = torch.Generator().manual_seed(8)
    for number in range(4):
        source, mask = (
            torch.randn(4, SOURCE.size(1), generator=generator),
            torch.rand(4, N_FRAMES, generator=generator) < 0.5,
        )
        for model, rows in ((whole, [range(4)]), (parts, [[0], [1], [2], [3]])):
            optimizers[model].zero_grad()
            for row in rows:
                model.set_num_updates(number)
                output = model(source[row], mask_indices=mask[row])
                (sum(output.losses.values()) / mask.sum()).backward()
            optimizers[model].step()
            model.end_update(number + 1)
    expected, state = whole.state_dict(), parts.state_dict()
    for name, value in {**expected.pop("_ema"), **expected}.items():
        assert_close({**state["_ema"], **state}[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_codebooks_may_move_with_every_forward_pass(tiny):
    """codebook_update=per_forward, as in the released code.

    The second micro-batch meets other codebooks; teacher and parameters do not move in between.
    """
    model, other = tiny(codebook_update="per_forward"), tiny()
    start, teacher = model.codebooks.sums.clone(), average(model)
    moved = []
    for row in range(2):
        model.set_num_updates(0)
        model(SOURCE[row : row + 1], mask_indices=MASK[row : row + 1])
        moved.append(model.codebooks.sums.clone())
    assert (
        not torch.equal(moved[0], start)
        and not torch.equal(moved[1], moved[0])
        and torch.equal(average(model), teacher)
    )
    other(SOURCE[:1], mask_indices=MASK[:1])
    other.codebooks.step_(other.codebook_decay(1))
    assert torch.equal(other.codebooks.sums, moved[0])
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.end_update(1)
    assert torch.equal(model.codebooks.sums, moved[1]) and not torch.equal(average(model), teacher)


def test_the_pretraining_task_ends_an_update_at_once(tiny):
    """Else a checkpoint would hold the student of this update with the teacher and the codebooks of the one before."""
    model = tiny()
    optimizer = adam(model)
    model.set_num_updates(0)
    model(SOURCE, mask_indices=MASK).losses["dinosr"].backward()
    before = average(model)
    DinoSRPretrainingTask.optimizer_step(object.__new__(DinoSRPretrainingTask), optimizer, model, update_num=0)
    assert model.num_updates == 1
    assert not torch.equal(average(model), before) and model.codebooks.pending is None


def test_teacher_formula_in_training(tiny):
    """Transformer layers are averaged with the annealed decay, positional convolutions copied."""
    model = tiny(ema_decay=0.5, ema_end_decay=0.9, ema_anneal_end_step=4)
    optimizer = adam(model)
    for number, decay in ((1, 0.6), (2, 0.7), (3, 0.8), (4, 0.9), (5, 0.9)):
        before = {name: value.clone() for name, value in model.teacher.average().items()}
        assert update(model, optimizer, number).scalars["ema_decay"] == pytest.approx(decay)
        for name, p in model.encoder.named_parameters():
            expected = p.detach() if name.startswith("pos_conv.") else decay * before[name] + (1 - decay) * p.detach()
            assert_close(model.teacher.average()[name], expected)


def front_end(model: DinoSR) -> torch.Tensor:
    modules = (model.feature_extractor, model.layer_norm, model.post_extract_proj)
    return flat(p for module in modules for p in module.parameters())


@pytest.mark.parametrize("zero_gradients", [False, True])
def test_freezing(tiny, zero_gradients):
    """From freeze_teacher_step on, teacher and front end stay bit for bit, despite momentum and weight decay.

    ``zero_gradients``: fairseq's fp16 optimiser and its DDP replace a missing gradient by zeros, which Adam acts on.
    """
    model = tiny(freeze_teacher_step=3)
    optimizer = adam(model)
    optimizer.register_step_pre_hook(lambda *_: fill_gradients(model) if zero_gradients else None)
    for number in range(1, 7):
        before = average(model), front_end(model), flat(model.encoder.parameters()), model.codebooks.sums.clone()
        output = update(model, optimizer, number)
        after = average(model), front_end(model), flat(model.encoder.parameters()), model.codebooks.sums.clone()
        same = [torch.equal(old, new) for old, new in zip(before, after)]
        assert same == ([False, False, False, False] if number < 3 else [True, True, False, False]), number
        assert (output.scalars["ema_decay"] == 1) == (number >= 3)


def fill_gradients(model: DinoSR):
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad


def test_freezing_the_teacher_alone(tiny):
    model = tiny(freeze_teacher_step=1, freeze_pre_enc_modules=False)
    before = average(model), front_end(model)
    update(model, adam(model), 1)
    assert torch.equal(average(model), before[0]) and not torch.equal(front_end(model), before[1])


def test_a_frozen_model_takes_a_checkpoint(tiny):
    """What was held while frozen is not written over what was loaded."""
    model, other = tiny(freeze_teacher_step=1), tiny(seed=1)
    update(model, adam(model), 1)
    model.load_state_dict(other.state_dict())
    update(model, adam(model), 2)
    assert torch.equal(front_end(model), front_end(other))


def test_never_frozen(tiny):
    model = tiny(freeze_teacher_step=-1)
    model.set_num_updates(10**7)
    before = average(model), front_end(model)
    update(model, adam(model), 10**7 + 1)
    assert not torch.equal(average(model), before[0]) and not torch.equal(front_end(model), before[1])


# ---- variants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_layers", ["last", "matching", "matching_ffn"])
@pytest.mark.parametrize("target", ["ffn", "layer"])
@pytest.mark.parametrize("codebook_init", ["normal", "frames"])
@pytest.mark.parametrize("layerdrop", [0.0, 0.7])
def test_variants(tiny, head_layers, target, codebook_init, layerdrop):
    changes = dict(
        codebook_init=codebook_init,
        encoder_layerdrop=0.0 if head_layers == "matching_ffn" else layerdrop,
        instance_norm_target_layer=target == "ffn",
        revive_after=2,
    )
    model = tiny(head_layers=head_layers, target=target, **changes)
    optimizer = adam(model)
    for number in range(1, 5):
        output = update(model, optimizer, number)
        assert output.losses["dinosr"].isfinite() and output.sample_size == 12
        assert output.codes.shape == output.predictions.shape == (2, 12)
        assert output.codes.min() >= 0 and output.codes.max() < 16
    assert all(p.grad is not None for p in model.heads.parameters())
    assert model.codes(SOURCE).shape == model.predicted_codes(SOURCE).shape == (2, 2, N_FRAMES)


def test_matching_heads_read_the_layer_of_their_codebook(tiny):
    """The head of codebook 0 (the teacher's layer L-K) reads no layer above it; the last head depends on all layers."""
    model = tiny(head_layers="matching")
    masks = model.frame_masks(SOURCE, None, MASK, None)
    x, layer_results = model.encode_masked(model.encoder_inputs(SOURCE, masks.padding), masks)
    logits = model.logits(model.head_inputs(x, layer_results)[:, MASK])

    def reaches(head: int, layer: int) -> bool:
        return (
            torch.autograd.grad(logits[head].pow(2).sum(), model.encoder.layers[layer].fc1.weight, retain_graph=True)[0]
            .any()
            .item()
        )

    assert [reaches(0, layer) for layer in range(3)] == [True, True, False]
    assert [reaches(1, layer) for layer in range(3)] == [True, True, True]


def test_target_layer_is_the_layers_output(tiny):
    model = tiny(target="layer", instance_norm_target_layer=False)
    x = torch.randn(2, 10, 32)
    _, layer_results = model.teacher.model(x)
    assert_close(model.targets(x, None)[1], layer_results[2][0].transpose(0, 1))


def test_codebooks_start_from_the_first_batch_of_a_run(tiny):
    """... and not when a run resumes, whose codebooks come from the checkpoint."""
    model = tiny(codebook_init="frames")
    output = model(SOURCE, mask_indices=mask_of(*range(N_FRAMES - 1)))
    assert (output.codebook_sums["codes"] > 0).all()
    resumed = tiny(codebook_init="frames")
    resumed.set_num_updates(10)
    sums = resumed.codebooks.sums.clone()
    resumed(SOURCE, mask_indices=MASK)
    assert torch.equal(resumed.codebooks.sums, sums)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tiny, dtype):
    """Loss, teacher and codebooks in float32 whatever the weights are."""
    model = tiny().to(dtype)
    output = model(SOURCE.to(dtype), mask_indices=MASK)
    assert output.losses["dinosr"].dtype == torch.float32 and output.losses["dinosr"].isfinite()
    output.losses["dinosr"].backward()
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(0.5)
    before = average(model)
    model.end_update(1)
    state = model.state_dict()
    averages = [*state["_ema"].values(), *(value for name, value in state.items() if name.startswith("_codebook"))]
    assert all(value.dtype == torch.float32 for value in averages)
    moved = average(model) - before
    assert 0 < moved.abs().max() < 1


def test_checkpoint_activations_change_no_figure(tiny):
    results = []
    for checkpointing in (False, True):
        model = tiny(checkpoint_activations=checkpointing)
        output = update(model, adam(model), 1)
        results.append([output.losses["dinosr"], model.codebooks.sums, flat(model.parameters()), average(model)])
    for plain, recomputed in zip(*results):
        assert_close(plain, recomputed)


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revive_after", [0, 5])
def test_state_dict_round_trip(tiny, tmp_path, revive_after):
    """Bit for bit, teacher, codebooks and idle counters included; training resumes as if it had not stopped."""
    model, other = tiny(revive_after=revive_after), tiny(seed=1, revive_after=revive_after)
    for number in (1, 2):
        update(model, adam(model), number)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.set_num_updates(2)
    assert ("_codebook_idle" in model.state_dict()) == (revive_after > 0)

    def assert_same():
        assert torch.equal(flat(model.parameters()), flat(other.parameters())) and torch.equal(
            average(model), average(other)
        )
        buffers = [*zip(model.codebooks.buffers(), other.codebooks.buffers())]
        for mine, theirs in buffers if revive_after else buffers[:2]:
            assert torch.equal(mine, theirs)

    assert_same()
    assert not revive_after or model.codebooks.idle.max() == 2
    for one in (model, other):
        update(one, torch.optim.SGD(one.parameters(), lr=0.1), 3)
    assert_same()


def test_checkpoint_names(tiny):
    """Those of the released checkpoints; the parameters are those of fairseq's data2vec audio model."""
    names = set(tiny().state_dict())
    expected = {
        "_ema",
        "_codebook0",
        "_codebook1",
        "_codebook_cnts0",
        "_codebook_cnts1",
        "mask_emb",
        "heads.0.weight",
        "heads.1.bias",
    }
    assert expected <= names
    assert {
        "feature_extractor.conv_layers.0.0.weight",
        "feature_extractor.conv_layers.6.2.1.bias",
        "encoder.pos_conv.1.0.bias",
    } <= names
    assert not any("teacher" in name or "codebooks" in name for name in names)
    depth_1 = set(tiny(pos_conv_depth=1).state_dict())
    assert {
        "encoder.pos_conv.0.weight_g",
        "encoder.pos_conv.0.weight_v",
        "encoder.pos_conv.0.bias",
    } <= depth_1  # wav2vec 2.0's


def without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    "damage, message",
    [
        (without("_ema"), "_ema"),
        (without("_codebook1"), "_codebook1"),
        (without("_codebook_cnts0"), "_codebook_cnts0"),
        (lambda state: state["_ema"].pop("layers.0.fc1.weight"), "_ema.*layers.0.fc1.weight"),
        (lambda state: state["_ema"].update({"layers.0.fc1.bias": torch.zeros(3)}), "_ema.*layers.0.fc1.bias"),
        (lambda state: state.update({"_codebook_idle": torch.zeros(2, 3)}), "_codebook_idle"),
        (lambda state: state.update({"_codebook2": torch.zeros(16, 32)}), "_codebook2"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_what(tiny, damage, message):
    model = tiny()
    state = copy.deepcopy(model.state_dict())
    damage(state)
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(state)


def test_a_checkpoint_with_other_codebooks_names_both_sizes(tiny):
    with pytest.raises(RuntimeError, match=r"_codebook0: \(16, 32\) in the checkpoint, \(8, 32\) in the model"):
        tiny(codebook_size=8).load_state_dict(tiny().state_dict())


def test_fine_tuning_takes_a_pretraining_checkpoint(tiny):
    """fairseq's wav2vec_ctc: remove_pretraining_modules, then a strict load of the whole state without ``_ema``."""
    pretrained = tiny(revive_after=2)
    update(pretrained, adam(pretrained), 1)
    state = copy.deepcopy(pretrained.state_dict())
    del state["_ema"]
    model = tiny(seed=1)
    model.remove_pretraining_modules()
    model.load_state_dict(state, strict=True)
    assert torch.equal(flat(model.encoder.parameters()), flat(pretrained.encoder.parameters()))
    assert not any(name.startswith(("heads", "_")) for name in model.state_dict())
    model.set_num_updates(1)  # fairseq still calls it
    again = tiny(seed=2)
    again.remove_pretraining_modules()
    again.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert_close(again.eval().extract_features(SOURCE)["x"], pretrained.eval().extract_features(SOURCE)["x"])


def test_teachers_names_are_the_students(tiny):
    """wav2vec_ctc's ``load_ema`` puts ``_ema``'s weights under ``encoder.``."""
    for depth in (1, 3):
        state = tiny(pos_conv_depth=depth).state_dict()
        assert {"encoder." + name for name in state["_ema"]} == {name for name in state if name.startswith("encoder.")}


def test_layers_above_the_last_wanted_go(tiny):
    model = tiny()
    model.remove_pretraining_modules(last_layer=1)
    assert len(model.encoder.layers) == 2


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, names",
    [
        ({"average_top_k_layers": 4}, ["average_top_k_layers", "encoder_layers"]),
        ({"average_top_k_layers": 0}, ["average_top_k_layers"]),
        ({"codebook_size": 1}, ["codebook_size"]),
        ({"mask_prob": 0.0}, ["mask_prob"]),
        ({"ema_decay": 1.1}, ["ema_decay"]),
        ({"ema_timescale": 0.0}, ["ema_timescale"]),
        ({"codebook_end_decay": -1.0}, ["codebook_end_decay"]),
    ],
)
def test_settings_that_cannot_work_are_named(tiny, changes, names):
    with pytest.raises(UserError) as error:
        tiny(**changes)
    assert all(f"model.{name}" in str(error.value) for name in names) and "\n" not in str(error.value)

"""Starting with the weights of another model: what is taken over, and which difference in size is named."""

import dataclasses

import pytest
import torch

from dinosr_plugin.errors import UserError
from dinosr_plugin.models.cpc import CPC, CPCConfig
from dinosr_plugin.models.dinosr import DinoSR
from dinosr_plugin.models.encoder import TrunkConfig
from dinosr_plugin.models.hubert import Hubert, HubertConfig
from dinosr_plugin.models.objective import Objective

SOURCE = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(2, 18, dtype=torch.bool)
MASK[:, 3:12] = True


@pytest.fixture
def hubert(tiny_config):
    """hubert(seed, field=value, ...) -> Hubert with the trunk of ``tiny``, in training mode."""

    def build(seed: int = 0, **changes) -> Hubert:
        trunk = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(TrunkConfig)}
        torch.manual_seed(seed)
        return Hubert(HubertConfig(**{**trunk, "num_classes": [12, 9], "final_dim": 8, **changes})).train()

    return build


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def require_same_features(model, source) -> None:
    with torch.no_grad():
        features = [each.eval().extract_features(SOURCE)["x"] for each in (model, source)]
    assert torch.equal(*features)


def train_once(model: DinoSR) -> DinoSR:
    """Move student, teacher and codebooks apart from their initial values."""
    model.begin_update()
    sum(model(SOURCE, mask_indices=MASK).losses.values()).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.end_update(1)
    return model


# ---- what is taken over --------------------------------------------------------------------------------------------


def test_dinosr_from_dinosr_is_the_same_model(tiny):
    """Teacher, codebooks and heads too."""
    source, model = train_once(tiny(seed=1, revive_after=5)), tiny(revive_after=5)
    model.start_from(source, "x.pt")
    ours, theirs = model.state_dict(), source.state_dict()
    assert same_tensors(ours.pop("_ema"), theirs.pop("_ema")) and same_tensors(ours, theirs)
    assert "_codebook_idle" in ours and torch.equal(model.codes(SOURCE), source.codes(SOURCE))


def test_what_was_taken_over_is_a_copy(tiny):
    source, model = tiny(seed=1), tiny()
    model.start_from(source, "x.pt")
    before = [p.clone() for p in source.parameters()], {n: p.clone() for n, p in source.teacher.average().items()}
    train_once(model)
    assert all(torch.equal(p, old) for p, old in zip(source.parameters(), before[0]))
    assert same_tensors(source.teacher.average(), before[1])


@pytest.mark.parametrize("codebook_init", ["frames", "normal"])
def test_codebooks_that_were_taken_over_are_not_placed_again(tiny, codebook_init):
    source, model = train_once(tiny(seed=1)), tiny(codebook_init=codebook_init)
    model.start_from(source, "x.pt")
    model.begin_update()
    model(SOURCE, mask_indices=MASK)
    assert torch.equal(model.codebooks.sums, source.codebooks.sums)


@pytest.mark.parametrize("codebook_init", ["frames", "normal"])
def test_new_codebooks_are_placed_in_the_frames_of_the_teacher_that_was_taken_over(tiny, codebook_init, caplog):
    """Heads start untrained: they would predict the numbers of other codewords."""
    source, model = train_once(tiny(seed=1)), tiny(codebook_init=codebook_init, start_codebooks="new")
    heads = [p.clone() for p in model.heads.parameters()]
    caplog.set_level("INFO")
    model.start_from(source, "x.pt")
    assert "x.pt: codebooks and prediction heads start untrained (model.start_codebooks=new)" in caplog.text
    assert all(torch.equal(p, old) for p, old in zip(model.heads.parameters(), heads))
    assert same_tensors(model.teacher.average(), source.teacher.average())
    model.begin_update()
    output = model(SOURCE, mask_indices=MASK)
    with torch.no_grad():
        frames = source.targets(source.encoder_inputs(SOURCE, torch.zeros_like(MASK)), None)[:, MASK]  # (K, N, D)
    for codewords, codes, of_layer in zip(model.codebooks.centroids(), output.codes, frames):
        for code in codes.unique():  # k-means has converged on so few frames
            torch.testing.assert_close(codewords[code], of_layer[codes == code].mean(0))
    sums = model.codebooks.sums.clone()
    model(SOURCE, mask_indices=MASK)  # the second micro-batch of the update
    assert torch.equal(model.codebooks.sums, sums)


@pytest.mark.parametrize("change", [{"codebook_size": 8}, {"average_top_k_layers": 1}, {"target": "layer"}])
def test_codebooks_that_differ_start_untrained(tiny, change, caplog):
    """... and heads with them; the teacher is taken over."""
    source, model = train_once(tiny(seed=1)), tiny(**change)
    heads = [p.clone() for p in model.heads.parameters()]
    model.start_from(source, "x.pt")
    assert all(torch.equal(p, old) for p, old in zip(model.heads.parameters(), heads))
    assert same_tensors(model.teacher.average(), source.teacher.average())
    ((name, _),) = change.items()
    assert f"x.pt: was trained with model.{name}={getattr(source.cfg, name)}, so that codebooks" in caplog.text
    require_same_features(model, source)


def test_dinosr_from_hubert(tiny, hubert):
    """The teacher starts as a copy of the student."""
    source, model = hubert(seed=1), tiny()
    model.start_from(source, "x.pt")
    assert same_tensors(model.teacher.average(), dict(source.encoder.state_dict()))
    assert torch.equal(model.mask_emb, source.mask_emb)
    require_same_features(model, source)


def test_dinosr_from_a_fine_tuned_dinosr(tiny):
    source, model = train_once(tiny(seed=1)), tiny()
    source.remove_pretraining_modules()
    model.start_from(source, "x.pt")
    assert same_tensors(model.teacher.average(), dict(source.encoder.state_dict()))
    require_same_features(model, source)


def test_hubert_from_hubert_and_from_dinosr(tiny, hubert, caplog):
    source, model = hubert(seed=1), hubert()
    model.start_from(source, "x.pt")
    assert same_tensors(model.state_dict(), source.state_dict())
    model = hubert(num_classes=[7])
    embeddings = model.label_embs_concat.clone()
    model.start_from(source, "x.pt")
    assert torch.equal(model.label_embs_concat, embeddings) and "model.num_classes=[12, 9], so that" in caplog.text
    require_same_features(model, source)
    model, source = hubert(), tiny(seed=1)
    model.start_from(source, "x.pt")
    require_same_features(model, source)


def test_hubert_with_labels_of_another_k_means(tiny, hubert):
    source, model = hubert(seed=1), hubert(start_codebooks="new")
    heads = [model.label_embs_concat.clone(), model.final_proj.weight.clone()]
    model.start_from(source, "x.pt")
    assert torch.equal(model.label_embs_concat, heads[0]) and torch.equal(model.final_proj.weight, heads[1])
    require_same_features(model, source)


def test_cpc_from_cpc():
    sizes = dict(encoder_channels=16, context_dim=16, steps=4, n_negatives=8)
    source, model = CPC(CPCConfig(**sizes)), CPC(CPCConfig(**sizes))
    model.start_from(source, "x.pt")
    assert same_tensors(model.state_dict(), source.state_dict())
    with pytest.raises(UserError, match="x.pt: was trained with model.steps=4, not 3; set model.steps=4"):
        CPC(CPCConfig(**{**sizes, "steps": 3})).start_from(source, "x.pt")


# ---- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder_layers": 4}, "model.encoder_layers=3, not 4; set model.encoder_layers=3"),
        ({"encoder_ffn_embed_dim": 64}, "model.encoder_ffn_embed_dim=48, not 64"),
        ({"encoder_attention_heads": 2}, "model.encoder_attention_heads=4, not 2"),
        ({"front_end": "fbank"}, "model.front_end=conv, not fbank"),
        ({"extractor_mode": "default"}, "model.extractor_mode=layer_norm, not default"),
        ({"conv_pos": 20}, "model.conv_pos=10, not 20"),
        ({"pos_conv_depth": 1}, "model.pos_conv_depth=2, not 1"),
        ({"layer_norm_first": True}, "model.layer_norm_first=False, not True"),
    ],
)
def test_trunks_of_different_sizes(tiny, hubert, change, message):
    for source in (hubert(), tiny()):
        with pytest.raises(UserError) as error:
            tiny(**change).start_from(source, "x.pt")
        assert f"model.start_from=x.pt: was trained with {message}" in str(error.value)
        assert "\n" not in str(error.value)


def test_settings_without_parameters_may_differ(tiny):
    tiny(dropout=0.3, mask_prob=0.8, conv_pos=11).start_from(tiny(), "x.pt")  # kernels of 10 // 2 and 11 // 2


def test_models_of_another_kind(tiny):
    cpc = CPC(CPCConfig(encoder_channels=16, context_dim=16))
    with pytest.raises(
        UserError, match="x.pt: contains CPC, which does not have the trunk of DinoSR; give a checkpoint"
    ):
        tiny().start_from(cpc, "x.pt")
    with pytest.raises(UserError, match="x.pt: contains DinoSR, which is not a CPC model; give a checkpoint"):
        cpc.start_from(tiny(), "x.pt")
    with pytest.raises(UserError, match="x.pt: Objective cannot start from a checkpoint; set model.start_from=null"):
        Objective().start_from(tiny(), "x.pt")


# ---- the masks that all objectives with a trunk share --------------------------------------------------------------


def test_padded_frames_are_never_masked(tiny, batch):
    """... whatever ``mask_indices`` says."""
    model = tiny()
    source, padding_mask = batch(6000, 4000)
    masks = model.frame_masks(source, padding_mask, torch.ones(2, 18, dtype=torch.bool), None)
    assert masks.valid.sum(1).tolist() == masks.masked.sum(1).tolist() == [18, 12] and masks.any_padding
    assert torch.equal(masks.padding, ~masks.valid)
    assert model(source, padding_mask, mask_indices=torch.ones(2, 18, dtype=torch.bool)).sample_size == 30
    assert not model.frame_masks(source[:1], None, None, None).any_padding

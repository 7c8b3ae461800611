"""examples/dinosr/scaling.py: its counts equal those of real training steps, and SCALING.md contains its table."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from dinosr_plugin.modules.masking import span_mask
from support.paths import REPOSITORY
from support.training import train_on_two_ranks, write_corpus

ROOT = REPOSITORY
sys.path.insert(0, str(ROOT / "examples/dinosr"))
import scaling  # noqa: E402

BASE = OmegaConf.load(ROOT / "dinosr_plugin/config/pretraining/dinosr_base.yaml")
SMALL = {
    "conv_feature_layers": "[(24,10,5)] + [(24,3,2)] * 4 + [(32,2,2)] * 2",
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 144,
    "encoder_attention_heads": 3,
    "encoder_layers": 4,
    "encoder_layerdrop": 0.0,
    "average_top_k_layers": 3,
    "codebook_size": 40,
    "pos_conv_depth": 3,
}


def small(**changes):
    return OmegaConf.merge(BASE.model, SMALL, changes)


def build(cfg) -> DinoSR:
    torch.manual_seed(0)
    return DinoSR(DinoSRConfig(**{name: value for name, value in cfg.items() if name != "_name"})).train()


def mask_of(cfg, rows: int, samples: int) -> torch.Tensor:
    """As many masked frames as the model expects, (B, F)."""
    frames = scaling.conv_shapes(cfg, samples)[-1][-1]
    mask = torch.zeros(rows, frames, dtype=torch.bool)
    mask[:, : round(scaling.masked_share(cfg) * frames)] = True
    return mask


def loss_of(model: DinoSR, cfg, rows: int, samples: int) -> torch.Tensor:
    return sum(model(torch.randn(rows, samples), mask_indices=mask_of(cfg, rows, samples)).losses.values())


def test_parameters():
    assert sum(scaling.parameters(BASE.model).values()) == 94_739_200  # the paper: 94.74 M
    model = build(small())
    assert sum(scaling.parameters(small()).values()) == sum(p.numel() for p in model.parameters())
    teacher = sum(scaling.parameters(small())[part] for part in ("positions", "layers"))
    assert teacher == sum(p.numel() for p in model.encoder.parameters())


def test_masked_share():
    """For a row drawn by itself; in a batch all rows are reduced to the count of the row with the fewest."""
    mask = span_mask(torch.full((64,), 675), 675, BASE.model.mask_prob, BASE.model.mask_length, same_count=False)
    assert mask.float().mean().item() == pytest.approx(scaling.masked_share(BASE.model), rel=0.03)


@pytest.mark.parametrize("samples, frozen", [(16000, False), (48000, False), (16000, True)])
def test_flops(samples, frozen):
    """Of all operators that torch counts. Without groups, because torch counts the weight gradient of a grouped
    convolution as if it had one group."""
    cfg = small(conv_pos_groups=1, freeze_teacher_step=1 if frozen else -1)
    model = build(cfg)
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):  # torch does not count the fused kernel of CPUs
        loss_of(model, cfg, 2, samples).backward()
    assert 2 * sum(scaling.flops(cfg, samples, frozen).values()) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_flops_with_layerdrop_and_groups():
    """A dropped layer costs the student nothing; with G groups a convolution costs 1/G."""
    full, half, grouped = (
        scaling.flops(cfg, 16000)
        for cfg in (small(conv_pos_groups=1), small(conv_pos_groups=1, encoder_layerdrop=0.5), small(conv_pos_groups=4))
    )
    assert half["feed-forward"] / full["feed-forward"] == (3 * 0.5 + 1) / 4
    assert {part for part in full if half[part] != full[part]} == {
        "attention, linear",
        "attention, F x F",
        "feed-forward",
    }
    assert {part: full[part] / grouped[part] for part in full if grouped[part] != full[part]} == {
        "positional convolutions": 4
    }


@pytest.mark.parametrize("samples", [16000, 48000])
@pytest.mark.parametrize("dtype, fused", [(torch.float32, True), (torch.float32, False), (torch.float16, True)])
def test_saved_for_the_backward_pass(samples, dtype, fused):
    """All storages that autograd keeps, except those of parameters."""
    cfg = small(attention_dropout=0.1 if not fused else 0.0)  # CPUs have no fused kernel with dropout
    model = build(cfg).to(dtype)
    kept, parameters = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # a reference: its memory must not be reused
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        sdpa_kernel(SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH),
    ):
        loss_of(model, cfg, 1, samples)
    expected = sum(scaling.saved(cfg, samples, size=dtype.itemsize, fused=fused).values())
    assert expected == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.03)


# -- collectives -------------------------------------------------------------------------------------------------------


def test_collectives_of_two_ranks(tmp_path, monkeypatch):
    """Number and bytes of the all-reduces of two real processes in an update, float32, two micro-batches.

    The check of the gradient norm is left out: fairseq makes it on GPUs only.
    """

    def recording(tensor, *args, previous=torch.distributed.all_reduce, **kwargs):
        with open(tmp_path / f"rank{torch.distributed.get_rank()}.txt", "a") as file:
            file.write(f"{tensor.nbytes}\n")
        return previous(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.distributed, "all_reduce", recording)
    data = write_corpus(tmp_path / "data", lengths=(16000,) * 8)
    shapes = {**SMALL, "front_end": "conv", "encoder_layerdrop": 0.1}
    fields = [f"model.{name}={value}" for name, value in shapes.items() if name != "conv_feature_layers"]
    fields += [f'model.conv_feature_layers="{SMALL["conv_feature_layers"]}"']
    fields += [
        "model.conv_pos=16",
        "model.conv_pos_groups=4",
        "model.extractor_mode=layer_norm",
        "model.unmasked_weight=0.0",
        "model.revive_after=0",
        "model.codebook_init=normal",
    ]
    schedule = [
        "lr_scheduler.phase_ratio=null",
        "+lr_scheduler.warmup_steps=1",
        "+lr_scheduler.hold_steps=1",
        "+lr_scheduler.decay_steps=1",
    ]
    train_on_two_ranks(
        data, tmp_path / "two", *fields, *schedule, "optimization.update_freq=[2]", "optimization.max_update=2"
    )
    cfg = small(**shapes, conv_pos=16, conv_pos_groups=4)
    expected = scaling.collectives(cfg, 2, size=4)
    del expected["gradient norm"]
    for rank in range(2):
        sizes = [int(line) for line in (tmp_path / f"rank{rank}.txt").read_text().split()]
        assert sorted(sizes) == sorted(2 * [*expected.values()])  # two updates


def test_collectives_of_the_base_model():
    """In half precision on 16 GPUs; the three others are small."""
    exchanged = scaling.collectives(BASE.model, 16)
    assert len(exchanged) == 5
    assert (exchanged["gradients"], exchanged["codebooks"]) == (2 * 94_739_200, 8 * 256 * (768 + 1) * 4)
    assert sum(exchanged.values()) - exchanged["gradients"] - exchanged["codebooks"] < 34_000


# -- the table ---------------------------------------------------------------------------------------------------------


def printed(capsys, *arguments: str) -> list[dict[str, str]]:
    """The rows of the table that the script prints."""
    scaling.main(arguments)
    header, _, *rows = (
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()
    )
    return [dict(zip(header, row, strict=True)) for row in rows]


@given(st.integers(1, 128), st.integers(500_000, 4_000_000))
def test_an_update_keeps_its_audio(gpus, max_tokens):
    """63 minutes, to the rounding of the printed max_tokens; no batch is larger than allowed."""
    row = scaling.plan(BASE, gpus, (1e12, 1e12), max_tokens)
    tokens = float(row["`max_tokens`"].removesuffix(" M")) * 1e6
    assert gpus * int(row["`update_freq`"]) * tokens == pytest.approx(
        16 * 3.8e6, abs=5_000 * gpus * int(row["`update_freq`"])
    )
    assert tokens <= max_tokens + 5_000


@pytest.mark.parametrize("gpu", scaling.PUBLISHED_HOURS)
def test_the_range_contains_the_published_hours(capsys, gpu):
    counts = [str(n) for n in scaling.PUBLISHED_HOURS[gpu]]
    for row, published in zip(printed(capsys, "--gpu", gpu, "--count", *counts), scaling.PUBLISHED_HOURS[gpu].values()):
        low, high = (float(hours) for hours in row["hours"].split(" to "))
        assert all(low <= hours <= high for hours in published)


def test_time_follows_from_flops():
    """1 s of audio costs 54 GFLOP before the freeze; half of the updates come after it."""
    before, mean = scaling.flops_per_second(BASE.model, BASE.optimization.max_update)
    _, never = scaling.flops_per_second(OmegaConf.merge(BASE.model, {"freeze_pre_enc_modules": False}), 400_000)
    samples = round(scaling.UTTERANCE * scaling.RATE)
    after = sum(scaling.flops(BASE.model, samples, frozen=True).values()) / scaling.UTTERANCE
    assert never == before and mean == pytest.approx((before + after) / 2)
    row = scaling.plan(BASE, 4, (10e12, 20e12), BASE.dataset.max_tokens)
    slow = mean * 3800 / 4 / 10e12
    assert row["s per update"] == f"{slow / 2:.2f} to {slow:.2f}"


def test_memory_grows_with_the_batch():
    """The page's formula: 1 + 2.63 GB, and 20.6 MB per second of audio, over 0.9."""
    for audio in (0, 100, 238):
        assert scaling.memory(BASE.model, audio) == pytest.approx((3.63e9 + 20.6e6 * audio) / 0.9, rel=1e-3)


def test_the_page_has_the_table(capsys):
    scaling.main([])
    page = (ROOT / "examples/dinosr/SCALING.md").read_text(encoding="utf-8")
    assert f"<!-- table -->\n{capsys.readouterr().out}\n" in page, "run: python examples/dinosr/scaling.py"


def test_options_change_the_table(capsys):
    usual = printed(capsys, "--gpu", "H100", "--count", "4")
    assert [row["GPUs"] for row in usual] == ["4 x H100"]
    (smaller,) = printed(capsys, "--gpu", "H100", "--count", "4", "--max-tokens", "1900000")
    assert (smaller["update_freq"], smaller["max_tokens"]) == ("8", "1.90 M")
    assert float(smaller["GB per GPU"]) < float(usual[0]["GB per GPU"]) and smaller["hours"] == usual[0]["hours"]
    (faster,) = printed(capsys, "--gpu", "H100", "--count", "4", "--tflops", "500", "600")
    assert float(faster["hours"].split()[-1]) < float(usual[0]["hours"].split()[0])
    assert int(faster["num_workers"]) > int(usual[0]["num_workers"])


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--config", str(ROOT / "dinosr_plugin/config/pretraining/dinosr_tiny.yaml")], "requires front_end=conv"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--count", "32"], "more require --tflops"),
        (["--count", "0"], "must be positive"),
    ],
)
def test_bad_options(capsys, arguments, complaint):
    with pytest.raises(SystemExit):
        scaling.main(arguments)
    assert complaint in capsys.readouterr().err

"""examples/dinosr/scaling.py: its counts are those of the real model, its page has its tables, and it finds what was measured."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from dinosr_plugin.modules.fast import extractor
from dinosr_plugin.modules.masking import span_mask
from support.paths import REPOSITORY
from support.training import train_on_two_ranks, write_corpus

ROOT = REPOSITORY
sys.path.insert(0, str(ROOT / "examples/dinosr"))
import scaling  # noqa: E402

BASE = OmegaConf.load(ROOT / "examples/config/pretraining/dinosr_base.yaml")
RUN = scaling.Run(scaling.plain(BASE.model), BASE.dataset.max_tokens, BASE.optimization.max_update)
GPUS = [scaling.published(RUN, gpu) for gpu in scaling.GPUS.values()]
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
    frames = scaling.frames_of(cfg, samples)
    mask = torch.zeros(rows, frames, dtype=torch.bool)
    mask[:, : round(scaling.masked_share(cfg) * frames)] = True
    return mask


def loss_of(model: DinoSR, cfg, rows: int, samples: int) -> torch.Tensor:
    return sum(model(torch.randn(rows, samples), mask_indices=mask_of(cfg, rows, samples)).losses.values())


def test_parameters():
    assert sum(scaling.parameters(BASE.model).values()) == 94_739_200  # facts 2: 94.74 M
    model = build(small())
    assert sum(scaling.parameters(small()).values()) == sum(p.numel() for p in model.parameters())
    assert scaling.encoder_parameters(small()) == sum(p.numel() for p in model.encoder.parameters())


def test_masked_share():
    """... of a row drawn by itself; rows of a batch have as many as the row with the fewest."""
    mask = span_mask(torch.full((64,), 675), 675, BASE.model.mask_prob, BASE.model.mask_length, same_count=False)
    assert mask.float().mean().item() == pytest.approx(scaling.masked_share(BASE.model), rel=0.03)


@pytest.mark.parametrize("samples, frozen", [(16000, False), (48000, False), (16000, True)])
def test_flops(samples, frozen):
    """Of all operators that torch counts. Without groups, for it counts the weights' gradient of a grouped convolution as if there were none."""
    cfg = small(conv_pos_groups=1, freeze_teacher_step=1 if frozen else -1)
    model = build(cfg)
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):  # those of a fused kernel on the CPU are not counted
        loss_of(model, cfg, 2, samples).backward()
    assert 2 * sum(scaling.flops(cfg, samples, frozen).values()) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_flops_with_layerdrop_and_groups():
    """A layer that is left out costs the student nothing, a group its share only."""
    whole, half, grouped = (
        scaling.flops(cfg, 16000)
        for cfg in (small(conv_pos_groups=1), small(conv_pos_groups=1, encoder_layerdrop=0.5), small(conv_pos_groups=4))
    )
    assert half["feed-forward"] / whole["feed-forward"] == (3 * 0.5 + 1) / 4
    assert {part for part in whole if half[part] != whole[part]} == {
        "attention, linear",
        "attention, F x F",
        "feed-forward",
    }
    assert {part: whole[part] / grouped[part] for part in whole if grouped[part] != whole[part]} == {
        "positional convolutions": 4
    }


@pytest.mark.parametrize("samples", [16000, 48000])
@pytest.mark.parametrize("dtype, fused", [(torch.float32, True), (torch.float32, False), (torch.float16, True)])
def test_saved_for_the_backward_pass(samples, dtype, fused):
    """All storages that autograd keeps, apart from parameters."""
    cfg = small(attention_dropout=0.1 if not fused else 0.0)  # CPUs have no fused kernel with dropout
    model = build(cfg).to(dtype)
    kept, parameters = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # a reference, so that no other takes its place
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        sdpa_kernel(SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH),
    ):
        loss_of(model, cfg, 1, samples)
    expected = sum(scaling.saved(cfg, samples, half=dtype.itemsize, fused=fused).values())
    assert expected == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.03)


class BytesMoved(TorchDispatchMode):
    """Sum over operators of the bytes of their inputs and outputs, views and empty tensors left out."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view and function._schema.name.split("::")[1] not in (
            "detach",
            "empty",
            "empty_like",
            "empty_strided",
            "_unsafe_view",
        ):
            given = {
                (tensor.data_ptr(), tensor.shape): tensor.nbytes
                for tensor in tree_leaves((args, kwargs))
                if torch.is_tensor(tensor)
            }  # out= too, once
            self.total += sum(given.values()) + sum(
                tensor.nbytes for tensor in tree_leaves(result) if torch.is_tensor(tensor)
            )
        return result


def bytes_moved(model: DinoSR, make_loss) -> torch.Tensor:
    """In the forward and in the backward pass of a first micro-batch."""
    model.zero_grad()
    model.codebooks.forget_()
    with BytesMoved() as counter:
        loss = make_loss()
        forward = counter.total
        loss.backward()
    return torch.tensor([forward, counter.total - forward])


def test_passes_over_memory(monkeypatch):
    """With the base model's proportions, an eighth as wide, in half precision; between two lengths, so that weights fall out."""
    monkeypatch.setattr(extractor, "wide", lambda y: y)  # as on a GPU: half precision is copied to float32 on CPUs only
    changes = {
        "encoder_embed_dim": 96,
        "encoder_ffn_embed_dim": 384,
        "conv_feature_layers": "[(64,10,5)] + [(64,3,2)] * 4 + [(64,2,2)] * 2",
        "attention_dropout": 0.0,
    }
    cfg = small(**changes, encoder_layers=12, average_top_k_layers=8, codebook_size=32, pos_conv_depth=5)
    model = build(cfg).half()

    def front_end(samples: int) -> torch.Tensor:
        return model.feature_extractor(torch.randn(1, samples, dtype=torch.float16)).sum()

    def growth(count) -> torch.Tensor:
        return torch.as_tensor(count(16000)) - torch.as_tensor(count(8000))

    kept = growth(lambda n: [scaling.saved(cfg, n)["front end"], sum(scaling.saved(cfg, n).values())])
    front = growth(lambda n: bytes_moved(model, lambda: front_end(n)))
    whole = growth(lambda n: bytes_moved(model, lambda: loss_of(model, cfg, 1, n)))
    assert (front / kept[0]).tolist() == pytest.approx(scaling.PASSES["front end"], rel=0.15)
    assert ((whole - front) / (kept[1] - kept[0])).tolist() == pytest.approx(scaling.PASSES["the rest"], rel=0.15)


# -- collectives -------------------------------------------------------------------------------------------------------


def test_collectives_of_two_ranks(tmp_path, monkeypatch):
    """Number and bytes of all that two real processes exchange in an update, float32, two micro-batches; the gradients' norm is checked on GPUs only."""

    def noted(tensor, *args, previous=torch.distributed.all_reduce, **kwargs):
        with open(tmp_path / f"rank{torch.distributed.get_rank()}.txt", "a") as file:
            file.write(f"{tensor.nbytes}\n")
        return previous(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.distributed, "all_reduce", noted)
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
    expected = [c for c in scaling.collectives(cfg, 2, half=4) if c.name != "gradient norm"]
    for rank in range(2):
        made = [int(line) for line in (tmp_path / f"rank{rank}.txt").read_text().split()]
        assert sorted(made) == sorted(2 * [c.bytes for c in expected for _ in range(c.count)])


def test_released_collectives():
    """Facts 4: two for each codebook and two for each perplexity, in every forward pass; the same statistics in all as ours."""
    made = scaling.released_collectives(BASE.model, 4, 4)
    K = BASE.model.average_top_k_layers
    assert sum(c.count for c in made if c.name.startswith(("codebooks", "perplexities"))) == 4 * 32 == 4 * 4 * K
    assert sum(c.count * c.bytes for c in made if c.name.startswith("codebooks")) == 4 * scaling.codebook_bytes(
        BASE.model
    )
    assert sum(c.count for c in scaling.collectives(BASE.model, 4)) == 5


# -- time and memory ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 128))
def test_an_update_stays_63_minutes(n):
    update_freq, audio = RUN.share_out(n)
    assert n * update_freq * audio == pytest.approx(16 * 3.8e6 / 16000)
    assert audio * 16000 <= BASE.dataset.max_tokens + 1


@settings(max_examples=20)
@given(st.floats(0.05, 1), st.floats(0, 0.2))
def test_calibration_finds_what_made_the_times(efficiency, host):
    gpu = scaling.replace(scaling.GPUS["A100"], efficiency=efficiency, host_seconds=host)
    measured = {n: scaling.time(RUN, gpu, n).seconds[0] for n in (1, 8, 32)}
    found = scaling.calibrated(RUN, scaling.GPUS["A100"], measured, 0.0, lambda n: scaling.collectives(RUN.cfg, n))
    assert (found.efficiency, found.host_seconds) == pytest.approx((efficiency, host), abs=1e-6)
    one = scaling.calibrated(
        RUN, scaling.replace(gpu, efficiency=0.5), {8: measured[8]}, 0.0, lambda n: scaling.collectives(RUN.cfg, n)
    )
    assert one.efficiency == pytest.approx(efficiency)


def test_published_hours_come_out_again():
    """All three numbers of GPUs with two fitted numbers; the first 8 GPUs foretold by those of 4 and 16."""
    for gpu in GPUS[1:]:
        for n, published in scaling.PUBLISHED[gpu.name].items():
            assert scaling.hours(RUN, gpu, n) == pytest.approx(published, abs=1.0)
        hours = {n: 3600 * scaling.PUBLISHED[gpu.name][n] / RUN.updates for n in (4, 16)}
        foretold = scaling.calibrated(RUN, gpu, hours, scaling.frozen_share(RUN))
        assert scaling.hours(RUN, foretold, 8) == pytest.approx(scaling.PUBLISHED[gpu.name][8], rel=0.04)
    assert scaling.frozen_share(RUN) == 0.5


def test_all_reduce_seconds():
    gpu = scaling.Gpu("", 1, 1, link_bandwidth=100.0, network_bandwidth=10.0)
    run = scaling.Run(BASE.model, 1, 1, machine=4, link_latency=1.0, network_latency=5.0)
    made = [scaling.Collective("", 2, 1000.0)]
    assert [scaling.collective_seconds(run, gpu, n, made) for n in (1, 2, 4, 8)] == pytest.approx(
        [0, 2 * (1 + 10), 2 * (1 + 15), 2 * (5 + 175)]
    )


@settings(max_examples=20)
@given(st.floats(8, 200))
def test_the_largest_batch_fills_the_gpu(size):
    audio = scaling.largest_batch(RUN, size * 1e9)
    assert scaling.memory(RUN, audio) == pytest.approx((1 - scaling.UNUSABLE) * size * 1e9)


def test_no_batch_fits_a_tiny_gpu():
    assert scaling.largest_batch(RUN, 2e9) == 0


# -- the page and the command ------------------------------------------------------------------------------------------


def test_the_page_has_the_tables():
    page = (ROOT / "examples/dinosr/SCALING.md").read_text(encoding="utf-8")
    made = scaling.tables(RUN, GPUS)
    missing = [name for name, table in made.items() if f"<!-- {name} -->\n\n{table}\n\n<!-- end -->" not in page]
    assert not missing, "python examples/dinosr/scaling.py --page examples/dinosr/SCALING.md"
    assert scaling.write_into(page, made) == page


def printed(capsys, *arguments: str) -> str:
    scaling.main(arguments)
    return capsys.readouterr().out


def test_every_input_is_an_option(capsys):
    usual = printed(capsys, "--gpu", "H100")
    assert "time H100" in usual and "time V100" not in usual
    for option, value in {
        "tflops": 100,
        "memory-gb": 100,
        "link-gb": 1,
        "network-gb": 1,
        "efficiency": 0.9,
        "host-seconds": 1,
        "measured": "8:3",
    }.items():
        assert printed(capsys, "--gpu", "H100", f"--{option}", str(value)) != usual, option
    for option, value in {"max-tokens": 1e6, "crop": 8, "machine": 2, "link-latency": 1, "network-latency": 1}.items():
        assert printed(capsys, "--gpu", "H100", f"--{option}", str(value)) != usual, option


@pytest.mark.parametrize("measured", [["1:0.01"], ["4:1", "8:2"]])
def test_measurements_that_nothing_explains(capsys, measured):
    assert scaling.main(["--gpu", "H100", "--measured", *measured]) == 1
    assert "leave none for its batches" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--efficiency", "1"], "--gpu is needed"),
        (["--gpu", "A100", "--measured", "8"], "pairs such as"),
        (["--config", str(ROOT / "examples/config/pretraining/dinosr_tiny.yaml")], "front_end=conv"),
    ],
)
def test_bad_options(capsys, arguments, complaint):
    with pytest.raises(SystemExit):
        scaling.main(arguments)
    assert complaint in capsys.readouterr().err

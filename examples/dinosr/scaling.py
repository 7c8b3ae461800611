"""What a training of DinoSR costs on 1 to 64 GPUs, on paper: the model behind the tables of SCALING.md.

    python examples/dinosr/scaling.py                                       # those tables
    python examples/dinosr/scaling.py --gpu A100 --measured 1:4.1 8:0.55    # with your own seconds an update, by number of GPUs
    python examples/dinosr/scaling.py --page examples/dinosr/SCALING.md     # write them into the page

Nothing here ran on a GPU. FLOPs count a multiplication and an addition as two; GB and MB are powers of ten; half precision has two bytes.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from omegaconf import OmegaConf

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # this checkout, wherever the environment's copy comes from

from dinosr_plugin.errors import UserError  # noqa: E402
from dinosr_plugin.modules.conv_spec import parse_conv_layers  # noqa: E402

RATE = 16000
RECIPE_GPUS = 16  # of the paper; its update holds so many times dataset.max_tokens samples
GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)


# -- inputs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """A GPU and what joins it to others: makers' figures, and two numbers that only a measurement gives."""

    name: str
    flops: float  # a second, half precision, dense, with float32 sums
    memory_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second and direction, to the other GPUs of the machine
    network_bandwidth: float  # the same, of a machine to the others
    efficiency: float = 0.3  # share of the roofline that a step reaches
    host_seconds: float = 0.04  # of an update that no GPU shortens: Python, launches, waiting for the slowest


GPUS = {
    "V100": Gpu("V100", 125e12, 900e9, 150e9, 50e9),
    "A100": Gpu("A100", 312e12, 2039e9, 300e9, 200e9),
    "H100": Gpu("H100", 989e12, 3350e9, 450e9, 400e9),
}
"""SXM, NVIDIA's data sheets (A100: 80 GB; H100: without sparsity); NVLink is half of the sheets' two directions together. Network: InfiniBand
of NVIDIA's own machines, DGX-1 4 x 100 Gbit/s, DGX A100 8 x 200, DGX H100 8 x 400."""

PUBLISHED_UPDATES = 400_000
PUBLISHED = {"V100": {16: 180}, "A100": {4: 100, 8: 53, 16: 29}, "H100": {4: 63, 8: 33, 16: 19}}
"""Hours for 400k updates, by number of GPUs. V100: the DinoSR paper ("about"), the released code. A100 and H100: SpidR's paper/results/speed.csv,
without torch.compile; the same size of model and, it seems from the hours, the same 63 minutes an update."""

COMPILED = {"A100": {4: 81, 8: 42, 16: 23}, "H100": {4: 48, 8: 26, 16: 15}}
"""The same with torch.compile."""


@dataclass(frozen=True)
class Run:
    """What is trained, and on what batches."""

    cfg: SimpleNamespace  # model.* of a pre-training config
    max_tokens: float  # samples in a batch of one GPU, in the recipe
    updates: int
    crop: float = (
        13.5  # seconds of an utterance after cropping, weighted by audio: 13.3 to 13.7 in our parts of LibriSpeech
    )
    machine: int = 8  # GPUs in one
    link_latency: float = 30e-6  # seconds of a small collective inside a machine: assumed
    network_latency: float = 160e-6  # and between machines: nccl-tests on 2 machines of 8 V100, 163 microseconds

    @property
    def samples(self) -> int:
        """Of an utterance."""
        return round(self.crop * RATE)

    @property
    def update_seconds(self) -> float:
        """Audio in an update."""
        return RECIPE_GPUS * self.max_tokens / RATE

    def share_out(self, n: int) -> tuple[int, float]:
        """Number of GPUs -> (update_freq, seconds of audio in a batch of one GPU): the update stays as it is."""
        update_freq = math.ceil(RECIPE_GPUS / n)
        return update_freq, self.update_seconds / (n * update_freq)


def plain(cfg) -> SimpleNamespace:
    """A group of a config whose fields are read some thousand times."""
    return SimpleNamespace(**OmegaConf.to_container(cfg))


# -- the model's shapes ------------------------------------------------------------------------------------------------


def conv_shapes(cfg: SimpleNamespace, samples: int) -> list[tuple[int, int, int, int]]:
    """(channels in, channels out, kernel, frames out) of the front end's layers."""
    shapes, channels = [], 1
    for out, kernel, stride in parse_conv_layers(cfg.conv_feature_layers):
        samples = (samples - kernel) // stride + 1
        shapes.append((channels, out, kernel, samples))
        channels = out
    return shapes


def frames_of(cfg: SimpleNamespace, samples: int) -> int:
    return conv_shapes(cfg, samples)[-1][-1]


def position_kernel(cfg: SimpleNamespace) -> int:
    return max(3, cfg.conv_pos // cfg.pos_conv_depth)


def masked_share(cfg: SimpleNamespace) -> float:
    """Of a row's frames: spans start at mask_prob / mask_length of them and overlap (.57 of 1 in the paper's recipe; require_same_masks leaves
    some of them to the row of a batch that has the fewest: .53 in one of 18 rows)."""
    return 1 - (1 - cfg.mask_prob / cfg.mask_length) ** cfg.mask_length


def parameters(cfg: SimpleNamespace) -> dict[str, int]:
    """Trained parameters, by part."""
    D, H = cfg.encoder_embed_dim, cfg.encoder_ffn_embed_dim
    convs = conv_shapes(cfg, RATE)
    C = convs[-1][1]
    return {
        "front end": sum(a * b * kernel + 2 * b for a, b, kernel, _ in convs),
        "projection": 2 * C + C * D + D,
        "mask": D,
        "positions": cfg.pos_conv_depth * (D * D // cfg.conv_pos_groups * position_kernel(cfg) + D),
        "layers": cfg.encoder_layers * (4 * (D * D + D) + 2 * D * H + H + D + 4 * D) + 2 * D,
        "heads": cfg.average_top_k_layers * (D + 1) * cfg.codebook_size,
    }


def encoder_parameters(cfg: SimpleNamespace) -> int:
    """What the teacher has too."""
    return sum(parameters(cfg)[part] for part in ("positions", "layers"))


# -- arithmetic --------------------------------------------------------------------------------------------------------


def flops(cfg: SimpleNamespace, samples: int, frozen: bool = False) -> dict[str, float]:
    """FLOPs of one utterance in one update, by part: matrix products and convolutions, the student's forward and backward pass (twice the forward)
    and the teacher's forward pass.

    Not counted: everything else (normalisation, GELU, softmax, dropout, loss, optimiser, teacher's average), what fused attention computes again
    in its backward pass. LayerDrop leaves layers of the student out. frozen: from model.freeze_teacher_step on.
    """
    D, H, K, V = cfg.encoder_embed_dim, cfg.encoder_ffn_embed_dim, cfg.average_top_k_layers, cfg.codebook_size
    convs = conv_shapes(cfg, samples)
    F = convs[-1][-1]
    N = masked_share(cfg) * F
    forward = [2 * a * b * kernel * length for a, b, kernel, length in convs]
    student = 3 * (1 - cfg.encoder_layerdrop) * cfg.encoder_layers
    both = student + cfg.encoder_layers  # layers computed: 1 forward, 2 backward, 1 by the teacher
    return {
        "front end": sum(forward)
        if frozen
        else 3 * sum(forward),  # the first convolution is computed twice, but nothing needs the waveform's gradient
        "projection": 2 * convs[-1][1] * D * F * (1 if frozen else 3),
        "positional convolutions": 4 * cfg.pos_conv_depth * 2 * D * D // cfg.conv_pos_groups * position_kernel(cfg) * F,
        "attention, linear": both * 4 * 2 * D * D * F,
        "attention, F x F": both * 2 * 2 * F * F * D,
        "feed-forward": both * 2 * 2 * D * H * F,
        "heads": 3 * 2 * K * D * V * N,
        "codebooks": 2 * K * D * V * N,
    }


# -- memory ------------------------------------------------------------------------------------------------------------


def saved(cfg: SimpleNamespace, samples: int, half: int = 2, fused: bool = True) -> dict[str, float]:
    """Bytes that the forward pass of one utterance keeps for the backward pass, by part: the one place to change when the model keeps less.

    Args:
        half: bytes of an activation.
        fused: attention keeps no F x F matrix (scaled_dot_product_attention's fused kernels); else a byte for each weight, dropped or not (dropout on a CPU).
    """
    D, H, K, V = cfg.encoder_embed_dim, cfg.encoder_ffn_embed_dim, cfg.average_top_k_layers, cfg.codebook_size
    convs = conv_shapes(cfg, samples)
    F, C = convs[-1][-1], convs[-1][1]
    N = masked_share(cfg) * F
    dropout = D * F if cfg.dropout > 0 else 0  # a byte each
    attention = F * D * half * (1 + 3 + 1)  # input; queries, keys and values; what goes into the last projection
    attention += cfg.encoder_attention_heads * F * (4 if fused else F)
    feed_forward = F * (D + H) * half  # input; what goes into GELU
    norms = F * 2 * (D * half + 2 * half)  # inputs of two LayerNorms and their statistics
    return {
        # the waveform, what every convolution but the first gave, and of the last layer's LayerNorm its output and statistics too
        "front end": half * (samples + sum(length * b for _, b, _, length in convs[1:-1])) + F * (2 * C * half + 2 * 4),
        "projection": F * (C * half + 2 * half + 1),
        # inputs of convolution, LayerNorm and GELU; then input of LayerNorm and dropout
        "positional convolutions": F * half * (D * (3 * cfg.pos_conv_depth + 1) + 2 * (cfg.pos_conv_depth + 1))
        + dropout,
        "Transformer layers": cfg.encoder_layers * (attention + feed_forward + norms + 2 * dropout),
        "heads": N * (D * half + K * (V * 4 + 8)),  # input, log-probabilities, codes
    }


def targets(cfg: SimpleNamespace, samples: int, half: int = 2) -> float:
    """Bytes of one utterance that live beside the saved ones while the targets are made: both results of each of the teacher's layers and those of the
    top K together, or then three float32 copies of the latter in the instance norm."""
    results = cfg.encoder_layers * 2 * half + cfg.average_top_k_layers * half
    return frames_of(cfg, samples) * cfg.encoder_embed_dim * max(results, cfg.average_top_k_layers * 3 * 4)


def state(cfg: SimpleNamespace) -> dict[str, float]:
    """Bytes that stay on a GPU, as fairseq's fp16 trainer has them."""
    P, E = sum(parameters(cfg).values()), encoder_parameters(cfg)
    return {
        "parameters, half": 2 * P,
        "gradients, half": 2 * P,
        "legacy_ddp's buffer, half": 2 * P,
        "parameters, float32": 4 * P,
        "gradients, float32": 4 * P,
        "Adam's two averages, float32": 8 * P,
        "teacher, float32 and half": 6 * E,
        "codebooks and their sums, float32": 2 * codebook_bytes(cfg),
    }


def codebook_bytes(cfg: SimpleNamespace) -> int:
    """Sums and counts of all codebooks."""
    return cfg.average_top_k_layers * cfg.codebook_size * (cfg.encoder_embed_dim + 1) * 4


CONTEXT = 1e9  # CUDA's context, NCCL, workspaces: assumed
UNUSABLE = 0.1  # share of the memory lost to fragments: assumed


def memory(run: Run, audio: float) -> float:
    """Bytes on a GPU whose batch holds so many seconds of audio."""
    rows = audio / run.crop
    return (
        CONTEXT
        + sum(state(run.cfg).values())
        + rows * (sum(saved(run.cfg, run.samples).values()) + targets(run.cfg, run.samples))
    )


def largest_batch(run: Run, size: float) -> float:
    """Seconds of audio in the largest batch that fits a GPU of so many bytes; 0 where none does."""
    empty, second = memory(run, 0), memory(run, 1) - memory(run, 0)
    return max(0.0, ((1 - UNUSABLE) * size - empty) / second)


# -- bytes moved in a GPU's memory -------------------------------------------------------------------------------------

PASSES = {"front end": (17.6, 38.6), "the rest": (9.0, 7.4)}
"""Bytes that operators read and write in the forward and in the backward pass, for each byte saved: counted in a half-precision step on a CPU
(inputs and outputs of every operator, without views). "The rest" has the teacher's forward pass in it."""

PER_PARAMETER = {  # bytes an update, of each parameter
    "half gradients to float32": 2 + 4,
    "norm": 4,
    "scale": 4 + 4,
    "Adam, one kernel": 4 * 4 + 3 * 4,
    "float32 parameters to half": 4 + 2,
    "clear float32 gradients": 4,
}
PER_SHARED = 12  # gradients into the buffer, divided, and back; where there are ranks
PER_AVERAGED = 6 + 8 + 12 + 6  # of each of the teacher's parameters: student to float32, decay, add, to half


def batch_bytes(run: Run, frozen: bool = False) -> float:
    """Of one second of audio in a batch."""
    kept = saved(run.cfg, run.samples)
    front, rest = kept["front end"], sum(kept.values()) - kept["front end"]
    forward, backward = PASSES["front end"]
    total = front * (forward + (0 if frozen else backward)) + rest * sum(PASSES["the rest"])
    return total / run.crop


def weight_bytes(run: Run, update_freq: int) -> float:
    """Of one batch, whatever its size: weights in both passes, gradients written and, after the first batch, added."""
    P, E = sum(parameters(run.cfg).values()), encoder_parameters(run.cfg)
    return 2 * (3 * P + E) + 2 * 3 * P * (update_freq - 1) / update_freq


def update_bytes(run: Run, n: int) -> float:
    """Of one update, whatever its batches: optimiser and teacher."""
    P, E = sum(parameters(run.cfg).values()), encoder_parameters(run.cfg)
    return P * (sum(PER_PARAMETER.values()) + (PER_SHARED if n > 1 else 0)) + E * PER_AVERAGED


# -- collectives -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collective:
    """An all-reduce: what of, how often in an update, bytes each time."""

    name: str
    count: int
    bytes: float


LOG_HOST, LOG_DEVICE, RELEASED_LOG = 10, 1, 15  # numbers to log, beside those of codebooks


def collectives(cfg: SimpleNamespace, n: int, half: int = 2) -> list[Collective]:
    """Of an update on n GPUs, ours: their number does not depend on update_freq."""
    K, V = cfg.average_top_k_layers, cfg.codebook_size
    return [
        Collective("gradients", 1, half * sum(parameters(cfg).values())),
        Collective("codebooks", 1, codebook_bytes(cfg)),
        Collective("to log, on the host", 1, 8 * LOG_HOST),
        Collective("to log, on the GPU", 1, 8 * (LOG_DEVICE + 4 * K + 2 * K * V)),
        Collective("gradient norm", 1, 8 * n),
    ]


def released_collectives(cfg: SimpleNamespace, n: int, update_freq: int) -> list[Collective]:
    """The same of the released code: codebooks and perplexities one by one, in every forward pass."""
    K, V, D = cfg.average_top_k_layers, cfg.codebook_size, cfg.encoder_embed_dim
    return [
        Collective("gradients", 1, 2 * sum(parameters(cfg).values())),
        Collective("codebooks: sums", K * update_freq, 4 * V * D),
        Collective("codebooks: counts", K * update_freq, 4 * V),
        Collective("perplexities", 2 * K * update_freq, 4 * V),
        Collective("to log", 2, 8 * RELEASED_LOG),
        Collective("gradient norm", 1, 8 * n),
    ]


def collective_seconds(run: Run, gpu: Gpu, n: int, made: Sequence[Collective]) -> float:
    """Ring all-reduces, one after the other, not overlapped with the backward pass (fairseq's legacy_ddp)."""
    if n == 1:
        return 0.0
    inside = n <= run.machine
    bandwidth = gpu.link_bandwidth if inside else min(gpu.link_bandwidth, gpu.network_bandwidth)
    latency = run.link_latency if inside else run.network_latency
    return sum(c.count * (latency + 2 * (n - 1) / n * c.bytes / bandwidth) for c in made)


# -- time --------------------------------------------------------------------------------------------------------------


def roofline_seconds(run: Run, gpu: Gpu, n: int, frozen: bool = False) -> float:
    """Of the batches of an update on one of n GPUs, had the GPU its peak rates: arithmetic and memory one after the other."""
    update_freq, audio = run.share_out(n)
    work = sum(flops(run.cfg, run.samples, frozen).values()) / run.crop * audio
    moved = batch_bytes(run, frozen) * audio + weight_bytes(run, update_freq)
    return update_freq * (work / gpu.flops + moved / gpu.memory_bandwidth)


@dataclass(frozen=True)
class Time:
    """Seconds of an update, before and after the front end is frozen."""

    batches: tuple[float, float]
    update: float  # optimiser, teacher
    collectives: float
    host: float

    @property
    def seconds(self) -> tuple[float, float]:
        return tuple(batches + self.update + self.collectives + self.host for batches in self.batches)


def time(run: Run, gpu: Gpu, n: int) -> Time:
    batches = tuple(roofline_seconds(run, gpu, n, frozen) / gpu.efficiency for frozen in (False, True))
    update = update_bytes(run, n) / gpu.memory_bandwidth
    return Time(batches, update, collective_seconds(run, gpu, n, collectives(run.cfg, n)), gpu.host_seconds)


def frozen_share(run: Run) -> float:
    """Of all updates."""
    step = run.cfg.freeze_teacher_step
    return max(0.0, 1 - (step - 1) / run.updates) if run.cfg.freeze_pre_enc_modules and step >= 0 else 0.0


def hours(run: Run, gpu: Gpu, n: int) -> float:
    """Of the whole training."""
    before, after = time(run, gpu, n).seconds
    share = frozen_share(run)
    return run.updates * ((1 - share) * before + share * after) / 3600


def calibrated(run: Run, gpu: Gpu, measured: dict[int, float], share: float, made=None) -> Gpu:
    """The GPU with the efficiency that explains measured seconds an update, by number of GPUs, and with the host's seconds too where there
    are several (least squares).

    Args:
        share: of the updates with a frozen front end.
        made: number of GPUs -> collectives that nothing hid; None: all were hidden behind the backward pass.

    Raises UserError where no efficiency explains them.
    """
    counts = sorted(measured)
    ideal = [
        (1 - share) * roofline_seconds(run, gpu, n) + share * roofline_seconds(run, gpu, n, frozen=True) for n in counts
    ]
    rest = [measured[n] - update_bytes(run, n) / gpu.memory_bandwidth for n in counts]
    if made is not None:
        rest = [seconds - collective_seconds(run, gpu, n, made(n)) for seconds, n in zip(rest, counts)]
    slope, host = (rest[0] - gpu.host_seconds) / ideal[0], gpu.host_seconds
    if len(counts) > 1:
        slope, host = (float(value) for value in np.polyfit(ideal, rest, 1))
    if slope <= 0:
        raise UserError(
            f"{gpu.name}: {measured} seconds an update, by GPUs, leave none for its batches: more GPUs must take less, one more than {gpu.host_seconds:.3f}"
        )
    return replace(gpu, efficiency=1 / slope, host_seconds=host)


def published(run: Run, gpu: Gpu, hours_by_gpus: dict[str, dict[int, float]] = PUBLISHED) -> Gpu:
    """The GPU with what the published hours tell. Those of SpidR hide their collectives and freeze the front end; the released code does neither,
    and its one figure takes the host's seconds from the A100's."""
    measured = {n: 3600 * h / PUBLISHED_UPDATES for n, h in hours_by_gpus[gpu.name].items()}
    if gpu.name != "V100":
        return calibrated(run, gpu, measured, frozen_share(run))
    gpu = replace(gpu, host_seconds=published(run, GPUS["A100"]).host_seconds)
    return calibrated(run, gpu, measured, 0.0, lambda n: released_collectives(run.cfg, n, run.share_out(n)[0]))


# -- tables ------------------------------------------------------------------------------------------------------------


def markdown(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def flops_table(run: Run) -> str:
    before, after = (flops(run.cfg, run.samples, frozen) for frozen in (False, True))
    rows = [[part, *(f"{parts[part] / run.crop / 1e9:.2f}" for parts in (before, after))] for part in before]
    sums = [sum(parts.values()) / run.crop for parts in (before, after)]
    rows.append(["sum", *(f"**{value / 1e9:.1f}**" for value in sums)])
    rows.append(["of an update, in TFLOP", *(f"**{value * run.update_seconds / 1e12:.0f}**" for value in sums)])
    return markdown(["GFLOP a second of audio", "until the freeze", "after it"], rows)


def bytes_table(run: Run) -> str:
    rows = []
    for n in GPU_COUNTS:
        update_freq, audio = run.share_out(n)
        work = [
            update_freq * audio / run.crop * sum(flops(run.cfg, run.samples, frozen).values()) / 1e12
            for frozen in (False, True)
        ]
        batch = [update_freq * audio * batch_bytes(run, frozen) / 1e9 for frozen in (False, True)]
        weights, update = update_freq * weight_bytes(run, update_freq) / 1e9, update_bytes(run, n) / 1e9
        rows.append(
            [
                n,
                update_freq,
                f"{audio * RATE / 1e6:.2f} M",
                f"{work[0]:.1f} / {work[1]:.1f}",
                f"{batch[0]:.0f} / {batch[1]:.0f}",
                f"{weights:.1f}",
                f"{update:.1f}",
            ]
        )
    return markdown(
        [
            "GPUs",
            "update_freq",
            "max_tokens",
            "TFLOP of a GPU",
            "GB by activations",
            "GB by weights",
            "GB by optimiser and teacher",
        ],
        rows,
    )


def collectives_table(run: Run) -> str:
    rows = []
    for code, made in (
        ("ours", collectives(run.cfg, RECIPE_GPUS)),
        ("released", released_collectives(run.cfg, RECIPE_GPUS, 1)),
    ):
        rows += [[code, c.name, c.count, f"{c.bytes / 1e3:,.1f}", f"{c.count * c.bytes / 1e3:,.1f}"] for c in made]
    return markdown(["16 GPUs, update_freq 1", "all-reduce of", "number", "kB each", "kB an update"], rows)


def collectives_by_gpus_table(run: Run, gpu: Gpu) -> str:
    rows = []
    for n in GPU_COUNTS[1:]:
        row = [n]
        for made in (collectives(run.cfg, n), released_collectives(run.cfg, n, run.share_out(n)[0])):
            milliseconds = 1000 * collective_seconds(run, gpu, n, made)
            row += [
                sum(c.count for c in made),
                f"{sum(c.count * c.bytes for c in made) / 1e6:.1f}",
                f"{milliseconds:.1f}",
            ]
        rows.append(row)
    return markdown(
        ["GPUs", "ours: number", "MB", f"ms ({gpu.name})", "released: number", "MB", f"ms ({gpu.name})"], rows
    )


def calibration_table(run: Run, gpus: Sequence[Gpu]) -> str:
    compiled = [
        replace(published(run, gpu, COMPILED), name=f"{gpu.name}, torch.compile")
        for gpu in gpus
        if gpu.name in COMPILED
    ]
    rows = []
    for gpu in [*gpus, *compiled]:
        rates = [
            gpu.flops / 1e12,
            *(rate / 1e9 for rate in (gpu.memory_bandwidth, gpu.link_bandwidth, gpu.network_bandwidth)),
        ]
        rows.append(
            [gpu.name, *(f"{rate:.0f}" for rate in rates), f"{gpu.efficiency:.2f}", f"{1000 * gpu.host_seconds:.0f}"]
        )
    return markdown(["GPU", "TFLOP/s, half", "memory GB/s", "link GB/s", "network GB/s", "efficiency", "host ms"], rows)


def time_table(run: Run, gpu: Gpu) -> str:
    rows = []
    for n in GPU_COUNTS:
        made = time(run, gpu, n)
        before, after = made.seconds
        total = hours(run, gpu, n)
        parts = [f"{1000 * value:.0f}" for value in (made.batches[0], made.update, made.collectives, made.host)]
        speed = run.update_seconds / n / before
        rows.append(
            [
                n,
                *parts,
                f"{before:.3f} / {after:.3f}",
                f"{total:.0f}",
                PUBLISHED.get(gpu.name, {}).get(n, "-"),
                f"{speed:.0f}",
            ]
        )
    return markdown(
        [
            f"{gpu.name}: GPUs",
            "batches ms",
            "optimiser, teacher ms",
            "collectives ms",
            "host ms",
            "s an update, until / after the freeze",
            "hours",
            "hours, published",
            "s of audio a s and GPU",
        ],
        rows,
    )


def activations_table(run: Run) -> str:
    fused, plain = (saved(run.cfg, run.samples, fused=fused) for fused in (True, False))
    rows = [[part, f"{fused[part] / run.crop / 1e6:.1f}", f"{plain[part] / run.crop / 1e6:.1f}"] for part in fused]
    made = targets(run.cfg, run.samples)
    rows.append(["targets, while they are made", *[f"{made / run.crop / 1e6:.1f}"] * 2])
    rows.append(["sum", *(f"**{(sum(parts.values()) + made) / run.crop / 1e6:.1f}**" for parts in (fused, plain))])
    return markdown(["MB a second of audio", "fused attention", "attention of a CPU"], rows)


def state_table(run: Run) -> str:
    held = state(run.cfg)
    rows = [[name, f"{value / 1e9:.2f}"] for name, value in held.items()]
    return markdown(["GB, whatever the batch", ""], [*rows, ["sum", f"**{sum(held.values()) / 1e9:.2f}**"]])


def memory_table(run: Run) -> str:
    rows = []
    for tokens in (0.5e6, 0.95e6, 1.4e6, 1.9e6, 2.8e6, 3.8e6, 7.6e6, 15.2e6):
        needed = memory(run, tokens / RATE) / (1 - UNUSABLE)
        rows.append([f"{tokens / 1e6:g} M", f"{tokens / RATE:.0f}", f"{needed / 1e9:.1f}"])
    return markdown(["max_tokens", "s of audio", "GPU of at least GB"], rows)


def fits_table(run: Run) -> str:
    rows = []
    for size in (16, 24, 32, 40, 80):
        audio = largest_batch(run, size * 1e9)
        tokens = math.floor(audio * RATE / 1e5) * 1e5
        ways = math.ceil(run.update_seconds / audio) if audio else "-"
        rows.append([size, f"{tokens / 1e6:.1f} M", f"{audio:.0f}", ways])
    return markdown(["GPU, GB", "largest max_tokens", "s of audio", "GPUs x update_freq for an update, at least"], rows)


def tables(run: Run, gpus: Sequence[Gpu]) -> dict[str, str]:
    """All of them in Markdown, by name."""
    made = {
        "FLOPs": flops_table(run),
        "bytes": bytes_table(run),
        "collectives": collectives_table(run),
        "collectives by GPUs": collectives_by_gpus_table(run, gpus[-1]),
        "calibration": calibration_table(run, gpus),
        **{f"time {gpu.name}": time_table(run, gpu) for gpu in gpus},
        "activations": activations_table(run),
        "state": state_table(run),
        "memory": memory_table(run),
        "fits": fits_table(run),
    }
    return made


def write_into(page: str, made: dict[str, str]) -> str:
    """The page's text with the tables between its marks, ``<!-- name -->`` and ``<!-- end -->``, replaced."""
    for name, table in made.items():
        page = re.sub(
            rf"(<!-- {re.escape(name)} -->\n).*?(?=<!-- end -->)",
            lambda m: f"{m[1]}\n{table}\n\n",
            page,
            flags=re.DOTALL,
        )
    return page


# -- the command -------------------------------------------------------------------------------------------------------

RATES = {
    "flops": ("tflops", 1e12),
    "memory_bandwidth": ("memory-gb", 1e9),
    "link_bandwidth": ("link-gb", 1e9),
    "network_bandwidth": ("network-gb", 1e9),
}


def parse(arguments: Sequence[str] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a training of DinoSR costs on 1 to 64 GPUs, on paper.")
    parser.add_argument(
        "--config",
        type=Path,
        default=REPOSITORY / "examples/config/pretraining/dinosr_base.yaml",
        metavar="FILE",
        help="pre-training config; front_end=conv and extractor_mode=layer_norm (default: dinosr_base.yaml)",
    )
    parser.add_argument(
        "--max-tokens",
        type=float,
        metavar="N",
        help=f"samples in a batch of one GPU; an update holds {RECIPE_GPUS} of them (default: the config's)",
    )
    parser.add_argument(
        "--crop",
        type=float,
        default=Run.crop,
        metavar="S",
        help="seconds of an utterance, weighted by audio (default: %(default)s)",
    )
    parser.add_argument(
        "--machine", type=int, default=Run.machine, metavar="N", help="GPUs in a machine (default: %(default)s)"
    )
    parser.add_argument(
        "--link-latency",
        type=float,
        default=Run.link_latency,
        metavar="S",
        help="seconds of a small all-reduce inside a machine (default: %(default)s)",
    )
    parser.add_argument(
        "--network-latency",
        type=float,
        default=Run.network_latency,
        metavar="S",
        help="seconds of a small all-reduce between machines (default: %(default)s)",
    )
    parser.add_argument("--gpu", choices=GPUS, help="one kind of GPU only, and where the options below start from")
    parser.add_argument("--tflops", type=float, metavar="X", help="of that GPU: peak in half precision, TFLOP/s")
    parser.add_argument("--memory-gb", type=float, metavar="X", help="bandwidth of its memory, GB/s")
    parser.add_argument(
        "--link-gb",
        type=float,
        metavar="X",
        help="bus bandwidth between GPUs of a machine, GB/s: busbw of nccl-tests' all_reduce_perf",
    )
    parser.add_argument("--network-gb", type=float, metavar="X", help="the same between machines")
    parser.add_argument(
        "--measured",
        nargs="+",
        metavar="N:S",
        help="your seconds an update, before the freeze, on N GPUs; several numbers of GPUs tell the host's part too (default: from published hours)",
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        metavar="E",
        help="share of the roofline that a step reaches (default: from --measured or published hours)",
    )
    parser.add_argument(
        "--host-seconds", type=float, metavar="S", help="of an update that no GPU shortens (default: the same)"
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write the tables into this page, between its marks, instead of printing them",
    )
    options = parser.parse_args(arguments)
    of_a_gpu = [option for option, _ in RATES.values()] + ["measured", "efficiency", "host-seconds"]
    if options.gpu is None and any(getattr(options, option.replace("-", "_")) is not None for option in of_a_gpu):
        parser.error(f"--gpu is needed with {', '.join('--' + option for option in of_a_gpu)}")
    points = [re.fullmatch(r"([1-9]\d*):(\d+\.?\d*|\.\d+)", point) for point in options.measured or []]
    if not all(points):
        parser.error(f"--measured {' '.join(options.measured)}: pairs such as 8:0.55, GPUs and seconds an update")
    options.measured = {int(point[1]): float(point[2]) for point in points}
    try:
        options.model = OmegaConf.load(options.config)
    except OSError as error:
        parser.error(f"--config {options.config}: {error.strerror}")
    if (
        options.model.model.front_end != "conv"
        or options.model.model.extractor_mode != "layer_norm"
        or options.model.model.pos_conv_depth == 1
    ):
        parser.error(
            f"--config {options.config}: front_end=conv, extractor_mode=layer_norm and pos_conv_depth of 2 or more are counted, no others"
        )
    return options


def chosen_gpus(options: argparse.Namespace, run: Run) -> list[Gpu]:
    """The GPUs of the tables, with the rates, efficiency and host's seconds that were given or follow from what was measured."""
    if options.gpu is None:
        return [published(run, gpu) for gpu in GPUS.values()]
    given = {
        field: scale * value
        for field, (option, scale) in RATES.items()
        if (value := getattr(options, option.replace("-", "_"))) is not None
    }
    gpu = published(run, replace(GPUS[options.gpu], **given))
    if options.measured:
        gpu = calibrated(run, gpu, options.measured, 0.0, lambda n: collectives(run.cfg, n))
    given = {field: value for field in ("efficiency", "host_seconds") if (value := getattr(options, field)) is not None}
    return [replace(gpu, **given)]


def main(arguments: Sequence[str] = None) -> int:
    try:
        run_command(parse(arguments))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run_command(options: argparse.Namespace) -> None:
    whole = options.model
    run = Run(
        plain(whole.model),
        options.max_tokens or whole.dataset.max_tokens,
        whole.optimization.max_update,
        options.crop,
        options.machine,
        options.link_latency,
        options.network_latency,
    )
    made = tables(run, chosen_gpus(options, run))
    if options.page:
        options.page.write_text(write_into(options.page.read_text(encoding="utf-8"), made), encoding="utf-8")
    else:
        print("\n\n".join(f"{name}\n\n{table}" for name, table in made.items()))


if __name__ == "__main__":
    sys.exit(main())

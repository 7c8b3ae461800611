"""What a DinoSR pre-training needs, calculated from the shapes of the model: the table of SCALING.md.

    python examples/dinosr/scaling.py                                      # dinosr_base.yaml on A100 and H100
    python examples/dinosr/scaling.py --gpu A100 --count 6 --tflops 40 60  # with the rate that your own run reaches

Nothing here was timed on a GPU. FLOPs count a multiplication and an addition as two; kB, MB, GB are powers of 1000.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # import the package of this checkout, not an installed one

from dinosr_plugin.modules.conv_spec import parse_conv_layers  # noqa: E402

RATE = 16000  # samples per second
UTTERANCE = 13.5  # seconds after cropping, mean weighted by audio: 13.3 to 13.7 in three parts of LibriSpeech
BATCHES = 16  # batches of dataset.max_tokens in one update of the recipe, to be shared among the GPUs
CORPUS_HOURS = 960

PUBLISHED_UPDATES = 400_000
PUBLISHED_HOURS = {  # GPU -> number of GPUs -> hours without and with torch.compile
    "A100": {4: (100, 81), 8: (53, 42), 16: (29, 23)},
    "H100": {4: (63, 48), 8: (33, 26), 16: (19, 15)},
}
"""SpidR's repository, paper/results/speed.csv: a model of the same size, bf16, front end frozen for the second half. It
does not state the batch; that hours fall as 1 / GPUs suggests the same 63 minutes of audio per update."""

RUNTIME_BYTES = 1e9  # CUDA context, NCCL, workspaces: assumed
FRAGMENTED = 0.1  # share of the memory lost to fragmentation: assumed
WORKER_RATE = (
    1500  # seconds of audio per second from one loader worker: half of what tests/benchmarks/loader.py measured
)
NUMBERS_TO_LOG = 10  # logged by fairseq through the host, besides those of the codebooks


# -- shapes: D encoder width, H feed-forward width, C channels of the front end, K codebooks of V codewords, F frames


def conv_shapes(cfg: DictConfig, samples: int) -> list[tuple[int, int, int, int]]:
    """(input channels, output channels, kernel, output frames) of each convolution of the front end."""
    shapes, channels = [], 1
    for out, kernel, stride in parse_conv_layers(cfg.conv_feature_layers):
        samples = (samples - kernel) // stride + 1
        shapes.append((channels, out, kernel, samples))
        channels = out
    return shapes


def position_kernel(cfg: DictConfig) -> int:
    return max(3, cfg.conv_pos // cfg.pos_conv_depth)


def masked_share(cfg: DictConfig) -> float:
    """Share of masked frames in an utterance: spans start at mask_prob / mask_length of its frames, and overlap."""
    return 1 - (1 - cfg.mask_prob / cfg.mask_length) ** cfg.mask_length


def parameters(cfg: DictConfig) -> dict[str, int]:
    """Number of trained parameters, by part. The teacher is a copy of "positions" and "layers"."""
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


# -- counts that tests/examples/test_scaling.py compares with real training steps --------------------------------------


def flops(cfg: DictConfig, samples: int, frozen: bool = False) -> dict[str, float]:
    """FLOPs of one utterance in one update, by part: matrix products and convolutions only.

    Includes the student's forward and backward pass (twice the forward) and the teacher's forward pass; LayerDrop skips
    layers of the student. frozen: from model.freeze_teacher_step on, without backward pass of front end and projection.
    """
    D, H, K, V = cfg.encoder_embed_dim, cfg.encoder_ffn_embed_dim, cfg.average_top_k_layers, cfg.codebook_size
    convs = conv_shapes(cfg, samples)
    F, C = convs[-1][-1], convs[-1][1]
    masked = masked_share(cfg) * F
    passes = 1 if frozen else 3  # the first convolution is computed twice, but needs no gradient of the waveform
    layer_passes = cfg.encoder_layers * (3 * (1 - cfg.encoder_layerdrop) + 1)
    return {
        "front end": passes * sum(2 * a * b * kernel * length for a, b, kernel, length in convs),
        "projection": passes * 2 * C * D * F,
        "positional convolutions": 4 * cfg.pos_conv_depth * 2 * D * D // cfg.conv_pos_groups * position_kernel(cfg) * F,
        "attention, linear": layer_passes * 4 * 2 * D * D * F,
        "attention, F x F": layer_passes * 2 * 2 * F * F * D,
        "feed-forward": layer_passes * 2 * 2 * D * H * F,
        "heads": 3 * 2 * K * D * V * masked,
        "codebooks": 2 * K * D * V * masked,
    }


def saved(cfg: DictConfig, samples: int, size: int = 2, fused: bool = True) -> dict[str, float]:
    """Bytes that the forward pass of one utterance keeps for the backward pass, by part.

    Args:
        size: bytes of an activation.
        fused: attention keeps no F x F matrix (fused kernels of GPUs); otherwise a byte for each of its elements.
    """
    D, H, K, V = cfg.encoder_embed_dim, cfg.encoder_ffn_embed_dim, cfg.average_top_k_layers, cfg.codebook_size
    convs = conv_shapes(cfg, samples)
    F, C = convs[-1][-1], convs[-1][1]
    dropout = D * F if cfg.dropout > 0 else 0  # one byte per element
    attention = F * D * size * (1 + 3 + 1)  # input; queries, keys, values; input of the output projection
    attention += cfg.encoder_attention_heads * F * (4 if fused else F)
    feed_forward = F * (D + H) * size  # input; input of GELU
    norms = F * 2 * (D * size + 2 * size)  # inputs and statistics of two LayerNorms
    conv_outputs = sum(length * b for _, b, _, length in convs[1:-1])
    positions = D * (3 * cfg.pos_conv_depth + 1) + 2 * (cfg.pos_conv_depth + 1)
    return {
        "front end": size * (samples + conv_outputs) + F * (2 * C * size + 2 * 4),
        "projection": F * (C * size + 2 * size + 1),
        "positional convolutions": F * size * positions + dropout,
        "Transformer layers": cfg.encoder_layers * (attention + feed_forward + norms + 2 * dropout),
        "heads": masked_share(cfg) * F * (D * size + K * (V * 4 + 8)),  # input; log-probabilities and codes
    }


def collectives(cfg: DictConfig, gpus: int, size: int = 2) -> dict[str, int]:
    """Bytes of each all-reduce of one update; their number does not depend on update_freq."""
    K, V, D = cfg.average_top_k_layers, cfg.codebook_size, cfg.encoder_embed_dim
    return {
        "gradients": size * sum(parameters(cfg).values()),
        "codebooks": K * V * (D + 1) * 4,  # sums and counts
        "numbers to log, from the host": 8 * NUMBERS_TO_LOG,
        "numbers to log, from the GPU": 8 * (1 + 4 * K + 2 * K * V),
        "gradient norm": 8 * gpus,  # fairseq checks it on GPUs only
    }


# -- what a run needs --------------------------------------------------------------------------------------------------


def memory(cfg: DictConfig, audio: float) -> float:
    """Bytes on a GPU whose batches hold ``audio`` seconds, in half precision with fused attention."""
    count = parameters(cfg)
    student, teacher = sum(count.values()), count["positions"] + count["layers"]
    # half: parameters, gradients, buffer of legacy_ddp; float32: parameters, gradients, two averages of Adam
    state = student * (3 * 2 + 4 * 4) + teacher * (4 + 2) + 2 * collectives(cfg, 1)["codebooks"]
    samples, K = round(UTTERANCE * RATE), cfg.average_top_k_layers
    # while targets are computed: both results of each teacher layer and the top K, or float32 copies in instance norm
    targets = conv_shapes(cfg, samples)[-1][-1] * cfg.encoder_embed_dim * max(4 * cfg.encoder_layers + 2 * K, 12 * K)
    second = (sum(saved(cfg, samples).values()) + targets) / UTTERANCE
    return (RUNTIME_BYTES + state + audio * second) / (1 - FRAGMENTED)


def flops_per_second(cfg: DictConfig, max_update: int) -> tuple[float, float]:
    """FLOPs for one second of audio: before the front end is frozen, and the mean over the whole training."""
    samples = round(UTTERANCE * RATE)
    before, after = (sum(flops(cfg, samples, frozen).values()) / UTTERANCE for frozen in (False, True))
    frozen = cfg.freeze_pre_enc_modules and cfg.freeze_teacher_step >= 0
    share = max(0.0, 1 - (cfg.freeze_teacher_step - 1) / max_update) if frozen else 0.0
    return before, (1 - share) * before + share * after


def published_rates(gpu: str) -> tuple[float, float]:
    """Lowest and highest FLOP/s of one GPU in the published trainings."""
    base = OmegaConf.load(REPOSITORY / "dinosr_plugin/config/pretraining/dinosr_base.yaml")
    update = flops_per_second(base.model, PUBLISHED_UPDATES)[1] * BATCHES * base.dataset.max_tokens / RATE
    hours = PUBLISHED_HOURS[gpu]
    rates = [update * PUBLISHED_UPDATES / (n * 3600 * each) for n, both in hours.items() for each in both]
    return min(rates), max(rates)


def plan(cfg: DictConfig, gpus: int, rates: tuple[float, float], max_tokens: int) -> dict[str, str]:
    """One row of the table: settings that keep the audio of an update, and their cost at ``rates`` FLOP/s per GPU."""
    update = BATCHES * cfg.dataset.max_tokens / RATE  # seconds of audio
    update_freq = math.ceil(update * RATE / (gpus * max_tokens))
    batch = update / (gpus * update_freq)
    before, mean = flops_per_second(cfg.model, cfg.optimization.max_update)
    seconds = [mean * update / gpus / rate for rate in reversed(rates)]  # of an update
    epoch = CORPUS_HOURS * 3600 / update  # updates
    return {
        "`update_freq`": f"{update_freq}",
        "`max_tokens`": f"{batch * RATE / 1e6:.2f} M",
        "`num_workers`": f"{max(2, math.ceil(rates[1] / before / WORKER_RATE))}",
        "GB per GPU": f"{memory(cfg.model, batch) / 1e9:.1f}",
        "MB exchanged": f"{sum(collectives(cfg.model, gpus).values()) / 1e6 if gpus > 1 else 0:.1f}",
        "s per update": "{:.2f} to {:.2f}".format(*seconds),
        "min per epoch": "{:.2g} to {:.2g}".format(*(epoch * s / 60 for s in seconds)),
        "hours": "{:.0f} to {:.0f}".format(*(cfg.optimization.max_update * s / 3600 for s in seconds)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a DinoSR pre-training needs, calculated from its config.")
    base = REPOSITORY / "dinosr_plugin/config/pretraining/dinosr_base.yaml"
    parser.add_argument("--config", type=Path, default=base, help="pre-training config (default: dinosr_base.yaml)")
    parser.add_argument("--gpu", nargs="+", choices=PUBLISHED_HOURS, default=["A100", "H100"], help="kinds of GPU")
    parser.add_argument("--count", nargs="+", type=int, default=[1, 4, 8, 16], metavar="N", help="numbers of GPUs")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="at most so many samples per batch of one GPU")
    parser.add_argument("--tflops", nargs=2, type=float, metavar="X", help="TFLOP/s of a GPU, lowest and highest")
    options = parser.parse_args(arguments)
    if min([*options.count, *(options.tflops or [1]), options.max_tokens or 1]) <= 0:
        parser.error("--count, --tflops and --max-tokens must be positive")
    try:
        cfg = OmegaConf.load(options.config)
    except OSError as error:
        parser.error(f"--config {options.config}: {error.strerror}")
    if (cfg.model.front_end, cfg.model.extractor_mode) != ("conv", "layer_norm") or cfg.model.pos_conv_depth == 1:
        parser.error(f"--config {options.config}: requires front_end=conv, extractor_mode=layer_norm, pos_conv_depth>1")
    if max(options.count) > 16 and not options.tflops:
        parser.error(f"--count {max(options.count)}: published trainings used 4 to 16 GPUs; more require --tflops")
    max_tokens, rows = options.max_tokens or cfg.dataset.max_tokens, []
    for gpu in options.gpu:
        rates = tuple(sorted(1e12 * x for x in options.tflops)) if options.tflops else published_rates(gpu)
        rows += [{"GPUs": f"{n} x {gpu}", **plan(cfg, n, rates, max_tokens)} for n in options.count]
    for cells in (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

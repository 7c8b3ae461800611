"""Checkpoints in the layout of spidr, made of its names, and SpidR in its plainest form, computed from such tensors.

They stand in for published checkpoints, which the tests do not download. ``PlainSpidR`` shares no code with the
package: loops over attention heads, codebooks and codewords, after DinoSR's paper (arXiv 2305.10005) and what SpidR
(Poli et al. 2025, arXiv 2512.20308) changes.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

CONVOLUTIONS = [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2
WIDTH, FEED_FORWARD, LAYERS, HEADS = 32, 48, 4, 4
POSITIONS, KERNEL, GROUPS = 2, 5, 4  # positional convolutions
CODEBOOKS, CODES = 3, 16


def random_state(spidr: bool = True, qkv_bias: bool = False, mode: str = "layer_norm", seed: int = 0) -> dict:
    """The state dict of such a model; ``spidr``: as SpidR leaves it, else as DinoSR does."""
    generator = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=generator)
    state = {"mask_embedding": randn(WIDTH), "current_step": torch.tensor([9])}

    def linear(name: str, out: int, inputs: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = randn(out, inputs) / math.sqrt(inputs)
        state.update({f"{name}.bias": 0.1 * randn(out)} if bias else {})

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + 0.1 * randn(size), 0.1 * randn(size)

    channels = 1
    for i, (out, kernel, _) in enumerate(CONVOLUTIONS):
        at = f"feature_extractor.conv_layers.{i}"
        state[f"{at}.conv.weight"] = randn(out, channels, kernel) * math.sqrt(2 / (channels * kernel))
        if mode == "layer_norm" or i == 0:
            norm(f"{at}.layer_norm", out)
        channels = out
    norm("feature_projection.layer_norm", channels)
    linear("feature_projection.projection", WIDTH, channels)
    for part in ("student", "teacher"):
        for j in range(POSITIONS):
            at = f"{part}.pos_conv_embed.convs.{j}"
            state[f"{at}.weight"] = randn(WIDTH, WIDTH // GROUPS, KERNEL) / math.sqrt(WIDTH // GROUPS * KERNEL)
            state[f"{at}.bias"] = 0.1 * randn(WIDTH)
        norm(f"{part}.layer_norm", WIDTH)
        for n in range(LAYERS):
            at = f"{part}.layers.{n}"
            linear(f"{at}.attention.qkv", 3 * WIDTH, WIDTH, qkv_bias)
            linear(f"{at}.attention.proj", WIDTH, WIDTH)
            linear(f"{at}.feed_forward.intermediate_dense", FEED_FORWARD, WIDTH)
            linear(f"{at}.feed_forward.output_dense", WIDTH, FEED_FORWARD)
            norm(f"{at}.layer_norm", WIDTH)
            norm(f"{at}.final_layer_norm", WIDTH)
    if spidr:
        last = f"student.layers.{LAYERS - 1}.final_layer_norm"
        state[f"{last}.weight"], state[f"{last}.bias"] = torch.ones(WIDTH), torch.zeros(WIDTH)
    for k in range(CODEBOOKS):
        linear(f"heads.{k}.0", CODES, WIDTH)
        state[f"codebooks.{k}.counts"] = 0.5 + torch.rand(CODES, generator=generator)
        state[f"codebooks.{k}.codebook"] = randn(CODES, WIDTH) * state[f"codebooks.{k}.counts"].unsqueeze(1)
    return state


def options(spidr: bool = True, mode: str = "layer_norm", **changes) -> dict:
    """config.json, as a training writes it; ``changes`` to the fields of ``model``."""
    model = {"extractor_mode": mode, "extractor_conv_layer_config": CONVOLUTIONS, "encoder_num_heads": HEADS}
    model |= {"encoder_layer_norm_first": False, **changes}
    return {"run": {"model_type": "spidr" if spidr else "dinosr"}, "data": {"normalize": True}, "model": model}


def save(folder: Path, state: dict, config: dict | None = None, prefix: str = "") -> Path:
    """Writes a checkpoint as the training does, and the options in a file next to it; returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    optimizer = {"state": {0: {"exp_avg": torch.zeros(99)}}, "param_groups": []}
    entries = {"optimizer": optimizer, "scheduler": {}, "scaler": {}}
    entries |= {"epoch": torch.tensor([2]), "step": torch.tensor([400])}
    model = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"model": model, **entries}, folder / "step_400.pt")
    return folder / "step_400.pt"


# ---- the model -------------------------------------------------------------------------------------------------------


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def normalized(x: Tensor, dimension: int) -> Tensor:
    """Mean 0 and variance 1."""
    x = x - x.mean(dimension, keepdim=True)
    return x / (x.square().mean(dimension, keepdim=True) + 1e-5).sqrt()


class PlainSpidR:
    """The model with these tensors; without dropout, post-LN.

    ``matching``: heads read the feed-forward outputs of the layers of their codebooks (SpidR); else the output of the
    last layer (DinoSR).
    """

    def __init__(self, state: dict[str, Tensor], matching: bool = True):
        self.tensors = {name: tensor.clone() for name, tensor in state.items() if name != "current_step"}
        self.matching = matching
        self.trained = [name for name in self.tensors if not name.startswith(("teacher.", "codebooks."))]
        for name in self.trained:
            self.tensors[name].requires_grad_()

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.tensors[f"{name}.weight"].T
        return y + self.tensors[f"{name}.bias"] if f"{name}.bias" in self.tensors else y

    def norm(self, name: str, x: Tensor) -> Tensor:
        return normalized(x, -1) * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def inputs(self, source: Tensor) -> Tensor:
        """Waveforms (B, T) -> projected frames (B, F, D)."""
        x = source.unsqueeze(1)  # (B, C, F)
        for i, (_, _, stride) in enumerate(CONVOLUTIONS):
            at = f"feature_extractor.conv_layers.{i}"
            x = torch.conv1d(x, self.tensors[f"{at}.conv.weight"], stride=stride)
            if f"feature_extractor.conv_layers.{len(CONVOLUTIONS) - 1}.layer_norm.weight" in self.tensors:
                x = self.norm(f"{at}.layer_norm", x.transpose(1, 2)).transpose(1, 2)
            elif i == 0:  # one group norm, each channel over time
                weight, bias = (self.tensors[f"{at}.layer_norm.{name}"].unsqueeze(1) for name in ("weight", "bias"))
                x = normalized(x, 2) * weight + bias
            x = gelu(x)
        x = self.norm("feature_projection.layer_norm", x.transpose(1, 2))
        return self.linear("feature_projection.projection", x)

    def transformer(self, part: str, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """x (B, F, D) -> the outputs of the layers, and the outputs of their feed-forward blocks, (B, F, D) each."""
        positions = x.transpose(1, 2)
        for j in range(POSITIONS):
            weight, bias = (self.tensors[f"{part}.pos_conv_embed.convs.{j}.{name}"] for name in ("weight", "bias"))
            positions = torch.conv1d(positions, weight, bias, padding=KERNEL // 2, groups=GROUPS)
            positions = gelu(normalized(positions, 1))
        x = self.norm(f"{part}.layer_norm", x + positions.transpose(1, 2))
        outputs, feed_forwards = [], []
        for n in range(LAYERS):
            at = f"{part}.layers.{n}"
            x = self.norm(f"{at}.layer_norm", x + self.attention(f"{at}.attention", x))
            hidden = gelu(self.linear(f"{at}.feed_forward.intermediate_dense", x))
            feed_forwards.append(self.linear(f"{at}.feed_forward.output_dense", hidden))
            x = self.norm(f"{at}.final_layer_norm", x + feed_forwards[-1])
            outputs.append(x)
        return outputs, feed_forwards

    def attention(self, name: str, x: Tensor) -> Tensor:
        q, k, v = self.linear(f"{name}.qkv", x).chunk(3, dim=-1)
        heads = []
        for h in range(HEADS):
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(WIDTH // HEADS)
            heads.append(scores.softmax(-1) @ v[..., part])
        return self.linear(f"{name}.proj", torch.cat(heads, dim=-1))

    # ---- targets, predictions, loss ----------------------------------------------------------------------------------

    @torch.no_grad()
    def targets(self, inputs: Tensor) -> list[Tensor]:
        """The teacher's feed-forward outputs in the top K layers, each channel normalised over time: (B, F, D) each."""
        return [normalized(x, 1) for x in self.transformer("teacher", inputs)[1][-CODEBOOKS:]]

    @torch.no_grad()
    def assign(self, k: int, frames: Tensor) -> Tensor:
        """(N, D) -> the nearest codewords, (N,)."""
        centroids = self.tensors[f"codebooks.{k}.codebook"] / self.tensors[f"codebooks.{k}.counts"].unsqueeze(1)
        return torch.stack([(frame - centroids).square().sum(-1).argmin() for frame in frames])

    def log_probabilities(self, inputs: Tensor) -> list[Tensor]:
        """Of the codes of each codebook, by the student: (B, F, V) each."""
        outputs, feed_forwards = self.transformer("student", inputs)
        read = feed_forwards[-CODEBOOKS:] if self.matching else [outputs[-1]] * CODEBOOKS
        return [self.linear(f"heads.{k}.0", x).log_softmax(-1) for k, x in enumerate(read)]

    @torch.no_grad()
    def codes(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's and the student's codes of unmasked speech, (K, B, F) each."""
        inputs = self.inputs(source)
        teacher = [self.assign(k, x.flatten(0, 1)).view(x.shape[:2]) for k, x in enumerate(self.targets(inputs))]
        return torch.stack(teacher), torch.stack([x.argmax(-1) for x in self.log_probabilities(inputs)])

    def loss(self, source: Tensor, mask: Tensor, decay: float = 0.9) -> tuple[Tensor, Tensor]:
        """The mean over masked frames and codebooks, and the codes (K, N); moves the codebooks."""
        inputs = self.inputs(source)
        masked = torch.where(mask.unsqueeze(-1), self.tensors["mask_embedding"], inputs)
        predictions = self.log_probabilities(masked)
        losses, all_codes = [], []
        for k, target in enumerate(self.targets(inputs)):
            frames, predicted = target[mask], predictions[k][mask]
            codes = self.assign(k, frames)
            losses += [-predicted[n, code] for n, code in enumerate(codes)]
            sums, counts = self.tensors[f"codebooks.{k}.codebook"], self.tensors[f"codebooks.{k}.counts"]
            for code in codes.unique():
                chosen = frames[codes == code]
                counts[code] = decay * counts[code] + (1 - decay) * len(chosen)
                sums[code] = decay * sums[code] + (1 - decay) * chosen.sum(0)
            all_codes.append(codes)
        return torch.stack(losses).mean(), torch.stack(all_codes)

    @torch.no_grad()
    def move_teacher(self, decay: float) -> None:
        """Positional convolutions are copied, the rest is averaged; nothing moves at a decay of 1."""
        for name in [name for name in self.tensors if name.startswith("teacher.")] if decay < 1 else ():
            student = self.tensors[name.replace("teacher.", "student.", 1)]
            is_copied = ".pos_conv_embed." in name
            self.tensors[name] = student.clone() if is_copied else decay * self.tensors[name] + (1 - decay) * student

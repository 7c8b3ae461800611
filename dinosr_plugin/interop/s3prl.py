"""s3prl: checkpoints as upstreams, so that SUPERB's tasks run on them.

``register`` adds them to ``s3prl.hub``, the only place where s3prl looks an upstream up by its name; its package has no
other way in from outside. ``dinosr s3prl`` starts its programs with them.

from dinosr_plugin.interop.s3prl import register
from s3prl.nn import S3PRLUpstream

register()
upstream = S3PRLUpstream("dinosr", "checkpoint_last.pt").eval()

The Apache-licensed fork espnet-s3prl is what is installed (extra ``s3prl``): s3prl itself, 0.4.18, does not run with
torchaudio 2.9 or later.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

from ..checkpoints.opening import open_reader
from ..checkpoints.readers import FrameReader, Layer
from ..errors import UserError
from ..pretrained import find_checkpoint

NAMES = {"dinosr": "student", "dinosr_teacher": "teacher", "dinosr_random": "random"}
"""Name in ``s3prl.hub`` -> weights of ``open_reader``."""
INSTALL = "pip install 'dinosr-plugin[s3prl]'"


class Upstream(nn.Module):
    """A frozen model that s3prl calls as one of its own (``s3prl.upstream.interfaces.UpstreamBase``).

    Hidden states are what s3prl takes from HuBERT, wav2vec 2.0 and data2vec: the input of every layer, and the output
    of the model. So state i + 1 is ``reader``'s layer i, and the last one is its ``last``, which a pre-LN model has
    normalised. The input of the first layer is omitted where its width differs from that of the layers.
    """

    def __init__(self, reader: FrameReader):
        super().__init__()
        self.reader = reader
        self.model = reader.model.eval()  # moves with `to`, and is part of the state that s3prl saves

    def get_downsample_rates(self, key: str) -> int:
        """Samples at 16 kHz between frames, the same for every ``key``."""
        return self.reader.grid.hop

    def train(self, mode: bool = True) -> "Upstream":
        """As of any module, but for the model, which stays in eval mode: its features never depend on dropout."""
        self.training = mode
        return self

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor] | Tensor]:
        """B waveforms (T,) float at 16 kHz -> ``hidden_states``, each (B, F, D) float32 on the model's device, and
        ``last_hidden_state``, the last of them.

        F is the number of frames of the longest. Those past the end of a shorter waveform repeat its last frame, as
        s3prl does with the longest one; so features are the same in any batch, within rounding. Models whose features
        depend on padding (``reader.pads``) run one waveform at a time.

        Raises UserError for a waveform shorter than a frame, for NaN and infinity, and in training with gradients.
        """
        reader = self.reader
        if self.training and torch.is_grad_enabled():
            raise UserError(
                "s3prl: this upstream is not fine-tuned; omit -f and build_model.upstream_trainable, in Python call "
                "eval() first"
            )
        for wave in wavs:
            if len(wave) < reader.grid.field:
                raise UserError(
                    f"waveform: {len(wave)} samples, fewer than the {reader.grid.field} of a frame; leave it out"
                )
        waves = [reader.prepare(wave.detach().float()) for wave in wavs]
        batches = [waves] if reader.pads else [[wave] for wave in waves]
        utterances = [states for batch in batches for states in hidden_states(reader, batch)]
        hidden = [repeat_last(of_layer) for of_layer in zip(*utterances)]
        return {"hidden_states": hidden, "last_hidden_state": hidden[-1]}


def hidden_states(reader: FrameReader, waves: Sequence[Tensor]) -> list[list[Tensor]]:
    """Prepared waveforms, read as one batch -> for each the hidden states (F, D) of its frames."""
    layers: list[Layer] = [*range(reader.n_layers - 1), "last"]
    with first_input(reader) as inputs:
        states, _ = reader.read_batch(waves, layers)  # (B, F, D) each
    if inputs[0].size(-1) == reader.width:
        states = [inputs[0].float(), *states]
    return [[x[row, : reader.frames(len(wave))] for x in states] for row, wave in enumerate(waves)]


@contextmanager
def first_input(reader: FrameReader) -> Iterator[list[Tensor]]:
    """A list that the input (B, F, C) of the first layer is appended to."""
    inputs: list[Tensor] = []

    def record(layer, arguments) -> None:
        x = arguments[0].detach()
        inputs.append(x if reader.batch_first else x.transpose(0, 1))  # (B, F, C)

    handle = reader.layers[0].register_forward_pre_hook(record)
    try:
        yield inputs
    finally:
        handle.remove()


def repeat_last(features: Sequence[Tensor]) -> Tensor:
    """B times (F_i, D) -> (B, longest F, D); the last frame of a shorter one is repeated."""
    longest = max(map(len, features))
    return torch.stack([torch.cat([x, x[-1:].expand(longest - len(x), -1)]) for x in features])


# ---- s3prl's hub and programs ----------------------------------------------------------------------------------------


def make_upstream(
    weights: str, ckpt: str | None = None, model_config: str | None = None, refresh: bool = False
) -> Upstream:
    """An entry of ``s3prl.hub``, with the arguments that s3prl passes to all of them.

    Args:
        weights: as of ``open_reader``.
        ckpt: a checkpoint's path, or the name of a model in the package. The settings are in it, and nothing is
            downloaded: the other two are not used.

    Raises:
        UserError: as ``open_reader``; no checkpoint.
    """
    if ckpt is None:
        raise UserError("s3prl: no checkpoint; give one with -k CHECKPOINT, or build_upstream.path_or_url")
    return Upstream(open_reader(find_checkpoint(ckpt), weights))


def register() -> None:
    """Add ``NAMES`` to ``s3prl.hub``. Calling it again changes nothing. Raises UserError as ``import_s3prl``."""
    hub = import_s3prl("hub")
    for name, weights in NAMES.items():
        setattr(hub, name, partial(make_upstream, weights))


def import_s3prl(name: str) -> ModuleType:
    """A module of s3prl. Raises UserError if it, or a package that it needs, is not installed or does not load."""
    try:
        return importlib.import_module(f"s3prl.{name}")
    except ImportError as error:
        remedy = INSTALL
        if "huggingface_hub" in str(error):  # releases 1 and later lack what s3prl's old runner imports
            remedy = "pip install 'huggingface_hub<1' 'transformers<5', or use SUPERB's tasks in `dinosr s3prl main`"
        raise UserError(f"s3prl.{name}: {str(error).splitlines()[0]}; {remedy}") from error
    except OSError as error:  # a library that does not load
        remedy = "install the torchaudio of the same build as torch, for CPUs or for the same CUDA"
        raise UserError(f"s3prl.{name}: {str(error).splitlines()[0]}; {remedy}") from error


def run_program(program: str, arguments: Sequence[str]) -> int:
    """Run the function `main` of a module of s3prl with a command line. Raises UserError as ``register``."""
    register()
    module = import_s3prl(program)
    sys.argv = [f"dinosr s3prl {program}", *arguments]
    module.main()
    return 0

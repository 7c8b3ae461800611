"""PyTorch files: checkpoints of fairseq, and of other programs, which are recognised by their entries."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoints.building import building
from ..checkpoints.contents import Damaged, check_weights
from ..checkpoints.file import REMEDY, read_checkpoint
from ..checkpoints.other_files import PROGRAMS, other_program
from ..errors import UserError
from ..interop.spidr import from_spidr, updates_in
from .config import Config
from .description import Codebooks, Description, known, text, whole
from .fairseq_files import (
    FORMAT,
    MAX_CODEBOOKS,
    claims_fairseq,
    describe_cpc_audio,
    describe_fairseq,
    not_finite,
    of_config,
    reason,
    received,
)
from .hugging_face import from_config, has_config, of_weights
from .layouts import SPIDR, layout_of
from .objectives import FRAMES, START, UNITS
from .tensors import tensors_anywhere, weights_of
from .weights import Weights, all_parameters, first, layers_in, listed, parameters_of, precision_of

WEIGHTS = ("model_weight", "state_dict", "model_state_dict", "model")
"""Where other programs keep the weights."""
TRAINING = re.compile(r"(last_)?optimi[sz]er|scheduler|scaler|lr_scheduler", re.IGNORECASE)
"""Entries with the state of a training, whose tensors are not parameters."""

PROGRAM = "use it with the program that wrote it"
INSTEAD = {
    ("model_weight", "model_cfg", "task_cfg"): "give the checkpoint of fairseq that s3prl converted",
    ("Step", "Args", "Config"): "use it with s3prl",
    ("dims", "model_state_dict"): "use it with openai-whisper",
}


def tensors_in_file(path: Path) -> Weights:
    """Names and shapes of a file that contains tensors alone. Raises UserError for anything else."""
    state = read_checkpoint(path)
    try:
        check_weights(state, os.path.getsize(path))
        return weights_of(tensors_anywhere(state, os.path.getsize(path)))
    except Damaged as error:
        raise UserError(f"{path}: {error}; {error.remedy or REMEDY}") from None


def describe_pytorch(path: Path) -> Description:
    """Raises UserError for anything but an intact PyTorch file with a model."""
    state = read_checkpoint(path)
    try:
        return describe_state(state, path)
    except Damaged as error:
        raise UserError(f"{path}: {error}; {error.remedy or REMEDY}") from None


def describe_state(state: dict[str, Any], path: Path) -> Description:
    if claims_fairseq(state):
        return describe_fairseq(state, path)
    tensors = tensors_anywhere(state, os.path.getsize(path))
    weights = weights_of(tensors)
    if not weights:
        raise Damaged(f"contains no tensors{other_program(state)}")
    if described := describe_cpc_audio(state, path, weights) or describe_spidr(state, path, tensors):
        return described
    if all(isinstance(value, Tensor) for value in state.values()):
        folder = path.parent
        return from_config(folder, weights, FORMAT) if has_config(folder) else of_weights(weights, FORMAT)
    return describe_other(state, tensors)


def describe_other(state: Mapping[str, Any], tensors: dict[str, Tensor]) -> Description:
    """A checkpoint of another program: what is known of it by its entries and the names of its tensors."""
    weights = weights_in(state, tensors)
    entries = next((entries for entries in PROGRAMS if state.keys() >= {*entries}), None)
    layout = layout_of(weights)
    program = PROGRAMS[entries].removeprefix("a checkpoint of ") if entries else None
    return Description(
        layout.name if layout else title_of(program),
        FORMAT,
        objective=layout.objective if layout else None,
        written_by=program or "an unknown program",
        updates=first_count(state, "Step", "step", "global_step", "num_updates"),
        epochs=first_count(state, "Epoch", "epoch"),
        parameters=parameters_of(weights) if layout or entries else all_parameters(weights),
        sizes=whisper_sizes(state.get("dims")) or known(layers=layers_in(weights)),
        precision=precision_of(weights),
        contents=[]
        if layout or entries
        else [f"entries {', '.join(text(name) for name in first(state))}", *listed(weights)],
        instead=INSTEAD.get(entries or (), PROGRAM),
    )


def describe_spidr(state: dict[str, Any], path: Path, tensors: dict[str, Tensor]) -> Description | None:
    """None for the state of another program. A model that cannot be read is described by the names of its tensors."""
    if layout_of(weights_in(state, tensors)) is not SPIDR:
        return None
    described = describe_other(state, tensors)
    described.written_by, described.codebooks = "spidr", spidr_codebooks(tensors)
    described.updates = whole(updates_in(state))
    try:
        with building([path], str(path)):  # as in reading it
            converted = from_spidr(state, path)
    except UserError as error:
        described.instead = reason(error, path)
        return described
    if converted is None:
        return described
    config = Config.of(OmegaConf.to_container(converted["cfg"]))
    model = tensors_anywhere(converted["model"], os.path.getsize(path))
    read = of_config(config, model)
    read.kind = "DinoSR in SpidR's layout" if config.get("head_layers") == "last" else "SpidR"
    read.written_by, read.updates, read.epochs = described.written_by, described.updates, described.epochs
    read.parameters, read.codebooks = described.parameters, described.codebooks
    read.instead = not_finite(model)
    read.commands = [] if read.instead else [*UNITS, *FRAMES, *START]
    return read


def title_of(program: str | None) -> str:
    return "Whisper" if program == "Whisper" else "unknown model" if program is None else f"model of {program}"


def weights_in(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Weights:
    """The parameters: what is in the entry for them, or all but the state of the training."""
    place = next((name for name in WEIGHTS if isinstance(state.get(name), dict)), None)
    if place:
        of_place = {name: one for name, one in tensors.items() if name.startswith(f"{place}.")}
        return weights_of({name.removeprefix(f"{place}."): one for name, one in of_place.items()})
    return weights_of({name: one for name, one in tensors.items() if not TRAINING.match(name)})


def first_count(state: Mapping[str, Any], *names: str) -> int | None:
    """The first of these entries that is a whole number, also as a tensor with one element."""
    values = (state.get(name) for name in names)
    numbers = (one.item() if isinstance(one, Tensor) and one.numel() == 1 else one for one in values)
    return next((count for count in map(whole, numbers) if count is not None), None)


def whisper_sizes(dims: Any) -> dict[str, int]:
    """Of the encoder."""
    get = dims.get if isinstance(dims, dict) else lambda name: None
    return known(
        layers=get("n_audio_layer"), width=get("n_audio_state"), heads=get("n_audio_head"), outputs=get("n_vocab")
    )


def spidr_codebooks(tensors: Mapping[str, Tensor]) -> Codebooks | None:
    """K codebooks (V, D), a module each, or one tensor (K, V, D), with their counts."""
    books, counts = in_codebooks("codebook", 2, tensors), in_codebooks("counts", 1, tensors)
    if not 0 < len(books) <= MAX_CODEBOOKS:
        return None
    names = {match[1] for name in tensors if (match := re.match(r"(?:.*\.)?student\.layers\.(\d+)\.", name))}
    layers = [*range(len(names) - len(books), len(names))] if len(names) >= len(books) else None
    in_use = [received(one) for one in counts] if len(counts) == len(books) else None
    return Codebooks("codebook", len(books), len(books[0]), layers, in_use)


def in_codebooks(name: str, dimensions: int, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors of this name, one for each codebook."""
    places = {
        place: match for place in tensors if (match := re.fullmatch(rf"(?:.*\.)?codebooks\.(\d*)\.?{name}", place))
    }
    ordered = [tensors[place] for place in sorted(places, key=lambda place: int(places[place][1][:9] or 0))]
    if len(ordered) == 1 and ordered[0].dim() == dimensions + 1:
        return list(ordered[0][: MAX_CODEBOOKS + 1])
    return [one for one in ordered if one.dim() == dimensions]

"""From what the user names to representations: checkpoints, feature folders, MFCC, log-Mel."""

from collections.abc import Sequence
from pathlib import Path

from ...checkpoints.embedding import EmbeddingReader
from ...checkpoints.opening import open_model
from ...checkpoints.readers import Layer
from ...data.acoustic import FEATURES
from ...errors import UserError
from ...files import is_folder
from ...units.batches import Utterance, read_utterances, require_files
from ...units.features import which_layers
from ...units.store import FeatureFolder
from ..sources import expand
from .pairs import Plan
from .representations import Embedding, Folder, ModelLayers, Representation, Sound, Supplier


def open_suppliers(
    models: Sequence[str | Path], layers: Sequence[Layer] | None = None, untrained: bool = False, device="cpu"
) -> list[Supplier]:
    """Suppliers of the representations, those of one kind of model next to each other.

    Args:
        models: checkpoints, feature folders, folders of these, ``mfcc`` and ``fbank``.
        layers: numbers, ``all``, ``last`` and names of outputs; None: all of one or two models, else the last.
        untrained: add every checkpoint's model with random weights.
        device: where models run.

    Raises:
        UserError: as ``open_model``, ``which_layers`` and ``FeatureFolder``; a model that is named twice.
    """
    if layers is None:
        layers = ["all"] if len(models) <= 2 else ["last"]
    paths = [path for model in models for path in paths_of(str(model))]
    suppliers: list[Supplier] = []
    for path, name in zip(paths, model_names(paths)):
        suppliers += suppliers_of(path, name, layers, untrained, device)
    kinds = list(dict.fromkeys(supplier.representations[0].kind for supplier in suppliers))
    return sorted(suppliers, key=lambda supplier: kinds.index(supplier.representations[0].kind))


def paths_of(model: str) -> list[str]:
    """The layers in a folder from `dinosr features --layer all`, or the name itself."""
    return [model] if model in FEATURES or not is_folder(model) else [str(path) for path in expand(Path(model))]


def suppliers_of(path: str, name: str, layers: Sequence[Layer], untrained: bool, device) -> list[Supplier]:
    if path in FEATURES:
        return [Sound(path, name)]
    if is_folder(path):
        return [Folder(FeatureFolder(path), name)]
    model = open_model(path, device)
    if isinstance(model, EmbeddingReader):
        return [Embedding(model, name, "embedding")]
    chosen = list(dict.fromkeys(one for layer in layers for one in which_layers(layer, model)))
    trained = ModelLayers(model, name, chosen)
    return [trained, ModelLayers(model.untrained(), f"{name} untrained", chosen)] if untrained else [trained]


def model_names(paths: Sequence[str]) -> list[str]:
    """Paths, files without their suffixes, without the first and last parts that all of them have.

    Raises UserError if one is given twice.
    """
    if twice := [path for i, path in enumerate(paths) if path in paths[:i]]:
        raise UserError(f"{twice[0]}: given twice; give it once")
    whole = [path in FEATURES or is_folder(path) for path in paths]
    parts = [Path(path).parts if kept else Path(path).with_suffix("").parts for path, kept in zip(paths, whole)]
    models = [one for one, path in zip(parts, paths) if path not in FEATURES] or parts
    first, last = shared(models), shared([one[::-1] for one in models]) if len(models) > 1 else 0
    short = ["/".join(one if path in FEATURES else one[first : len(one) - last]) for one, path in zip(parts, paths)]
    return short if all(short) and len(set(short)) == len(short) else list(paths)


def shared(parts: Sequence[Sequence[str]]) -> int:
    """Number of parts at the beginning that all have; at most all but one of the shortest."""
    count = 0
    while count < min(map(len, parts)) - 1 and len({one[count] for one in parts}) == 1:
        count += 1
    return count


def read_speech(manifest: str | Path, suppliers: Sequence[Supplier], max_minutes: float) -> list[Utterance]:
    """The utterances of a manifest. Raises UserError as ``read_utterances``, and for those that a folder lacks."""
    utterances = read_utterances(manifest, max(one.min_samples for one in suppliers), max_minutes)
    for supplier in suppliers:
        supplier.require(utterances)
    if any(supplier.needs_sound for supplier in suppliers):
        require_files(utterances, manifest)
    return utterances


def make_plan(suppliers: Sequence[Supplier], all_pairs: bool, **settings) -> Plan:
    """Layers of two models are compared with each other; those of one or more, or with ``all_pairs``, all with all.

    ``settings``: of ``Plan``. Raises UserError for a single representation.
    """
    by_model: dict[str, list[Representation]] = {}
    for supplier in suppliers:
        for one in supplier.representations:
            by_model.setdefault(one.model, []).append(one)
    names = [one.name for of_model in by_model.values() for one in of_model]
    if len(names) < 2:
        raise UserError(f"{names[0]}: one representation is not a pair; give another model, or --layers all")
    sides = [[one.name for one in of_model] for of_model in by_model.values()]
    if len(sides) == 2 and max(map(len, sides)) > 1 and not all_pairs:
        return Plan(sides[0], sides[1], **settings)
    return Plan(names, names, **settings)

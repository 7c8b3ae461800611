"""From a path to what is said about it: one module describes each format, which the first bytes tell."""

from dataclasses import replace
from pathlib import Path

from ..errors import UserError
from ..files import is_folder, open_file, scan
from ..pretrained import FORMAT
from .description import Description

REMEDY = "give a checkpoint, another file of a model, or a folder of Hugging Face or of features"
HEAD = 16  # bytes that tell the formats that are not PyTorch's


def describe(path: str | Path) -> Description:
    """What a file or a folder is. Nothing in it is run, and no model is built.

    Raises UserError for what is not a model, is damaged or cannot be opened.
    """
    path = Path(path)
    return describe_folder(path) if is_folder(path) else describe_file(path)


def describe_folder(folder: Path) -> Description:
    from . import feature_folders, hugging_face

    if hugging_face.has_config(folder):
        return hugging_face.describe_folder(folder)
    if feature_folders.is_features(folder):
        return feature_folders.describe_features(folder)
    inside = sorted(entry.name for entry in scan(folder) if entry.name.endswith((".pt", ".safetensors")))
    remedy = f"give a file in it, such as {inside[-1]}" if inside else REMEDY
    raise UserError(f"{folder}: a folder without a model (config.json) and without features (meta.json); {remedy}")


def describe_packed(path: Path) -> Description:
    from .pytorch import describe_pytorch
    from .safetensors import read_header
    from .weights import precision_of

    precision = precision_of(read_header(path).weights)
    return replace(describe_pytorch(path), format="safetensors", precision=precision)


def describe_file(path: Path) -> Description:
    from . import hugging_face, onnx_files, safetensors

    with open_file(path, REMEDY) as file:
        head = file.read(HEAD)
    if safetensors.is_safetensors(head):
        if safetensors.read_header(path).metadata.get("format") == FORMAT:
            return describe_packed(path)
        return hugging_face.describe_safetensors(path)
    if onnx_files.is_onnx(head):
        return onnx_files.describe_onnx(path)
    if head.startswith(b"PK"):
        from ..checkpoints.other_files import is_arrays, is_torchscript, names_in
        from . import archives

        names = names_in(path) or []
        if is_torchscript(names):
            return archives.describe_torchscript(names)
        if is_arrays(names):
            return archives.describe_kmeans(path)
    from .pytorch import describe_pytorch  # imports torch and fairseq, in seconds

    return describe_pytorch(path)

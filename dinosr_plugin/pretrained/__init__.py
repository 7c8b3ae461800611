"""The trained models that are part of the package, by name; README.md is their card. Importing this takes no time."""

from pathlib import Path

from ..files import kind_of

NAMES = ("tiny", "spin_tiny")
"""``tiny``: DinoSR; ``spin_tiny``: Spin on it."""
FORMAT = "dinosr_plugin"  # `format` in the metadata of their files, which ``checkpoints.packed`` writes and reads


def find_checkpoint(name: str | Path, or_folder: bool = False) -> Path:
    """The file of a model in the package, by its name; every other text is a path.

    A file with such a name in the current folder takes precedence, with ``or_folder`` a folder, too.
    """
    path = Path(name)
    others = ("nothing",) if or_folder else ("nothing", "folder")
    if str(name) in NAMES and kind_of(path) in others:
        return Path(__file__).with_name(f"{name}.safetensors")
    return path

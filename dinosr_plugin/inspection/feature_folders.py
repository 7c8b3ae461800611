"""Folders of features, units or embeddings, as `dinosr features`, `units` and `speaker embed` write them."""

from pathlib import Path

from ..files import is_file
from ..units.store import CODE_DTYPES, EMBEDDINGS, layer_folders, missing_shards, read_meta
from .description import Description, text

META = "meta.json"


def is_features(folder: Path) -> bool:
    """Whether it contains features, or folders of layers."""
    return is_file(folder / META) or bool(layer_folders(folder))


def describe_features(folder: Path) -> Description:
    """Raises UserError for a damaged folder, and for one of several layers."""
    meta = read_meta(folder)
    kind = "embeddings of recordings" if meta.source.get("kind") == EMBEDDINGS else "features of frames"
    kind = "units of frames" if meta.dtype in CODE_DTYPES else kind
    of_frames = kind != "embeddings of recordings"
    source = ", ".join(f"{name} {text(value)}" for name, value in meta.source.items() if name != "fingerprint")
    missing = missing_shards(folder, meta.shards)
    commands = {
        "features of frames": ["dinosr kmeans fit", "dinosr units --kmeans", "dinosr abx"],
        "units of frames": ["dinosr units (resumes, and writes other forms)"],
        "embeddings of recordings": ["dinosr speaker score", "dinosr speaker cluster", "dinosr speaker eval"],
    }
    return Description(
        kind,
        "folder of arrays",
        written_by="dinosr_plugin",
        sizes={"width": meta.width, "utterances": meta.utterances, "frames": meta.frames},
        rate=meta.rate if of_frames else None,
        first_centre=meta.first_centre if of_frames else None,
        precision=[meta.dtype],
        contents=[source] if source else [],
        commands=[] if missing else commands[kind],
        instead=f"{len(missing)} of {meta.shards} parts are missing; run the command that wrote it again"
        if missing
        else None,
    )

"""Zip archives that are not PyTorch's: programs of TorchScript, and k-means files of this plug-in."""

import re
from pathlib import Path

from ..units.kmeans import KMeans
from .description import FIRST, Description, text

CODE = re.compile(r"[^/]*/code/(.*)\.py")


def describe_torchscript(names: list[str]) -> Description:
    """The modules that the program consists of. It is not loaded: that could run its code."""
    modules = [
        match[1].removeprefix("__torch__/").replace("/", ".") for name in names if (match := CODE.fullmatch(name))
    ]
    more = [f"and {len(modules) - FIRST:,} more"] if len(modules) > FIRST else []
    return Description(
        "program of TorchScript (torch.jit)",
        "TorchScript",
        written_by="torch.jit",
        contents=[text(name) for name in modules[:FIRST]] + more,
        instead="it contains code, which is not run here; give the checkpoint that it was made from",
    )


def describe_kmeans(path: Path) -> Description:
    """A k-means file. Raises UserError for other arrays."""
    meta = KMeans.load(path).meta
    source = ", ".join(f"{name} {text(value)}" for name, value in meta.features.items() if name != "fingerprint")
    return Description(
        "k-means",
        "arrays of NumPy (.npz)",
        objective="minimises the distance of frames to their centroids",
        written_by="dinosr kmeans fit",
        parameters={"centroids": meta.k * meta.width},
        sizes={"clusters": meta.k, "width": meta.width, "frames": meta.frames},
        rate=meta.rate,
        contents=[f"fitted on features of {source}"] if source else [],
        precision=["float32"],
        commands=["dinosr units FEATURES --kmeans", "dinosr kmeans apply"],
    )

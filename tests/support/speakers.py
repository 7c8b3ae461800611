"""Recordings of speakers in folders, and embedding folders, for tests of speaker embeddings."""

from pathlib import Path

import numpy as np
import soundfile

from dinosr_plugin.units.store import EMBEDDINGS, FeatureWriter


def write_speech(folder: Path, lengths: dict[str, list[int]], seed: int = 0, name: str = "{number}") -> Path:
    """Noise: files ``SPEAKER/N.wav`` of so many samples; returns their manifest, ``speech.tsv``.

    ``name``: of files, ``{speaker}{number}`` for names that are unique, as a training requires.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for speaker, samples in lengths.items():
        (folder / "audio" / speaker).mkdir(parents=True)
        for number, length in enumerate(samples):
            rows.append(f"{speaker}/{name.format(speaker=speaker, number=number)}.wav\t{length}")
            soundfile.write(folder / "audio" / rows[-1].split("\t")[0], rng.normal(0, 0.1, length), 16000)
    (folder / "speech.tsv").write_text("\n".join([str(folder / "audio"), *rows]) + "\n")
    return folder / "speech.tsv"


def write_embeddings(folder: Path, vectors: dict[str, list | np.ndarray], kind: str = EMBEDDINGS) -> Path:
    """A folder as `dinosr speaker embed` writes it, or one of one frame for each file."""
    (width,) = {len(vector) for vector in vectors.values()}
    names = list(vectors)
    with FeatureWriter(folder, 1, 0, width, "float32", {"kind": kind}, names, [1] * len(names)) as writer:
        for row, vector in enumerate(vectors.values()):
            writer.add(row, np.array(vector, dtype=np.float32)[None])
        writer.close()
    return folder

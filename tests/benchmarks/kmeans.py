"""How fast and how good is the k-means? Against scikit-learn's MiniBatchKMeans on the same frames in one process; run by hand.

    python tests/benchmarks/kmeans.py [FRAMES.npy] [--clusters 100 500] [--threads 1] [--hubert] [--json FILE]

FRAMES.npy: (n, D) float32, such as a shard of a feature folder; without it, 300,000 made-up frames of 192 dimensions. Needs scikit-learn.
scikit-learn runs with its defaults, with batches of 10,000, and with ``--hubert`` as HuBERT's learn_kmeans.py calls it (20 starts, minutes);
never does it compute the labels of all frames. Inertia is the mean squared distance of all frames to their nearest centroid.
"""

import argparse
import json
import time
from pathlib import Path

import faiss
import numpy as np
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from dinosr_plugin.evaluation.tables import format_table
from dinosr_plugin.units.kmeans import fit_kmeans

SCIKIT = {"scikit-learn, defaults": {}, "scikit-learn, batch 10,000": {"batch_size": 10_000}}
HUBERT = {"batch_size": 10_000, "n_init": 20, "max_no_improvement": 100, "tol": 0.0, "reassignment_ratio": 0.0}
OURS = {"ours": {}, "ours, 1 pass": {"passes": 1}, "ours, 5 passes": {"passes": 5}}
COLUMNS = [("name", "k-means", ""), ("k", "k", "d"), ("seconds", "seconds", ".2f"), ("cpu", "CPU seconds", ".2f"), ("inertia", "inertia", ".5g")]


class Frames(dict):
    """An array as if it were the features of utterances of 1,000 frames."""

    def __init__(self, frames: np.ndarray):
        super().__init__({f"{i:09d}": frames[i : i + 1000] for i in range(0, len(frames), 1000)})
        self.width, self.utterances = frames.shape[1], list(self)


def made_up(n: int = 300_000, width: int = 192) -> np.ndarray:
    """Overlapping clusters of many sizes, most of the variance in few dimensions, as layers have it."""
    rng = np.random.default_rng(0)
    scale = np.exp(-np.arange(width) / 20).astype(np.float32)
    centres = rng.normal(size=(1000, width)).astype(np.float32)
    which = rng.choice(1000, n, p=rng.dirichlet(np.ones(1000)))
    return np.concatenate([(centres[part] + rng.standard_normal((len(part), width), np.float32)) * scale for part in np.array_split(which, 20)])


def timed(name: str, k: int, frames: np.ndarray, fit) -> dict:
    """``fit`` gives (k, D) centroids."""
    wall, cpu = time.perf_counter(), time.process_time()
    centroids = fit()
    record = {"name": name, "k": k, "seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    distances = [faiss.knn(part, np.ascontiguousarray(centroids, dtype=np.float32), 1)[0] for part in np.array_split(frames, 20)]
    return {**record, "inertia": float(np.concatenate(distances).mean(dtype=np.float64))}


def measure(frames: np.ndarray, k: int, seed: int, hubert: bool) -> list:
    rows = [timed(name, k, frames, lambda: fit_kmeans(Frames(frames), k, seed=seed, **given).centroids) for name, given in OURS.items()]
    for name, given in {**SCIKIT, **({"scikit-learn, as HuBERT": HUBERT} if hubert else {})}.items():
        model = MiniBatchKMeans(k, random_state=seed, init="k-means++", compute_labels=False, **given)
        rows.append(timed(name, k, frames, lambda: model.fit(frames).cluster_centers_))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path, nargs="?", metavar="FRAMES.npy")
    parser.add_argument("--clusters", type=int, nargs="+", default=[100, 500], help="default: 100 500")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--hubert", action="store_true", help="with HuBERT's 20 starts too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here too")
    given = parser.parse_args()
    frames = np.load(given.frames).astype(np.float32, copy=False) if given.frames else made_up()
    faiss.omp_set_num_threads(given.threads)
    with threadpool_limits(given.threads):
        fit_kmeans(Frames(frames[:1000]), 2, seed=0)  # imports
        rows = [row for k in given.clusters for row in measure(frames, k, given.seed, given.hubert)]
    print(f"{frames.shape[0]} frames, {frames.shape[1]} dimensions, {given.threads} thread(s)")
    print(format_table(rows, COLUMNS))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

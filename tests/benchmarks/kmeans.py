"""Speed and inertia of k-means, compared with scikit-learn's MiniBatchKMeans on the same frames in one process.

    dinosr bench kmeans [FRAMES.npy] [--held-out MORE.npy] [--clusters 100 500] [--threads 1] [--runs 3] [--hubert]
                        [--json FILE]

FRAMES.npy: (n, D) float32, such as a shard of a feature folder; without it, 300,000 synthetic frames of 192
dimensions. Requires scikit-learn, which runs with its defaults, with batches of 10,000, and with ``--hubert`` as in
HuBERT's learn_kmeans.py (20 initialisations, minutes). It never computes the labels of all frames. Inertia is the mean
squared distance of all frames to their nearest centroid; that of held-out frames is next to it. Both implementations
get the frames in memory. Runs alternate, each with its own seed. Ratios are of CPU time, within a run.
"""

import argparse
import time
from pathlib import Path

import faiss
import numpy as np
from records import add_json, run_script, write_record
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from dinosr_plugin.evaluation.table import format_table
from dinosr_plugin.units.kmeans import fit_kmeans

SCIKIT = {"scikit-learn, defaults": {}, "scikit-learn, batch 10,000": {"batch_size": 10_000}}
HUBERT = {"batch_size": 10_000, "n_init": 20, "max_no_improvement": 100, "tol": 0.0, "reassignment_ratio": 0.0}
OURS = {"ours": {}, "ours, 1 pass": {"passes": 1}, "ours, 5 passes": {"passes": 5}}
COLUMNS = [("name", "k-means", ""), ("k", "k", "d"), ("seconds", "seconds", ".2f"), ("cpu", "CPU seconds", ".2f")]
COLUMNS += [("least", "of ours, least", ".1f"), ("median", "median", ".1f"), ("most", "most", ".1f")]
COLUMNS += [("inertia", "inertia", ".5g"), ("held_out", "held out", ".5g")]


class Frames(dict):
    """An array as features of utterances of 1,000 frames each."""

    def __init__(self, frames: np.ndarray):
        super().__init__({f"{i:09d}": frames[i : i + 1000] for i in range(0, len(frames), 1000)})
        self.width, self.utterances = frames.shape[1], list(self)


def made_up(n: int = 300_000, width: int = 192) -> np.ndarray:
    """Overlapping clusters of many sizes, with most of the variance in few dimensions, like the layers of a model."""
    rng = np.random.default_rng(0)
    scale = np.exp(-np.arange(width) / 20).astype(np.float32)
    centres = rng.normal(size=(1000, width)).astype(np.float32)
    which = rng.choice(1000, n, p=rng.dirichlet(np.ones(1000)))
    return np.concatenate(
        [
            (centres[part] + rng.standard_normal((len(part), width), np.float32)) * scale
            for part in np.array_split(which, 20)
        ]
    )


def mean_distance(frames: np.ndarray, centroids: np.ndarray) -> float:
    distances = [faiss.knn(part, centroids, 1)[0] for part in np.array_split(frames, 20)]
    return float(np.concatenate(distances).mean(dtype=np.float64))


def timed(name: str, k: int, frames: np.ndarray, held_out: np.ndarray, fit) -> dict:
    """Measure ``fit``, which returns (k, D) centroids."""
    wall, cpu = time.perf_counter(), time.process_time()
    centroids = fit()
    record = {"name": name, "k": k, "seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    centroids = np.ascontiguousarray(centroids, dtype=np.float32)
    return {**record, "inertia": mean_distance(frames, centroids), "held_out": mean_distance(held_out, centroids)}


def measure(frames: np.ndarray, held_out: np.ndarray, k: int, seed: int, hubert: bool) -> list:
    rows = []
    for name, options in OURS.items():

        def fit(options=options):
            return fit_kmeans(Frames(frames), k, seed=seed, **options).centroids

        rows.append(timed(name, k, frames, held_out, fit))
    for name, options in {**SCIKIT, **({"scikit-learn, as HuBERT": HUBERT} if hubert else {})}.items():
        model = MiniBatchKMeans(k, random_state=seed, init="k-means++", compute_labels=False, **options)
        rows.append(timed(name, k, frames, held_out, lambda model=model: model.fit(frames).cluster_centers_))
    return [{**row, "ratio": row["cpu"] / rows[0]["cpu"]} for row in rows]


def summary(runs: list) -> dict:
    """All runs of one k-means: means, and the ratio of its CPU time to ours in the same run."""
    means = {key: float(np.mean([row[key] for row in runs])) for key in ("seconds", "cpu", "inertia", "held_out")}
    ratios = [row["ratio"] for row in runs]
    return {
        "name": runs[0]["name"],
        "k": runs[0]["k"],
        **means,
        "least": min(ratios),
        "median": float(np.median(ratios)),
        "most": max(ratios),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dinosr bench kmeans", description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path, nargs="?", metavar="FRAMES.npy", help="frames (default: synthetic)")
    parser.add_argument(
        "--clusters", type=int, nargs="+", default=[100, 500], help="numbers of clusters (default: 100 500)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs, with seeds from 0 (default: %(default)s)")
    parser.add_argument(
        "--held-out",
        type=Path,
        metavar="MORE.npy",
        help="frames of other speakers (default: every tenth frame of FRAMES.npy)",
    )
    parser.add_argument("--hubert", action="store_true", help="also run scikit-learn with HuBERT's 20 initialisations")
    add_json(parser)
    given = parser.parse_args(arguments)
    frames = np.load(given.frames).astype(np.float32, copy=False) if given.frames else made_up()
    held_out = np.load(given.held_out).astype(np.float32, copy=False) if given.held_out else frames[::10].copy()
    frames = frames if given.held_out else np.delete(frames, np.s_[::10], axis=0)
    faiss.omp_set_num_threads(given.threads)
    with threadpool_limits(given.threads):
        fit_kmeans(Frames(frames), 2, seed=0)  # not measured: imports, and first use of the memory
        runs = [
            [measure(frames, held_out, k, seed, given.hubert) for seed in range(given.runs)] for k in given.clusters
        ]
    rows = [summary(list(same)) for of_k in runs for same in zip(*of_k)]
    print(f"{frames.shape[0]} frames, {frames.shape[1]} dimensions, {given.threads} thread(s)")
    print(format_table(rows, COLUMNS))
    write_record(given.json, rows)


if __name__ == "__main__":
    run_script(main)

"""Speed and exactness of similarities of layers, compared with each pair by itself from all of its frames.

    dinosr bench similarity [--layers 12] [--width 768] [--frames 36000] [--measures cka cka_unbiased svcca pwcca]
                            [--pairs 4] [--threads 2] [--json FILE]

The layers of two models are synthetic: layer l + 1 is a random rotation of layer l with noise, and variances fall with
the dimension, as in trained models. The time is what `dinosr similarity` takes in addition to computing the features:
adding up the frames, in chunks, and the figures of all pairs of the two models' layers. The plain implementation
computes every measure of a pair from its two (frames, width) matrices in float64, with NumPy: CKA from cross products,
CCA from singular value decompositions. It does so for a few pairs, and its time is scaled to all of them. The figures
must agree within 1e-9.
"""

import argparse
import time

import numpy as np
import torch
from records import add_json, run_script, write_record
from threadpoolctl import threadpool_limits

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.measures.similarity.measure import MEASURES, Figures
from dinosr_plugin.evaluation.measures.similarity.statistics import Statistics
from dinosr_plugin.evaluation.similarity.pairs import CHUNK, DEFAULT
from dinosr_plugin.evaluation.table import format_table

EXACT = 1e-9
FRAMES = 36_000  # one in five of an hour at 50 Hz: as many as `dinosr similarity` uses by default
COLUMNS = [("what", "time", ""), ("seconds", "seconds", ".1f")]


def made_up(layers: int, width: int, frames: int) -> dict[str, np.ndarray]:
    """Representations (frames, width) float32 of ``layers`` layers of two models, ``a0``, ``b0``, ..."""
    rng = np.random.default_rng(0)
    scale = np.logspace(0, -1.5, width, dtype=np.float32)
    shared = rng.standard_normal((frames, width), np.float32) * scale
    found = {}
    for model in "ab":
        x = shared
        for layer in range(layers):
            rotation = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
            x = x @ rotation + 0.3 * rng.standard_normal((frames, width), np.float32) * scale + 0.1
            found[f"{model}{layer}"] = x
    return found


# ---- plain -----------------------------------------------------------------------------------------------------------


def plain(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """The measure of X (n, D1) and Y (n, D2) float64, from its definition."""
    return PLAIN[name](x - x.mean(0), y - y.mean(0))


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def plain_cka_unbiased(x: np.ndarray, y: np.ndarray) -> float:
    def hsic(x, y):
        n, norms_x, norms_y = len(x), np.square(x).sum(1), np.square(y).sum(1)
        rows_x, rows_y = x @ x.sum(0) - norms_x, y @ y.sum(0) - norms_y
        ones = rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows_x @ rows_y
        return np.linalg.norm(x.T @ y) ** 2 - norms_x @ norms_y + ones

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def plain_svcca(x: np.ndarray, y: np.ndarray) -> float:
    bases = []
    for one in (x, y):
        left, values, _ = np.linalg.svd(one, full_matrices=False)
        shares = np.cumsum(values**2) / np.sum(values**2)
        bases.append(left[:, : 1 + int(np.searchsorted(shares, 0.99))])
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()


def plain_pwcca(x: np.ndarray, y: np.ndarray) -> float:
    left_x, left_y = (np.linalg.svd(one, full_matrices=False)[0] for one in (x, y))
    left, rho, _ = np.linalg.svd(left_x.T @ left_y, full_matrices=False)
    weights = np.abs((left_x @ left).T @ x).sum(1)
    return weights @ rho / weights.sum()


PLAIN = {"cka": plain_cka, "cka_unbiased": plain_cka_unbiased, "svcca": plain_svcca, "pwcca": plain_pwcca}

# ---- both ------------------------------------------------------------------------------------------------------------


def ours(layers: dict[str, np.ndarray], measures: list[str]) -> tuple[dict, dict[str, float]]:
    """(measure, a, b) -> value for all pairs of the two models' layers; and the seconds of the two steps."""
    pairs = [(a, b) for a in layers for b in layers if a[0] == "a" and b[0] == "b"]
    widths = {name: x.shape[1] for name, x in layers.items()}
    frames = len(layers["a0"])
    began = time.perf_counter()
    statistics = Statistics(sorted({MEASURES[name].statistic for name in measures}), widths, pairs, frames)
    for first in range(0, frames, CHUNK):
        statistics.add({name: x[first : first + CHUNK] for name, x in layers.items()})
    added = time.perf_counter()
    figures = Figures(statistics)
    values = {(name, a, b): MEASURES[name](figures, a, b).value for a, b in pairs for name in measures}
    return values, {"adding up the frames": added - began, "figures": time.perf_counter() - added}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dinosr bench similarity", description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12, help="of each model (default: %(default)s)")
    parser.add_argument("--width", type=int, default=768, help="dimensions (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=FRAMES, help="(default: %(default)s)")
    parser.add_argument("--measures", nargs="+", choices=PLAIN, default=list(DEFAULT))
    parser.add_argument("--pairs", type=int, default=4, help="pairs that the plain one computes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    add_json(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        layers = made_up(options.layers, options.width, options.frames)
        values, seconds = ours(layers, options.measures)
        began = time.perf_counter()
        difference = 0.0
        for i in range(options.pairs):
            a, b = f"a{i % options.layers}", f"b{(3 * i + 1) % options.layers}"
            for name in options.measures:
                expected = plain(name, layers[a].astype(np.float64), layers[b].astype(np.float64))
                difference = max(difference, abs(values[name, a, b] - expected))
        plain_seconds = (time.perf_counter() - began) * options.layers**2 / options.pairs
    total = sum(seconds.values())
    rows = [{"what": what, "seconds": value} for what, value in seconds.items()]
    rows += [{"what": "ours, all pairs", "seconds": total}, {"what": "plain, scaled to all", "seconds": plain_seconds}]
    print(format_table(rows, COLUMNS))
    print(f"{plain_seconds / total:.0f} times as fast; largest difference {difference:.1e}")
    write_record(options.json, {"rows": rows, "ratio": plain_seconds / total, "difference": difference})
    if difference > EXACT:
        raise UserError(f"the figures differ by {difference:.1e}, more than {EXACT:g}")


if __name__ == "__main__":
    run_script(main)

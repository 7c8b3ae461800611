"""Speed of ABX, and its agreement with the published scorer, on the same items and features in one process.

    pip install zerospeech-libriabx2    # an empty module replaces the torchaudio that it imports
    dinosr bench abx data/dev.tsv dev.phones.tsv [--features mfcc fbank wide] [--rounds 3] [--width 768] [--sampled]

The features are MFCC, log-Mel, and log-Mel projected at random to the width of a base model. The scorers alternate,
each with its default settings, on all cores. Each round is one row, because wall time varies on a machine with other
work; CPU seconds, of all threads, vary less. Reading the features is excluded for ours (they are in memory) and
included for the other scorer (a thousandth of its time).
"""

import argparse
import contextlib
import importlib.util
import io
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from records import run_script

from dinosr_plugin.evaluation.measures.abx.errors import abx
from dinosr_plugin.evaluation.measures.abx.items import Item, make_items, write_items
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.speech import manifest_speakers
from dinosr_plugin.evaluation.table import format_table
from dinosr_plugin.units.batches import read_utterances
from dinosr_plugin.units.features import LiveFeatures

RATE = 50.0
COLUMNS = [
    ("name", "features", ""),
    ("scorer", "scorer", ""),
    ("within", "within %", ".4f"),
    ("across", "across %", ".4f"),
    ("wall", "seconds", ".2f"),
    ("cpu", "CPU seconds", ".2f"),
    ("gain", "times faster", ".1f"),
    ("gain_cpu", "by CPU", ".1f"),
]


def ours(features: dict, items: list[Item], folder: Path, sampled: bool) -> dict:
    limits = {} if sampled else {"max_group": None, "max_speakers": None}
    return abx(features, items, RATE, "angular", **limits).as_dict()


def published(features: dict, items: list[Item], folder: Path, sampled: bool) -> dict:
    import zrc_abx2

    limits = {} if sampled else {"max_size_group": 10**6, "max_x_across": 10**6}
    settings = zrc_abx2.EvalArgs(
        str(folder), str(folder / "some-items.item"), feature_size=1 / RATE, context_mode="within", **limits
    )
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = zrc_abx2.EvalABX().eval_abx(settings)
    return {row["abx-s-condition"]: 100 * row["score"] for row in rows}


def compare(name: str, features: dict, items: list[Item], rounds: int, sampled: bool) -> Iterator[list[dict]]:
    """Yields the two rows of each round."""
    with tempfile.TemporaryDirectory() as folder:
        for utt, array in features.items():
            np.save(Path(folder, f"{utt}.npy"), array)
        write_items(Path(folder, "some-items.item"), items)
        for _ in range(rounds):
            rows = []
            for scorer, score in (("ours", ours), ("libriabx2", published)):
                wall, cpu = time.perf_counter(), time.process_time()
                errors = score(features, items, Path(folder), sampled)
                rows.append(
                    {
                        "name": name,
                        "scorer": scorer,
                        **errors,
                        "wall": time.perf_counter() - wall,
                        "cpu": time.process_time() - cpu,
                    }
                )
            rows[0].update(gain=rows[1]["wall"] / rows[0]["wall"], gain_cpu=rows[1]["cpu"] / rows[0]["cpu"])
            yield rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dinosr bench abx", description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file; its folders name the speakers")
    parser.add_argument("phones", type=Path, metavar="PHONES", help="phone alignment of the same speech (.phones.tsv)")
    parser.add_argument(
        "--features",
        nargs="+",
        choices=("mfcc", "fbank", "wide"),
        default=["mfcc", "fbank", "wide"],
        help="features to compare (default: all)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both scorers (default: %(default)s)")
    parser.add_argument("--width", type=int, default=768, help="width of the random projection (default: %(default)s)")
    parser.add_argument(
        "--sampled",
        action="store_true",
        help="sample 10 items per group and 5 other speakers, the published default; the two samples differ",
    )
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("torchaudio") is None:
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    utterances = read_utterances(given.manifest)
    items = make_items(PhoneAlignment.read(given.phones), manifest_speakers(given.manifest))
    print(f"{len(items)} items of {len(utterances)} utterances")
    for kind in given.features:
        features = dict(LiveFeatures.of_sound("mfcc" if kind == "mfcc" else "fbank", given.manifest))
        if kind == "wide":
            projection = np.random.default_rng(0).normal(size=(160, given.width)).astype(np.float32)
            features = {utt: np.tanh(array @ projection / 12) for utt, array in features.items()}
        for rows in compare(kind, features, items, given.rounds, given.sampled):
            print(format_table(rows, COLUMNS), flush=True)


if __name__ == "__main__":
    run_script(main)

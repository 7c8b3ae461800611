"""Time and cost of a training update: of any models, in turn, together with the machine's own rate of matrix products.

    dinosr bench step [--size base] [--models ours plain data2vec] [--rows 2] [--seconds 8] [--precision fp32]
                      [--threads 2] [--device cpu] [--rounds 5] [--profile] [--json FILE]

MODEL is ours (the DinoSR of this plug-in), plain (plain_dinosr.py), data2vec (fairseq's), hubert or cpc (of this
plug-in). ours@DIR is that of another checkout; ours,model.dropout=0 sets fields of its config. README.md in this folder
explains the output.
"""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch
from records import add_json, run_script, write_record
from turns import Program, served, summary, take_turns
from updates import CONFIG_OF, make_update

from dinosr_plugin.cli.parsing import positive, whole_number
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.table import format_table

DINOSR_AND_PEERS = ("ours", "plain", "data2vec")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIDE, PRODUCTS = 2048, 8
PRODUCT_FLOPS = 2 * SIDE**3 * PRODUCTS
TIMES = [
    ("name", "model", ""),
    ("wall", "s a step", ".2f"),
    ("least", "least", ".2f"),
    ("most", "most", ".2f"),
    ("cpu", "CPU s", ".2f"),
]
TIMES += [("ratio", "times the first", ".2f"), ("ratio_cpu", "by CPU", ".2f"), ("speed", "audio s/s", ".2f")]
TIMES += [
    ("teraflop", "TFLOP", ".3f"),
    ("share", "% of the rate", ".0f"),
    ("peak_gb", "peak GB", ".2f"),
    ("model_gb", "without imports", ".2f"),
]
COUNTS = [
    ("name", "model", ""),
    ("operators", "operators", ",d"),
    ("allocated_gb", "allocated GB", ".2f"),
    ("faults", "page faults", ",.0f"),
]
COUNTS += [("collectives", "collectives", "d"), ("collective_gb", "their GB", ".3f")]


def make_products(job: dict):
    """The machine's own rate: products of square matrices, written to the same memory."""
    a, b, out = (torch.randn(SIDE, SIDE).to(job["device"], DTYPES[job["precision"]]) for _ in range(3))

    def work():
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)

    return work


WORK = {"update": make_update, "products": make_products}


def program(name: str, work: str, job: dict, checkout: Path | None = None) -> Program:
    return Program(name, Path(__file__), {"work": work, **job}, checkout)


def competitor(text: str) -> tuple[str, dict, Path | None]:
    """MODEL[@CHECKOUT][,FIELD=VALUE...] -> (the text, model and fields for ``Update``, checkout)."""
    (where, *fields) = text.split(",")
    model, _, checkout = where.partition("@")
    if model not in CONFIG_OF:
        raise argparse.ArgumentTypeError(f"{model}: no such model; choose one of {', '.join(CONFIG_OF)}")
    if checkout and not Path(checkout, "dinosr_plugin").is_dir():
        raise argparse.ArgumentTypeError(f"{checkout}: no checkout of this project; give its folder")
    return text, {"model": model, "fields": fields}, Path(checkout).resolve() if checkout else None


def measure(given: argparse.Namespace) -> dict:
    """The measurements: of the machine, and one row for each model."""
    batch = {"size": given.size, "rows": given.rows, "seconds": given.seconds}
    how = {"precision": given.precision, "device": given.device, "threads": given.threads}
    with ExitStack() as stack:
        models = [
            stack.enter_context(program(name, "update", batch | how | model, checkout))
            for name, model, checkout in given.models
        ]
        machine = stack.enter_context(program("matrix products", "products", how))
        times = take_turns([*models, machine], given.rounds)
        counts = [model.ask("count") for model in models]
        tables = {model.name: model.ask("profile")["table"] for model in models} if given.profile else {}
    products = times[machine.name]
    rate = median(PRODUCT_FLOPS / record["wall"] for record in products)
    rows = []
    for model, counted in zip(models, counts):
        row = summary(model.name, times[model.name], times[models[0].name]) | counted
        row["share"] = 100 * median(
            row["flops"] / mine["wall"] / (PRODUCT_FLOPS / its["wall"])
            for mine, its in zip(times[model.name], products)
        )
        row["speed"] = given.rows * given.seconds / row["wall"]
        rows.append(row)
    for row, (name, model, checkout) in zip(rows, given.models):
        row.update(collectives_of(name, model, checkout, given.size))
    return {"settings": batch | how, "rate": rate, "products": products, "rows": rows, "profiles": tables}


def collectives_of(name: str, model: dict, checkout: Path | None, size: str) -> dict:
    """The collectives of an update in two real processes, on 1.5 seconds of audio, counted by the first one."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        job = {
            "size": size,
            "rows": 1,
            "seconds": 1.5,
            "precision": "fp32",
            "device": "cpu",
            "threads": 1,
            "meeting": f"{folder}/meeting",
            **model,
        }
        ranks = [
            stack.enter_context(program(f"{name}, rank {rank}", "update", {**job, "rank": rank}, checkout))
            for rank in range(2)
        ]
        for command in ("run", "count"):
            for rank in ranks:
                rank.tell(command)
            replies = [rank.reply() for rank in ranks]
    return {key: replies[0][key] for key in ("collectives", "collective_bytes")}


def show(record: dict) -> None:
    settings = record["settings"]
    batch = f"{settings['size']}, {settings['rows']} x {settings['seconds']:g} s, {settings['precision']}"
    rate = f"{SIDE}-cubed products at {record['rate'] / 1e9:.0f} GFLOP/s"
    print(f"{batch}, {settings['device']}, {settings['threads']} threads; {rate}")
    giga = {"allocated_gb": "allocated", "collective_gb": "collective_bytes", "peak_gb": "peak", "model_gb": "model"}
    rows = [
        row | {to: row[key] / 1e9 for to, key in giga.items()} | {"teraflop": row["flops"] / 1e12}
        for row in record["rows"]
    ]
    print(format_table(rows, TIMES), format_table(rows, COUNTS), sep="\n\n")
    for name, table in record["profiles"].items():
        print(f"\n{name}\n{table}")


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if served(arguments, WORK):
        return
    parser = argparse.ArgumentParser(prog="dinosr bench step", description=__doc__.splitlines()[0])
    add_batch(parser)
    which = (
        f"models to measure, out of {', '.join(CONFIG_OF)}; @DIR: of another checkout; FIELD=VALUE: fields of the "
        "config (default: ours plain data2vec; at tiny size ours plain)"
    )
    parser.add_argument("--models", nargs="+", type=competitor, metavar="MODEL[@DIR][,FIELD=VALUE]", help=which)
    parser.add_argument("--profile", action="store_true", help="also print torch's profile of one step of each model")
    add_json(parser)
    given = parser.parse_args(arguments)
    given.models = given.models or [competitor(name) for name in DINOSR_AND_PEERS if given.size in CONFIG_OF[name]]
    check_device(given.device)
    record = measure(given)
    show(record)
    write_record(given.json, record)


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Options for the batch, the number format and the machine."""
    parser.add_argument(
        "--size",
        choices=("base", "tiny"),
        default="base",
        help="size of the model: dinosr_plugin/config/pretraining/dinosr_SIZE.yaml (default: %(default)s)",
    )
    parser.add_argument("--rows", type=whole_number, default=2, help="utterances in the batch (default: %(default)s)")
    parser.add_argument("--seconds", type=positive, default=8.0, help="seconds of audio per utterance (default: 8)")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="number format (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=whole_number,
        default=len(os.sched_getaffinity(0)),
        help="threads (default: one per CPU, %(default)s)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=whole_number, default=5, help="measured rounds, after two for warm-up (default: %(default)s)"
    )


def check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU; use --device cpu")


if __name__ == "__main__":
    run_script(main)

"""Models of other programs: ``dinosr import``, one sub-command a format."""

import argparse
from pathlib import Path

from .parsing import add_command, add_formats, add_out_argument, print_notes


def add_import(commands) -> None:
    add_formats(commands, "import", "make a checkpoint of a model of another program", FORMATS)


def add_hf(formats) -> None:
    parser = add_command(
        formats,
        "hf",
        run_hf,
        "a checkpoint of a folder of Hugging Face's transformers: the same one again if `dinosr export hf` wrote the "
        "folder, otherwise fairseq's wav2vec 2.0, HuBERT or data2vec with the same features, with or without CTC",
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="contains config.json and model.safetensors or pytorch_model.bin"
    )
    add_out_argument(parser, "a new file, which every command reads as a checkpoint (.pt)")


FORMATS = (add_hf,)


def run_hf(options: argparse.Namespace) -> int:
    from ..interop.hugging_face.importing import import_folder

    done = import_folder(options.folder, options.out)
    print_notes(done.notes)
    print(f"{options.out}: {done.objective}, {done.parameters:,} parameters")
    return 0

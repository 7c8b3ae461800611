"""Models for other programs: ``dinosr export``, one sub-command a format."""

import argparse
from pathlib import Path

from .features import LAYER_HELP
from .parsing import add_command, add_formats, add_out_argument, checkpoint, layer


def add_export(commands) -> None:
    add_formats(commands, "export", "write a model in the format of another program", FORMATS)


def add_hf(formats) -> None:
    parser = add_command(
        formats,
        "hf",
        run_hf,
        "a folder for Hugging Face's transformers (AutoModel, AutoModelForCTC), with model card, codebooks and, of a "
        "CTC model, tokenizer. Log-Mel models (front_end=fbank) need `import dinosr_plugin.hf` first",
    )
    parser.add_argument(
        "checkpoint",
        type=checkpoint,
        metavar="CHECKPOINT",
        help="a DinoSR, HuBERT or Spin model, or fairseq's wav2vec 2.0, HuBERT or data2vec; pre-trained, or with CTC",
    )
    add_out_argument(parser, "a new folder", "new folder")
    parser.add_argument(
        "--license",
        required=True,
        metavar="NAME",
        help="licence of the model, for the card: cc-by-4.0, mit, other, ...",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="FILE",
        help="quality.json of `dinosr quality`, for the card (default: the one beside the checkpoint, if there is one)",
    )


def add_onnx(formats) -> None:
    parser = add_command(
        formats,
        "onnx",
        run_onnx,
        "one file for onnxruntime, which computes features of layers and the model's codes from a waveform of any "
        "length, of a CTC model the logits",
    )
    parser.add_argument(
        "checkpoint",
        type=checkpoint,
        metavar="CHECKPOINT",
        help="DinoSR, HuBERT-style, Spin, CPC, APC or MPC, of this plug-in; pre-trained, or with CTC",
    )
    add_out_argument(parser, "a new file")
    parser.add_argument(
        "--layer",
        type=layer,
        metavar="L",
        help=LAYER_HELP.split(" The rate is")[0] + ". All in one file (default: all; of a CTC model only the logits)",
    )
    parser.add_argument(
        "--no-codes",
        action="store_true",
        help="omit the codes. A file of DinoSR then has half the size and takes half the time, because it does not "
        "contain the teacher",
    )


def add_safetensors(formats) -> None:
    parser = add_command(
        formats,
        "safetensors",
        run_safetensors,
        "one small file in half precision, without the state of the optimiser, which every command here reads as a "
        "checkpoint. Of DinoSR it contains the teacher's Transformer, which serves as the student's too",
    )
    parser.add_argument("checkpoint", type=checkpoint, metavar="CHECKPOINT", help="a pre-trained model of this plug-in")
    add_out_argument(parser, "a new file (.safetensors)")


FORMATS = (add_hf, add_onnx, add_safetensors)


def run_hf(options: argparse.Namespace) -> int:
    from ..interop.hugging_face.export import export

    done = export(options.checkpoint, options.out, options.license, options.figures)
    print(f"{options.out}: {done.class_name}, {done.parameters:,} parameters")
    return 0


def run_onnx(options: argparse.Namespace) -> int:
    from ..interop.onnx_export import export

    done = export(options.checkpoint, options.out, options.layer, not options.no_codes)
    print(f"{options.out}: {', '.join(done.outputs)}; {done.parameters:,} parameters")
    return 0


def run_safetensors(options: argparse.Namespace) -> int:
    from ..interop.safetensors_export import export

    parameters = export(options.checkpoint, options.out)
    print(f"{options.out}: {parameters:,} parameters")
    return 0

"""Features of the utterances of a manifest: ``dinosr features``."""

import argparse
from pathlib import Path

from ..errors import UserError
from .parsing import add_command, add_max_minutes, add_out, add_shards, checkpoint, layer

LAYER_HELP = (
    "number of a layer: 0 is the output of the first Transformer layer, of CPC of the first recurrent layer "
    "(hidden_states[1] of Hugging Face, output_layer=1 of fairseq's HuBERT); the input of these layers has no number. "
    "last: the output of the model, which includes the final LayerNorm of a pre-LN model, unlike the number of the "
    "last layer. all: each layer in a separate folder, layer_0, layer_1, ... Of Spin also projection, its normalised "
    "frames, and logits, their cosines with every code. The rate is the model's: 50 frames per second, of CPC 100 "
    "(default: %(default)s)"
)

MANIFEST_HELP = "a .tsv file; or a recording (.wav, .flac, .mp3, ...), which is read as 16 kHz mono"


def add_features(commands) -> None:
    parser = add_command(
        commands,
        "features",
        run_features,
        "extract features of every utterance of a manifest: layers of a model, MFCC or log-Mel",
    )
    parser.add_argument(
        "checkpoint",
        type=checkpoint,
        nargs="?",
        metavar="CHECKPOINT",
        help="a model of this plug-in, of fairseq (wav2vec 2.0, HuBERT or data2vec, with or without CTC "
        "fine-tuning), of CPC_audio or of SpidR; not with --mfcc or --fbank",
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help=MANIFEST_HELP)
    add_out(
        parser,
        "parts",
        metavar="DIR",
        help="folder for the features; a run that was interrupted resumes when it is started again with the same "
        "options",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--layer", type=layer, default="last", metavar="L", help=LAYER_HELP)
    kind.add_argument(
        "--mfcc",
        dest="sound",
        action="store_const",
        const="mfcc",
        help="13 MFCC with deltas and delta-deltas (39 dimensions), 50 frames per second",
    )
    kind.add_argument(
        "--fbank",
        dest="sound",
        action="store_const",
        const="fbank",
        help="log-Mel: 80 bins of two frames each (160 dimensions), 50 frames per second",
    )
    parser.add_argument(
        "--weights",
        choices=("student", "teacher", "random"),
        default="student",
        help="student: the trained model; teacher: its moving average (DinoSR only); random: the model before training "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="number format of the files; float16 takes half the space and keeps three digits (default: %(default)s)",
    )
    add_shards(parser)
    add_max_minutes(parser, in_chunks=True)


def run_features(options: argparse.Namespace) -> int:
    from ..data.one_recording import as_manifest
    from ..units.features import extract, extract_acoustic

    if bool(options.sound) == bool(options.checkpoint):
        raise UserError("CHECKPOINT: give either a checkpoint, or one of --mfcc and --fbank")
    number, shards = options.shard
    chosen = {"dtype": options.dtype, "shard": number, "shards": shards}
    with as_manifest(options.manifest) as manifest:
        if options.sound:
            done = extract_acoustic(options.sound, manifest, options.out, **chosen)
        else:
            chosen |= {"layer": options.layer, "weights": options.weights, "max_minutes": options.max_minutes}
            done = extract(options.checkpoint, manifest, options.out, **chosen)
    print(*done.folders, done.summary, sep="\n")
    return 0

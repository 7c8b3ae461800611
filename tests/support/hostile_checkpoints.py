"""Checkpoints that must be refused: with code in them, damaged, of other programs, or with senseless values.

``CODE``, ``DAMAGED``, ``OTHER_FILES`` and ``SENSELESS``: kind -> function(path, marker) that writes such a file as
``path``. The code in those of ``CODE`` creates the file ``marker``; the others ignore it. ``HOSTILE`` contains all.
``UNUSED``: those of ``CODE`` that may be loaded, because nothing reads the part of the config with the code in it.

But for one change each file is a genuine, tiny checkpoint, and a string of code has the value that it replaces: where
the code ran, everything else would work.
"""

import copy
import functools
import gzip
import io
import pickle
import struct
import tempfile
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.fairseq_models import CONV, fairseq_checkpoint, fine_tuned_checkpoint
from support.paths import GOLDEN

Writer = Callable[[Path, Path], None]

SPEECH_MODELS = ("wav2vec2", "hubert", "data2vec_audio")


def code(marker: Path, value: object = None) -> str:
    """An expression that creates the file ``marker`` when it is evaluated, and whose value is ``value``."""
    return f"__import__('pathlib').Path({str(marker)!r}).touch() or {value}"


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


# ---- genuine checkpoints ---------------------------------------------------------------------------------------------


@functools.cache
def written(kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        if kind.startswith("fine-tuned "):
            fairseq_checkpoint(Path(folder, "pretrained.pt"), kind.removeprefix("fine-tuned "))
            fine_tuned_checkpoint(path, Path(folder, "pretrained.pt"), "audio_finetuning")
        else:
            fairseq_checkpoint(path, kind)
        return path.read_bytes()


def genuine(kind: str = "dinosr") -> dict[str, Any]:
    """The state of a genuine checkpoint: ``dinosr``, one of ``SPEECH_MODELS``, or ``fine-tuned`` and one of these."""
    if kind == "dinosr":
        state = torch.load(GOLDEN / "official_format_tiny.pt", weights_only=True)
        state["cfg"]["task"]["normalize"] = False  # as in the others
        return state
    return torch.load(io.BytesIO(written(kind)))


def language_model(**options: Any) -> dict[str, Any]:
    """A language model of fairseq as its argparse programs save it, without weights."""
    options = {"task": "language_modeling", "data": ".", "criterion": "cross_entropy", "optimizer": "adam", **options}
    history = {"num_updates": 1, "criterion_name": "", "optimizer_name": "", "best_loss": 1.0, "lr_scheduler_state": {}}
    extra = {"train_iterator": {"epoch": 1}, "best": 1.0}
    return {
        "args": Namespace(**options),
        "model": {},
        "optimizer_history": [history],
        "extra_state": extra,
        "last_optimizer_state": None,
    }


WAV2VEC1 = {
    "_name": "wav2vec",
    "conv_feature_layers": "[(16, 10, 5), (16, 8, 4)]",
    "conv_aggregator_layers": "[(16, 2, 1), (16, 3, 1)]",
}


def changed(kind: str, change: Callable[[dict[str, Any], Path], None]) -> Writer:
    """Writes a genuine checkpoint after ``change(state, marker)``."""

    def write(path: Path, marker: Path) -> None:
        state = copy.deepcopy(genuine(kind))
        change(state, marker)
        torch.save(state, path)

    return write


def with_field(kind: str, *names: str, value: Callable[[Path], object]) -> Writer:
    """Writes a genuine checkpoint with another value in one field, given by the keys that lead to it."""

    def change(state: dict[str, Any], marker: Path) -> None:
        *outer, last = names
        for name in outer:
            state[name] = state.get(name) or {}
            state = state[name]
        state[last] = value(marker)

    return changed(kind, change)


def with_value(kind: str, *names: str, value: object) -> Writer:
    return with_field(kind, *names, value=lambda marker: value)


# ---- code ------------------------------------------------------------------------------------------------------------


def pickled(path: Path, marker: Path) -> None:
    torch.save({**genuine(), "extra_state": Touch(marker)}, path)


def pickled_by_old_torch(path: Path, marker: Path) -> None:
    torch.save({**genuine(), "extra_state": Touch(marker)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Touch(marker)))


def wav2vec1(field: str) -> Writer:
    def change(state: dict[str, Any], marker: Path) -> None:
        state["cfg"]["model"] = {**WAV2VEC1, field: code(marker, WAV2VEC1[field])}
        state["model"] = {}

    return changed("wav2vec2", change)


def data2vec_2(state: dict[str, Any], marker: Path) -> None:
    audio = {"feature_encoder_spec": code(marker, CONV)}
    state["cfg"]["model"] = {"_name": "data2vec_multi", "modalities": {"audio": audio}}


def namespace_in_fine_tuned(state: dict[str, Any], marker: Path) -> None:
    pretrained = state["cfg"]["model"]["w2v_args"]
    options = {**pretrained["model"], "conv_feature_layers": code(marker, CONV)}
    options |= {"arch": "wav2vec2", "task": "audio_pretraining", "data": ".", "normalize": False}
    state["cfg"]["model"]["w2v_args"] = Namespace(**options)


def user_dir(path: Path, marker: Path) -> None:
    """The config of the checkpoint names a folder of Python code beside it."""
    folder = path.with_name(f"code_of_{path.stem}")
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(f"{code(marker)}\n")
    with_value("wav2vec2", "cfg", "common", "user_dir", value=str(folder))(path, marker)


def old_language_model(**fields: Callable[[Path], object]) -> Writer:
    def write(path: Path, marker: Path) -> None:
        torch.save(language_model(**{name: value(marker) for name, value in fields.items()}), path)

    return write


def instantiated(marker: Path) -> dict[str, object]:
    return {"_target_": "pathlib.Path.touch", "_args_": [str(marker)], "self": str(marker)}


always = lambda value: lambda marker: value  # noqa: E731

CODE: dict[str, Writer] = {
    "pickle": pickled,
    "pickle of torch before 1.6": pickled_by_old_torch,
    "pickle alone": plain_pickle,
    **{
        f"convolutions of {kind}": with_field(
            kind, "cfg", "model", "conv_feature_layers", value=lambda marker: code(marker, CONV)
        )
        for kind in SPEECH_MODELS
    },
    **{
        f"convolutions of fine-tuned {kind}": with_field(
            f"fine-tuned {kind}",
            *("cfg", "model", "w2v_args", "model", "conv_feature_layers"),
            value=lambda marker: code(marker, CONV),
        )
        for kind in ("wav2vec2", "data2vec_audio")
    },
    "options of an old fine-tuned model": changed("fine-tuned wav2vec2", namespace_in_fine_tuned),
    "convolutions of wav2vec 1": wav2vec1("conv_feature_layers"),
    "aggregator of wav2vec 1": wav2vec1("conv_aggregator_layers"),
    "convolutions of data2vec 2": changed("data2vec_audio", data2vec_2),
    "convolutions of dinosr": with_field(
        "dinosr", "cfg", "model", "conv_feature_layers", value=lambda marker: code(marker, CONV)
    ),
    "attention of wav2vec2": with_field("wav2vec2", "cfg", "model", "xformers_att_config", value=code),
    "folder of code": user_dir,
    "betas of the optimizer": with_field(
        "dinosr", "cfg", "optimizer", value=lambda marker: {"_name": "adam", "adam_betas": code(marker, (0.9, 0.98))}
    ),
    "options of the criterion": with_field(
        "fine-tuned wav2vec2", "cfg", "criterion", value=lambda marker: {"_name": "ctc", "wer_args": code(marker)}
    ),
    "object to instantiate": with_field("wav2vec2", "cfg", "model", "conv_feature_layers", value=instantiated),
    "fconv_lm's layers": old_language_model(
        arch=always("fconv_lm"),
        decoder_layers=lambda marker: code(marker, "[(1268, 4)] * 13"),
        decoder_attention=always("False"),
    ),
    "fconv_lm's attention": old_language_model(arch=always("fconv_lm"), decoder_attention=code),
    "lightconv_lm's filters": old_language_model(
        arch=always("lightconv_lm"), character_embeddings=always(True), character_filters=code
    ),
    "transformer_lm's filters": old_language_model(
        arch=always("transformer_lm"), character_embeddings=always(True), character_filters=code
    ),
    "transformer_lm's softmax": old_language_model(arch=always("transformer_lm"), adaptive_softmax_cutoff=code),
    "transformer_lm's inputs": old_language_model(
        arch=always("transformer_lm"), adaptive_input=always(True), adaptive_input_cutoff=code
    ),
    "lstm_lm's attention": old_language_model(arch=always("lstm_lm"), decoder_attention=code),
    "lstm_lm's softmax": old_language_model(
        arch=always("lstm_lm"), criterion=always("adaptive_loss"), adaptive_softmax_cutoff=code
    ),
}

UNUSED = ("attention of wav2vec2", "folder of code", "betas of the optimizer", "options of the criterion")

# ---- damage ----------------------------------------------------------------------------------------------------------


def genuine_file(path: Path) -> bytearray:
    torch.save(genuine(), path)
    return bytearray(path.read_bytes())


def cut_to(share: float) -> Writer:
    def write(path: Path, marker: Path) -> None:
        data = genuine_file(path)
        path.write_bytes(data[: int(share * len(data))])

    return write


def records(path: Path) -> list[str]:
    """Names of the records of a zip archive that are not empty, the largest first."""
    with zipfile.ZipFile(path) as archive:
        found = sorted(archive.infolist(), key=lambda record: -record.file_size)
    return [record.filename for record in found if record.file_size]


def flip(path: Path, record: str) -> None:
    """Changes one bit in the middle of a record of a PyTorch file, whose records are not compressed."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read(record)
    data = bytearray(path.read_bytes())
    start = data.index(content)
    data[start + len(content) // 2] ^= 1
    path.write_bytes(data)


def flipped_tensor(path: Path, marker: Path) -> None:
    genuine_file(path)
    flip(path, next(name for name in records(path) if "/data/" in name))


def flipped_pickle(path: Path, marker: Path) -> None:
    genuine_file(path)
    flip(path, next(name for name in records(path) if name.endswith("data.pkl")))


def hole(path: Path, marker: Path) -> None:
    """Zeros in the middle, as after a power cut."""
    data = genuine_file(path)
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)


def trailing(path: Path, marker: Path) -> None:
    """The pickle of a PyTorch file of before 1.6 without the tensors that follow."""
    torch.save(genuine(), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])


def bytes_of(content: bytes) -> Writer:
    return lambda path, marker: path.write_bytes(content) and None


def other_zip(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "not a checkpoint")


def numpy_archive(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, weight=np.zeros(3))


def torchscript(path: Path, marker: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def safetensors(path: Path, marker: Path) -> None:
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
WEB_PAGE = b"\r\n<!DOCTYPE html>\n<html><title>Sign in</title></html>\n"
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.2.0"  # the fields ir_version, producer_name and producer_version


DAMAGED: dict[str, Writer] = {
    "empty": bytes_of(b""),
    "two bytes": bytes_of(b"PK"),
    "cut at 10 %": cut_to(0.1),
    "cut at 50 %": cut_to(0.5),
    "cut at 99 %": cut_to(0.99),
    "bit changed in a tensor": flipped_tensor,
    "bit changed in the pickle": flipped_pickle,
    "hole": hole,
    "old format, cut": trailing,
}

# ---- files of other programs -----------------------------------------------------------------------------------------


def saved(value: object) -> Writer:
    return lambda path, marker: torch.save(value, path)


OTHER_FILES: dict[str, Writer] = {
    "text": bytes_of(b"not a checkpoint\n" * 100),
    "random bytes": bytes_of(bytes(range(256)) * 20),
    "pickle header": bytes_of(b"\x80\x02" + bytes(100)),
    "zip archive": other_zip,
    "Hugging Face": saved(OrderedDict({"wav2vec2.encoder.layer_norm.weight": torch.zeros(4)})),
    "tensor": saved(torch.zeros(3)),
    "list": saved([1, 2, 3]),
    "number": saved(7),
    "empty dictionary": saved({}),
    "safetensors": safetensors,
    "ONNX": bytes_of(ONNX),
    "TorchScript": torchscript,
    "NumPy archive": numpy_archive,
    "Git LFS pointer": bytes_of(LFS_POINTER),
    "web page": bytes_of(WEB_PAGE),
    "gzip": bytes_of(gzip.compress(LFS_POINTER)),
    "s3prl": saved({"model_weight": {}, "model_cfg": {}, "task_cfg": {}}),
    "PyTorch Lightning": saved({"state_dict": {}, "pytorch-lightning_version": "2.0"}),
    "weights without a config": saved({"model": {"layer.weight": torch.zeros(2)}, "optimizer": {}, "step": 1}),
}

# ---- senseless values ------------------------------------------------------------------------------------------------

NUMBERS = {"huge": 10**9, "negative": -1, "zero": 0, "nan": float("nan"), "text": "many", "nothing": None, "list": [2]}

SENSELESS: dict[str, Writer] = {
    **{
        f"{kind}: {field} {what}": with_value(kind, "cfg", "model", field, value=value)
        for kind, field in (
            ("dinosr", "encoder_layers"),
            ("dinosr", "encoder_embed_dim"),
            ("wav2vec2", "encoder_ffn_embed_dim"),
            ("wav2vec2", "encoder_attention_heads"),
            ("hubert", "encoder_embed_dim"),
        )
        for what, value in NUMBERS.items()
    },
    "wide convolutions": with_value("wav2vec2", "cfg", "model", "conv_feature_layers", value="[(100000000, 10, 5)]"),
    "many convolutions": with_value("wav2vec2", "cfg", "model", "conv_feature_layers", value="[(16,3,2)] * 1000000000"),
    "long kernels": with_value("wav2vec2", "cfg", "model", "conv_feature_layers", value="[(16, 1000000000, 5)]"),
    "convolutions of nothing": with_value("wav2vec2", "cfg", "model", "conv_feature_layers", value=None),
    "large codebooks": with_value("dinosr", "cfg", "model", "codebook_size", value=10**10),
    "layers of the trunk of a fine-tuned model": with_value(
        "fine-tuned wav2vec2", "cfg", "model", "w2v_args", "model", "encoder_layers", value=10**9
    ),
    "config in itself": changed("dinosr", lambda state, marker: state["cfg"].update(again=state["cfg"])),
    "no config": with_value("dinosr", "cfg", value=None),
    "config of text": with_value("dinosr", "cfg", value="model"),
    "config of a list": with_value("dinosr", "cfg", value=[1, 2]),
    "config without model": with_value("dinosr", "cfg", value={"task": {"_name": "dinosr_pretraining"}}),
    "config without task": with_value("dinosr", "cfg", "task", value=None),
    "model of text": with_value("dinosr", "cfg", "model", value="dinosr"),
    "model without a name": with_value("dinosr", "cfg", "model", "_name", value=None),
    "model unknown": with_value("dinosr", "cfg", "model", "_name", value="perpetuum_mobile"),
    "task unknown": with_value("dinosr", "cfg", "task", "_name", value="perpetuum_mobile"),
    "arguments of text": with_value("dinosr", "args", value="--arch dinosr"),
    "no history": with_value("dinosr", "optimizer_history", value=[]),
    "meter that is none": with_value("dinosr", "extra_state", "metrics", value={"a": [(0, "loss", "__loader__", {})]}),
    "meters of text": with_value("dinosr", "extra_state", "metrics", value={"a": "loss"}),
    "epoch huge": with_value("dinosr", "extra_state", "train_iterator", value={"epoch": 10**12}),
    "place of text": with_value("dinosr", "extra_state", "train_iterator", value="epoch"),
    "optimizer of text": with_value("dinosr", "last_optimizer_state", value={"state": {}, "param_groups": "none"}),
    "name of a criterion": with_value(
        "dinosr", "optimizer_history", value=[{"num_updates": 1, "criterion_name": "\x1b[31mA"}]
    ),
    "history of text": with_value("dinosr", "optimizer_history", value="none"),
    "updates of text": with_value("dinosr", "optimizer_history", value=[{"num_updates": "many"}]),
    "updates nan": with_value("dinosr", "optimizer_history", value=[{"num_updates": float("nan")}]),
    "updates negative": with_value("dinosr", "optimizer_history", value=[{"num_updates": -5}]),
    "weights of text": with_value("dinosr", "model", value="weights"),
    "weights of nothing": with_value("dinosr", "model", value=None),
    "weights of numbers": with_value("dinosr", "model", value={"a": 1}),
    "no weights": with_value("dinosr", "model", value={}),
    "task state of text": with_value("hubert", "task_state", value="none"),
    "dictionaries of numbers": with_value("hubert", "task_state", value={"dictionaries": 3}),
    "dictionary of text": with_value("fine-tuned wav2vec2", "task_state", value={"target_dictionary": "A B C"}),
    "labels of text": with_value("hubert", "model", "label_embs_concat", value="none"),
}

HOSTILE: dict[str, Writer] = {**CODE, **DAMAGED, **OTHER_FILES, **SENSELESS}

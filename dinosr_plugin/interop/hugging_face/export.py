"""``dinosr export hf``: a checkpoint as a folder that transformers reads.

The folder has a config, the weights as safetensors, the settings of transformers' feature extractor, a model card, and:

- of a DinoSR model: ``teacher``, a model of its own, and ``codebooks.safetensors``, the codebooks and the heads;
- of another pre-trained model: what it has besides the trunk, as ``codebooks.safetensors``;
- of a CTC model: ``vocab.json`` and the settings of a tokenizer.

``config.json`` also has, under ``dinosr``, what ``importing.py`` needs to make the same checkpoint again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairseq.data import Dictionary
from fairseq.models.hubert import HubertCtc
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from omegaconf import OmegaConf
from torch import Tensor, nn

from ...checkpoints.file import read_checkpoint
from ...checkpoints.load import Loaded, expects_normalized_waves, load_model
from ...checkpoints.packed import without_paths
from ...checkpoints.readers import trunk_of
from ...checkpoints.weights import fingerprint, require_finite
from ...errors import UserError
from ...files import output, write_bytes, write_lines
from ...models.spin import Spin
from ...models.trunk import Trunk
from ..fairseq_models import MODELS, TRUNK_PARTS, to_trunk
from .card import Card, Rows, read_figures, reader_of_spin, reader_of_teacher
from .config import LOG_MEL, SPECIAL, config_of, family_of, has_mask_embedding
from .names import Names, with_prefix
from .tensors import WEIGHTS, to_bytes
from .vocabulary import NEVER, tokenizer_config, vocabulary_of

AVERAGE = "_ema."  # of a teacher; in checkpoints a dictionary of its own
CODEBOOKS, ORIGINAL, TEACHER = "codebooks.safetensors", "original.safetensors", "teacher"
TRUNK_IN_CTC, HEAD_IN_CTC = "w2v_encoder.w2v_model.", "w2v_encoder.proj."
KEPT_FIELDS = (
    *("dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop"),
    *("mask_prob", "mask_length", "mask_channel_prob", "mask_channel_length"),
)
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


class Exported(NamedTuple):
    """What a folder is made of, for messages. ``name`` of the class that reads it; ``parameters`` in it."""

    class_name: str
    parameters: int


def export(path: Path, out: Path, licence: str, figures: Path | None = None) -> Exported:
    """Write a new folder with the model of a checkpoint.

    Args:
        licence: under which the model may be used, as the Hugging Face Hub names it, such as ``cc-by-4.0``.
        figures: ``quality.json`` of `dinosr quality`; None: the one beside the checkpoint, if there is one.

    Raises:
        UserError: as ``load_model`` does; a model for which transformers has no class; a licence that is not a name; an
            existing folder.
    """
    if not LICENCE.fullmatch(licence):
        raise UserError(f"--license {licence}: give the name of a licence, such as cc-by-4.0, mit or other")
    measured = read_figures(path, figures)
    source = Source(path)
    with output(out, "OUT", folder=True) as folder:
        folder.mkdir()
        source.write(folder)
        write_lines(folder / "README.md", source.card(out.name, licence, measured).lines())
    return Exported(source.config["architectures"][0], sum(map(Tensor.numel, source.weights.values())))


class Source:
    """A checkpoint in transformers' terms.

    Attributes:
        config: of ``config.json``; ``weights``: of ``model.safetensors``; ``rest``: name here -> tensor that
            transformers' model does not have; ``teacher``: the weights of DinoSR's teacher and the front end, or None.
        vocabulary: token -> index, of a CTC model; None for others.
        about: what ``config.json`` has under ``dinosr``.
    """

    def __init__(self, path: Path):
        loaded = load_model(path)
        self.model = loaded.model
        require_finite(self.model, path)
        is_ctc = isinstance(self.model, Wav2VecCtc | HubertCtc)
        inner = trunk_of(self.model)
        trunk = require_trunk(to_trunk(inner, str(path)), path)
        self.family = family_of(trunk, type(inner).__name__, str(path))
        self.names = Names(
            None if self.family is LOG_MEL else str(trunk.cfg.extractor_mode), trunk.cfg.pos_conv_depth > 1
        )
        self.normalize = expects_normalized_waves(loaded.cfg)
        self.config = config_of(trunk, self.family, training_fields(self.model, inner, trunk))
        self.config |= {"model_type": self.family.model_type, "architectures": [self.class_name(is_ctc)]}
        self.config |= {"torch_dtype": "float32", **SPECIAL}
        self.vocabulary: dict[str, int] | None = None
        state = flat(self.model.state_dict())
        self.teacher = self.of_teacher(state)
        self.weights, self.rest = self.split(state, TRUNK_IN_CTC if is_ctc else "")
        if is_ctc:
            self.add_head(loaded, path)
        self.about = about(loaded, path)
        self.config["dinosr"] = self.about

    def class_name(self, is_ctc: bool) -> str:
        return f"{self.family.classes}{'ForCTC' if is_ctc else 'Model'}"

    def card(self, name: str, licence: str, figures: Rows) -> Card:
        exact = self.family is LOG_MEL or self.config.get("feat_extract_norm") == "layer"
        return Card(name, self.family, self.about, licence, figures, self.reader(), self.vocabulary is not None, exact)

    def reader(self) -> list[str]:
        """Lines of code that compute the model's codes; [] if it has none."""
        if self.teacher is not None:
            cfg = self.model.cfg
            normalise = bool(cfg.instance_norm_target_layer)
            return reader_of_teacher(self.family, self.model.n_codebooks, str(cfg.target), normalise)
        return reader_of_spin(self.family) if isinstance(self.model, Spin) else []

    def split(self, state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of transformers' model, under its names, and the other tensors, under theirs."""
        weights, rest = {}, {}
        base = f"{self.family.base}." if prefix else ""
        for name, tensor in state.items():
            inner = name.removeprefix(prefix)
            is_trunk = name.startswith(prefix) and inner.startswith(TRUNK_PARTS)
            theirs = self.names.to_transformers(inner) if is_trunk else None
            if theirs is None or (theirs == "masked_spec_embed" and not has_mask_embedding(self.config)):
                rest[name] = tensor
            else:
                weights[base + theirs] = tensor
        return weights, rest

    def of_teacher(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The teacher's encoder behind the front end that it shares with the student; removed from the state."""
        average = with_prefix(state, AVERAGE)
        if not average or getattr(self.model, "teacher", None) is None:
            return None
        for name in average:
            del state[AVERAGE + name]
        shared = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}
        return self.split(shared | {f"encoder.{name}": tensor for name, tensor in average.items()}, "")[0]

    def add_head(self, loaded: Loaded, path: Path) -> None:
        """The linear layer of a CTC model and its symbols.

        The symbols that are never part of a text get a low bias, as they never win in `dinosr transcribe`; the bias
        itself is kept in ``rest``.
        """
        dictionary = loaded.task.target_dictionary
        if dictionary.index(loaded.task.blank_symbol) != 0:
            raise UserError(
                f"{path}: the blank is not the first symbol of its dictionary; fine-tune it with <s> as blank"
            )
        if self.model.blank_weight != 0 and self.model.blank_mode != "add":
            raise UserError(
                f"{path}: model.blank_mode={self.model.blank_mode}, which transformers lacks; set it to add"
            )
        weight, bias = self.rest.pop(f"{HEAD_IN_CTC}weight"), self.rest[f"{HEAD_IN_CTC}bias"]
        bias = exported_bias(bias, special_symbols(dictionary), self.model.blank_weight)
        self.weights |= {"lm_head.weight": weight, "lm_head.bias": bias}
        self.vocabulary = vocabulary_of(dictionary.symbols)
        self.config |= {"vocab_size": len(dictionary), "ctc_zero_infinity": True}

    def write(self, folder: Path) -> None:
        """All files but the card."""
        write_json(folder / "config.json", self.config)
        write_bytes(folder / WEIGHTS, to_bytes(self.weights))
        extractor = feature_extractor(self.normalize)
        if self.vocabulary is not None:
            extractor["processor_class"] = "Wav2Vec2Processor"
            write_json(folder / "vocab.json", self.vocabulary)
            config = {**tokenizer_config(self.vocabulary), "processor_class": "Wav2Vec2Processor"}
            write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "preprocessor_config.json", extractor)
        if self.rest:
            write_bytes(folder / (CODEBOOKS if self.vocabulary is None else ORIGINAL), to_bytes(self.rest))
        if self.teacher is not None:
            write_bytes(folder / TEACHER / WEIGHTS, to_bytes(self.teacher))
            write_json(folder / TEACHER / "config.json", {k: v for k, v in self.config.items() if k != "dinosr"})


def require_trunk(model: nn.Module, path: Path) -> Trunk:
    if not isinstance(model, Trunk):
        raise UserError(
            f"{path}: contains {type(model).__name__}, for which transformers has no class; give a model with the "
            "Transformer trunk: DinoSR, HuBERT, Spin, wav2vec 2.0 or data2vec, or a CTC model of one"
        )
    return model


def training_fields(model: nn.Module, inner: nn.Module, trunk: Trunk) -> dict[str, Any]:
    """Masks and dropout of a model: those of the trunk's config, or of fairseq's, which ``to_trunk`` does not take."""
    own = getattr(inner, "cfg", None) if type(inner).__name__ in MODELS else None
    fields = {name: getattr(own, name, getattr(trunk.cfg, name)) for name in KEPT_FIELDS}
    final = getattr(getattr(model, "cfg", None), "final_dropout", 0.0)
    return fields | {"final_dropout": float(final)}


def special_symbols(dictionary: Dictionary) -> list[int]:
    """The symbols that are never part of a text, without the blank, which is the first one."""
    return sorted({dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()} - {0})


def exported_bias(bias: Tensor, never: Sequence[int], blank_weight: float) -> Tensor:
    """The bias (V,) with which the symbols ``never`` never win, and the blank has its weight."""
    bias = bias.clone()
    bias[list(never)] = NEVER
    bias[0] += blank_weight
    return bias


def feature_extractor(normalize: bool) -> dict[str, Any]:
    """``preprocessor_config.json``."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": normalize,
        "return_attention_mask": True,
    }


def about(loaded: Loaded, path: Path) -> dict[str, Any]:
    """Where the model is from, and the config to make its checkpoint again, without the paths in it."""
    state = read_checkpoint(path)
    history = state.get("optimizer_history") or [{}]
    dictionary = getattr(loaded.task, "target_dictionary", None) if hasattr(loaded.task, "state") else None
    config = {
        part: OmegaConf.to_container(loaded.cfg[part], resolve=True, enum_to_str=True) for part in ("model", "task")
    }
    pretrained = config["model"].get("w2v_args")
    if pretrained is not None:
        config["model"]["w2v_args"] = {part: pretrained[part] for part in ("model", "task")}
    return {
        "objective": config["model"].get("_name") or type(loaded.model).__name__,
        "updates": history[-1].get("num_updates"),
        "fingerprint": fingerprint([trunk_of(loaded.model)]),
        **without_paths(config),
        "dictionary": None if dictionary is None else words_of(dictionary),
        "labels": [
            words_of(one) for one in (state.get("task_state") or {}).get("dictionaries") or [] if one is not None
        ],
    }


def words_of(dictionary: Dictionary) -> list[list]:
    """(symbol, count) of each symbol."""
    return [[symbol, count] for symbol, count in zip(dictionary.symbols, dictionary.count)]


def flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Tensors by name, those of nested dictionaries (a teacher's) with a dot."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            tensors |= flat(value, f"{prefix}{name}.")
        else:
            tensors[prefix + name] = value
    return tensors


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    write_lines(path, [json.dumps(value, indent=1, ensure_ascii=False)])

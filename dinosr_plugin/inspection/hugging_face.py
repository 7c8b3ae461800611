"""Models of Hugging Face: a folder with config.json and weights, or a single file of weights."""

import os
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import is_file, open_file, read_json
from .description import Description, Symbols, known, text, whole
from .frames import grid_of, timing
from .layouts import layout_of
from .objectives import CONTRASTS, DISTILS_LAYERS, PREDICTS_CLUSTERS, READS_TEXT
from .safetensors import COPY, read_header
from .weights import Weights, all_parameters, first, layers_in, listed, parameters_of, precision_of

MAX_JSON = 1 << 24  # bytes of a config, an index or a vocabulary
MAX_SHARDS = 1000
CONFIG, VOCABULARY, FRONT = "config.json", "vocab.json", "preprocessor_config.json"
SAFE, BINARY = "model.safetensors", "pytorch_model.bin"
IMPORTED = ("wav2vec2", "hubert", "data2vec-audio", "dinosr_log_mel")  # types that `dinosr import hf` reads
INSTEAD = "use it with transformers"
WITH_CODE = "; it names code of its own (auto_map), which is run only where trust_remote_code is set"
FAMILIES: dict[str, tuple[str, str | None]] = {
    "wav2vec2": ("wav2vec 2.0", CONTRASTS),
    "wav2vec2-conformer": ("wav2vec 2.0 Conformer", CONTRASTS),
    "wav2vec2-bert": ("w2v-BERT 2.0", None),
    "hubert": ("HuBERT", PREDICTS_CLUSTERS),
    "wavlm": ("WavLM", PREDICTS_CLUSTERS),
    "data2vec-audio": ("data2vec", DISTILS_LAYERS),
    "unispeech": ("UniSpeech", CONTRASTS),
    "unispeech-sat": ("UniSpeech-SAT", PREDICTS_CLUSTERS),
    "sew": ("SEW", CONTRASTS),
    "sew-d": ("SEW-D", CONTRASTS),
    "whisper": ("Whisper", READS_TEXT),
    "speech_to_text": ("Speech2Text", READS_TEXT),
}
"""``model_type`` -> name, and the objective of its pre-training."""
TASKS = {
    "ForCTC": ("recogniser", "predicts symbols of the transcript by CTC"),
    "ForSequenceClassification": ("classifier of recordings", "classifies recordings"),
    "ForAudioFrameClassification": ("classifier of frames", "classifies frames"),
    "ForXVector": ("speaker model", "embeds recordings for speaker verification"),
    "ForConditionalGeneration": ("recogniser", READS_TEXT),
    "ForCausalLM": ("language model", "predicts the next symbol"),
    "ForMaskedLM": ("masked language model", "predicts masked symbols"),
}
"""How the name of an architecture ends -> title and objective."""


def has_config(folder: str | Path) -> bool:
    return is_file(Path(folder, CONFIG))


def describe_folder(folder: Path) -> Description:
    """A folder with a config.json. Raises UserError if its weights are missing, or anything in it is damaged."""
    weights, files = weights_in(folder)
    return from_config(folder, weights, f"Hugging Face folder, {files}")


def describe_safetensors(path: Path) -> Description:
    """A single safetensors file, with the config beside it if there is one. Raises UserError for a damaged one."""
    weights = read_header(path).weights
    return (
        from_config(path.parent, weights, "safetensors")
        if has_config(path.parent)
        else of_weights(weights, "safetensors")
    )


def of_weights(weights: Weights, format: str) -> Description:
    """Tensors without a config: the model is recognised by their names, or the first ones are listed."""
    layout = layout_of(weights)
    return Description(
        layout.name if layout else "tensors of an unknown model",
        format,
        objective=layout.objective if layout else None,
        parameters=parameters_of(weights) if layout else all_parameters(weights),
        sizes=known(layers=layers_in(weights)),
        precision=precision_of(weights),
        contents=[] if layout else listed(weights),
        instead="weights without a config cannot be read here; give the checkpoint that a training saved",
    )


def weights_in(folder: Path) -> tuple[Weights, str]:
    """The tensors of a folder, and what files they are in. Raises UserError if there are none."""
    for name in (SAFE, BINARY):
        if is_file(folder / name):
            return read_weights(folder / name), name
        if is_file(folder / f"{name}.index.json"):
            shards = shards_in(folder / f"{name}.index.json")
            weights = {one: weight for shard in shards for one, weight in read_weights(folder / shard).items()}
            return weights, f"{len(shards)} files {name}"
    raise UserError(f"{folder}: contains {CONFIG}, but neither {SAFE} nor {BINARY}; {COPY}, or give another folder")


def read_weights(path: Path) -> Weights:
    """Names and shapes of a file of either format."""
    if path.suffix == ".safetensors":
        return read_header(path).weights
    from .pytorch import tensors_in_file  # imports torch, in seconds

    return tensors_in_file(path)


def shards_in(index: Path) -> list[str]:
    """Names of the files that an index lists, each in its folder. Raises UserError for other names."""
    places = small_json(index).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    if not 0 < len(names) <= MAX_SHARDS or any(os.path.basename(name) != name for name in names):
        raise UserError(f"{index}: does not name the files of the weights; {COPY}")
    return names


def small_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most ``MAX_JSON`` bytes. Raises UserError for anything else."""
    with open_file(path, COPY) as file:
        if os.fstat(file.fileno()).st_size > MAX_JSON:
            raise UserError(f"{path}: larger than {MAX_JSON >> 20} MiB, which such a file is not; {COPY}")
    return read_json(path, COPY)


# ---- what the config says --------------------------------------------------------------------------------------------


def from_config(folder: Path, weights: Weights, format: str) -> Description:
    config = small_json(folder / CONFIG)
    kind, objective = kind_of(config)
    version = config.get("transformers_version")
    sizes = sizes_of(config)
    rate, first_centre = timing(grid_of(counts(config.get("conv_kernel")), counts(config.get("conv_stride"))))
    return Description(
        kind,
        format,
        objective=objective,
        written_by=f"transformers {text(version)}" if isinstance(version, str) else "transformers",
        parameters=parameters_of(weights),
        sizes=sizes if "layers" in sizes else known(layers=layers_in(weights)) | sizes,
        rate=rate,
        first_centre=first_centre,
        normalized_waves=normalizes(folder),
        dictionary=vocabulary(folder),
        precision=precision_of(weights),
        instead=how_to_read(config),
    )


def how_to_read(config: dict[str, Any]) -> str:
    """What to do with a model that no command reads as it is."""
    imported = "make a checkpoint of it: dinosr import hf; or " if config.get("model_type") in IMPORTED else ""
    return imported + INSTEAD + (WITH_CODE if config.get("auto_map") else "")


def kind_of(config: dict[str, Any]) -> tuple[str, str | None]:
    """What the model is, and its objective."""
    kind, architectures = config.get("model_type"), config.get("architectures")
    family, objective = FAMILIES.get(str(kind), (f"model of the type {text(kind)}", None))
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        return family, objective
    title, of_head = next((TASKS[end] for end in TASKS if name.endswith(end)), ("pre-trained", objective))
    return f"{family}, {title} ({text(name)})", of_head


def sizes_of(config: dict[str, Any]) -> dict[str, int]:
    pick = lambda *names: next((config[name] for name in names if whole(config.get(name))), None)
    return known(
        layers=pick("num_hidden_layers", "encoder_layers"),
        width=pick("hidden_size", "d_model"),
        heads=pick("num_attention_heads", "encoder_attention_heads"),
        feed_forward=pick("intermediate_size", "encoder_ffn_dim"),
        outputs=pick("vocab_size"),
    )


def counts(value: Any) -> list[int]:
    return value if isinstance(value, list) and len(value) <= 100 else []


def normalizes(folder: Path) -> bool | None:
    """What the feature extractor's config says; None without one."""
    if not is_file(folder / FRONT):
        return None
    value = small_json(folder / FRONT).get("do_normalize")
    return value if isinstance(value, bool) else None


def vocabulary(folder: Path) -> Symbols | None:
    """The symbols of the tokenizer; None without a vocabulary."""
    if not is_file(folder / VOCABULARY):
        return None
    symbols = small_json(folder / VOCABULARY)
    inner = next(iter(symbols.values()), None)
    symbols = inner if len(symbols) == 1 and isinstance(inner, dict) else symbols  # of one language
    ordered = sorted((name for name in symbols if whole(symbols[name]) is not None), key=symbols.__getitem__)
    return Symbols(len(symbols), [text(name, 20) for name in first(n for n in ordered if not is_special(n))])


def is_special(symbol: str) -> bool:
    """``<pad>``, ``[PAD]`` and the like."""
    return len(symbol) > 2 and symbol[0] + symbol[-1] in ("<>", "[]")

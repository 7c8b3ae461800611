"""The model card: ``README.md`` with the metadata that the Hugging Face Hub reads."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError, printable
from ...files import is_file, read_json
from .config import DATA2VEC, LOG_MEL, Family

FIGURES = "quality.json"
COLUMNS = {
    "pnmi": "PNMI",
    "phone_purity": "phone purity",
    "cluster_purity": "cluster purity",
    "perplexity": "perplexity",
    "bit_rate": "bit/s",
    "abx_within": "ABX within %",
    "abx_across": "ABX across %",
    "speaker_pnmi": "speaker PNMI",
}
"""Figures of `dinosr quality` that a card shows -> header."""
Rows = Sequence[Mapping[str, Any]]


def read_figures(checkpoint: Path, figures: Path | None) -> Rows:
    """The rows of ``quality.json``; [] if none is given and none is beside the checkpoint.

    Raises UserError for a file without rows.
    """
    path = figures or checkpoint.with_name(FIGURES)
    if figures is None and not is_file(path):
        return []
    remedy = "give the quality.json of `dinosr quality`"
    rows = read_json(path, remedy).get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise UserError(f"{path}: has no rows of figures; {remedy}")
    return rows


@dataclass(frozen=True)
class Card:
    """What a card says.

    ``about``: of ``config.json``; ``reader``: lines of code that compute codes, [] for a model without codebooks;
    ``is_ctc``: whether it has symbols; ``exact_with_padding``: whether its front end ignores padding.
    """

    name: str
    family: Family
    about: Mapping[str, Any]
    licence: str
    figures: Rows
    reader: Sequence[str]
    is_ctc: bool
    exact_with_padding: bool

    def lines(self) -> Iterator[str]:
        kind = "automatic-speech-recognition" if self.is_ctc else "feature-extraction"
        yield from ("---", f"license: {self.licence.lower()}", "library_name: transformers", f"pipeline_tag: {kind}")
        yield from ("tags:", "- speech", f"- {self.about['objective']}", "---", "", f"# {printable(self.name)}", "")
        updates = "an unknown number of" if self.about["updates"] is None else f"{self.about['updates']:,}"
        yield f"A speech model trained with the objective `{self.about['objective']}`, {updates} updates; exported from"
        yield "dinosr_plugin by `dinosr export hf`. Audio: 16 kHz, mono."
        yield from ("", "## Use", "", "```python", *self.usage(), "```")
        yield from ("", *self.padding())
        if self.reader:
            yield from ("", "## Codes", "", "The codebooks are in `codebooks.safetensors`.", "")
            yield from ("```python", *self.reader, "```")
        yield from ("", "## Figures", "", *self.table())
        yield from ("", "## Licence", "", f"{self.licence}, as stated by whoever exported the model.")
        yield from ("", "## Provenance", "", f"- Objective: `{self.about['objective']}`")
        yield f"- Updates: {self.about['updates']}"
        yield f"- Fingerprint (SHA-256 of the weights): `{self.about['fingerprint']}`"
        yield "- `dinosr import hf` makes the checkpoint again, bit by bit, without the state of the optimiser."
        yield from ("", "Config:", "", "```json")
        yield json.dumps({part: self.about[part] for part in ("model", "task")}, indent=1)
        yield "```"

    def usage(self) -> Iterator[str]:
        auto, processor = ("AutoModelForCTC", "AutoProcessor") if self.is_ctc else ("AutoModel", "AutoFeatureExtractor")
        if self.family is LOG_MEL:
            yield 'import dinosr_plugin.hf  # pip install "dinosr-plugin[hf]": the model\'s class'
        yield f"from transformers import {auto}, {processor}"
        yield ""
        yield f'model = {auto}.from_pretrained(".").eval()'
        yield f'processor = {processor}.from_pretrained(".")'
        yield 'inputs = processor(wave, sampling_rate=16000, return_tensors="pt")  # wave: (T,) float'
        if self.is_ctc:
            yield "text = processor.batch_decode(model(**inputs).logits.argmax(-1))"
        else:
            yield "layers = model(**inputs, output_hidden_states=True).hidden_states  # layers[i + 1] is layer i"

    def padding(self) -> Iterator[str]:
        yield "With `do_normalize` the feature extractor divides by the root of variance + 1e-7, training by"
        yield "that of variance + 1e-5: `torch.nn.functional.layer_norm(wave, wave.shape)` gives the same features."
        yield ""
        if self.family is DATA2VEC:
            yield "Features depend on padding: transformers' positional convolutions carry it inwards. Read"
            yield "utterances one at a time, or call `dinosr_plugin.hf.ignore_padding(model)` first."
        elif self.exact_with_padding:
            yield "Features do not depend on padding."
        else:
            yield "Features depend on padding: the first convolution is normalised over time, padding included. Read"
            yield "utterances one at a time for the features of `dinosr features`."

    def table(self) -> Iterator[str]:
        columns = [key for key in COLUMNS if any(isinstance(row.get(key), int | float) for row in self.figures)]
        if not columns:
            yield "None are known. `dinosr quality` measures them."
            return
        yield f"| | {' | '.join(COLUMNS[key] for key in columns)} |"
        yield f"|---|{'---|' * len(columns)}"
        for row in self.figures:
            cells = (f"{row[key]:.4g}" if isinstance(row.get(key), int | float) else "-" for key in columns)
            yield f"| {printable(str(row['name']))} | {' | '.join(cells)} |"
        yield ""
        yield "By `dinosr quality`."


# ---- code that reads codebooks ---------------------------------------------------------------------------------------

DINOSR = """import torch
from safetensors.torch import load_file
from transformers import AutoModel

folder = "."  # of this file
teacher = AutoModel.from_pretrained(f"{{folder}}/teacher").eval()
books = load_file(f"{{folder}}/codebooks.safetensors")
sums, counts = (torch.stack([books[f"_codebook{{part}}{{k}}"] for k in range({K})]) for part in ("", "_cnts"))


@torch.no_grad()
def codes(wave):  # (1, T), as the feature extractor returns it -> (K, F)
    kept = []
    parts = {parts}
    hooks = [part.register_forward_hook(lambda _, given, output: kept.append({output})) for part in parts]
    teacher(wave)
    for hook in hooks:
        hook.remove()
    x = torch.cat(kept)  # (K, F, D)
{normalise}    return torch.cdist(x, sums / counts.unsqueeze(-1)).argmin(-1)"""
NORMALISE = "    x = (x - x.mean(1, keepdim=True)) * (x.var(1, correction=0, keepdim=True) + 1e-5).rsqrt()\n"

SPIN = """import torch
from safetensors.torch import load_file
from transformers import AutoModel

folder = "."  # of this file
model = AutoModel.from_pretrained(folder).eval()
books = load_file(f"{folder}/codebooks.safetensors")


@torch.no_grad()
def codes(wave):  # (1, T), as the feature extractor returns it -> (1, F)
    x = model(wave).last_hidden_state  # (1, F, D)
    z = torch.nn.functional.linear(x, books["projection.weight"], books["projection.bias"])
    return (z @ books["codebook.weight"].T).argmax(-1)"""


def reader_of_teacher(family: Family, codebooks: int, target: str, normalise: bool) -> list[str]:
    """Lines of code that compute the codes of DinoSR's teacher; arguments as in ``DinoSRConfig``."""
    layers = f"teacher.{'trunk.' if family is LOG_MEL else ''}encoder.layers[-{codebooks}:]"
    output = "output[0] if isinstance(output, tuple) else output"
    if family is LOG_MEL:
        output = "output[1]" if target == "ffn" else "output[0]"
    elif target == "ffn":
        layers, output = f"[layer.feed_forward for layer in {layers}]", "output"
    code = DINOSR.format(K=codebooks, parts=layers, output=output, normalise=NORMALISE if normalise else "")
    return of_family(code, family)


def reader_of_spin(family: Family) -> list[str]:
    """Lines of code that compute Spin's codes."""
    return of_family(SPIN, family)


def of_family(code: str, family: Family) -> list[str]:
    return ["import dinosr_plugin.hf", *code.splitlines()] if family is LOG_MEL else code.splitlines()

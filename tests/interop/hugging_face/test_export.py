"""Exported folders, read by transformers: hidden states, codes and transcripts as here; and back, bit by bit."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.readers import FrameReader, padded_waves
from dinosr_plugin.cli import main
from support.fairseq_models import fairseq_checkpoint
from support.hugging_face import MODELS, SIZES, checkpoint, recogniser, weights, write
from support.paths import GOLDEN
from support.transformers import import_transformers

transformers = import_transformers()
hf = pytest.importorskip("dinosr_plugin.hf")

CLASSES = {
    **dict.fromkeys(("released", "dinosr", "dinosr, layer", "fairseq data2vec_audio"), "Data2VecAudioModel"),
    **dict.fromkeys((name for name in MODELS if "log-Mel" in name), "LogMelModel"),
    **dict.fromkeys(("hubert", "hubert, group norm", "hubert, pre-LN", "spin", "fairseq hubert"), "HubertModel"),
    **dict.fromkeys(("fairseq wav2vec2", "fairseq wav2vec2_large"), "Wav2Vec2Model"),
}
DEPENDS_ON_PADDING = {"hubert, group norm", "fairseq wav2vec2", "fairseq hubert", "fairseq data2vec_audio"}
"""Models whose own reader gives other features in a padded batch."""


@pytest.fixture
def waves(librispeech_mini) -> list[Tensor]:
    """Three real utterances of different lengths, at most 4 s."""
    files = sorted(Path(librispeech_mini).rglob("*.flac"))[:60:20]
    longest = [64_000 - 9_001 * i for i in range(3)]
    return [torch.from_numpy(soundfile.read(path, n, dtype="float32")[0]) for path, n in zip(files, longest)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Kind of model -> its checkpoint and its exported folder."""
    folder, made = tmp_path_factory.mktemp("exported"), {}
    for number, kind in enumerate(CLASSES):
        path = folder / f"{number}.pt"
        if kind == "released":
            path = GOLDEN / "official_format_tiny.pt"
        elif kind.startswith("fairseq "):
            fairseq_checkpoint(path, kind.removeprefix("fairseq "), normalize=True)
        else:
            checkpoint(path, kind)
        assert main(["export", "hf", str(path), str(folder / str(number)), "--license", "cc-by-4.0"]) == 0
        made[kind] = path, folder / str(number)
    return made


def load(folder: Path) -> torch.nn.Module:
    """Transformers' model; every weight in the file is used, and none is missing."""
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def layers_here(reader: FrameReader, waves: list[Tensor]) -> list[list[Tensor]]:
    """Of each utterance the output (F, D) of every layer; of the last one that of the model."""
    layers = [*range(reader.n_layers - 1), "last"]
    return [frames.layers for frames in reader.read(waves, layers)]


@torch.no_grad()
def layers_there(model: torch.nn.Module, waves: list[Tensor]) -> list[list[Tensor]]:
    """As ``layers_here``, padded frames included, of transformers' model."""
    source, padding = padded_waves(waves)
    mask = None if padding is None else (~padding).long()
    output = model(source, attention_mask=mask, output_hidden_states=True)
    states = [*output.hidden_states[1:-1], output.last_hidden_state]
    return [[state[row] for state in states] for row in range(len(waves))]


def largest_difference(here: list[Tensor], there: list[Tensor]) -> float:
    """Relative to the largest feature, since float32 has seven digits."""
    assert len(here) == len(there)
    return max(float((a - b[: len(a)]).abs().max() / a.abs().max().clamp(min=1)) for a, b in zip(here, there))


@pytest.mark.parametrize("kind", CLASSES)
def test_hidden_states_are_those_of_the_reader(kind, folders, waves):
    path, folder = folders[kind]
    model, reader = load(folder), open_reader(path)
    assert type(model).__name__ == CLASSES[kind]
    for wave in map(reader.prepare, waves):
        assert largest_difference(layers_here(reader, [wave])[0], layers_there(model, [wave])[0]) < 1e-5


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind not in DEPENDS_ON_PADDING])
def test_hidden_states_in_a_padded_batch_are_those_of_single_utterances(kind, folders, waves):
    path, folder = folders[kind]
    model, reader = load(folder), open_reader(path)
    prepared = list(map(reader.prepare, waves))
    here = [layers_here(reader, [wave])[0] for wave in prepared]
    if CLASSES[kind] == "Data2VecAudioModel":
        assert largest_difference(here[1], layers_there(model, prepared)[1]) > 1e-2  # what ignore_padding is for
        hf.ignore_padding(model)
    for one, other in zip(here, layers_there(model, prepared)):
        assert largest_difference(one, other) < 1e-5


def test_group_norm_depends_on_padding_in_both_alike(folders, waves):
    path, folder = folders["hubert, group norm"]
    model, reader = load(folder), open_reader(path)
    prepared = list(map(reader.prepare, waves))
    alone, together = layers_here(reader, [prepared[1]])[0], layers_here(reader, prepared)[1]
    assert largest_difference(alone, together) > 1e-4
    assert largest_difference(together, layers_there(model, prepared)[1]) < 1e-5


@pytest.mark.parametrize("kind", CLASSES)
def test_import_makes_the_same_checkpoint_again(kind, folders, tmp_path):
    path, folder = folders[kind]
    assert main(["import", "hf", str(folder), str(tmp_path / "again.pt")]) == 0
    before, after = weights(path), weights(tmp_path / "again.pt")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert open_reader(tmp_path / "again.pt").fingerprint == open_reader(path).fingerprint
    assert open_reader(tmp_path / "again.pt").normalize == open_reader(path).normalize


# ---- CTC -------------------------------------------------------------------------------------------------------------

ALPHABETS = {
    "letters": [*"|ETAONIS"],
    "pieces": ["\u2581THE", "\u2581", "E", "S", "\u2581A", "ING"],
    "phones": ["AA", "B", "SIL", "IY1"],
}


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("kind", ["dinosr", "hubert", "dinosr, log-Mel"])
def test_transcripts_are_those_of_the_best_path(kind, alphabet, waves, tmp_path, capsys):
    path, folder = recogniser(tmp_path / "model.pt", kind, ALPHABETS[alphabet]), tmp_path / "folder"
    soundfile.write(tmp_path / "a.wav", waves[0], 16000, subtype="FLOAT")
    assert main(["transcribe", str(path), str(tmp_path / "a.wav"), "--format", "json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    expected = (expected[0] if isinstance(expected, list) else expected)["text"]
    assert main(["export", "hf", str(path), str(folder), "--license", "mit"]) == 0
    model, info = transformers.AutoModelForCTC.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(waves[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        (text,) = processor.batch_decode(model.eval()(**inputs).logits.argmax(-1))
    assert len(expected) > 20
    assert " ".join(text.split()) == expected
    assert main(["import", "hf", str(folder), str(tmp_path / "again.pt")]) == 0
    before, after = weights(path), weights(tmp_path / "again.pt")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_feature_extractor_normalises_as_trained(tmp_path):
    for normalize in (True, False):
        folder = tmp_path / str(normalize)
        path = checkpoint(tmp_path / "model.pt", "hubert", normalize)
        assert main(["export", "hf", str(path), str(folder), "--license", "mit"]) == 0
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        assert (extractor.do_normalize, extractor.sampling_rate) == (normalize, 16000)
        assert extractor.return_attention_mask


# ---- the card --------------------------------------------------------------------------------------------------------


def code_in(card: str, heading: str) -> str:
    return card.split(f"## {heading}\n")[1].split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("kind", ["released", "dinosr, layer", "dinosr, log-Mel", "dinosr, log-Mel, stacked", "spin"])
def test_the_code_in_the_card_computes_the_codes(kind, folders, waves, monkeypatch):
    path, folder = folders[kind]
    reader = open_reader(path)
    code = code_in((folder / "README.md").read_text(encoding="utf-8"), "Codes")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)  # noqa: S102
    wave = reader.prepare(waves[0])
    expected = reader.read([wave], [], [reader.require_codes()])[0].codes[reader.require_codes()]
    codes = names["codes"](wave.unsqueeze(0))
    assert codes.shape == expected.shape
    assert float((codes == expected).float().mean()) > 0.995  # ties within rounding
    assert len(expected.unique()) > 3


def test_the_card_states_licence_figures_and_origin(tmp_path):
    path = checkpoint(tmp_path / "model.pt", "dinosr")
    rows = [{"name": "codebook 0", "kind": "teacher", "pnmi": 0.4125, "abx_within": None}]
    (tmp_path / "quality.json").write_text(json.dumps({"rows": rows}))
    assert main(["export", "hf", str(path), str(tmp_path / "out"), "--license", "CC-BY-4.0"]) == 0
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "| codebook 0 | 0.4125 |" in card and "ABX" not in card
    assert open_reader(path).fingerprint in card and "7 updates" in card
    assert "/a/folder" not in card + (tmp_path / "out/config.json").read_text()


# ---- what cannot be exported -----------------------------------------------------------------------------------------

REFUSED = {
    "pos_conv_depth=5 and model.layer_norm_first=true": dict(pos_conv_depth=5, conv_pos=95, layer_norm_first=True),
    "pos_conv_depth=5 and model.extractor_mode=default": dict(pos_conv_depth=5, conv_pos=95, extractor_mode="default"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_transformers_has_no_class_for_is_refused(what, tmp_path, capsys):
    path = write(tmp_path / "model.pt", SIZES | MODELS["hubert"] | REFUSED[what])
    assert main(["export", "hf", str(path), str(tmp_path / "out"), "--license", "mit"]) == 1
    error = capsys.readouterr().err
    assert what in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_and_a_licence_that_is_not_a_name_are_refused(tmp_path, capsys):
    path = checkpoint(tmp_path / "model.pt", "hubert")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_text("kept")
    assert main(["export", "hf", str(path), str(tmp_path / "out"), "--license", "mit"]) == 1
    assert "already exists; give a new folder" in capsys.readouterr().err
    assert main(["export", "hf", str(path), str(tmp_path / "new"), "--license", "my own: a\nb"]) == 1
    assert "give the name of a licence" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["file"] and not (tmp_path / "new").exists()

"""Folders of transformers that were not made here, with random weights: fairseq's model has the same features."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.cli import main
from support.hugging_face import checkpoint
from support.transformers import import_transformers

transformers = import_transformers()

SIZES = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=[16] * 7,
    num_conv_pos_embedding_groups=4,
    vocab_size=8,
)
ONE = dict(num_conv_pos_embeddings=16)
FOLDERS = {
    "wav2vec 2.0": ("Wav2Vec2", ONE),
    "wav2vec 2.0, large": (
        "Wav2Vec2",
        ONE | dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
    ),
    "HuBERT": ("Hubert", ONE),
    "HuBERT, large": ("Hubert", ONE | dict(feat_extract_norm="layer", do_stable_layer_norm=True, hidden_act="relu")),
    "data2vec": ("Data2VecAudio", {}),
    "no mask": ("Hubert", ONE | dict(mask_time_prob=0.0)),
}
MODELS = {"Wav2Vec2": "Wav2Vec2Model", "Hubert": "HubertModel", "Data2VecAudio": "Data2VecAudioModel"}
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C"]


def save(folder: Path, kind: str, head: str = "Model", **more) -> torch.nn.Module:
    """Writes a folder as transformers does; returns the model, in eval mode."""
    name, settings = FOLDERS[kind]
    config = getattr(transformers, f"{name}Config")(**(SIZES | settings | more))
    torch.manual_seed(5)
    model = getattr(transformers, f"{name}{head}")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def wave(samples: int = 20_000) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("kind", FOLDERS)
def test_features_of_fairseqs_model_are_those_of_transformers(kind, tmp_path):
    model = save(tmp_path / "folder", kind)
    assert main(["import", "hf", str(tmp_path / "folder"), str(tmp_path / "model.pt")]) == 0
    reader = open_reader(tmp_path / "model.pt")
    assert type(reader.model).__name__ == MODELS[FOLDERS[kind][0]] and reader.normalize
    x = wave()
    layers = reader.read([x], [*range(reader.n_layers - 1), "last"])[0].layers
    with torch.no_grad():
        output = model(x.unsqueeze(0), output_hidden_states=True)
    states = [*output.hidden_states[1:-1], output.last_hidden_state]
    for ours, theirs in zip(layers, states, strict=True):
        torch.testing.assert_close(ours, theirs[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["wav2vec 2.0", "HuBERT", "data2vec"])
@pytest.mark.parametrize("words", [WORDS, [*"|ABC", "[UNK]", "<s>", "</s>", "[PAD]"]])
def test_transcripts_are_those_of_transformers(kind, words, tmp_path, capsys):
    folder = tmp_path / "folder"
    blank = next(index for index, word in enumerate(words) if "pad" in word.lower())
    model = save(folder, kind, "ForCTC", pad_token_id=blank)
    with torch.no_grad():
        model.lm_head.bias[[words.index(word) for word in words if len(word) > 1 and "pad" not in word.lower()]] = -1e4
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        folder / "vocab.json", unk_token=words[-4] if "[UNK]" in words else "<unk>", pad_token=words[blank]
    )
    tokenizer.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False).save_pretrained(folder)
    assert main(["import", "hf", str(folder), str(tmp_path / "model.pt")]) == 0
    soundfile.write(tmp_path / "a.wav", wave(60_000), 16000, subtype="FLOAT")
    capsys.readouterr()
    assert main(["transcribe", str(tmp_path / "model.pt"), str(tmp_path / "a.wav")]) == 0
    with torch.no_grad():
        ids = model(wave(60_000).unsqueeze(0)).logits.argmax(-1)
    text = " ".join(tokenizer.batch_decode(ids)[0].split())
    assert len(text) > 10
    assert text in capsys.readouterr().out


def test_old_names_of_weight_norm_and_weights_in_a_pickle_are_read(tmp_path):
    save(tmp_path / "new", "HuBERT")
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((tmp_path / "new/config.json").read_text())
    from safetensors.torch import load_file

    state = load_file(tmp_path / "new/model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for name, tensor in state.items():
        for theirs, before in names.items():
            name = name.replace(theirs, before)
        renamed[name] = tensor
    assert any(name.endswith("weight_g") for name in renamed)
    torch.save(renamed, old / "pytorch_model.bin")
    for folder in ("new", "old"):
        assert main(["import", "hf", str(tmp_path / folder), str(tmp_path / f"{folder}.pt")]) == 0
    assert open_reader(tmp_path / "new.pt").fingerprint == open_reader(tmp_path / "old.pt").fingerprint


# ---- what cannot be imported -----------------------------------------------------------------------------------------


class Marker:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def change(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def edit(folder: Path, remove: str = "", **added: torch.Tensor) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if name != remove}
    save_file(kept | added, folder / "model.safetensors")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Marker(folder.parent / "ran")}, folder / "pytorch_model.bin")


SPOILED = {
    "fairseq has no model; give wav2vec 2.0": lambda folder: change(folder, model_type="bert"),
    "conv_dim[-1]=hidden_size=32": lambda folder: change(folder, conv_dim=[16] * 6 + [32]),
    "add_adapter=True": lambda folder: change(folder, add_adapter=True),
    "hidden_size=-3": lambda folder: change(folder, hidden_size=-3),
    "hidden_size=900": lambda folder: change(folder, hidden_size=900),
    "much larger model": lambda folder: change(folder, hidden_size=8192, intermediate_size=8192, num_hidden_layers=90),
    "lack feature_projection.projection.bias": lambda folder: edit(folder, "feature_projection.projection.bias"),
    "have strange, which": lambda folder: edit(folder, strange=torch.zeros(3)),
    "damaged, or not a safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
    "model.safetensors: no such file": lambda folder: (folder / "model.safetensors").unlink(),
    "has no config.json": lambda folder: (folder / "config.json").unlink(),
    "contains a Python object": pickled,
    "`dinosr` in config.json": lambda folder: change(folder, dinosr={"model": 3}),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_refused(what, tmp_path, capsys):
    save(tmp_path / "folder", "HuBERT")
    SPOILED[what](tmp_path / "folder")
    capsys.readouterr()
    assert main(["import", "hf", str(tmp_path / "folder"), str(tmp_path / "model.pt")]) == 1
    error = capsys.readouterr().err
    assert what in error or what == "hidden_size=900"
    assert error.startswith(f"error: {tmp_path / 'folder'}") and error.count("\n") == 1 and ";" in error
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"folder"}


def test_weights_of_an_export_that_are_missing_or_of_another_size_are_refused(tmp_path, capsys):
    path = checkpoint(tmp_path / "model.pt", "dinosr")
    for number, spoil in enumerate(
        (
            lambda folder: edit(folder, "feature_projection.projection.bias"),
            lambda folder: edit(folder, **{"encoder.layer_norm.bias": torch.zeros(5)}),
            lambda folder: (folder / "codebooks.safetensors").unlink(),
            lambda folder: (folder / "teacher/model.safetensors").write_bytes(b""),
        )
    ):
        folder = tmp_path / str(number)
        assert main(["export", "hf", str(path), str(folder), "--license", "mit"]) == 0
        spoil(folder)
        capsys.readouterr()
        assert main(["import", "hf", str(folder), str(tmp_path / "again.pt")]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {folder}") and error.count("\n") == 1
        assert not (tmp_path / "again.pt").exists()


def test_an_existing_checkpoint_is_not_replaced(tmp_path, capsys):
    save(tmp_path / "folder", "HuBERT")
    (tmp_path / "model.pt").write_text("kept")
    assert main(["import", "hf", str(tmp_path / "folder"), str(tmp_path / "model.pt")]) == 1
    assert "already exists" in capsys.readouterr().err and (tmp_path / "model.pt").read_text() == "kept"

"""``dinosr inspect``: its text, its JSON, its exit status."""

import json

import pytest
import torch

from dinosr_plugin.cli import main
from dinosr_plugin.inspection.hugging_face import IMPORTED
from dinosr_plugin.interop.hugging_face.config import FAMILIES
from support import hostile_checkpoints
from support.other_models import HF_CONFIG, write_hugging_face
from support.paths import GOLDEN

RELEASED = GOLDEN / "official_format_tiny.pt"
TEXT = f"""\
{RELEASED}: DinoSR
objective    predicts, for masked frames, the codes that its teacher assigns to the unmasked speech
written by   the released code of DinoSR, with fairseq
trained      3 updates, 0 complete epochs
parameters   123,568 in all: front end 5,088, layers 58,720, heads 528, codebooks 512, teacher
             58,720
sizes        layers 4, width 32, heads 4, feed forward 64
frames       50 per second, the first centred at 12.5 ms
input        recordings of mean 0 and variance 1
codebooks    2 codebooks of 8, of layers 2 to 3; in use 5 to 6
precision    float32
file         PyTorch, 1.2 MB
read by      dinosr units, dinosr features, dinosr kmeans fit, dinosr quality, dinosr probe, dinosr
             similarity, dinosr report, dinosr speaker embed, model.start_from (training that starts
             from it), model.w2v_path (CTC fine-tuning)
"""


def test_a_checkpoint_as_text(capsys):
    assert main(["inspect", str(RELEASED)]) == 0
    assert capsys.readouterr() == (TEXT, "")


def test_a_checkpoint_as_json(capsys):
    assert main(["inspect", "--json", str(RELEASED)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["file"] == str(RELEASED) and found["bytes"] == RELEASED.stat().st_size
    assert found["kind"] == "DinoSR" and found["updates"] == 3 and found["instead"] is None
    assert found["codebooks"] == {"noun": "codebook", "count": 2, "size": 8, "layers": [2, 3], "in_use": [5, 6]}
    assert found["sizes"]["width"] == 32 and found["rate"] == 50.0 and "dinosr units" in found["commands"]


def test_a_file_that_is_not_read_here(tmp_path, capsys):
    write_hugging_face(tmp_path / "hf")
    assert main(["inspect", str(tmp_path / "hf")]) == 0
    out = capsys.readouterr().out
    assert "dictionary   5 symbols: | T E\n" in out and "parameters   368 in all: front end 200, layers 128" in out
    assert "\nnot read     make a checkpoint of it: dinosr import hf; or use it with transformers\n" in out
    assert "read by" not in out


def test_what_import_reads_is_said():
    assert set(IMPORTED) == set(FAMILIES)


def test_text_normalization_is_shown(tmp_path, capsys):
    torch.save(hostile_checkpoints.genuine("fine-tuned wav2vec2"), tmp_path / "x.pt")
    (tmp_path / "text_normalization.json").write_text('{"case": "upper", "letters": "-"}')
    assert main(["inspect", str(tmp_path / "x.pt")]) == 0
    out = capsys.readouterr().out
    assert "dictionary   5 symbols: A\n" in out
    assert "texts        normalised: form NFC, case upper, punctuation remove, letters -, digits refuse\n" in out


@pytest.mark.parametrize("kind", ["empty", "hole", "pickle", "text", "web page", "NumPy archive", "number"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_is_damaged_or_not_a_model_is_one_line(kind, options, tmp_path, capsys):
    hostile_checkpoints.HOSTILE[kind](tmp_path / "x.pt", tmp_path / "marker")
    assert main(["inspect", str(tmp_path / "x.pt"), *options]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith(f"error: {tmp_path}/x.pt: ") and not (tmp_path / "marker").exists()


def test_nothing_at_a_path(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "x.pt")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/x.pt: no such file; give a checkpoint")


CONTROL = "a\nread by      everything\x1b[2J\x1b]0;owned\x07"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_names_in_a_file_control_neither_the_terminal_nor_the_lines(options, tmp_path, capsys):
    write_hugging_face(tmp_path / "hf")
    config = {**HF_CONFIG, "model_type": CONTROL, "transformers_version": CONTROL, "architectures": [CONTROL]}
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    (tmp_path / "hf/vocab.json").write_text(json.dumps({CONTROL: 0}))
    assert main(["inspect", str(tmp_path / "hf"), *options]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert not [line for line in out.splitlines() if line.startswith("read by")]

"""``fairseq-generate`` end to end: options, checkpoint, search, language model, summary line."""

import logging
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch

from dinosr_plugin.decoding import CTCGenerator, score_generate_output
from dinosr_plugin.errors import UserError
from support import hostile_checkpoints as hostile
from support.recogniser import TEXTS, run_generate

SEARCHES = {
    "best_path": [],
    "beam": ["--decoder", "beam", "--beam", "20"],
    "lexicon": ["--decoder", "lexicon", "--beam", "20", "--lexicon", "DATA/train.wrd"],
    "lexicon, model": [
        "--decoder",
        "lexicon",
        "--beam",
        "20",
        "--lexicon",
        "DATA/train.wrd",
        "--lm",
        "DATA/words.arpa",
        "--lm-weight",
        "2",
    ],
}


def options_of(name, folder):
    if name != "best_path":
        pytest.importorskip("flashlight", reason="pip install flashlight-text")
    return [argument.replace("DATA", str(folder)) for argument in SEARCHES[name]]


@pytest.mark.parametrize("name", SEARCHES)
def test_results_file(recogniser, tmp_path, name):
    results = run_generate(recogniser, tmp_path, *options_of(name, recogniser), "--print-alignment", "hard")
    scores, lines = score_generate_output(results), results.read_text().splitlines()
    low, high = scores["wer_interval"]
    beam = 5 if name == "best_path" else 20
    assert lines[-1].startswith(
        f"Generate train with beam={beam}: WER: {scores['wer']:.2f} [{low:.2f}, {high:.2f}] CER: "
    )
    tokens = [line.split("\t")[1].split() for line in lines if line.startswith("P-")]
    frames = [line.split("\t")[1].split() for line in lines if line.startswith("A-")]
    assert list(map(len, tokens)) == list(map(len, frames)) and len(tokens) == 3
    if name.startswith("lexicon"):
        spoken = " ".join(line.split("\t")[2] for line in lines if line.startswith("D-"))
        assert set(spoken.split()) <= set(" ".join(TEXTS).split())


def texts_in(file):
    """All hypotheses, in the order of the manifest."""
    return sorted(re.findall(r"^D-(\d)\t\S+\t(.*)", file.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["beam", "lexicon, model"])
def test_batches_and_processes_do_not_matter(recogniser, tmp_path, name):
    settings = [
        ("1", "0", "0"),
        ("3", "0", "2"),
        ("1", "1", "2"),
        ("2", "2", "3"),
    ]  # utterances in a batch, loading and searching processes
    found = []
    for batch, loading, searching in settings:
        more = ["--batch-size", batch, "--num-workers", loading, "--decoder-processes", searching, "--nbest", "2"]
        found.append(
            texts_in(run_generate(recogniser, tmp_path / batch / loading, *options_of(name, recogniser), *more))
        )
    assert all(texts == found[0] for texts in found) and len(found[0]) > 3


@pytest.mark.parametrize("name", SEARCHES)
def test_the_real_time_factor_is_logged_once(recogniser, tmp_path, name, caplog):
    with caplog.at_level(logging.INFO, logger="dinosr_plugin"):
        run_generate(
            recogniser, tmp_path, *options_of(name, recogniser), "--batch-size", "1", "--decoder-processes", "2"
        )
    messages = [record.getMessage() for record in caplog.records if "real-time factor" in record.getMessage()]
    assert len(messages) == 1 and re.match(
        r"2\.2 s of speech in .* s: real-time factor \d+\.\d+ \(network \d+\.\d+, search( in 2 processes)? \d+\.\d+\)",
        messages[0],
    )


def test_emissions_are_written_once_and_decoded_without_the_network(recogniser, tmp_path, monkeypatch):
    pytest.importorskip("flashlight", reason="pip install flashlight-text")
    kept = ["--emissions", tmp_path / "train.npz"]
    from_network = {
        name: texts_in(run_generate(recogniser, tmp_path / name, *options_of(name, recogniser))) for name in SEARCHES
    }
    run_generate(recogniser, tmp_path / "first", *kept, "--batch-size", "2")
    monkeypatch.setattr(CTCGenerator, "emissions", lambda *_: pytest.fail("the network was run"))
    for name in SEARCHES:
        assert (
            texts_in(run_generate(recogniser, tmp_path / "again", *options_of(name, recogniser), *kept))
            == from_network[name]
        )
    with np.load(tmp_path / "train.npz") as archive:
        assert [archive[row].shape[0] for row in "012"] == [49, 24, 37]  # frames, without padding


def test_emissions_of_another_model_are_refused(recogniser, tmp_path):
    saved = torch.load(recogniser / "model.pt", weights_only=True)
    saved["model"]["w2v_encoder.proj.bias"] += 1
    torch.save(saved, tmp_path / "other.pt")
    kept = ["--emissions", tmp_path / "train.npz"]
    run_generate(recogniser, tmp_path, *kept)
    with pytest.raises(
        UserError, match="train.npz: computed from another model, .*; remove the file to create it again"
    ):
        run_generate(recogniser, tmp_path, *kept, "--path", tmp_path / "other.pt")


def test_emissions_are_of_whole_manifests(recogniser, tmp_path):
    for less in (
        ["--max-sample-size", "10000", "--skip-invalid-size-inputs-valid-test"],
        ["--distributed-world-size", "2", "--distributed-no-spawn"],
    ):
        with pytest.raises(UserError, match="--emissions .*train.npz: must contain whole manifests"):
            run_generate(recogniser, tmp_path, "--emissions", tmp_path / "train.npz", *less)
    assert not (tmp_path / "train.npz").exists()


def test_a_size_limit_that_leaves_no_utterances(recogniser, tmp_path):
    with pytest.raises(UserError, match="task.max_sample_size=100: every utterance is longer"):
        run_generate(recogniser, tmp_path, "--max-sample-size", "100", "--skip-invalid-size-inputs-valid-test")


@pytest.mark.parametrize("batch", ["1", "2"])
@pytest.mark.parametrize("name", SEARCHES)
def test_utterances_too_short_for_a_frame(recogniser, tmp_path, name, batch):
    for number, samples in enumerate((300, 1)):
        soundfile.write(tmp_path / f"{number}.wav", np.full(samples, 0.1), 16000)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n0.wav\t300\n1.wav\t1\n")
    (tmp_path / "train.ltr").write_text("N O |\nO N |\n")
    shutil.copy(recogniser / "dict.ltr.txt", tmp_path)
    file = run_generate(
        tmp_path,
        tmp_path / "out",
        *options_of(name, recogniser),
        "--path",
        recogniser / "model.pt",
        "--batch-size",
        batch,
    )
    assert texts_in(file) == [("0", ""), ("1", "")]


def test_best_path_has_one_hypothesis(recogniser, tmp_path):
    with pytest.raises(
        UserError, match="--nbest 2: --decoder best_path finds only one text; choose --decoder beam or lexicon"
    ):
        run_generate(recogniser, tmp_path, "--nbest", "2")


def test_error_messages(recogniser, tmp_path):
    pytest.importorskip("flashlight", reason="pip install flashlight-text")
    with pytest.raises(UserError, match="--lm .*words.arpa: does not know"):
        run_generate(recogniser, tmp_path, "--decoder", "beam", "--lm", recogniser / "words.arpa", "--lm-weight", "1")


@pytest.mark.parametrize("kind", ["pickle", "cut at 50 %", "bit changed in a tensor", "Hugging Face", "no weights"])
def test_a_checkpoint_that_cannot_be_used_is_one_line(recogniser, tmp_path, kind):
    path, marker = tmp_path / "x.pt", tmp_path / "marker"
    hostile.HOSTILE[kind](path, marker)
    for paths in (path, f"{recogniser}/model.pt:{path}"):
        with pytest.raises(UserError) as error:
            run_generate(recogniser, tmp_path, "--path", paths)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not marker.exists()


def test_code_in_a_fine_tuned_checkpoint_does_not_run(recogniser, tmp_path):
    state, marker = torch.load(recogniser / "model.pt"), tmp_path / "marker"
    pretrained = state["cfg"]["model"]["w2v_args"]["model"]
    pretrained["conv_feature_layers"] = hostile.code(marker, hostile.CONV)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match="x.pt: cfg.model.w2v_args.model.conv_feature_layers="):
        run_generate(recogniser, tmp_path, "--path", tmp_path / "x.pt")
    assert not marker.exists()


def test_a_missing_checkpoint(recogniser, tmp_path):
    with pytest.raises(UserError, match="nowhere.pt: no such file; give a checkpoint that a training saved"):
        run_generate(recogniser, tmp_path, "--path", f"{recogniser}/model.pt:{tmp_path}/nowhere.pt")


def test_other_models_of_fairseq_are_not_built(recogniser, tmp_path):
    torch.save(hostile.language_model(arch="transformer_lm"), tmp_path / "lm.pt")
    with pytest.raises(UserError, match="lm.pt: .*fairseq's transformer_lm, which cannot be read"):
        run_generate(recogniser, tmp_path, "--path", tmp_path / "lm.pt")


def test_names_with_a_colon(recogniser, tmp_path):
    """fairseq separates the models of an ensemble with colons."""
    shutil.copy(recogniser / "model.pt", tmp_path / "a:b.pt")
    one = texts_in(run_generate(recogniser, tmp_path / "1", "--path", tmp_path / "a:b.pt"))
    assert one == texts_in(run_generate(recogniser, tmp_path / "2"))

"""Beam search with a neural language model, on problems small enough to try every alignment, and through
``fairseq-generate``.
"""

import itertools
import math
import re
import shutil
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.lstm_lm import LSTMLanguageModel, base_architecture
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from fairseq_cli import preprocess, train
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.decoding import BeamDecoder, FusionDecoder, SearchOptions, build_decoder, score_generate_output
from dinosr_plugin.decoding.fusion import best_alignment
from dinosr_plugin.decoding.neural_lm import NeuralLM
from dinosr_plugin.errors import UserError
from support.decoding import (
    BLANK,
    LETTERS,
    OF_LETTERS,
    WIDE,
    assert_same_hypothesis,
    check_shape_of,
    collapse,
    decode_one,
    dictionary_of,
    emissions_of,
    every_text,
    needs_flashlight,
    random_emissions,
    text_of,
)
from support.paths import PLUGIN
from support.recogniser import TEXTS, run_generate

SYMBOLS = dictionary_of("XBA|")
"""Symbols of the language models: more than occur in the texts, in another order."""


def lstm(symbols=SYMBOLS):
    torch.manual_seed(1)
    cfg = Namespace(
        decoder_embed_dim=8,
        decoder_hidden_size=12,
        decoder_out_embed_dim=8,
        decoder_layers=2,
        criterion="cross_entropy",
    )
    base_architecture(cfg)
    model = LSTMLanguageModel.build_model(
        cfg, SimpleNamespace(dictionary=symbols, source_dictionary=symbols, target_dictionary=symbols)
    )
    return scaled(model, 5)


def transformer(symbols=SYMBOLS, longest=64):
    torch.manual_seed(1)
    widths = {f"decoder_{name}_dim": 8 for name in ("embed", "output", "input")}
    cfg = TransformerLanguageModelConfig(
        **widths,
        decoder_ffn_embed_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        max_target_positions=longest,
        tpu=False,
    )
    model = TransformerLanguageModel.build_model(
        cfg, SimpleNamespace(source_dictionary=symbols, target_dictionary=symbols)
    )
    return scaled(model, 2)


def scaled(model, factor):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


KINDS = {"lstm": lstm, "transformer": transformer}


@pytest.fixture(params=KINDS)
def lm(request):
    return KINDS[request.param]()


@torch.no_grad()
def log_probs_after(model, text):
    """(symbols of the model,) log-probabilities after ``text`` (strings), read in one forward pass without other
    texts.
    """
    symbols = model.decoder.dictionary
    tokens = torch.tensor([[symbols.eos()] + [symbols.index(symbol) for symbol in text]])
    return model.eval().get_normalized_probs(model(tokens), log_probs=True)[0, -1]


def lm_score(model, text):
    """Natural-log probability of a whole sentence, symbol by symbol."""
    symbols = model.decoder.dictionary
    nexts = [symbols.index(symbol) for symbol in text] + [symbols.eos()]
    return sum(log_probs_after(model, text[:place])[index].item() for place, index in enumerate(nexts))


def strings(tokens):
    return [LETTERS[token] for token in tokens]


def fusion(model, weight=0.7, **fields):
    return FusionDecoder(LETTERS, BLANK, SearchOptions(lm_path="lm.pt", lm_weight=weight, **fields), model)


def scores_of(hypotheses):
    return {tuple(one["tokens"].tolist()): one["score"] for one in hypotheses}


# -- the search ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    frames=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    weight=st.sampled_from([0.0, 0.7]),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_a_wide_beam_sums_over_all_alignments(frames, seed, weight, kind):
    model, emissions = KINDS[kind](), random_emissions(frames, seed)
    exact = {text: score + weight * lm_score(model, strings(text)) for text, score in every_text(emissions[0]).items()}
    hypotheses = decode_one(fusion(model, weight, **WIDE), emissions)
    assert scores_of(hypotheses) == pytest.approx(exact, abs=1e-4)  # all texts, each once
    assert [one["score"] for one in hypotheses] == sorted((one["score"] for one in hypotheses), reverse=True)
    for hypothesis in hypotheses:
        check_shape_of(hypothesis, emissions)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), beam=st.integers(1, 6), threshold=st.sampled_from([2.0, 50.0]))
def test_a_narrow_beam_finds_each_text_and_alignment_only_once(seed, beam, threshold):
    """Also if a text is dropped and found again while a longer one is kept."""
    model, emissions = lstm(), random_emissions(5, seed)
    hypotheses = decode_one(fusion(model, 0.3, beam=beam, nbest=beam, beam_threshold=threshold), emissions)
    found, exact = scores_of(hypotheses), every_text(emissions[0])
    assert len(found) == len(hypotheses) > 0
    for text, score in found.items():
        assert score <= exact[text] + 0.3 * lm_score(model, strings(text)) + 1e-4


@needs_flashlight
@pytest.mark.parametrize("fields", [{"sil_weight": 0.4}, {"beam_size_token": 2}], ids=str)
def test_weight_0_equals_a_search_without_model(lm, fields):
    fields = {"beam": 2000, "nbest": 3, "beam_threshold": 1000.0, **fields}
    for seed in range(3):
        emissions = random_emissions(6, seed, sharpness=2.0)
        expected = decode_one(BeamDecoder(LETTERS, BLANK, SearchOptions(**fields)), emissions)
        assert scores_of(decode_one(fusion(lm, 0.0, **fields), emissions)) == pytest.approx(
            scores_of(expected), abs=1e-4
        )


def test_only_the_most_probable_symbols_of_a_frame_are_tried(lm):
    emissions = random_emissions(4, 2)
    tried = torch.full_like(emissions, -math.inf).scatter(2, *reversed(emissions.topk(2)))
    exact = {text: score + 0.7 * lm_score(lm, strings(text)) for text, score in every_text(tried[0]).items()}
    assert scores_of(decode_one(fusion(lm, beam_size_token=2, **WIDE), emissions)) == pytest.approx(exact, abs=1e-4)


def test_the_silence_score_counts_each_frame(lm):
    emissions = random_emissions(4, 3)
    louder = emissions.clone()
    louder[:, :, LETTERS.index("|")] += 0.8
    exact = {text: score + 0.7 * lm_score(lm, strings(text)) for text, score in every_text(louder[0]).items()}
    hypotheses = decode_one(fusion(lm, sil_weight=0.8, **WIDE), emissions)
    assert scores_of(hypotheses) == pytest.approx(exact, abs=1e-4)
    for hypothesis in hypotheses:
        check_shape_of(hypothesis, emissions)  # token scores stay those of the network


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_utterances_and_padding_do_not_matter(lm, dtype):
    lengths = [9, 0, 4, 7]
    emissions = random_emissions(12, 7, utterances=4).to(dtype)
    given, decoder = emissions.clone(), fusion(lm, beam=8, nbest=3, sil_weight=0.1)
    together = decoder.decode(emissions, torch.tensor(lengths))
    padded = decoder.decode(torch.nn.functional.pad(emissions, (0, 0, 0, 5), value=math.nan), torch.tensor(lengths))
    assert torch.equal(emissions, given)
    for row, length, hypotheses, others in zip(emissions, lengths, together, padded):
        alone = decoder.decode(row[None, :length], torch.tensor([length]))[0]
        assert len(alone) == len(hypotheses) == len(others) == (3 if length else 1)
        for one, other, third in zip(alone, hypotheses, others):
            assert_same_hypothesis(one, other)
            assert_same_hypothesis(one, third)


def test_no_frames(lm):
    results = fusion(lm).decode(torch.zeros(2, 0, len(LETTERS)), torch.zeros(2, dtype=torch.long))
    assert [(one["tokens"].tolist(), one["score"]) for (one,) in results] == [([], 0.0)] * 2


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_frames_without_possible_symbols(lm, value):
    emissions = random_emissions(4, 0, utterances=2)
    emissions[0, 2] = value
    (nothing,), (text,) = fusion(lm, beam=10).decode(emissions, torch.tensor([4, 4]))
    assert nothing["tokens"].tolist() == [] and nothing["score"] == -math.inf
    assert_same_hypothesis(text, decode_one(fusion(lm, beam=10), emissions[1:])[0])


def test_forbidden_symbols_are_never_emitted(lm):
    for symbols in ([4], [4, 5], [BLANK], [6]):
        emissions = torch.full((1, 3, len(LETTERS)), -math.inf)
        emissions[:, :, symbols] = -math.log(len(symbols))
        for hypothesis in decode_one(fusion(lm, beam=50, nbest=50, beam_threshold=1000.0), emissions):
            assert set(hypothesis["tokens"].tolist()) <= set(symbols) and math.isfinite(hypothesis["score"])


@pytest.mark.parametrize("seed", range(5))
def test_the_best_alignment(seed):
    emissions, tokens = random_emissions(6, seed)[0], torch.tensor([5, 5, 4])
    paths = [path for path in itertools.product(OF_LETTERS, repeat=6) if collapse(path) == (5, 5, 4)]
    best = max(paths, key=lambda path: sum(emissions[frame, symbol].item() for frame, symbol in enumerate(path)))
    states = best_alignment(emissions, tokens, BLANK).tolist()
    assert tuple(BLANK if state % 2 == 0 else tokens[state // 2].item() for state in states) == best
    assert best_alignment(emissions, tokens[:0], BLANK).tolist() == [0] * 6


# -- the language model ----------------------------------------------------------------------------------------------


def test_texts_of_different_lengths_are_read_together(lm):
    texts = ["", "A", "AB|", "|BAAB"]
    tokens = torch.full((4, 6), 5)
    for row, text in zip(tokens, texts):
        row[: len(text)] = torch.tensor([LETTERS.index(symbol) for symbol in text])
    neural = NeuralLM(lm, LETTERS, BLANK, "lm.pt")
    _, states = neural.next_log_probs(tokens[:1], torch.tensor([0]), torch.zeros(1))
    states = states.expand(4, *states.shape[1:]).clone()
    rows = torch.zeros(4, len(LETTERS) + 1)
    for length in range(6):  # an LSTM reads one symbol at a time
        now = torch.tensor([len(text) == length for text in texts])
        if length:
            later = torch.tensor([len(text) >= length for text in texts])
            rows[later], states[later] = neural.next_log_probs(
                tokens[later], torch.full((int(later.sum()),), length), states[later]
            )
        elif now.any():
            rows[now], states[now] = neural.next_log_probs(tokens[now], torch.zeros(1, dtype=torch.long), states[now])
    if not neural.recurrent:
        rows, _ = neural.next_log_probs(tokens, torch.tensor(list(map(len, texts))), states)
    for row, text in zip(rows, texts):
        expected = log_probs_after(lm, text)
        assert row[4:].tolist() == pytest.approx(
            [expected[SYMBOLS.index(s)].item() for s in ["|", "A", "B", "</s>"]], abs=1e-5
        )


def test_a_text_longer_than_the_transformers_maximum_is_cut_at_its_start():
    model = transformer(longest=4)
    rows, _ = NeuralLM(model, LETTERS, BLANK, "lm.pt").next_log_probs(
        torch.tensor([[5, 6, 5, 4, 4], [6] * 5]), torch.tensor([5, 1]), torch.zeros(2, 0)
    )
    with torch.no_grad():
        expected = model.get_normalized_probs(
            model(torch.tensor([[SYMBOLS.index(symbol) for symbol in "BA||"]])), log_probs=True
        )[0, -1]
    assert rows[0, 5].item() == pytest.approx(expected[SYMBOLS.index("A")].item(), abs=1e-5)
    assert rows[1, 5].item() == pytest.approx(log_probs_after(model, "B")[SYMBOLS.index("A")].item(), abs=1e-5)


def test_models_that_do_not_fit():
    search = SearchOptions(lm_path="lm.pt", lm_weight=1.0)
    with pytest.raises(
        UserError,
        match=r"--lm-path lm.pt: does not know 2 of .* \('B', ...\); train it on the same labels: fairseq-preprocess",
    ):
        FusionDecoder(dictionary_of("|ABC"), BLANK, search, lstm(dictionary_of("A|")))
    with pytest.raises(UserError, match="--lm-path lm.pt: not a language model; give a checkpoint"):
        FusionDecoder(LETTERS, BLANK, search, torch.nn.Linear(1, 1))


# -- options ---------------------------------------------------------------------------------------------------------


def test_options(caplog):
    with pytest.raises(UserError, match="--lm a.arpa and --lm-path lm.pt: only one language model"):
        SearchOptions(lm="a.arpa", lm_path="lm.pt", lm_weight=1.0)
    search = SearchOptions(lm_path="lm.pt", beam=50)
    for name in ("best_path", "lexicon"):
        with pytest.raises(UserError, match=f"--lm-path lm.pt: not used by --decoder {name}; choose --decoder beam"):
            build_decoder(name, LETTERS, BLANK, search, lstm())
    assert isinstance(build_decoder("beam", LETTERS, BLANK, search, lstm()), FusionDecoder)
    assert "--lm-path lm.pt has no effect because --lm-weight is 0" in caplog.text


def test_the_language_model_decides_where_the_network_is_uncertain(lm):
    emissions = emissions_of([5, 0, 6, 0, 6, 5], certainty=0.4)
    texts = [text_of(decode_one(fusion(lm, weight, beam=100), emissions)[0]) for weight in (0.0, 3.0)]
    assert lm_score(lm, texts[1]) > lm_score(lm, texts[0])


# -- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, recogniser):
    """A folder with ``lm.pt``, trained with fairseq's commands on other texts than the recogniser's, and
    ``data/dict.txt``.
    """
    folder = tmp_path_factory.mktemp("lm")
    (folder / "train.ltr").write_text("T E A | T E N |\nT O | T E A |\n" * 20)
    arguments = [
        "--only-source",
        "--trainpref",
        folder / "train.ltr",
        "--validpref",
        folder / "train.ltr",
        "--destdir",
        folder / "data",
    ]
    arguments += ["--srcdict", recogniser / "dict.ltr.txt"]
    preprocess.main(options.get_preprocessing_parser().parse_args(list(map(str, arguments))))
    arguments = [
        folder / "data",
        "--task",
        "language_modeling",
        "--user-dir",
        PLUGIN,
        "--arch",
        "lstm_lm",
        "--criterion",
        "cross_entropy",
    ]
    arguments += [
        "--decoder-embed-dim",
        8,
        "--decoder-hidden-size",
        16,
        "--decoder-out-embed-dim",
        16,
        "--sample-break-mode",
        "eos",
    ]
    arguments += [
        "--optimizer",
        "adam",
        "--lr",
        0.03,
        "--max-tokens",
        200,
        "--max-update",
        40,
        "--save-dir",
        folder / "training",
        "--cpu",
    ]
    arguments += ["--disable-validation", "--no-epoch-checkpoints", "--num-workers", 0, "--log-format", "none"]
    namespace = options.parse_args_and_arch(options.get_training_parser(), input_args=list(map(str, arguments)))
    train.main(convert_namespace_to_omegaconf(namespace))
    shutil.move(folder / "training/checkpoint_last.pt", folder / "lm.pt")
    return folder


def texts_of(results):
    return {row: text for row, text in re.findall(r"^H-(\d)\t\S+\t(.*)", results.read_text(), flags=re.MULTILINE)}


def decode(recogniser, out, path, weight, *more):
    return run_generate(
        recogniser, out, "--decoder", "beam", "--beam", "10", "--lm-path", path, "--lm-weight", weight, *more
    )


def test_results_file(recogniser, trained, tmp_path):
    results = decode(recogniser, tmp_path / "3", trained / "lm.pt", 2, "--batch-size", "3", "--print-alignment", "hard")
    lines = results.read_text().splitlines()
    assert len(texts_of(results)) == len(TEXTS) and lines[-1].startswith("Generate train with beam=10: WER: ")
    assert score_generate_output(results)["wer"] > 0
    tokens = [line.split("\t")[1].split() for line in lines if line.startswith("P-")]
    frames = [line.split("\t")[1].split() for line in lines if line.startswith("A-")]
    assert list(map(len, tokens)) == list(map(len, frames)) and max(map(len, tokens)) > 2
    alone = decode(recogniser, tmp_path / "1", trained / "lm.pt", 2, "--batch-size", "1")
    assert texts_of(alone) == texts_of(results)


@needs_flashlight
def test_texts_are_more_probable_than_without_the_model(recogniser, trained, tmp_path):
    results = decode(recogniser, tmp_path / "2", trained / "lm.pt", 2)
    without = run_generate(recogniser, tmp_path / "0", "--decoder", "beam", "--beam", "10")
    (model,), _ = checkpoint_utils.load_model_ensemble(
        [str(trained / "lm.pt")], arg_overrides={"data": str(trained / "data")}
    )
    ours, theirs = (
        [lm_score(model, text.replace(" ", "|")) for text in texts_of(file).values()] for file in (results, without)
    )
    assert sum(ours) > sum(theirs) + 1


def test_error_messages(recogniser, trained, tmp_path):
    def error(path, *more):
        with pytest.raises(UserError) as raised:
            decode(recogniser, tmp_path, path, 1, *more)
        (line,) = str(raised.value).splitlines()
        assert line.startswith(f"--lm-path {path}: ")
        return line

    lost = tmp_path / "lost"
    lost.mkdir()
    assert "no such file; give one made by fairseq-train" in error(lost / "nowhere.pt")
    (lost / "text.pt").write_text("no model")
    assert "not a PyTorch file; give one made by fairseq-train" in error(lost / "text.pt")
    assert "not a language model, its task is dinosr_finetuning" in error(recogniser / "model.pt")
    assert "choose --decoder beam" in error(trained / "lm.pt", "--decoder", "best_path")
    # its dictionary: next to it, in DATA, or in the folder that it was trained on
    shutil.copy(trained / "lm.pt", lost)
    (lost / "dict.txt").write_text("A 1\n")
    assert "another dictionary" in error(lost / "lm.pt")
    (lost / "dict.txt").unlink()
    (trained / "data").rename(trained / "elsewhere")
    try:
        assert "copy it there from the folder of fairseq-preprocess" in error(lost / "lm.pt")
    finally:
        (trained / "elsewhere").rename(trained / "data")

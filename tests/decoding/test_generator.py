"""The generator with random models: the result for an utterance must not depend on the rest of the batch."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from fairseq.utils import post_process_prediction
from omegaconf import OmegaConf

import dinosr_plugin  # noqa: F401  (registers the model)
from dinosr_plugin.decoding import BestPathDecoder, CTCGenerator, SearchOptions, build_decoder
from dinosr_plugin.errors import UserError

TRUNKS = {
    "fbank": {"front_end": "fbank"},
    "conv": {"front_end": "conv", "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"},
}
TINY = {
    "_name": "dinosr",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "average_top_k_layers": 1,
    "codebook_size": 4,
    "conv_pos": 15,
    "conv_pos_groups": 4,
    "pos_conv_depth": 3,
}


@pytest.fixture(scope="module")
def dictionary():
    letters = Dictionary()
    for symbol in "|ETAON":
        letters.add_symbol(symbol)
    return letters


def ctc_model(dictionary, trunk, seed=0):
    """``wav2vec_ctc`` around a random tiny DinoSR, with large output weights, so that its decisions are clear."""
    torch.manual_seed(seed)
    task = {"_name": "dinosr_pretraining", "data": "", "normalize": True, "tpu": False, "seed": 1}
    cfg = Wav2Vec2CtcConfig(
        w2v_args=OmegaConf.create({"model": {**TINY, **trunk}, "task": task}), normalize=True, data=""
    )
    model = Wav2VecCtc.build_model(cfg, SimpleNamespace(target_dictionary=dictionary))
    with torch.no_grad():
        model.w2v_encoder.proj.weight.mul_(10)
    return model


def batch_of(sounds, padding=0):
    """A batch as collated by fairseq: each (T,) waveform is followed by zeros, which are masked, and ``padding`` extra
    samples.
    """
    longest = max(map(len, sounds)) + padding
    source, mask = torch.zeros(len(sounds), longest), torch.ones(len(sounds), longest, dtype=torch.bool)
    for row, sound in enumerate(sounds):
        source[row, : len(sound)] = sound
        mask[row, : len(sound)] = False
    return {"id": torch.arange(len(sounds)), "net_input": {"source": source, "padding_mask": mask}}


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_other_utterances_and_padding_do_not_matter(dictionary, trunk):
    model = ctc_model(dictionary, trunk)
    generator = CTCGenerator(BestPathDecoder(0), dictionary, blank=0)
    sounds = [torch.randn(n) for n in (16000, 9000, 12345, 700)]
    alone = [generator.generate([model], batch_of([sound]))[0][0] for sound in sounds]
    assert (
        len({token for one in alone for token in one["tokens"].tolist()}) > 1
    )  # otherwise the comparison would be trivial
    for padding in (0, 5000):
        together = generator.generate([model], batch_of(sounds, padding))
        for one, (same,) in zip(alone, together):
            assert same["tokens"].tolist() == one["tokens"].tolist()
            assert same["alignment"] == one["alignment"]
            assert same["score"] == pytest.approx(one["score"], abs=1e-3)
            assert same["positional_scores"].tolist() == pytest.approx(one["positional_scores"].tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["beam", "lexicon"])
def test_other_utterances_and_padding_do_not_matter_to_searches(dictionary, tmp_path, name):
    pytest.importorskip("flashlight", reason="pip install flashlight-text")
    (tmp_path / "train.wrd").write_text("ATE EAT TEN NO ON TEA A E\n")
    options = SearchOptions(beam=50, nbest=2, lexicon=str(tmp_path / "train.wrd"))
    model = ctc_model(dictionary, TRUNKS["fbank"])
    generator = CTCGenerator(build_decoder(name, dictionary, 0, options), dictionary, blank=0)
    sounds = [
        torch.randn(n) for n in (16000, 9000, 12345, 300)
    ]  # the last one is shorter than a frame's field of 400 samples
    alone = [generator.generate([model], batch_of([sound])) for sound in sounds[:3]]
    for padding in (0, 5000):
        together = generator.generate([model], batch_of(sounds, padding))
        for (one,), other in zip(alone, together):
            assert [same["tokens"].tolist() for same in other] == [best["tokens"].tolist() for best in one]
            assert [same["score"] for same in other] == pytest.approx([best["score"] for best in one], abs=1e-2)


def test_models_are_put_into_eval_mode(dictionary):
    model = ctc_model(dictionary, TRUNKS["fbank"]).train()
    generator = CTCGenerator(BestPathDecoder(0), dictionary, blank=0)
    sample = batch_of([torch.randn(8000)])
    first, second = (generator.generate([model], sample)[0][0]["score"] for _ in range(2))
    assert first == second and not model.training


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_models_in_half_precision(dictionary, trunk):
    """Models as converted by ``fairseq-generate --fp16``; log-Mel features need the audio in full precision."""
    sound = 0.01 * torch.randn(8000)
    batch = batch_of([sound])["net_input"]
    whole, _ = CTCGenerator(BestPathDecoder(0), dictionary, blank=0).emissions([ctc_model(dictionary, trunk)], batch)
    half, _ = CTCGenerator(BestPathDecoder(0), dictionary, blank=0).emissions(
        [ctc_model(dictionary, trunk).bfloat16()], batch
    )
    assert half.dtype == torch.float32 and (half.exp() - whole.exp()).abs().max() < 0.1


def test_an_ensemble_averages_probabilities(dictionary):
    models = [ctc_model(dictionary, TRUNKS["fbank"], seed) for seed in (1, 2)]
    generator = CTCGenerator(BestPathDecoder(0), dictionary, blank=0)
    net_input = batch_of([torch.randn(8000), torch.randn(6000)])["net_input"]
    singles = [generator.emissions([model], net_input)[0].exp() for model in models]
    both, lengths = generator.emissions(models, net_input)
    assert torch.allclose(both.exp(), (singles[0] + singles[1]) / 2, atol=1e-5)
    assert lengths.tolist() == [24, 18]


def test_an_ensemble_of_incompatible_models_is_rejected(dictionary):
    other = Dictionary()
    models = [ctc_model(symbols, TRUNKS["fbank"]) for symbols in (dictionary, other)]
    with pytest.raises(UserError, match="ensemble"):
        CTCGenerator(BestPathDecoder(0), dictionary, blank=0).generate(models, batch_of([torch.randn(8000)]))


class Constant(torch.nn.Module):
    """Emits the same (V,) logits in every frame."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, source, padding_mask):
        return {"encoder_out": self.logits.expand(5, source.size(0), -1), "padding_mask": None}  # (F, B, V)

    def get_normalized_probs(self, output, log_probs):
        return output["encoder_out"].log_softmax(dim=-1)


def text_of(hypothesis, generator, dictionary):
    """The text as printed by ``fairseq-generate --post-process letter``."""
    return post_process_prediction(
        hypothesis["tokens"].int(),
        src_str="",
        alignment=None,
        align_dict=None,
        tgt_dict=dictionary,
        remove_bpe="letter",
        extra_symbols_to_ignore=generator.symbols_to_strip_from_output,
    )[1]


@pytest.mark.parametrize("favourite", ["<pad>", "</s>", "<unk>"])
def test_special_symbols_never_reach_the_text(dictionary, favourite):
    logits = torch.zeros(len(dictionary))
    logits[dictionary.index("E")] = 1.0
    logits[dictionary.index(favourite)] = 5.0
    generator = CTCGenerator(BestPathDecoder(0), dictionary, blank=0)
    (hypothesis,) = generator.generate([Constant(logits)], batch_of([torch.zeros(10)]))[0]
    assert text_of(hypothesis, generator, dictionary) == "E"


def test_an_empty_hypothesis_is_an_empty_text(dictionary):
    logits = torch.zeros(len(dictionary))
    logits[dictionary.bos()] = 5.0
    generator = CTCGenerator(BestPathDecoder(0), dictionary, blank=0)
    (hypothesis,) = generator.generate([Constant(logits)], batch_of([torch.zeros(10)]))[0]
    assert text_of(hypothesis, generator, dictionary) == ""
    assert hypothesis["positional_scores"].div_(math.log(2)).tolist() == []  # as fairseq-generate does

"""Beam and lexicon search on problems that are small enough to enumerate all alignments."""

import base64
import gzip
import importlib.util
import math
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.decoding import BeamDecoder, LexiconDecoder, SearchOptions, build_decoder
from dinosr_plugin.decoding.arpa import read_vocabulary
from dinosr_plugin.decoding.lexicon import read_lexicon
from dinosr_plugin.decoding.search import load_lm
from dinosr_plugin.errors import UserError
from support.decoding import (
    BLANK,
    LETTERS,
    WIDE,
    assert_same_hypothesis,
    check_shape_of,
    decode_one,
    dictionary_of,
    emissions_of,
    every_text,
    needs_flashlight,
    random_emissions,
    text_of,
)
from support.small_arpa import write_arpa

# -- beam ------------------------------------------------------------------------------------------------------------


@needs_flashlight
@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 5), sharpness=st.sampled_from([0.3, 1.0, 3.0]), seed=st.integers(0, 2**16))
def test_a_wide_beam_sums_over_all_alignments(frames, sharpness, seed):
    emissions = random_emissions(frames, seed, sharpness)
    exact = every_text(emissions[0])
    hypotheses = decode_one(BeamDecoder(LETTERS, BLANK, SearchOptions(**WIDE)), emissions)
    found = {tuple(hypothesis["tokens"].tolist()): hypothesis["score"] for hypothesis in hypotheses}
    assert found == pytest.approx(exact, abs=1e-4)  # all texts, each once, with its probability
    assert found[tuple(hypotheses[0]["tokens"].tolist())] == pytest.approx(max(exact.values()), abs=1e-4)
    assert [one["score"] for one in hypotheses] == sorted((one["score"] for one in hypotheses), reverse=True)
    for hypothesis in hypotheses:
        check_shape_of(hypothesis, emissions)


@needs_flashlight
def test_the_most_probable_text_is_not_that_of_the_best_path():
    probabilities = torch.tensor([[[0.6, 0, 0, 0, 0, 0.4, 0], [0.6, 0, 0, 0, 0, 0.4, 0]]])  # blank 0.36 < A 0.64
    assert (
        decode_one(build_decoder("best_path", LETTERS, BLANK, SearchOptions()), probabilities.log())[0][
            "tokens"
        ].tolist()
        == []
    )
    (hypothesis,) = decode_one(build_decoder("beam", LETTERS, BLANK, SearchOptions()), probabilities.log())
    assert text_of(hypothesis) == "A" and hypothesis["score"] == pytest.approx(math.log(0.64))


@needs_flashlight
@pytest.mark.parametrize("nbest", [1, 3])
def test_nbest_limits_the_hypotheses(nbest):
    assert (
        len(decode_one(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=20, nbest=nbest)), random_emissions(6, 0)))
        == nbest
    )


@needs_flashlight
def test_a_letter_model_changes_the_first_letter(tmp_path):
    lm = write_arpa(tmp_path / "letters.arpa", "|AB", favourite="B")
    emissions = torch.full((1, 1, len(LETTERS)), -math.inf)
    emissions[0, 0, [4, 5, 6]] = torch.tensor([0.1, 0.5, 0.4]).log()
    texts = [
        text_of(decode_one(BeamDecoder(LETTERS, BLANK, SearchOptions(lm=lm, lm_weight=weight)), emissions)[0])
        for weight in (0.0, 1.0)
    ]
    assert texts == ["A", "B"]


@needs_flashlight
def test_scores_include_the_language_model_and_its_end_of_sentence(tmp_path):
    lm = write_arpa(tmp_path / "letters.arpa", "|AB", favourite="B")
    emissions = random_emissions(4, 1)
    exact = every_text(emissions[0])
    for hypothesis in decode_one(BeamDecoder(LETTERS, BLANK, SearchOptions(**WIDE, lm=lm, lm_weight=0.7)), emissions):
        tokens = tuple(hypothesis["tokens"].tolist())
        log10 = sum(-2.0 for _ in tokens) - 1.0 + (1.9 if tokens[:1] == (6,) else 0.0)
        assert hypothesis["score"] == pytest.approx(exact[tokens] + 0.7 * log10, abs=1e-4)


@needs_flashlight
def test_the_silence_score_moves_boundaries():
    emissions = random_emissions(5, 3)
    counts = []
    for weight in (-5.0, 0.0, 5.0):
        hypothesis = decode_one(BeamDecoder(LETTERS, BLANK, SearchOptions(beam=100, sil_weight=weight)), emissions)[0]
        counts.append(text_of(hypothesis).count("|"))
        check_shape_of(hypothesis, emissions)  # token scores stay those of the network
    assert counts[0] == 0 < counts[2]


# -- lexicon ---------------------------------------------------------------------------------------------------------

WORDS = {"A": "A |", "B": "B |", "AB": "A B |", "ABBA": "A B B A |", "BAB": "B A B |"}


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("".join(f"{word}\t{spelling}\n" for word, spelling in WORDS.items()))
    return str(path)


def words_of(hypothesis):
    """The words of the text; fails if a boundary ends no word."""
    text = text_of(hypothesis)
    assert text == "" or (text.endswith("|") and "||" not in text and not text.startswith("|"))
    return text.split("|")[:-1]


@needs_flashlight
@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 6), seed=st.integers(0, 2**16), beam=st.sampled_from([1, 3, 1000]))
def test_only_words_of_the_lexicon(tmp_path_factory, frames, seed, beam):
    path = tmp_path_factory.getbasetemp() / "lexicon.txt"
    path.write_text("".join(f"{word} {spelling}\n" for word, spelling in WORDS.items()))
    emissions = random_emissions(frames, seed, sharpness=2.0)
    for hypothesis in decode_one(
        LexiconDecoder(LETTERS, BLANK, SearchOptions(beam=beam, nbest=beam, lexicon=str(path))), emissions
    ):
        assert set(words_of(hypothesis)) <= set(WORDS)
        check_shape_of(hypothesis, emissions)


@needs_flashlight
@settings(max_examples=20, deadline=None)
@given(frames=st.integers(2, 6), seed=st.integers(0, 2**16))
def test_a_wide_lexicon_search_sums_over_all_alignments(tmp_path_factory, frames, seed):
    path = tmp_path_factory.getbasetemp() / "lexicon.txt"
    path.write_text("".join(f"{word} {spelling}\n" for word, spelling in WORDS.items()))
    emissions = random_emissions(frames, seed)
    sums = defaultdict(float)
    for text, score in every_text(emissions[0]).items():
        spelt = LETTERS.string(torch.tensor(text, dtype=torch.long)).replace(" ", "")
        words = [word for word in spelt.split("|") if word]
        if set(words) <= set(WORDS) and (not words or spelt.endswith("|")):
            sums[tuple(words)] += math.exp(score)  # silence may occur anywhere between words
    hypotheses = decode_one(LexiconDecoder(LETTERS, BLANK, SearchOptions(**WIDE, lexicon=str(path))), emissions)
    found = {tuple(words_of(hypothesis)): math.exp(hypothesis["score"]) for hypothesis in hypotheses}
    assert found == pytest.approx(dict(sums), rel=1e-3)


@needs_flashlight
def test_a_word_model_changes_the_first_word(tmp_path, lexicon):
    lm = write_arpa(tmp_path / "words.arpa", WORDS, favourite="BAB")
    emissions = emissions_of([5, 6, 0, 6, 5, 4], certainty=0.7)  # ABBA|
    texts = []
    for weight in (0.0, 4.0):
        options = SearchOptions(beam=200, lexicon=lexicon, lm=lm, lm_weight=weight)
        texts.append(words_of(decode_one(LexiconDecoder(LETTERS, BLANK, options), emissions)[0]))
    assert texts == [["ABBA"], ["BAB"]]


@needs_flashlight
def test_the_word_score_increases_the_number_of_words(lexicon):
    emissions = random_emissions(8, 5)
    counts = []
    for score in (-4.0, 4.0):
        options = SearchOptions(beam=500, lexicon=lexicon, word_score=score)
        counts.append(len(words_of(decode_one(LexiconDecoder(LETTERS, BLANK, options), emissions)[0])))
    assert counts[0] < counts[1]


@needs_flashlight
def test_an_unfinished_word_is_omitted(lexicon):
    hypothesis = decode_one(
        LexiconDecoder(LETTERS, BLANK, SearchOptions(beam=1, lexicon=lexicon)), emissions_of([6, 4, 0, 5, 6])
    )[0]
    assert words_of(hypothesis) == ["B"]


# -- both ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["beam", "lexicon", "lexicon+lm"])
def make_decoder(request, tmp_path, lexicon):
    """Build a decoder with further options."""
    if importlib.util.find_spec("flashlight") is None:
        pytest.skip("pip install flashlight-text")

    def make(**options):
        name = request.param.partition("+")[0]
        if name == "lexicon":
            options["lexicon"] = lexicon
        if "lm" in request.param:
            options = {"lm": write_arpa(tmp_path / "words.arpa", WORDS, "BAB"), "lm_weight": 0.5, **options}
        return build_decoder(name, LETTERS, BLANK, SearchOptions(**options))

    return make


def test_other_utterances_and_padding_do_not_matter(make_decoder):
    decoder, lengths = make_decoder(beam=20, nbest=3), [9, 0, 4, 7]
    emissions = random_emissions(12, 7, utterances=4)
    together = decoder.decode(emissions, torch.tensor(lengths))
    padded = decoder.decode(torch.nn.functional.pad(emissions, (0, 0, 0, 5), value=math.nan), torch.tensor(lengths))
    for row, length, hypotheses, others in zip(emissions, lengths, together, padded):
        alone = make_decoder(beam=20, nbest=3).decode(row[None, :length], torch.tensor([length]))[0]
        assert len(alone) == len(hypotheses) == len(others)
        for one, other, third in zip(alone, hypotheses, others):
            assert_same_hypothesis(one, other)
            assert_same_hypothesis(one, third)


@pytest.mark.parametrize("name", ["beam", "lexicon"])
@needs_flashlight
def test_a_model_with_weight_0_has_no_effect(name, tmp_path, lexicon):
    options = {"beam": 50, "nbest": 5, "lexicon": lexicon if name == "lexicon" else None}
    lm = write_arpa(tmp_path / "any.arpa", WORDS, "BAB")
    for seed in range(5):
        emissions = random_emissions(8, seed)
        without = decode_one(build_decoder(name, LETTERS, BLANK, SearchOptions(**options)), emissions)
        of_no_weight = decode_one(build_decoder(name, LETTERS, BLANK, SearchOptions(**options, lm=lm)), emissions)
        for one, other in zip(without, of_no_weight, strict=True):
            assert_same_hypothesis(one, other)


def test_no_frames(make_decoder):
    results = make_decoder().decode(torch.zeros(2, 0, len(LETTERS)), torch.zeros(2, dtype=torch.long))
    assert [(one["tokens"].tolist(), one["score"]) for (one,) in results] == [([], 0.0)] * 2


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_frames_without_possible_symbols(make_decoder, value):
    emissions = random_emissions(4, 0)
    emissions[:, 2] = value
    (hypothesis,) = decode_one(make_decoder(), emissions)
    assert hypothesis["tokens"].tolist() == [] and hypothesis["score"] == -math.inf


def test_forbidden_symbols_are_never_emitted(make_decoder):
    for symbols in ([4], [4, 5], [BLANK], [6]):
        emissions = torch.full((1, 3, len(LETTERS)), -math.inf)
        emissions[:, :, symbols] = -math.log(len(symbols))
        for hypothesis in decode_one(make_decoder(beam=50, nbest=50, beam_threshold=1000.0), emissions):
            assert set(hypothesis["tokens"].tolist()) <= set(symbols)


@needs_flashlight
def test_words_that_cannot_end(lexicon):
    emissions = torch.full((1, 3, len(LETTERS)), -math.inf)
    emissions[0, [0, 1, 2], [6, 5, 6]] = 0.0  # BAB, but no |
    (hypothesis,) = decode_one(LexiconDecoder(LETTERS, BLANK, SearchOptions(lexicon=lexicon)), emissions)
    assert hypothesis["tokens"].tolist() == []


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beam": 0}, "--beam=0"),
        ({"nbest": 9}, "--nbest 9: .* --beam 9"),
        ({"beam_size_token": 0}, "--beam-size-token=0"),
        ({"beam_threshold": 0.0}, "--beam-threshold=0"),
        ({"beam_threshold": math.inf}, "--beam-threshold=inf"),
        ({"lm_weight": math.nan}, "--lm-weight nan: give a finite number"),
        ({"word_score": math.inf}, "--word-score inf: give a finite number"),
        ({"sil_weight": math.nan}, "--sil-weight nan: give a finite number"),
        ({"lm_weight": 2.0}, "--lm-weight 2: .*--lm FILE"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        SearchOptions(**options)


@pytest.mark.parametrize(
    "text, message",
    [
        ("A A |\nABC A B C |\n", r"lexicon.txt, line 2: 'ABC': its spelling contains 'C'"),
        ("A\tA |\n\nAB A <s> |\n", r"lexicon.txt, line 3: 'AB': its spelling contains '<s>'"),
        ("AB A B\n", r"line 1: 'AB'.* symbols followed by \|,"),
        ("AB\n", r"line 1: 'AB'.* symbols followed by \|,"),
        ("A |\n", r"line 1: 'A'.* symbols followed by \|,"),
        ("\n", "contains no words; give a file"),
    ],
)
def test_faulty_lexicons(tmp_path, text, message):
    (tmp_path / "lexicon.txt").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_lexicon(tmp_path / "lexicon.txt", LETTERS)
    assert len(str(error.value).splitlines()) == 1


def test_lexicons_that_are_not_text(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file"):
        read_lexicon(tmp_path / "nowhere", LETTERS)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="binary: not UTF-8 text"):
        read_lexicon(tmp_path / "binary", LETTERS)


def test_transcripts_as_a_lexicon(tmp_path):
    (tmp_path / "train.wrd").write_text("AB A\nA BAB\n")
    assert read_lexicon(tmp_path / "train.wrd", LETTERS) == [("AB", [5, 6, 4]), ("A", [5, 4]), ("BAB", [6, 5, 6, 4])]


@needs_flashlight
def test_a_lexicon_search_needs_words(lexicon):
    with pytest.raises(UserError, match=r"--lexicon: required by --decoder lexicon; give"):
        LexiconDecoder(LETTERS, BLANK, SearchOptions())
    with pytest.raises(UserError, match="lacks the word boundary"):
        LexiconDecoder(dictionary_of("AB"), BLANK, SearchOptions(lexicon=lexicon))


@needs_flashlight
@pytest.mark.parametrize("name", ["beam", "lexicon"])
def test_faulty_language_models(tmp_path, lexicon, name):
    (tmp_path / "text.arpa").write_text("hello\n")
    cut = tmp_path / "cut.arpa"
    cut.write_text(Path(write_arpa(cut, WORDS, "BAB")).read_text()[:60])
    other = write_arpa(tmp_path / "other.arpa", ["seven", "eight"], "seven")
    faults = {
        str(tmp_path / "nowhere.arpa"): "no such file",
        str(tmp_path): "no such file",
        other: r"does not know \d of \d words",
    }
    faults |= {str(tmp_path / "text.arpa"): "KenLM cannot read it", str(cut): "KenLM cannot read it"}
    for path, message in faults.items():
        with pytest.raises(UserError, match=message) as error:
            build_decoder(name, LETTERS, BLANK, SearchOptions(lm=path, lm_weight=1.0, lexicon=lexicon))
        assert f"--lm {path}: " in str(error.value) and len(str(error.value).splitlines()) == 1


LOOP = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-0.6\t<unk>
-99\t<s>\t0
-0.6\t</s>
-0.6\tYES\t0
-0.6\tNO\t0

\\2-grams:
-0.6\tYES </s>

\\end\\
"""


@needs_flashlight
def test_a_word_as_probable_as_unknown_words_is_known(tmp_path, caplog):
    (tmp_path / "loop.arpa").write_text(LOOP)
    load_lm(str(tmp_path / "loop.arpa"), ["YES", "NO"])
    assert "does not know" not in caplog.text
    load_lm(str(tmp_path / "loop.arpa"), ["YES", "MAYBE"])
    assert "does not know 1 of 2 words or symbols ('MAYBE', ...)" in caplog.text


@pytest.mark.parametrize("counts", ["2=1000000000000", "2=99999999999999999999999", "2=70", "3=1000000000000"])
@pytest.mark.parametrize("compressed", [False, True])
def test_more_n_grams_than_fit_into_the_file_are_not_allocated(counts, compressed, tmp_path):
    if compressed and counts == "2=70":
        pytest.skip("they fit into a compressed file")
    path, text = tmp_path / "a.arpa", LOOP.replace("ngram 2=1", f"ngram {counts}")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    with pytest.raises(UserError, match=f"--lm {path}: its header states .* n-grams, more than fit into"):
        read_vocabulary(path)


PROBING = (
    b"c-qU&O)OBz$yLZGDJihh*U!#KO-##7%}LQq&d=3P&QD2INXswEO)OC;OD!tS%+FIW<zhg9274f}pAks>2Lg}?BUFY7OdhaD7Gs6dj0~s%"
    b"BwkRbxYx3+6fE~iQ8K~u#ymb|AlrVoPsyy_yLv2Wdbo1Ff2=Kjkj=z^8_b$1xgX?628LsYKs1nV52g2`%0qzId9TmwYO*9?@-SdinwM?I"
    b"U{egl`amMmHJHKAp8){U<vr{"
)
TRIE = (
    b"c-qU&O)OBz$yLZGDJihh*U!#KO-##7%}LQq&d=3P&QD2INXswEO)OC;OD!tS%+FIW<zhg9274f}pAks>2Lg}?BUFY7Odhajf{KAKD^!jV"
    b"$pjWCT~MdE*RrjY;gh0dg5`~QeD=G2N@n%m)#J+f{;{_BK{ibNteKMgK^7xSICcn`50z)Yr5;m1rkjw#r88%Kpvc*j=4IP4*c96_M7jnu"
    b"`1v!~=mXgR`dvHk"
)
"""``LOOP`` in KenLM's two binary formats: its program ``build_binary``, compressed by zlib and in base 85."""


def loop_file(kind, folder):
    content = {
        "ARPA": LOOP.encode(),
        "gzip": gzip.compress(LOOP.encode()),
        "probing": zlib.decompress(base64.b85decode(PROBING)),
        "trie": zlib.decompress(base64.b85decode(TRIE)),
    }[kind]
    path = folder / "loop.lm"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["ARPA", "gzip", "probing", "trie"])
def test_the_words_of_a_model_do_not_depend_on_its_format(kind, tmp_path):
    """All of them are as likely as unknown words."""
    assert read_vocabulary(loop_file(kind, tmp_path)) == {"<unk>", "<s>", "</s>", "YES", "NO"}


@needs_flashlight
@pytest.mark.parametrize("kind", ["gzip", "probing", "trie"])
def test_words_as_likely_as_unknown_ones_are_known(kind, tmp_path, caplog):
    load_lm(str(loop_file(kind, tmp_path)), ["YES", "NO"])
    assert not caplog.records
    load_lm(str(loop_file(kind, tmp_path)), ["YES", "TEN"])
    assert "does not know 1 of 2 words or symbols ('TEN', ...)" in caplog.text


@pytest.mark.parametrize("change", ["no words", "fewer words", "header alone"])
def test_a_binary_model_without_its_words(change, tmp_path):
    """``build_binary -v`` leaves them out."""
    path = loop_file("probing", tmp_path)
    content = bytearray(path.read_bytes())
    if change == "no words":
        content[100] = 0
    path.write_bytes(content[: {"no words": None, "fewer words": -3, "header alone": 20}[change]])
    assert read_vocabulary(path) is None


def test_a_compressed_line_without_end_is_refused(tmp_path):
    """KenLM would fill the memory with it: 1 MB of such a file unpacks to 1 GB."""
    path = tmp_path / "a.arpa.gz"
    path.write_bytes(gzip.compress(LOOP.encode() + b"a" * 3_000_000))
    with pytest.raises(UserError, match=f"--lm {path}: a line of more than 1048576 bytes"):
        read_vocabulary(path)


@needs_flashlight
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\\data\\\n", b"mmap lm ", gzip.compress(b"x", mtime=0)[:12], LOOP.encode()[:50]]
)
def test_whatever_kenlm_refuses_is_one_line(content, tmp_path):
    (tmp_path / "a.arpa").write_bytes(content)
    with pytest.raises(UserError, match=f"--lm {tmp_path}/a.arpa: ") as error:
        load_lm(str(tmp_path / "a.arpa"), ["YES"])
    assert len(str(error.value).splitlines()) == 1


@needs_flashlight
def test_an_error_without_a_message_is_one_line(tmp_path, monkeypatch):
    import flashlight.lib.text.decoder.kenlm as kenlm

    def refuse(*_):
        raise RuntimeError("")

    (tmp_path / "loop.arpa").write_text(LOOP)
    monkeypatch.setattr(kenlm, "KenLM", refuse)
    with pytest.raises(UserError, match="KenLM cannot read it \\(unknown reason\\)"):
        load_lm(str(tmp_path / "loop.arpa"), ["YES"])


@needs_flashlight
def test_a_word_model_is_rejected_for_letters(tmp_path, lexicon, caplog):
    symbols = dictionary_of("|'ABEIN")
    lm = write_arpa(tmp_path / "words.arpa", ["A", "I", "BEAN"], favourite="I")
    with pytest.raises(UserError, match="does not know 5 of 7 words or symbols"):
        BeamDecoder(symbols, BLANK, SearchOptions(lm=lm, lm_weight=1.0))
    LexiconDecoder(LETTERS, BLANK, SearchOptions(lm=lm, lm_weight=1.0, lexicon=lexicon))
    assert "does not know 4 of 5 words" in caplog.text  # a lexicon may be larger than the model's vocabulary


@pytest.mark.parametrize("name", ["beam", "lexicon"])
def test_without_flashlight_one_line_names_the_package(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    with pytest.raises(UserError, match="pip install flashlight-text"):
        build_decoder(name, LETTERS, BLANK, SearchOptions())


@needs_flashlight
def test_options_without_effect_are_reported(tmp_path, caplog):
    lm = write_arpa(tmp_path / "letters.arpa", "|AB", favourite="B")
    BeamDecoder(LETTERS, BLANK, SearchOptions(lm=lm))
    assert "--lm-weight is 0" in caplog.text and "--beam 5 is small" in caplog.text

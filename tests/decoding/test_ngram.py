"""N-gram models compared with a hand-computed one, with a direct implementation of the formula, and with KenLM."""

import math
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.data.manifest import letters
from dinosr_plugin.decoding import ngram
from dinosr_plugin.decoding.ngram import discounts, make_ngram
from dinosr_plugin.errors import UserError


def model_of(folder, lines, order):
    """Train a model on ``lines``; returns it as ``read_arpa`` does."""
    text, out = folder / "text.wrd", folder / "model.arpa"
    text.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    make_ngram(text, order, out)
    return read_arpa(out)


def read_arpa(path):
    """([{n-gram: probability}], [{n-gram: weight}]), shortest n-grams first; also checks counts and fields of the
    file.
    """
    head, *sections, end = path.read_text(encoding="utf-8").split("\n\n")
    assert head.startswith("\\data\\\n") and end == "\\end\\\n"
    probabilities, weights = [], []
    for order, (announced, section) in enumerate(zip(head.splitlines()[1:], sections, strict=True), start=1):
        title, *lines = section.splitlines()
        assert title == f"\\{order}-grams:" and announced == f"ngram {order}={len(lines)}"
        fields = [line.split("\t") for line in lines]
        assert {len(row) for row in fields} == {3 if order < len(sections) else 2}
        probabilities.append({tuple(row[1].split(" ")): 10 ** float(row[0]) for row in fields})
        weights.append({tuple(row[1].split(" ")): 10 ** float(row[2]) for row in fields if len(row) == 3})
        assert len(probabilities[-1]) == len(lines) and {len(gram) for gram in probabilities[-1]} == {order}
    return probabilities, weights


def backed_off(model, context, token):
    """p(token | context) as the ARPA format defines it."""
    probabilities, weights = model
    context = context[len(context) - len(probabilities) + 1 :] if len(context) >= len(probabilities) else context
    if (*context, token) in probabilities[len(context)]:
        return probabilities[len(context)][(*context, token)]
    assert context, f"{token} is not in the vocabulary"
    return weights[len(context) - 1].get(context, 1.0) * backed_off(model, context[1:], token)


def tokens_of(model):
    """All tokens that can be predicted."""
    return [token for (token,) in model[0][0] if token != "<s>"]


def contexts_of(model):
    """All contexts in the model and some that are not, none after the end of a sentence."""
    stored = [gram for order in model[0][:-1] for gram in order if "</s>" not in gram]
    return [(), *stored, ("<unk>",) * (len(model[0]) - 1), *(("<unk>", *gram) for gram in stored)]


def log10_of(model, words):
    """log10 p(words and the end of the sentence)."""
    known = [word if (word,) in model[0][0] else "<unk>" for word in words]
    sentence = ["<s>", *known, "</s>"]
    return sum(math.log10(backed_off(model, tuple(sentence[:i]), sentence[i])) for i in range(1, len(sentence)))


def perplexity(log10, lines):
    return 10 ** (-sum(map(log10, lines)) / sum(len(line.split()) + 1 for line in lines))


def sentences(number, seed):
    """Sentences of a small grammar: articles, nouns, verbs; some nouns prefer some verbs."""
    draw = random.Random(seed)
    verbs = {
        "cat": ["sleeps", "purrs"],
        "dog": ["barks", "sleeps"],
        "bird": ["sings"],
        "child": ["sings", "sleeps", "laughs"],
    }
    lines = []
    for _ in range(number):
        noun = draw.choice(["cat", "dog", "bird", "child"])
        line = [
            draw.choice(["the", "a"]),
            *draw.choices(["old", "small", "red"], k=draw.choice([0, 0, 1])),
            noun,
            draw.choice(verbs[noun]),
        ]
        lines.append(" ".join(line))
    return lines


# -- the model -------------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.lists(st.sampled_from("ABCDE"), min_size=3, max_size=8).map(" ".join), min_size=1, max_size=30)


def test_an_example_worked_out_by_hand(tmp_path):
    probabilities, weights = model_of(tmp_path, ["A B", "", "A"], order=2)
    # Bigrams: <s> A twice, A B, B </s> and A </s> once: one discount, 3 / (3 + 2 * 1) = 0.6.
    # Preceding tokens: A 1, B 1, </s> 2: one discount, 2 / (2 + 2 * 1) = 0.5. The weight 3 * 0.5 / 4 is shared by A, B,
    # </s>, <unk>.
    share = 0.375 / 4
    once, end = 0.5 / 4 + share, 1.5 / 4 + share
    assert probabilities[0] == pytest.approx(
        {("<unk>",): share, ("<s>",): 1e-99, ("</s>",): end, ("A",): once, ("B",): once}, rel=1e-5
    )
    assert weights[0] == pytest.approx({("<unk>",): 1, ("<s>",): 0.3, ("</s>",): 1, ("A",): 0.6, ("B",): 0.6}, rel=1e-5)
    after_a = {("A", "B"): 0.4 / 2 + 0.6 * once, ("A", "</s>"): 0.4 / 2 + 0.6 * end}
    assert probabilities[1] == pytest.approx(
        {("<s>", "A"): 1.4 / 2 + 0.3 * once, **after_a, ("B", "</s>"): 0.4 + 0.6 * end}, rel=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(lines=TEXTS, order=st.integers(2, 5))
def test_probabilities_sum_to_one_after_every_context(tmp_path_factory, lines, order):
    model = model_of(tmp_path_factory.getbasetemp(), lines, order)
    for context in contexts_of(model):
        assert sum(backed_off(model, context, token) for token in tokens_of(model)) == pytest.approx(1, abs=1e-5), (
            context
        )


@settings(max_examples=40, deadline=None)
@given(lines=TEXTS, order=st.integers(2, 5))
def test_a_direct_implementation_of_the_formula_agrees(tmp_path_factory, lines, order):
    model = model_of(tmp_path_factory.getbasetemp(), lines, order)
    counts, before = Counter(), defaultdict(set)
    for line in lines:
        sentence = ("<s>", *line.split(), "</s>")
        for end in range(1, len(sentence)):
            for start in range(max(0, end - order + 1), end + 1):
                gram = sentence[start : end + 1]
                counts[gram] += 1
                before[gram].add(sentence[start - 1] if start else None)
    for gram in counts:
        if len(gram) < order and gram[0] != "<s>":
            counts[gram] = len(before[gram])
    taken = {n: discounts([count for gram, count in counts.items() if len(gram) == n]) for n in range(1, order + 1)}
    tokens = tokens_of(model)

    def probability(context, token):
        below = probability(context[1:], token) if context else 1 / len(tokens)
        following = [counts[*context, one] for one in tokens if (*context, one) in counts]
        if not following:
            return below
        took = taken[len(context) + 1]
        count = counts.get((*context, token), 0)
        return (count - took[min(count, 3)] + sum(took[min(one, 3)] for one in following) * below) / sum(following)

    for context in contexts_of(model):
        context = context[max(0, len(context) - order + 1) :]
        for token in tokens:
            assert backed_off(model, context, token) == pytest.approx(probability(context, token), rel=1e-4), (
                context,
                token,
            )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            [1] * 10 + [2] * 5 + [3] * 3 + [4] * 2 + [7] * 9 + [0],
            [0, 0.5, 1.1, 5 / 3],
        ),  # 10 / (10 + 2 * 5) = 0.5; 3 - 4 * 0.5 * 2 / 3
        ([1] * 10 + [2] * 5 + [3] * 3, [0, 0.5, 0.5, 0.5]),  # no count of 4
        ([1] * 10 + [2] * 5 + [3] * 9 + [4] * 2, [0, 0.5, 0.5, 0.5]),  # 2 - 3 * 0.5 * 9 / 5 is below 0
        ([1] * 10 + [3], [0, 0.75, 0.75, 0.75]),
        ([28, 25], [0, 0.75, 0.75, 0.75]),  # letters
    ],
)
def test_discounts(counts, expected):
    assert discounts(counts).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("order", [2, 3])
def test_held_out_text_is_more_probable_than_with_unigrams(tmp_path, order):
    train, test = sentences(200, seed=0), sentences(50, seed=1)
    counts = Counter(token for line in train for token in [*line.split(), "</s>"])
    alone = perplexity(
        lambda line: sum(math.log10(counts[token] / counts.total()) for token in [*line.split(), "</s>"]), test
    )
    model = model_of(tmp_path, train, order)
    assert perplexity(lambda line: log10_of(model, line.split()), test) < 0.5 * alone


def test_unknown_words_have_probability_even_without_rare_tokens(tmp_path):
    model = model_of(tmp_path, ["A B C D"] * 100, order=3)
    assert (
        0
        < backed_off(model, ("<s>", "A"), "<unk>")
        < backed_off(model, ("<s>", "A"), "C")
        < backed_off(model, ("<s>", "A"), "B")
    )
    assert all(0 < p <= 1 for order in model[0] for gram, p in order.items() if gram != ("<s>",))


def test_n_grams_do_not_cross_lines(tmp_path):
    probabilities, _ = model_of(tmp_path, ["A B", "C D"], order=2)
    assert set(probabilities[1]) == {("<s>", "A"), ("A", "B"), ("B", "</s>"), ("<s>", "C"), ("C", "D"), ("D", "</s>")}


# -- KenLM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3, 6])
@pytest.mark.parametrize(
    "lines", [sentences(300, seed=0), [letters(line) for line in sentences(100, seed=0)]], ids=["words", "letters"]
)
def test_kenlm_reads_the_same_probabilities(tmp_path, lines, order):
    pytest.importorskip("flashlight.lib.text.decoder", reason="pip install flashlight-text")
    from dinosr_plugin.decoding.search import load_lm

    model = model_of(tmp_path, lines, order)
    words = [token for token in tokens_of(model) if token[0] != "<"]
    lm = load_lm(str(tmp_path / "model.arpa"), words)  # with all of them known
    number = {
        word: i for i, word in enumerate([*words, "\u00e9"])
    }  # the last one is what load_lm adds for unknown words
    for seen in ([], lines[0].split(), words, [words[0], "\u00e9", words[1]], ["\u00e9"] * 3, words[::-1]):
        state, total = lm.start(False), 0.0
        for word in seen:
            state, score = lm.score(state, number[word])
            total += score
        assert total + lm.finish(state)[1] == pytest.approx(log10_of(model, seen), abs=1e-4)


@pytest.mark.parametrize("order", [ngram.MIN_ORDER - 1, ngram.MAX_ORDER + 1])
def test_kenlm_does_not_read_the_orders_that_are_rejected(tmp_path, order, monkeypatch):
    pytest.importorskip("flashlight.lib.text.decoder", reason="pip install flashlight-text")
    from dinosr_plugin.decoding.search import load_lm

    monkeypatch.setattr(ngram, "MIN_ORDER", 1)
    monkeypatch.setattr(ngram, "MAX_ORDER", 9)
    model_of(tmp_path, ["A B C D E F"], order)
    with pytest.raises(UserError, match="at least a bigram|max-kenlm-order|max_order"):
        load_lm(str(tmp_path / "model.arpa"), ["A", "B"])


# -- files and errors ------------------------------------------------------------------------------------------------


def test_summary(tmp_path):
    text, out = tmp_path / "train.wrd", tmp_path / "new" / "folder" / "words.arpa"
    text.write_text("A B\n\nA\n")
    assert make_ngram(text, 2, out) == f"{out}: 2-gram model of 2 lines with 3 tokens; 5 1-grams, 4 2-grams"
    first = out.read_bytes()
    make_ngram(text, 2, out)
    assert out.read_bytes() == first and [path.name for path in out.parent.iterdir()] == ["words.arpa"]


@pytest.mark.parametrize(
    ("content", "order", "message"),
    [
        (None, 3, r"text.wrd: no such file; give transcripts"),
        (b"", 3, "text.wrd: contains no tokens; give transcripts"),
        (b" \n\n", 3, "text.wrd: contains no tokens; give transcripts"),
        (b"A\nCAF\xc9\n", 3, "text.wrd: not UTF-8 text; save it as UTF-8, or give transcripts"),
        (
            "A B\n".encode("utf-16-le"),
            3,
            "text.wrd line 1: contains a null character, not UTF-8 text; give transcripts",
        ),
        (
            b"A B\n<s> A </s>\n",
            3,
            "text.wrd, line 2: contains <s>, which is a special token of the language model; remove it",
        ),
        (b"A </s>\n", 3, "text.wrd, line 1: contains </s>"),
        (b"A <UNK>\n", 3, "text.wrd, line 1: contains <UNK>"),
        (b"A B C\n", 0, "--order 0: KenLM supports orders 2 to 6"),
        (b"A B C\n", 1, "--order 1: KenLM supports orders 2 to 6"),
        (b"A B C\n", 7, "--order 7: KenLM supports orders 2 to 6"),
        (
            b"A\nA B\n",
            5,
            "--order 5: no line of .*text.wrd is long enough; "
            "the longest has 4 tokens including <s> and </s>; give --order 4",
        ),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(tmp_path, content, order, message):
    text, out = tmp_path / "text.wrd", tmp_path / "out"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        make_ngram(text, order, out / "model.arpa")
    assert "\n" not in str(error.value) and not out.exists()


def test_outputs_that_cannot_be_written(tmp_path):
    text = tmp_path / "text.wrd"
    text.write_text("A B\n")
    with pytest.raises(UserError, match="cannot write into .*text.wrd is not a folder"):
        make_ngram(text, 2, text / "model.arpa")
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        make_ngram(text, 2, tmp_path)
    with pytest.raises(UserError, match="would overwrite the text"):
        make_ngram(text, 2, tmp_path / "." / "text.wrd")
    assert text.read_text() == "A B\n" and list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize(
    ("failure", "seen"), [(OSError(28, "No space left on device"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, failure, seen):
    text, out = tmp_path / "text.wrd", tmp_path / "model.arpa"
    text.write_text("A B\n")
    out.write_text("an older model\n")

    def stops(*_):
        yield "\\data\\"
        raise failure

    monkeypatch.setattr(ngram, "arpa_lines", stops)
    with pytest.raises(seen):
        make_ngram(text, 2, out)
    assert out.read_text() == "an older model\n" and set(tmp_path.iterdir()) == {text, out}

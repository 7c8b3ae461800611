"""A bigram model that is small enough to check by hand."""

ARPA = """\
\\data\\
ngram 1={unigrams}
ngram 2=1

\\1-grams:
-3.0\t<unk>\t0
0\t<s>\t0
-1.0\t</s>\t0
{entries}

\\2-grams:
-0.1\t<s> {favourite}

\\end\\
"""


def write_arpa(path, words, favourite):
    """Writes a bigram model and returns its path.

    Its log10 probabilities: -2 for a word, -0.1 for ``favourite`` at the start, -1 for the end, -3 for unknown words.
    """
    entries = "\n".join(f"-2.0\t{word}\t0" for word in words)
    path.write_text(ARPA.format(unigrams=3 + len(words), entries=entries, favourite=favourite))
    return str(path)

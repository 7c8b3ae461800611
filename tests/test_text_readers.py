"""Every reader of a text file reads the same encodings, and refuses other files in one line that names them."""

import os
from pathlib import Path

import numpy as np
import pytest
from fairseq.data import Dictionary
from fairseq.tasks import audio_finetuning

from dinosr_plugin import compat  # noqa: F401  (changes fairseq's Dictionary)
from dinosr_plugin.data.labels import read_labels
from dinosr_plugin.data.manifest import read_dictionary, read_rows
from dinosr_plugin.data.perturbation.f0 import read_table
from dinosr_plugin.data.text_normalization import read_normalization
from dinosr_plugin.data.text_replacements import read_replacements
from dinosr_plugin.data.validation import validate_labels
from dinosr_plugin.decoding.arpa import read_vocabulary, unigrams
from dinosr_plugin.decoding.lexicon import read_lexicon
from dinosr_plugin.decoding.ngram import read_tokens
from dinosr_plugin.decoding.results import read_generate_output
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.alignment_files import HEADER as PHONE_HEADER
from dinosr_plugin.evaluation.measures.abx.items import HEADER as ITEM_HEADER
from dinosr_plugin.evaluation.measures.abx.items import read_items
from dinosr_plugin.evaluation.phones import PhoneAlignment
from dinosr_plugin.evaluation.speakers import scores as speaker_scores
from dinosr_plugin.evaluation.speakers.trials import read_trials
from dinosr_plugin.evaluation.zerospeech.pairs import read_gold, read_scores
from dinosr_plugin.evaluation.zerospeech.semantic import read_features
from dinosr_plugin.files import read_json
from dinosr_plugin.interop.cpc_audio import read_args
from dinosr_plugin.interop.spidr import read_options
from dinosr_plugin.units.store import read_index
from dinosr_plugin.units.unit_files import read_info, read_labelled_units, read_units


def letters() -> Dictionary:
    dictionary = Dictionary()
    for symbol in "ÄB|":
        dictionary.add_symbol(symbol)
    return dictionary


def dictionary_of_fairseq(path: Path) -> list[str]:
    return Dictionary.load(str(path)).symbols


def labels_of_fairseq(path: Path) -> list[str]:
    with compat.label_files_as_text(), audio_finetuning.open(str(path), "r") as file:
        return list(file)


def labels_in_dictionary(path: Path) -> None:
    path.with_name("dict.ltr.txt").write_text("Ä 1\nB 1\n| 2\n", encoding="utf-8")
    validate_labels(path.with_name("x.tsv"), "ltr", 2)


def frame_labels(path: Path) -> list[int]:
    return read_labels(path, 12, [640, 320], 50).values.tolist()


def alignment(path: Path) -> tuple:
    one = PhoneAlignment.read(path)
    return one.names, {utt: starts.tolist() for utt, (starts, _) in one.segments.items()}


def lists(units: dict) -> dict:
    return {utt: ids.tolist() for utt, ids in units.items()}


ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\t</s>\n-0.5\tÄ\n\n\\end\\\n"
READERS = {
    "manifest": ("x.tsv", "/data\nÄ/a.wav\t16000\n", lambda path: list(read_rows(path))),
    "replacements": ("replace.txt", "Ä\tB\n", lambda path: read_replacements(path, "NFC")),
    "rules of transcripts": ("text_normalization.json", '{"letters": "Ä"}', read_normalization),
    "dictionary": ("dict.ltr.txt", "Ä 3\nB 2\n", read_dictionary),
    "fairseq's dictionary": ("dict.ltr.txt", "Ä 3\nB 2\n", dictionary_of_fairseq),
    "fairseq's labels": ("x.ltr", "Ä B |\nB |\n", labels_of_fairseq),
    "letters": ("x.ltr", "Ä B |\nB |\n", labels_in_dictionary),
    "frame labels": ("x.km", "1 11\n3\n", frame_labels),
    "phones": ("x.phones.tsv", f"{PHONE_HEADER}\nä\t0\t0.5\tÄ\n", alignment),
    "items": ("x.item", f"{ITEM_HEADER}\nä 0 0.5 Ä B C s\n", read_items),
    "units": ("x.units", "ä\t1 2 3\n", lambda path: lists(read_units(path))),
    "units, names or not": ("x.units", "ä\t1 2 3\n", lambda path: lists(read_labelled_units(path, None))),
    "ranges of F0": ("x.tsv", "Ä\t75\t300\n", read_table),
    "unit info": (
        "x.units.json",
        '{"rate": 50.0, "first_centre": 0.0125}',
        lambda path: read_info(path.with_suffix("")),
    ),
    "features": ("x.tsv", "ä\t5\n", read_index),
    "trials": ("x.txt", "1 ä.wav Ä.wav\n", read_trials),
    "scores of trials": ("x.txt", "1 ä.wav Ä.wav 0.5\n", lambda path: speaker_scores.read_scores(path).trials),
    "lexicon": ("x.txt", "ÄB Ä B |\n", lambda path: read_lexicon(path, letters())),
    "words as a lexicon": ("x.wrd", "ÄB B\n", lambda path: read_lexicon(path, letters())),
    "text of n-grams": ("x.wrd", "Ä B\n", lambda path: (read_tokens(path)[0], read_tokens(path)[1].tolist())),
    "n-grams": ("x.arpa", ARPA, unigrams),
    "results": ("generate.txt", "T-0\tÄ\nD-0\t-1.5\tÄ\n", read_generate_output),
    "gold": ("gold.csv", "filename,word\nä,Ä\n", lambda path: read_gold(path, ("filename", "word"))),
    "scores": ("dev.txt", "ä -1.5\n", read_scores),
    "features as text": ("x.txt", "1 2\n3 4\n", lambda path: read_features(path).tolist()),
    "JSON": ("x.json", '{"a": "Ä"}', lambda path: read_json(path, "remove it")),
    "options of CPC_audio": ("checkpoint_args.json", '{"a": "Ä"}', lambda path: read_args(path.with_name("x.pt"))),
    "options of SpidR": ("config.json", '{"a": "Ä"}', lambda path: read_options(path.with_name("x.pt"))),
}


@pytest.fixture(params=READERS)
def reader(request, tmp_path):
    name, text, read = READERS[request.param]
    return tmp_path / name, text, read


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark"])
def test_a_byte_order_mark_changes_nothing(reader, encoding):
    path, text, read = reader
    path.write_text(text, encoding="utf-8")
    expected = read(path)
    codec = encoding.removesuffix(" with mark")
    path.write_bytes(("\ufeff" * (codec != encoding) + text).encode(codec))
    assert read(path) == expected


@pytest.mark.parametrize("end", [b"\xff\xfe", "Ö".encode("latin-1"), b"\0"])
def test_other_encodings_are_refused(reader, end):
    path, text, read = reader
    path.write_bytes(text.rstrip().encode() + end + b"\n")
    with pytest.raises(UserError, match="UTF-8") as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_utf_16_without_a_mark_is_refused(reader):
    path, text, read = reader
    for codec in ("utf-16-le", "utf-16-be"):
        path.write_bytes(text.encode(codec))
        with pytest.raises(UserError, match="null character|not UTF-8"):
            read(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_and_a_folder_are_refused_at_once(reader, make):
    path, _, read = reader
    make(path)
    if path.name.endswith(".json") or read is dictionary_of_fairseq:
        pytest.skip("a file that need not exist, or is looked for before")
    with pytest.raises(UserError, match="is a (pipe|folder)|contains no .TextGrid"):  # which may be in a folder
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_in_an_n_gram_model_is_refused_because_kenlm_reads_the_file_itself(encoding, tmp_path):
    (tmp_path / "x.arpa").write_text(ARPA, encoding=encoding)
    with pytest.raises(UserError, match="--lm .*x.arpa: UTF-16, or has a byte order mark"):
        read_vocabulary(tmp_path / "x.arpa")
    (tmp_path / "x.arpa").write_text(ARPA, encoding="utf-8")
    assert read_vocabulary(tmp_path / "x.arpa") == {"<unk>", "<s>", "</s>", "Ä"}


def test_transcripts_with_a_mark(tmp_path):
    from dinosr_plugin.data.corpora.librispeech import read_transcripts
    from dinosr_plugin.data.corpora.transcripts import read_words

    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a.trans.txt").write_text("a-1 ÄB C\n", encoding=encoding)
        (tmp_path / "a.txt").write_text("ÄB \n C", encoding=encoding)
        problems: list[str] = []
        assert read_transcripts(tmp_path, "a.trans.txt", problems) == {"a-1": "ÄB C"} and not problems
        assert read_words(tmp_path, ["a.wav"], problems)[0] == {"a.wav": "ÄB C"} and not problems
    (tmp_path / "a.trans.txt").write_bytes("a-1 ÄB".encode("utf-16-le"))
    (tmp_path / "a.txt").write_bytes("ÄB".encode("utf-16-le"))
    read_transcripts(tmp_path, "a.trans.txt", problems)
    read_words(tmp_path, ["a.wav"], problems)
    assert len(problems) == 2 and all("UTF-8" in problem or "null" in problem for problem in problems)
    assert np.all([str(tmp_path) in problem for problem in problems])

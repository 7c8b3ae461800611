"""sWUGGY, sBLIMP and sSIMI of small submissions, computed by hand; and messages about invalid ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin import cli
from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.zerospeech.pairs import FREQUENCY_BANDS, frequency_band, lexical, read_scores, syntactic
from dinosr_plugin.evaluation.zerospeech.semantic import semantic
from dinosr_plugin.evaluation.zerospeech.submission import report

LEXICAL = """id,filename,voice,frequency,word,phones,length,correct
1,w1a,A,3,cat,K AE T,3,1
1,n1a,A,,kit,K IH T,3,0
1,w1b,B,3,cat,K AE T,3,1
1,n1b,B,,kit,K IH T,3,0
2,w2a,A,0,garden,G AA R D AH N,6,1
2,n2a,A,,garten,G AA R T AH N,6,0
3,w3a,A,20,house,HH AW S,3,1
3,n3a,A,,houth,HH AW TH,3,0
3,w3b,B,20,house,HH AW S,3,1
3,n3b,B,,houth,HH AW TH,3,0
"""
LEXICAL_SCORES = {
    "w1a": -1,
    "n1a": -2,
    "w1b": -5.5,
    "n1b": -5.5,
    "w2a": -9,
    "n2a": -8,
    "w3a": -1,
    "n3a": -7,
    "w3b": -1,
    "n3b": -3,
}

SYNTACTIC = """id,filename,voice,type,subtype,transcription,correct
1,s1,A,agreement,there,there was a dog,1
1,t1,A,agreement,there,there were a dog,0
1,s2,A,agreement,count,two dogs ran,1
1,t2,A,agreement,count,two dog ran,0
1,s3,A,order,noun,the red dog,1
1,s3b,B,order,noun,the red dog,1
1,t3,A,order,noun,the dog red,0
1,t3b,B,order,noun,the dog red,0
"""
SYNTACTIC_SCORES = {"s1": -3, "t1": -4, "s2": -4, "t2": -3, "s3": -1, "t3": -2, "s3b": -2, "t3b": -1}

SEMANTIC = """type,filename,word,voice
librispeech,l1,cat,x
librispeech,l2,cat,y
librispeech,l3,dog,x
librispeech,l4,stone,z
synthetic,s1,cat,A
synthetic,s2,cat,B
synthetic,s3,dog,A
synthetic,s4,dog,B
synthetic,s5,stone,B
"""
PAIRS = """type,dataset,word_1,word_2,similarity,relatedness
librispeech,one,cat,dog,9,
librispeech,one,cat,stone,1,
librispeech,one,dog,stone,2,
synthetic,one,cat,dog,,8
synthetic,one,cat,stone,,1
synthetic,two,cat,dog,5,5
synthetic,two,dog,stone,4,5
synthetic,two,cat,stone,6,5
"""
ANGLES = {"l1": 0, "l2": 20, "l3": 40, "l4": 100, "s1": 0, "s2": 60, "s3": 10, "s4": 70, "s5": 40}  # degrees


def write_dataset(folder: Path, name: str, text: str, file: str = "gold.csv") -> Path:
    place = folder / "dataset" / name / "dev"
    place.mkdir(parents=True, exist_ok=True)
    (place / file).write_text(text)
    return place / file


def write_scores(folder: Path, name: str, scores: dict) -> Path:
    place = folder / "submission" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "dev.txt").write_text("".join(f"{file} {score}\n" for file, score in scores.items()))
    return place / "dev.txt"


def frames(degrees: float, pooling: str = "min") -> np.ndarray:
    """(3, 2) features whose pooled vector has this direction."""
    vector = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])
    more = {"min": [1, 2], "max": [-1, -2], "mean": [1, -1]}[pooling]
    return np.stack([vector, *(vector + step for step in more)])


def write_features(folder: Path, pooling: str = "min") -> Path:
    place = folder / "submission/semantic/dev"
    for name, degrees in ANGLES.items():
        kind = place / ("librispeech" if name[0] == "l" else "synthetic")
        kind.mkdir(parents=True, exist_ok=True)
        if name in ("l2", "s4"):
            np.savetxt(kind / f"{name}.txt", frames(degrees, pooling))
        else:
            np.save(kind / f"{name}.npy", frames(degrees, pooling))
    return place


# ---- sWUGGY, sBLIMP --------------------------------------------------------------------------------------------------


def test_lexical(tmp_path):
    """Pair 1: (1 + 1/2) / 2 voices; pair 2: 0, one voice; pair 3: 1."""
    found = lexical(write_dataset(tmp_path, "lexical", LEXICAL), write_scores(tmp_path, "lexical", LEXICAL_SCORES))
    assert found["pairs"] == 3 and found["score"] == pytest.approx(100 * (0.75 + 0 + 1) / 3)
    assert found["by_frequency"] == [
        {"group": "oov", "pairs": 1, "score": 0.0},
        {"group": "1-5", "pairs": 1, "score": 75.0},
        {"group": "21-100", "pairs": 1, "score": 100.0},
    ]
    assert found["by_length"] == [{"group": "3", "pairs": 2, "score": 87.5}, {"group": "6", "pairs": 1, "score": 0.0}]


@pytest.mark.parametrize(
    "frequency, band",
    [
        ("0", "oov"),
        ("0.5", "oov"),
        ("1", "1-5"),
        ("4", "1-5"),
        ("5", "6-20"),
        ("20", "21-100"),
        ("99", "21-100"),
        ("100", ">100"),
        ("", None),
    ],
)
def test_the_edge_of_a_band_belongs_to_the_band_above(frequency, band):
    """As in the benchmark's scorer: pandas.cut([0, 1, 5, 20, 100, inf], right=False)."""
    assert frequency_band(frequency, Path("gold.csv")) == band


def test_syntactic(tmp_path):
    """The same id in two subtypes means two pairs; rows are paired by voice, whatever their order."""
    found = syntactic(
        write_dataset(tmp_path, "syntactic", SYNTACTIC), write_scores(tmp_path, "syntactic", SYNTACTIC_SCORES)
    )
    assert found["pairs"] == 3 and found["score"] == pytest.approx(50)
    assert found["by_type"] == [
        {"group": "agreement", "pairs": 2, "score": 50.0},
        {"group": "order", "pairs": 1, "score": 50.0},
    ]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=3), min_size=1, max_size=6
    ),
    st.randoms(use_true_random=False),
)
def test_any_pairs_in_any_order(tmp_path_factory, pairs, random):
    folder = tmp_path_factory.mktemp("pairs")
    rows, scores = [], {}
    for number, voices in enumerate(pairs):
        for voice, (right, wrong) in enumerate(voices):
            for correct, score in ((1, right), (0, wrong)):
                scores[f"f{number}_{voice}_{correct}"] = score
                rows.append(f"{number},f{number}_{voice}_{correct},{voice},7,3,{correct}")
    random.shuffle(rows)
    gold = write_dataset(folder, "lexical", "\n".join(["id,filename,voice,frequency,length,correct", *rows]) + "\n")
    found = lexical(gold, write_scores(folder, "lexical", scores))
    expected = np.mean([np.mean([(np.sign(right - wrong) + 1) / 2 for right, wrong in voices]) for voices in pairs])
    assert found["score"] == pytest.approx(100 * expected) and found["by_frequency"][0]["pairs"] == len(pairs)


# ---- sSIMI -----------------------------------------------------------------------------------------------------------


def cosine(*degrees: float) -> float:
    return float(np.mean(1 - np.cos(np.deg2rad(degrees))))


@pytest.mark.parametrize("pooling", ["min", "max", "mean"])
def test_semantic(tmp_path, pooling):
    """librispeech, all files: cat-dog 40, 20; cat-stone 100, 80; dog-stone 60 degrees. synthetic, same voice: cat-dog
    10, 10; cat-stone 20; dog-stone 30.
    """
    gold = write_dataset(tmp_path, "semantic", SEMANTIC).parent
    write_dataset(tmp_path, "semantic", PAIRS, "pairs.csv")
    found = semantic(gold, write_features(tmp_path, pooling), pooling)
    assert cosine(40, 20) < cosine(60) < cosine(100, 80)  # human judgements 9, 2, 1: the same order
    assert [(row["type"], row["dataset"], row["pairs"]) for row in found["correlations"]] == [
        ("librispeech", "one", 3),
        ("synthetic", "one", 2),
        ("synthetic", "two", 3),
    ]
    libri, one, two = (row["correlation"] for row in found["correlations"])
    assert libri == pytest.approx(100) and one == pytest.approx(100)
    assert two is None  # relatedness is complete, but always 5
    assert found["mean"] == {"librispeech": pytest.approx(100), "synthetic": pytest.approx(100)}


def test_semantic_means(tmp_path):
    """Two datasets of 3 and 2 pairs with correlations -100 (of similarity, as relatedness is incomplete) and 100."""
    gold = write_dataset(tmp_path, "semantic", SEMANTIC).parent
    pairs = (
        PAIRS.replace("synthetic,two,cat,dog,5,5", "synthetic,two,cat,dog,1,")
        .replace("dog,stone,4,5", "dog,stone,9,5")
        .replace("cat,stone,6,5", "cat,stone,4,5")
    )
    write_dataset(tmp_path, "semantic", pairs, "pairs.csv")
    found = semantic(gold, write_features(tmp_path), "min")
    assert [row["correlation"] for row in found["correlations"]] == pytest.approx([100, 100, -100])
    assert found["mean"]["synthetic"] == pytest.approx(0) and found["weighted_mean"]["synthetic"] == pytest.approx(
        (2 * 100 - 3 * 100) / 5
    )


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def everything(tmp_path) -> Path:
    write_dataset(tmp_path, "lexical", LEXICAL)
    write_scores(tmp_path, "lexical", LEXICAL_SCORES)
    write_dataset(tmp_path, "syntactic", SYNTACTIC)
    write_scores(tmp_path, "syntactic", SYNTACTIC_SCORES)
    write_dataset(tmp_path, "semantic", SEMANTIC)
    write_dataset(tmp_path, "semantic", PAIRS, "pairs.csv")
    write_features(tmp_path)
    return tmp_path


def test_the_command_line(everything, capsys):
    out = everything / "figures.json"
    arguments = ["zerospeech", str(everything / "dataset"), str(everything / "submission"), "--out", str(out)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert printed == f"{report(figures)}\n{out}\n"
    assert list(figures) == ["lexical", "syntactic", "semantic"] and figures["syntactic"]["score"] == 50
    assert [line.split()[-2:] for line in printed.splitlines() if line.startswith("all")] == [
        ["3", "58.33"],
        ["3", "58.33"],
        ["3", "50.00"],
    ]


def test_a_submission_may_be_partial(everything, capsys):
    for name in ("lexical/dev.txt", "syntactic/dev.txt"):
        (everything / "submission" / name).unlink()
    assert cli.main(["zerospeech", str(everything / "dataset"), str(everything / "submission")]) == 0
    printed = capsys.readouterr().out
    assert "sWUGGY" not in printed and "sBLIMP" not in printed and "sSIMI" in printed


def test_bad_input(everything, capsys):
    def error() -> str:
        assert (
            cli.main(
                [
                    "zerospeech",
                    str(everything / "dataset"),
                    str(everything / "submission"),
                    "--out",
                    str(everything / "out.json"),
                ]
            )
            == 1
        )
        assert not (everything / "out.json").exists()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    features = everything / "submission/semantic/dev/synthetic"
    np.save(features / "s1.npy", np.zeros((2, 2)))
    assert "only zeros" in error()
    np.save(features / "s1.npy", np.ones((2, 3)))
    assert "s1.npy: has 3 columns, but another file has 2" in error()
    np.save(features / "s1.npy", np.ones(3))
    assert "s1.npy: contains float64 of shape (3,) instead of numbers of shape (frames, D)" in error()
    np.save(features / "s1.npy", np.array([["a", "b"]]))
    assert "s1.npy: contains <U1 of shape (1, 2) instead of numbers of shape (frames, D)" in error()
    np.savetxt(features / "s1.txt", frames(0))
    assert "contains the same utterance; remove one of them" in error()
    (features / "s1.txt").unlink()
    (features / "s1.npy").write_bytes(b"nothing")
    assert "s1.npy: cannot be read as an array" in error()
    (features / "s1.npy").unlink()
    assert "synthetic: lacks 1 file(s) that" in error()
    write_dataset(everything, "semantic", "type,dataset\nsynthetic,one\n", "pairs.csv")
    np.save(features / "s1.npy", frames(0))
    assert "pairs.csv: its header lacks the column(s) word_1, word_2, similarity, relatedness" in error()
    for wrong in ("high", "nan"):
        write_dataset(everything, "semantic", PAIRS.replace("cat,dog,9,", f"cat,dog,{wrong},"), "pairs.csv")
        assert "pairs.csv: similarity of one (librispeech) is not always a number" in error()
    write_dataset(everything, "semantic", PAIRS + "synthetic,two,cat,mouse,6,5\n", "pairs.csv")
    assert "cat or mouse (synthetic) is missing in gold.csv" in error()

    write_scores(everything, "syntactic", {**SYNTACTIC_SCORES, "more": 1})
    assert "gold.csv: lacks 1 file(s) that" in error() and "(more)" in error()
    write_scores(everything, "lexical", {"w1a": 1})
    assert "dev.txt: lacks 9 file(s) that" in error() and "(n1a, n1b, n2a, n3a, n3b, ...)" in error()
    write_scores(everything, "lexical", {**LEXICAL_SCORES, "w1a": "nan"})
    assert "dev.txt line 1: not `filename score`" in error()
    write_scores(everything, "lexical", LEXICAL_SCORES)
    write_dataset(everything, "lexical", LEXICAL.replace("1,n1b,B,,kit,K IH T,3,0\n", ""))
    write_scores(everything, "lexical", {name: score for name, score in LEXICAL_SCORES.items() if name != "n1b"})
    assert "gold.csv: 1 in voice B: 1 correct, 0 incorrect rows" in error()
    write_dataset(everything, "lexical", LEXICAL + "4,w4\n")
    assert "gold.csv row 12: its number of fields differs" in error()
    write_dataset(everything, "lexical", "")
    assert "gold.csv: its header lacks the column(s) id, filename" in error()
    (everything / "dataset/lexical/dev/gold.csv").unlink()
    assert "gold.csv: no such file" in error()


def test_an_empty_submission(tmp_path):
    assert cli.main(["zerospeech", str(tmp_path), str(tmp_path)]) == 1


def test_a_duplicate_file_name(tmp_path):
    (tmp_path / "dev.txt").write_text("a -1\nb -2\na -1\n")
    with pytest.raises(UserError, match="line 3: duplicate file name a"):
        read_scores(tmp_path / "dev.txt")


def test_bands_cover_every_frequency():
    assert [edge for _, edge in FREQUENCY_BANDS] == sorted(edge for _, edge in FREQUENCY_BANDS) and FREQUENCY_BANDS[-1][
        1
    ] == float("inf")

"""Word and character error rates from what ``fairseq-generate`` wrote."""

import re
from pathlib import Path
from typing import Dict, Sequence, Tuple, Union

import editdistance

from ..errors import UserError

LINE = re.compile(r"([TD])-(\d+)\t(.*)")


def score_generate_output(path: Union[str, Path]) -> Dict[str, float]:
    """Score the output of ``fairseq-generate ... --post-process letter`` (what it printed, or its ``--results-path`` file).

    Error rates are those of the whole set: edit operations over all utterances, divided by the length of all references,
    times 100. ``wer`` counts words; ``cer`` counts characters, with each space between words as one character.
    Nothing is normalised (no change of case, punctuation stays).

    Args:
        path: the file; lines that are neither a reference (``T-``) nor a hypothesis (``D-``) are passed over.

    Returns:
        ``{"wer": float, "cer": float, "utterances": int, "words": int}`` (words of the references).

    Raises:
        UserError: no file, no results in it, a hypothesis without its reference (or the reverse), or empty references.
    """
    references, hypotheses = read_generate_output(path)
    pairs = [(references[utterance].split(), hypotheses[utterance].split()) for utterance in references]
    words = sum(len(reference) for reference, _ in pairs)
    if words == 0:
        raise UserError(f"{path}: all references are empty; was the right --gen-subset decoded?")
    return {
        "wer": error_rate(pairs),
        "cer": error_rate([(" ".join(reference), " ".join(hypothesis)) for reference, hypothesis in pairs]),
        "utterances": len(pairs),
        "words": words,
    }


def read_generate_output(path: Union[str, Path]) -> Tuple[Dict[int, str], Dict[int, str]]:
    """References and best hypotheses of a ``fairseq-generate`` output, by sample id; raises as ``score_generate_output``."""
    texts: Dict[str, Dict[int, str]] = {"T": {}, "D": {}}
    for kind, utterance, text in _result_lines(Path(path)):
        if kind == "D":
            text = text.partition("\t")[2]  # "score<TAB>text"
        texts[kind].setdefault(int(utterance), text)  # the first hypothesis is the best one
    references, hypotheses = texts["T"], texts["D"]
    if not references and not hypotheses:
        raise UserError(f"{path}: no T- and D- lines; is it the output of fairseq-generate, run without --quiet?")
    unpaired = sorted(references.keys() ^ hypotheses.keys())
    if unpaired:
        raise UserError(f"{path}: utterance {unpaired[0]} lacks its T- or D- line; is the file complete?")
    return references, hypotheses


def error_rate(pairs: Sequence[Tuple[Sequence, Sequence]]) -> float:
    """Edit operations in percent of the references' length, over all (reference, hypothesis) pairs; 0 references -> ZeroDivisionError."""
    errors = sum(editdistance.eval(reference, hypothesis) for reference, hypothesis in pairs)
    return 100.0 * errors / sum(len(reference) for reference, _ in pairs)


def _result_lines(path: Path):
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the file that fairseq-generate wrote (RESULTS_PATH/generate-SUBSET.txt)")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            match = LINE.fullmatch(line.rstrip("\n"))
            if match:
                yield match.groups()

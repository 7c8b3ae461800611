"""Word pieces instead of letters: `dinosr manifest ... --bpe N` trains sentencepiece on the training transcripts.

bpe.model        the model file of sentencepiece
dict.bpe.txt     ``piece count``, in the model's order, so that manifests made with one model share a dictionary
train.bpe        one line per row: pieces separated by spaces, ``\u2581`` begins a word: ``\u2581HE LLO \u2581WORLD``
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from .manifest import Split
from .piece_model import PieceKind, import_sentencepiece, load, ordinary_pieces, read_model, train

WORD_START = "\u2581"
MODEL = "bpe.model"
WORDS = PieceKind(
    option="--bpe",
    text="the training transcripts",
    symbols="characters",
    advice=f"give a number of pieces, or the {MODEL} of an earlier --bpe",
)


def require_possible(bpe: int | Path) -> None:
    """Raises UserError, before audio is read for an hour, if the package or the model is missing."""
    import_sentencepiece(WORDS)
    if isinstance(bpe, Path):
        load(WORDS, read_model(WORDS, bpe), bpe)


def bpe_files(
    splits: list[Split], counted: Collection[str], bpe: int | Path
) -> tuple[dict[str, bytes | list[str]], list[str]]:
    """(name -> content, notes): the model, the dictionary, and the labels of every split with words.

    Args:
        splits: those without words are left out.
        counted: names of the splits that a new model is trained on and the dictionary counts.
        bpe: number of pieces of a new model (and of the dictionary), or the file of an existing model.

    Raises:
        UserError: no split has words, they contain sentencepiece's word marker, or the text does not allow that many
            pieces.
    """
    if not any(split.has_words for split in splits):
        what = f"{splits[0].utterances[0].path} has no transcript, which word pieces require"
        raise UserError(f"--bpe {bpe}: {what}; add transcripts, or omit --bpe")
    splits = [split for split in splits if split.has_words]
    for split in splits:
        for utterance in split.utterances:
            if WORD_START in utterance.words:
                what = f"{WORD_START!r} in its transcript, which marks the start of a word in .bpe files"
                raise UserError(f"--bpe {bpe}: {utterance.path} has {what}; remove it")
    if isinstance(bpe, Path):
        model, source = read_model(WORDS, bpe), bpe
    else:
        texts = [u.words for split in splits if split.name in counted for u in split.utterances]
        model, source = train(WORDS, texts, bpe), Path(MODEL)
    processor = load(WORDS, model, source)
    labels = {split.name: [" ".join(pieces_of(processor, u.words)) for u in split.utterances] for split in splits}
    counts, notes = piece_dictionary(processor, labels, counted)
    files: dict[str, bytes | list[str]] = {f"{name}.bpe": lines for name, lines in labels.items()}
    files["dict.bpe.txt"] = [f"{piece} {count}" for piece, count in counts.items()]
    files[MODEL] = model
    return files, notes


def pieces_of(processor: Any, words: str) -> Iterator[str]:
    """The pieces of a transcript. Unknown text is split into characters; sentencepiece would make one piece of it."""
    for piece in processor.encode(words, out_type=str):
        if processor.is_unknown(processor.piece_to_id(piece)):
            yield from piece
        else:
            yield piece


def words_of_pieces(line: str) -> str:
    """Converts pieces to words, as fairseq's ``--post-process sentencepiece`` does."""
    return " ".join("".join(line.split()).replace(WORD_START, " ").split())


def piece_dictionary(
    processor: Any, labels: dict[str, list[str]], counted: Collection[str]
) -> tuple[dict[str, int], list[str]]:
    """(piece -> count, notes), in the model's order; characters unknown to the model come last, each with a note."""
    counts = {name: Counter(piece for line in lines for piece in line.split()) for name, lines in labels.items()}
    train_counts = sum((counts[name] for name in counted), Counter())
    pieces = {piece: train_counts[piece] for piece in ordinary_pieces(processor)}
    notes = []
    for name in labels:
        for symbol in sorted(counts[name].keys() - pieces.keys()):
            pieces[symbol] = train_counts[symbol]
            notes.append(f"{symbol!r} occurs in {name} but is not a piece of {MODEL}; it is added to dict.bpe.txt")
    return pieces, notes

"""Pieces of words instead of letters: `dinosr manifest ... --bpe N` trains sentencepiece on the training transcripts.

bpe.model        sentencepiece's own file
dict.bpe.txt     ``piece count``, the pieces in the model's order, so that two manifests made with one model have one dictionary
train.bpe        one line a row: pieces separated by spaces, ``\u2581`` begins a word: ``\u2581HE LLO \u2581WORLD``
"""

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from .manifest import Split

WORD_START = "\u2581"
MODEL = "bpe.model"


def import_sentencepiece() -> Any:
    """Only who wants pieces needs the package."""
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError("--bpe needs sentencepiece, which is not installed: pip install sentencepiece") from error
    return sentencepiece


def require_possible(bpe: int | Path) -> None:
    """Raise UserError now rather than after an hour of reading audio, where the package or the model is not there."""
    import_sentencepiece()
    if isinstance(bpe, Path):
        load(read_model(bpe), bpe)


def bpe_files(
    splits: list[Split], counted: Collection[str], bpe: int | Path
) -> tuple[dict[str, bytes | list[str]], list[str]]:
    """(name -> content, notes): the model, the dictionary, and the labels of every split.

    ``counted``: names of the splits that a new model learns from and the dictionary's counts come from.
    ``bpe``: number of pieces of a new model (and of the dictionary), or the file of a model made before.
    Raises UserError where words are missing or hold sentencepiece's own sign, and for a number that the text does not allow.
    """
    for split in splits:
        for utterance in split.utterances:
            if utterance.words is None:
                raise UserError(
                    f"--bpe {bpe}: {utterance.path} has no transcript, and pieces are made of words; leave --bpe out, or add transcripts"
                )
            if WORD_START in utterance.words:
                what = f"{WORD_START!r} in its transcript: that sign begins a word in .bpe files"
                raise UserError(f"--bpe {bpe}: {utterance.path} has {what}; take it out")
    if isinstance(bpe, Path):
        model, source = read_model(bpe), bpe
    else:
        model, source = (
            train([u.words for split in splits if split.name in counted for u in split.utterances], bpe),
            Path(MODEL),
        )
    processor = load(model, source)
    labels = {split.name: [" ".join(pieces_of(processor, u.words)) for u in split.utterances] for split in splits}
    counts, notes = piece_dictionary(processor, labels, counted)
    files: dict[str, bytes | list[str]] = {f"{name}.bpe": lines for name, lines in labels.items()}
    files["dict.bpe.txt"] = [f"{piece} {count}" for piece, count in counts.items()]
    files[MODEL] = model
    return files, notes


def train(texts: list[str], pieces: int) -> bytes:
    """A sentencepiece BPE model of so many pieces and ``<unk>``. The same texts give the same bytes.

    Text is taken as it is (no Unicode normalisation), else decoding would give other words than the transcripts have;
    every character is a piece, and no line is too long to count.
    """
    model = io.BytesIO()
    try:
        import_sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=pieces + 1,
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=2**30,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"--bpe {pieces}: {number_fault(str(error))}") from error
    return model.getvalue()


def number_fault(message: str) -> str:
    """What sentencepiece's exception means for --bpe, whose number does not count ``<unk>``."""
    if found := re.search(r"too high .*<= (\d+)", message):
        return f"too many pieces for the training transcripts; give {int(found[1]) - 1} or less"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"less than the characters of the training transcripts; give {int(found[1]) - 1} or more"
    return f"sentencepiece cannot learn from the training transcripts: {' '.join(message.split())}"


def read_model(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"--bpe {path}: cannot be read ({error.strerror}); give a number of pieces, or the {MODEL} of an earlier --bpe"
        ) from error


def load(model: bytes, path: Path) -> Any:
    """sentencepiece's processor; ``path`` is for the message."""
    try:
        processor = import_sentencepiece().SentencePieceProcessor(model_proto=model) if model else None
    except RuntimeError:
        processor = None
    if processor is None:
        raise UserError(
            f"--bpe {path}: not a model of sentencepiece; give a number of pieces, or the {MODEL} of an earlier --bpe"
        )
    return processor


def pieces_of(processor: Any, words: str) -> Iterator[str]:
    """The pieces of a transcript. What the model does not know goes character by character, as a run of them would be one piece."""
    for piece in processor.encode(words, out_type=str):
        if processor.is_unknown(processor.piece_to_id(piece)):
            yield from piece
        else:
            yield piece


def words_of_pieces(line: str) -> str:
    """Pieces to words, as fairseq's ``--post-process sentencepiece`` does."""
    return " ".join("".join(line.split()).replace(WORD_START, " ").split())


def piece_dictionary(
    processor: Any, labels: dict[str, list[str]], counted: Collection[str]
) -> tuple[dict[str, int], list[str]]:
    """(piece -> count, notes), in the model's order; characters that the model does not know come last, with count 0 and a note."""
    counts = {name: Counter(piece for line in lines for piece in line.split()) for name, lines in labels.items()}
    train_counts = sum((counts[name] for name in counted), Counter())
    numbers = range(processor.get_piece_size())
    ordinary = [i for i in numbers if not (processor.is_unknown(i) or processor.is_control(i))]
    pieces = {piece: train_counts[piece] for piece in map(processor.id_to_piece, ordinary)}
    notes = []
    for name in labels:
        for symbol in sorted(counts[name].keys() - pieces.keys()):
            pieces[symbol] = train_counts[symbol]
            notes.append(f"{symbol!r} occurs in {name} but is no piece of {MODEL}: last in dict.bpe.txt")
    return pieces, notes

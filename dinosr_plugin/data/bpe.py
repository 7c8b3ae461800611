"""Word pieces instead of letters: `dinosr manifest ... --bpe N` trains sentencepiece on the training transcripts.

bpe.model        the model file of sentencepiece
dict.bpe.txt     ``piece count``, in the model's order, so that manifests made with one model share a dictionary
train.bpe        one line per row: pieces separated by spaces, ``\u2581`` begins a word: ``\u2581HE LLO \u2581WORLD``
"""

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import open_file
from .manifest import Split

WORD_START = "\u2581"
MODEL = "bpe.model"
ADVICE = f"give a number of pieces, or the {MODEL} of an earlier --bpe"


def import_sentencepiece() -> Any:
    """Imports sentencepiece, which is needed for word pieces only."""
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError("--bpe needs sentencepiece, which is not installed: pip install sentencepiece") from error
    return sentencepiece


def require_possible(bpe: int | Path) -> None:
    """Raises UserError, before audio is read for an hour, if the package or the model is missing."""
    import_sentencepiece()
    if isinstance(bpe, Path):
        load(read_model(bpe), bpe)


def bpe_files(
    splits: list[Split], counted: Collection[str], bpe: int | Path
) -> tuple[dict[str, bytes | list[str]], list[str]]:
    """(name -> content, notes): the model, the dictionary, and the labels of every split.

    Args:
        splits: splits with words.
        counted: names of the splits that a new model is trained on and the dictionary counts.
        bpe: number of pieces of a new model (and of the dictionary), or the file of an existing model.

    Raises:
        UserError: words are missing or contain sentencepiece's word marker, or the text does not allow that many
            pieces.
    """
    for split in splits:
        for utterance in split.utterances:
            if utterance.words is None:
                what = f"{utterance.path} has no transcript, which word pieces require"
                raise UserError(f"--bpe {bpe}: {what}; add transcripts, or omit --bpe")
            if WORD_START in utterance.words:
                what = f"{WORD_START!r} in its transcript, which marks the start of a word in .bpe files"
                raise UserError(f"--bpe {bpe}: {utterance.path} has {what}; remove it")
    if isinstance(bpe, Path):
        model, source = read_model(bpe), bpe
    else:
        texts = [u.words for split in splits if split.name in counted for u in split.utterances]
        model, source = train(texts, bpe), Path(MODEL)
    processor = load(model, source)
    labels = {split.name: [" ".join(pieces_of(processor, u.words)) for u in split.utterances] for split in splits}
    counts, notes = piece_dictionary(processor, labels, counted)
    files: dict[str, bytes | list[str]] = {f"{name}.bpe": lines for name, lines in labels.items()}
    files["dict.bpe.txt"] = [f"{piece} {count}" for piece, count in counts.items()]
    files[MODEL] = model
    return files, notes


def train(texts: list[str], pieces: int) -> bytes:
    """A sentencepiece BPE model with ``pieces`` pieces and ``<unk>``. The same texts give the same bytes.

    The text is not Unicode-normalised, because decoded words would then differ from the transcripts. Every character is
    a piece, and no line is skipped as too long.
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
    """Translates sentencepiece's exception into a message about --bpe, which does not count ``<unk>``."""
    if match := re.search(r"too high .*<= (\d+)", message):
        return f"too many pieces for the training transcripts; give {int(match[1]) - 1} or less"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"fewer pieces than characters in the training transcripts; give {int(match[1]) - 1} or more"
    return f"sentencepiece cannot be trained on the training transcripts: {' '.join(message.split())}"


def read_model(path: Path) -> bytes:
    try:
        with open_file(path, ADVICE) as file:
            return file.read()
    except UserError as error:
        raise UserError(f"--bpe {error}") from error


def load(model: bytes, path: Path) -> Any:
    """sentencepiece's processor of a model; ``path`` is for the message.

    Raises UserError for another or a damaged file: its pieces must be text without white space.
    """
    sentencepiece = import_sentencepiece()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"empty")
        pieces = ordinary_pieces(processor)
        if pieces and all(piece.split() == [piece] for piece in pieces):
            return processor
    except (RuntimeError, UnicodeDecodeError):
        pass
    raise UserError(f"--bpe {path}: not a sentencepiece model, or damaged; {ADVICE}")


def ordinary_pieces(processor: Any) -> list[str]:
    """The pieces that text is made of, in the model's order."""
    numbers = range(processor.get_piece_size())
    ordinary = [i for i in numbers if not (processor.is_unknown(i) or processor.is_control(i))]
    return [processor.id_to_piece(i) for i in ordinary]


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

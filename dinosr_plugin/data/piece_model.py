"""Byte-pair encoding with sentencepiece: training a model, reading one, and messages about both.

sentencepiece is an optional package; it is imported where it is used. Pieces of words (``data.bpe``) and of discrete
units (``units.pieces``) differ in their ``PieceKind``.
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import open_file


@dataclass(frozen=True)
class PieceKind:
    """How messages name what pieces are made of.

    option: the option with the number of pieces or the path of a model, such as ``--bpe``.
    text: what a model is trained on.
    symbols: the smallest pieces, in the plural.
    advice: the remedy where a model cannot be used.
    """

    option: str
    text: str
    symbols: str
    advice: str


def import_sentencepiece(kind: PieceKind) -> Any:
    """Raises UserError if the package is not installed."""
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            f"{kind.option} needs sentencepiece, which is not installed: pip install sentencepiece"
        ) from error
    return sentencepiece


def train(kind: PieceKind, texts: Iterable[str], pieces: int, **settings: Any) -> bytes:
    """A sentencepiece BPE model with ``pieces`` pieces and ``<unk>``. The same texts give the same bytes.

    The text is not Unicode-normalised, so that decoded text equals the original. Every character is a piece, and no
    line is skipped as too long. ``settings`` are further ones of sentencepiece.

    Raises UserError for a number of pieces that the text does not allow; the message suggests one that it does.
    """
    model = io.BytesIO()
    try:
        import_sentencepiece(kind).SentencePieceTrainer.train(
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
            **settings,
        )
    except RuntimeError as error:
        raise UserError(f"{kind.option} {pieces}: {number_fault(kind, str(error))}") from error
    return model.getvalue()


def number_fault(kind: PieceKind, message: str) -> str:
    """Translates sentencepiece's exception into a message about the pieces, without counting ``<unk>``."""
    if match := re.search(r"too high .*<= (\d+)", message):
        return f"too many pieces for {kind.text}; give {int(match[1]) - 1} or less"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"fewer pieces than {kind.symbols} in {kind.text}; give {int(match[1]) - 1} or more"
    return f"sentencepiece cannot be trained on {kind.text}: {' '.join(message.split())}"


def read_model(kind: PieceKind, path: Path) -> bytes:
    """The bytes of a model's file. Raises UserError if it cannot be read."""
    try:
        with open_file(path, kind.advice) as file:
            return file.read()
    except UserError as error:
        raise UserError(f"{kind.option} {error}") from error


def load(kind: PieceKind, model: bytes, path: Path) -> Any:
    """sentencepiece's processor of a model; ``path`` is for the message.

    Raises UserError for another or a damaged file: its pieces must be text without white space.
    """
    sentencepiece = import_sentencepiece(kind)
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"empty")
        pieces = ordinary_pieces(processor)
        if pieces and all(piece.split() == [piece] for piece in pieces):
            return processor
    except (RuntimeError, UnicodeDecodeError):
        pass
    raise UserError(f"{kind.option} {path}: not a sentencepiece model, or damaged; {kind.advice}")


def ordinary_pieces(processor: Any) -> list[str]:
    """The pieces that text is made of, in the model's order."""
    numbers = range(processor.get_piece_size())
    ordinary = [i for i in numbers if not (processor.is_unknown(i) or processor.is_control(i))]
    return [processor.id_to_piece(i) for i in ordinary]

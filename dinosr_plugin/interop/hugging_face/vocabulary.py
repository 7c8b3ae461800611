"""The symbols of a CTC model as ``vocab.json`` of transformers' ``Wav2Vec2CTCTokenizer``, and back.

The tokenizer joins the symbols that are left after blanks and repeats are removed, without a space, turns its word
delimiter into a space, and strips the text. Where words are not separated by ``|``, a symbol that begins a word (each
phone, a sentencepiece with its mark) therefore begins with a space in ``vocab.json``.
"""

from collections.abc import Mapping, Sequence

BLANK, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
"""Special tokens of the tokenizer. Its blank is ``<pad>``; fairseq's is ``<s>``, the first symbol of a dictionary."""
NEVER = -1e4  # logit of a symbol that is never part of a text; float16 has it, too
DELIMITER, PIECE_START = "|", "\u2581"
TOKENIZER = {
    "tokenizer_class": "Wav2Vec2CTCTokenizer",
    "bos_token": BOS,
    "eos_token": EOS,
    "unk_token": UNKNOWN,
    "pad_token": BLANK,
    "do_lower_case": False,
    "clean_up_tokenization_spaces": False,
}


def vocabulary_of(symbols: Sequence[str]) -> dict[str, int]:
    """The symbols of a fairseq dictionary, of which the first is the blank -> token -> index."""
    return {token: index for index, token in enumerate(map(tokens_like(symbols), symbols))}


def tokens_like(symbols: Sequence[str]):
    """The function from a symbol of this dictionary to its token."""
    special = {BOS: BLANK, BLANK: BOS, EOS: EOS, UNKNOWN: UNKNOWN}
    if any(symbol.startswith(PIECE_START) for symbol in symbols):
        return lambda symbol: special.get(symbol) or symbol.replace(PIECE_START, " ")
    if DELIMITER in symbols:
        return lambda symbol: special.get(symbol) or symbol
    return lambda symbol: special.get(symbol) or f" {symbol}"


def tokenizer_config(vocabulary: Mapping[str, int]) -> dict:
    """``tokenizer_config.json``. Without ``|`` among the tokens, a space delimits words."""
    return {**TOKENIZER, "word_delimiter_token": DELIMITER if DELIMITER in vocabulary else " "}


def symbols_of(vocabulary: Mapping[str, int], blank: str, names: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """(symbol of a fairseq dictionary, its index in ``vocab.json``), the four special symbols first.

    Args:
        blank: the token of the blank.
        names: ``eos_token``, ``unk_token``, ``bos_token`` and ``word_delimiter_token`` of the tokenizer.

    Returns:
        None in place of the index of a symbol that is not in ``vocab.json``.
    """
    special = [
        (BOS, vocabulary[blank]),
        (BLANK, vocabulary.get(names["bos_token"]) if blank != names["bos_token"] else None),
    ]
    special += [(EOS, vocabulary.get(names["eos_token"])), (UNKNOWN, vocabulary.get(names["unk_token"]))]
    taken = {blank, names["bos_token"], names["eos_token"], names["unk_token"]}
    others = [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if token not in taken]
    spaced = [token for token in others if token.startswith(" ") and len(token) > 1]
    mark = PIECE_START if spaced and len(spaced) < len(others) else ""
    named = {token: token.replace(" ", mark) or DELIMITER for token in others}
    named |= {names["word_delimiter_token"]: DELIMITER} if not mark else {}
    return [*special, *((named[token], vocabulary[token]) for token in others)]

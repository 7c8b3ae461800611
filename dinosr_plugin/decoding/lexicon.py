"""Beam search over the words of a lexicon, with a language model of words.

Collobert et al., "Wav2Letter", 2016, section 2.3: the lexicon is a tree of spellings, each node of which holds the best unigram score of the
words below it, so that the language model counts before a word is complete.
"""

import math
from pathlib import Path

import torch
from fairseq.data import Dictionary

from ..errors import UserError
from .search import WORD_BOUNDARY, BeamSearch, SearchOptions, import_flashlight, index_of, load_lm, unigram_score

HOW_TO = (
    "give a file of lines 'word l e t t e r s |', or transcripts (train.wrd), whose words are spelt letter by letter"
)


class LexiconDecoder(BeamSearch):
    """A ``CTCDecoder`` that emits words of ``options.lexicon`` only; a last word that the sound cuts short is left out.

    Args:
        dictionary: the target dictionary, which must have the word boundary ``|``.
        blank: index of the CTC blank in it.
        options: see ``SearchOptions``.

    Raises:
        UserError: no lexicon, or one that does not fit the dictionary, or no language model of its words.
    """

    def __init__(self, dictionary: Dictionary, blank: int, options: SearchOptions):
        import_flashlight()  # where it is missing, that is to be said first
        boundary = index_of(dictionary, WORD_BOUNDARY)
        if boundary is None:
            raise UserError(
                f"--decoder lexicon: the dictionary has no word boundary {WORD_BOUNDARY}; use --decoder beam"
            )
        if options.lexicon is None:
            raise UserError(f"--lexicon: --decoder lexicon needs one; {HOW_TO}")
        spellings = read_lexicon(Path(options.lexicon), dictionary)
        words = sorted({word for word, _ in spellings})
        self.lm = load_lm(options.lm, words)
        self.trie = spelling_tree(spellings, words, self.lm, boundary, len(dictionary))
        self.unknown = len(words)
        super().__init__(blank, boundary, options)

    def make_decoder(self, options: SearchOptions):
        flashlight = import_flashlight()
        settings = flashlight.LexiconDecoderOptions(
            **options.flashlight_options(), word_score=options.word_score, unk_score=-math.inf
        )
        # silence, blank, unknown word (never taken, its score is -inf), transitions, whether the language model is one of symbols
        return flashlight.LexiconDecoder(
            settings, self.trie, self.lm, self.boundary, self.blank, self.unknown, [], False
        )

    def emitted(self, path: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """As ``BeamSearch.emitted``, without an unfinished last word and without boundaries that end no word (silence)."""
        starts = super().emitted(path, words)
        ends = (words >= 0).nonzero()[:, 0]
        starts[int(ends[-1]) + 1 if len(ends) else 0 :] = False
        frames = starts.nonzero()[:, 0]
        boundaries = path[frames] == self.boundary
        after_boundary = torch.cat([torch.ones(1, dtype=torch.bool), boundaries[:-1]])[: len(frames)]
        starts[frames[boundaries & after_boundary]] = False
        return starts


def read_lexicon(path: Path, dictionary: Dictionary) -> list[tuple[str, list[int]]]:
    """Words and their spellings as dictionary indices; a word may have several spellings.

    Args:
        path: lines ``word l e t t e r s |`` (the first gap may be a tab); a ``.wrd`` file holds plain words, spelt letter by letter.
        dictionary: the target dictionary.

    Raises:
        UserError: no such file, no word in it, or a spelling that the dictionary cannot express; names file, line and word.
    """
    if not path.is_file():
        raise UserError(f"--lexicon {path}: no such file; {HOW_TO}")
    spellings: dict[tuple[str, tuple[int, ...]], None] = {}  # ordered, without doubles
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"--lexicon {path}: not a text file in UTF-8; {HOW_TO}") from error
    for number, line in enumerate(lines, start=1):
        if path.suffix == ".wrd":
            entries = [(word, [*word, WORD_BOUNDARY]) for word in line.split()]
        else:
            word, *symbols = line.split() or [""]
            entries = [(word, symbols)] if word else []
        for word, symbols in entries:
            spellings[word, tuple(spelling(f"--lexicon {path}, line {number}: {word!r}", symbols, dictionary))] = None
    if not spellings:
        raise UserError(f"--lexicon {path}: no words in it; {HOW_TO}")
    return [(word, list(indices)) for word, indices in spellings]


def spelling(where: str, symbols: list[str], dictionary: Dictionary) -> list[int]:
    """Dictionary indices of a word's symbols; ``where`` names file, line and word in errors."""
    if len(symbols) < 2 or symbols[-1] != WORD_BOUNDARY or symbols[0] == WORD_BOUNDARY:
        raise UserError(
            f"{where}: a spelling is symbols and a {WORD_BOUNDARY} at the end, as in 'CAT C A T {WORD_BOUNDARY}'"
        )
    for symbol in symbols:
        if symbol not in dictionary or dictionary.index(symbol) < dictionary.nspecial:
            raise UserError(
                f"{where}: spelt with {symbol!r}, which the model's dictionary lacks; leave the word out, or mind the case"
            )
    return [dictionary.index(symbol) for symbol in symbols]


def spelling_tree(spellings: list[tuple[str, list[int]]], words: list[str], lm, boundary: int, symbols: int):
    """flashlight's ``Trie`` of all spellings; word number i is ``words[i]``. No word stands for silence, which is always allowed."""
    flashlight = import_flashlight()
    number = {word: i for i, word in enumerate(words)}
    trie = flashlight.Trie(symbols, boundary)
    for word, indices in spellings:
        trie.insert(indices, number[word], unigram_score(lm, number[word]))
    trie.smear(flashlight.SmearingMode.MAX)
    return trie

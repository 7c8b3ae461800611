"""Beam search over the words of a lexicon, with a word language model.

Collobert et al., "Wav2Letter", 2016, section 2.3: the lexicon is a tree of spellings. Each node stores the best unigram
score of the words below it, so that the language model contributes before a word is complete.
"""

import math
from pathlib import Path

import torch
from fairseq.data import Dictionary

from ..errors import UserError
from ..files import read_lines
from .search import WORD_BOUNDARY, BeamSearch, SearchOptions, import_flashlight, index_of, load_lm, unigram_score

HOW_TO = (
    "give a file with lines 'word l e t t e r s |', "
    "or transcripts (train.wrd), whose words are spelled letter by letter"
)


class LexiconDecoder(BeamSearch):
    """A ``CTCDecoder`` that emits only words of ``options.lexicon``; a final word that the audio cuts off is dropped.

    Args:
        dictionary: the target dictionary, which must contain the word boundary ``|``.
        blank: index of the CTC blank in the dictionary.
        options: see ``SearchOptions``.

    Raises:
        UserError: there is no lexicon, it does not fit the dictionary, or the language model does not know its words.
    """

    def __init__(self, dictionary: Dictionary, blank: int, options: SearchOptions):
        import_flashlight()  # if it is missing, report that first
        boundary = index_of(dictionary, WORD_BOUNDARY)
        if boundary is None:
            raise UserError(
                f"--decoder lexicon: the dictionary lacks the word boundary {WORD_BOUNDARY}; use --decoder beam"
            )
        if options.lexicon is None:
            raise UserError(f"--lexicon: required by --decoder lexicon; {HOW_TO}")
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
        # Arguments: ..., silence, blank, unknown word (score -inf: never taken), transitions, is the LM token-based
        return flashlight.LexiconDecoder(
            settings, self.trie, self.lm, self.boundary, self.blank, self.unknown, [], False
        )

    def token_starts(self, path: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """As ``BeamSearch.token_starts``, without an unfinished last word and without boundaries in silence."""
        starts = super().token_starts(path, words)
        ends = (words >= 0).nonzero()[:, 0]
        starts[int(ends[-1]) + 1 if len(ends) else 0 :] = False
        frames = starts.nonzero()[:, 0]
        boundaries = path[frames] == self.boundary
        after_boundary = torch.cat([torch.ones(1, dtype=torch.bool), boundaries[:-1]])[: len(frames)]
        starts[frames[boundaries & after_boundary]] = False
        return starts


def read_lexicon(path: Path, dictionary: Dictionary) -> list[tuple[str, list[int]]]:
    """Read words and their spellings as dictionary indices. A word may have several spellings.

    Args:
        path: lines ``word l e t t e r s |`` (the first gap may be a tab). A ``.wrd`` file contains plain words, which
            are spelled letter by letter.
        dictionary: the target dictionary.

    Raises:
        UserError: the file does not exist or contains no words, or the dictionary lacks a symbol of a spelling; the
            message names file, line and word.
    """
    spellings: dict[tuple[str, tuple[int, ...]], None] = {}  # an ordered set
    try:
        lines = list(read_lines(path, HOW_TO))
    except UserError as error:
        raise UserError(f"--lexicon {error}") from error
    for number, line in enumerate(lines, start=1):
        if path.suffix == ".wrd":
            entries = [(word, [*word, WORD_BOUNDARY]) for word in line.split()]
        else:
            word, *symbols = line.split() or [""]
            entries = [(word, symbols)] if word else []
        for word, symbols in entries:
            spellings[word, tuple(spelling(f"--lexicon {path}, line {number}: {word!r}", symbols, dictionary))] = None
    if not spellings:
        raise UserError(f"--lexicon {path}: contains no words; {HOW_TO}")
    return [(word, list(indices)) for word, indices in spellings]


def spelling(where: str, symbols: list[str], dictionary: Dictionary) -> list[int]:
    """Dictionary indices of a word's symbols; ``where`` names file, line and word in errors."""
    if len(symbols) < 2 or symbols[-1] != WORD_BOUNDARY or symbols[0] == WORD_BOUNDARY:
        raise UserError(
            f"{where}: a spelling must be symbols followed by {WORD_BOUNDARY}, as in 'CAT C A T {WORD_BOUNDARY}'; "
            "correct the line"
        )
    for symbol in symbols:
        if symbol not in dictionary or dictionary.index(symbol) < dictionary.nspecial:
            raise UserError(
                f"{where}: its spelling contains {symbol!r}, which is not in the model's dictionary; "
                "remove the word, or check upper and lower case (`dinosr normalize` writes texts as transcripts are)"
            )
    return [dictionary.index(symbol) for symbol in symbols]


def spelling_tree(spellings: list[tuple[str, list[int]]], words: list[str], lm, boundary: int, symbols: int):
    """flashlight's ``Trie`` of all spellings; word number i is ``words[i]``. Silence, always allowed, needs no word."""
    flashlight = import_flashlight()
    number = {word: i for i, word in enumerate(words)}
    trie = flashlight.Trie(symbols, boundary)
    for word, indices in spellings:
        trie.insert(indices, number[word], unigram_score(lm, number[word]))
    trie.smear(flashlight.SmearingMode.MAX)
    return trie

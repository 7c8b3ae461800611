"""Beam search over symbols, without a lexicon: finds the text whose alignments together are likeliest, not the likeliest path.

Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2 (prefix search); Hannun et al., "First-Pass Large Vocabulary
Continuous Speech Recognition using Bi-Directional Recurrent DNNs", 2014 (with a language model).
"""

from fairseq.data import Dictionary

from .search import WORD_BOUNDARY, BeamSearch, SearchOptions, import_flashlight, index_of, load_lm


class BeamDecoder(BeamSearch):
    """A ``CTCDecoder``; a language model, if any, is one of the dictionary's symbols (letters with ``|``, pieces).

    Args:
        dictionary: the target dictionary.
        blank: index of the CTC blank in it.
        options: see ``SearchOptions``.
    """

    def __init__(self, dictionary: Dictionary, blank: int, options: SearchOptions):
        self.lm = load_lm(
            options.lm, dictionary.symbols, dictionary.nspecial, share=0.5
        )  # a model of words knows A and I
        super().__init__(blank, index_of(dictionary, WORD_BOUNDARY), options)

    def make_decoder(self, options: SearchOptions):
        flashlight = import_flashlight()
        settings = flashlight.LexiconFreeDecoderOptions(**options.flashlight_options())
        # The search starts behind a silence, so that a first | would be a repeat and escape the language model; the blank has no such effect.
        return flashlight.LexiconFreeDecoder(
            settings, self.lm, self.blank, self.blank, []
        )  # silence, blank, transitions

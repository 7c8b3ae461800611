"""Beam search over symbols, without a lexicon: finds the most probable text (summed over alignments), not the best
path.

Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2 (prefix search); Hannun et al.,
"First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs", 2014 (with a language
model).
"""

from fairseq.data import Dictionary

from .search import WORD_BOUNDARY, BeamSearch, SearchOptions, import_flashlight, index_of, load_lm


class BeamDecoder(BeamSearch):
    """A ``CTCDecoder``; its optional n-gram model is over the dictionary's symbols (letters with ``|``, or pieces).

    Args:
        dictionary: the target dictionary.
        blank: index of the CTC blank in the dictionary.
        options: see ``SearchOptions``.
    """

    def __init__(self, dictionary: Dictionary, blank: int, options: SearchOptions):
        # A word model also knows the letters A and I, so it must know more than half of the symbols.
        self.lm = load_lm(options.lm, dictionary.symbols, dictionary.nspecial, min_known_share=0.5)
        super().__init__(blank, index_of(dictionary, WORD_BOUNDARY), options)

    def make_decoder(self, options: SearchOptions):
        flashlight = import_flashlight()
        settings = flashlight.LexiconFreeDecoderOptions(**options.flashlight_options())
        # The search starts after a silence. If that were |, a leading | would count as a repeat and be exempt from the
        # language model; the blank has no such effect. Arguments: silence, blank, transitions.
        return flashlight.LexiconFreeDecoder(settings, self.lm, self.blank, self.blank, [])

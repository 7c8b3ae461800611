"""``fairseq-generate --scoring dinosr_wer``: ends with word and character error rates and their intervals."""

from dataclasses import dataclass

from fairseq.dataclass import FairseqDataclass
from fairseq.scoring import BaseScorer, register_scorer

from .results import error_rates


@dataclass
class IntervalScorerConfig(FairseqDataclass):
    """No options: the texts are not normalised."""


@register_scorer("dinosr_wer", dataclass=IntervalScorerConfig)
class IntervalScorer(BaseScorer):
    """Computes the figures of ``score_generate_output`` during decoding."""

    def score(self) -> float:
        """WER in percent."""
        return self.rates()["wer"]

    def rates(self) -> dict:
        """See ``error_rates``."""
        return error_rates(list(zip(self.ref, self.pred)))

    def result_string(self) -> str:
        """``WER: 35.20 [33.10, 37.40] CER: 12.31 [11.80, 12.90] (95 % bootstrap intervals over 9 utterances)``, say."""
        if not any(reference.split() for reference in self.ref):
            return "WER: not defined, all references are empty"
        rates = self.rates()
        parts = [
            "{}: {:.2f} [{:.2f}, {:.2f}]".format(name.upper(), rates[name], *rates[f"{name}_interval"])
            for name in ("wer", "cer")
        ]
        return f"{' '.join(parts)} (95 % bootstrap intervals over {len(self.ref)} utterances)"

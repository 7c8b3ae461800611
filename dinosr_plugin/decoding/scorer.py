"""``fairseq-generate --scoring dinosr_wer``: ends with word and character error rates and their intervals."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.scoring import BaseScorer, register_scorer

from .empty import describe_texts
from .results import error_rates


@dataclass
class IntervalScorerConfig(FairseqDataclass):
    """The texts are compared as they are; the task has normalised the references if there are rules for them."""

    scored_unit: ChoiceEnum(["word", "symbol"]) = field(
        default="word",
        metadata={
            "help": "what is counted: word: WER and CER; symbol: UER, of symbols such as phones. fairseq-generate with "
            "--task dinosr_finetuning sets it to symbol if the dictionary has neither the word boundary | nor word "
            "pieces"
        },
    )


@register_scorer("dinosr_wer", dataclass=IntervalScorerConfig)
class IntervalScorer(BaseScorer):
    """Computes the figures of ``score_generate_output`` during decoding."""

    def score(self) -> float:
        """WER in percent; UER with ``scored_unit=symbol``."""
        return self.rates()["wer"]

    def rates(self) -> dict:
        """See ``error_rates``."""
        return error_rates(list(zip(self.ref, self.pred)))

    def result_string(self) -> str:
        """``WER: 35.20 [33.10, 37.40] CER: 12.31 [11.80, 12.90] (95 % bootstrap intervals over 9 utterances)``, say.

        With ``scored_unit=symbol`` UER instead of the two. Followed by how many hypotheses are empty, if any are.
        """
        names = {"UER": "wer"} if str(self.cfg.scored_unit) == "symbol" else {"WER": "wer", "CER": "cer"}
        if not any(reference.split() for reference in self.ref):
            return f"{next(iter(names))}: not defined, all references are empty; `dinosr transcribe` needs none"
        rates = self.rates()
        parts = [
            "{}: {:.2f} [{:.2f}, {:.2f}]".format(name, rates[key], *rates[f"{key}_interval"])
            for name, key in names.items()
        ]
        figures = f"{' '.join(parts)} (95 % bootstrap intervals over {len(self.ref)} utterances)"
        what = describe_texts(self.pred)
        return f"{figures}; {what}" if what else figures

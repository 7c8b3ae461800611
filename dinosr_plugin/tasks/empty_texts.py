"""How many texts of a validation are empty: a recogniser that has not learned has a word error rate of 100, too."""

import logging
from typing import Any

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.logging import metrics

from ..decoding.empty import LONGER, count_empty
from ..decoding.search import WORD_BOUNDARY

logger = logging.getLogger(__name__)


class EmptyTexts:
    """Mixin that precedes a fairseq task of CTC models with ``target_dictionary`` and ``blank_symbol``."""

    target_dictionary: Dictionary
    blank_symbol: str

    def valid_step(self, sample, model, criterion):
        """fairseq's, with the number of texts and of empty ones in the log."""
        outputs: list[Any] = []
        hook = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            loss, sample_size, log = super().valid_step(sample, model, criterion)
        finally:
            hook.remove()
        dictionary = self.target_dictionary
        silent = [dictionary.index(symbol) for symbol in (self.blank_symbol, WORD_BOUNDARY) if symbol in dictionary]
        silent += [dictionary.pad(), dictionary.eos()]
        for output in outputs[:1]:
            log = {**log, "texts": sample["id"].numel(), "empty_texts": count_empty(output, silent)}
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs: list[dict], criterion):
        """fairseq's figures and, of validations, ``empty_texts``: the share of empty texts, in percent."""
        super().reduce_metrics(logging_outputs, criterion)
        if "texts" in logging_outputs[0]:
            for name in ("texts", "empty_texts"):
                metrics.log_scalar(f"_{name}", utils.item(sum(log.get(name, 0) for log in logging_outputs)))
            metrics.log_derived(
                "empty_texts", lambda meters: round(100 * meters["_empty_texts"].sum / max(meters["_texts"].sum, 1), 1)
            )

    def post_validate(self, model: torch.nn.Module, stats: dict[str, Any], meters: Any) -> None:
        """Say that all texts of a validation are empty; fairseq calls it after each."""
        if "_texts" in meters and 0 < meters["_texts"].sum == meters["_empty_texts"].sum:
            logger.warning(
                f"all {int(meters['_texts'].sum)} hypotheses of the validation are empty, which is usual in the first "
                f"updates of CTC; if they still are at the end, {LONGER}"
            )

"""Language models trained with ``fairseq-train --task language_modeling``, queried about many texts at once."""

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqLanguageModel
from fairseq.models.lstm import LSTMDecoder

from ..errors import UserError


class NeuralLM:
    """Computes the next symbol's log-probabilities after each of N texts.

    An LSTM continues from its state after the text without its last symbol: one step for each text. Other networks read
    each text from its start, all texts in one forward pass, padded at their ends, which a causal network does not see.

    Args:
        model: on any device; put into eval mode. Its sentences begin with ``</s>``, as in the language modelling task.
        dictionary: the texts' dictionary, V symbols. The model's own may order them differently and contain more.
        blank: index of the CTC blank in the dictionary; it does not occur in texts.
        path: the model's file, for messages.

    Raises:
        UserError: the model is not a language model, or lacks symbols.
    """

    def __init__(self, model: torch.nn.Module, dictionary: Dictionary, blank: int, path: str):
        if not isinstance(model, FairseqLanguageModel):
            raise UserError(
                f"--lm-path {path}: not a language model; give a checkpoint of fairseq-train --task language_modeling"
            )
        lm_dictionary = model.decoder.dictionary
        unknown = [
            symbol
            for symbol in dictionary.symbols[dictionary.nspecial :]
            if symbol not in lm_dictionary and symbol != dictionary[blank]
        ]
        if unknown:
            raise UserError(
                f"--lm-path {path}: does not know {len(unknown)} of the dictionary's symbols ({unknown[0]!r}, ...); "
                "train it on the same labels: fairseq-preprocess --only-source --srcdict DATA/dict.ltr.txt "
                "--trainpref FILE.ltr (or .bpe)"
            )
        model.eval()  # not chained: it returns None once fairseq-generate has prepared the model
        self.model, self.padding, self.end = model, lm_dictionary.pad(), lm_dictionary.eos()
        self.recurrent = isinstance(model.decoder, LSTMDecoder)
        self.max_positions = model.max_positions()
        # (V + 1,) index of each symbol of the dictionary, and of the end, in the model's own dictionary
        self.columns = torch.tensor([lm_dictionary.index(symbol) for symbol in dictionary.symbols] + [self.end])

    def next_log_probs(
        self, texts: torch.Tensor, lengths: torch.Tensor, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read N texts, or only the last symbol of each if the network is an LSTM.

        Args:
            texts: (N, L) int64 dictionary indices; values after the end of a text are ignored.
            lengths: (N,) int64, from 0 to L.
            states: (N, ...) states returned for the texts without their last symbols; ignored for texts of length 0.

        Returns:
            (N, V + 1) float32 natural-log probabilities of each symbol and, in the last column, of the end, on the
            device of the texts. (N, 2, layers, width) states of an LSTM after the texts; (N, 0) for other networks.
        """
        device = next(self.model.parameters()).device
        tokens = torch.nn.functional.pad(self.columns.to(texts.device)[texts], (1, 0), value=self.end)  # (N, 1 + L)
        tokens, lengths = tokens.to(device), lengths.to(device)
        logits, extra, states = (
            self.step(tokens, lengths, states.to(device)) if self.recurrent else self.read(tokens, lengths)
        )
        # (N, 1, symbols of the model) -> (N, symbols of the model)
        log_probs = self.model.get_normalized_probs((logits, extra), log_probs=True)[:, 0]
        return log_probs[:, self.columns.to(device)].float().to(texts.device), states.to(texts.device)

    def step(self, tokens: torch.Tensor, lengths: torch.Tensor, states: torch.Tensor):
        """(N, 1, symbols) logits, the model's other output, new states. Texts of length 0 start without a state."""
        memory, decoder = {}, self.model.decoder
        if lengths.any():
            hiddens, cells = states.permute(1, 2, 0, 3)  # (N, 2, layers, width) -> (layers, N, width) each
            decoder.set_incremental_state(
                memory, "cached_state", {"prev_hiddens": hiddens, "prev_cells": cells, "input_feed": None}
            )
        logits, extra = self.model(tokens.gather(1, lengths[:, None]), incremental_state=memory)
        cached = decoder.get_incremental_state(memory, "cached_state")
        return logits, extra, torch.stack([cached["prev_hiddens"], cached["prev_cells"]]).permute(2, 0, 1, 3)

    def read(self, tokens: torch.Tensor, lengths: torch.Tensor):
        """As ``step``, without states. If a text is longer than the model's maximum, only its end is read."""
        start = (lengths + 1 - self.max_positions).clamp(min=0)
        size = min(tokens.size(1), int(self.max_positions))
        places = start[:, None] + torch.arange(size, device=tokens.device)  # (N, size)
        tokens = tokens.gather(1, places.clamp(max=tokens.size(1) - 1)).masked_fill(
            places > lengths[:, None], self.padding
        )
        logits, extra = self.model(tokens)
        rows = torch.arange(len(tokens), device=tokens.device)
        return logits[rows, lengths - start][:, None], extra, logits.new_zeros(len(tokens), 0)

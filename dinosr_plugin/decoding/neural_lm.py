"""Language models that ``fairseq-train --task language_modeling`` trains, asked about many texts at once."""

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqLanguageModel
from fairseq.models.lstm import LSTMDecoder

from ..errors import UserError


class NeuralLM:
    """The next symbol's log-probabilities after each of N texts.

    An LSTM goes on from what it remembers of a text without its last symbol: one step a text. Other networks read each text from its
    start, all of them in one forward pass, padded behind their ends, where a causal network does not look.

    Args:
        model: on any device; put into eval mode. Its sentences begin with ``</s>``, as the language modelling task has them.
        dictionary: that of the texts, V symbols; the model may number them otherwise, and know more.
        blank: index of the CTC blank in it, which is in no text.
        path: the model's file, for messages.

    Raises:
        UserError: not a language model, or one that lacks symbols.
    """

    def __init__(self, model: torch.nn.Module, dictionary: Dictionary, blank: int, path: str):
        if not isinstance(model, FairseqLanguageModel):
            raise UserError(
                f"--lm-path {path}: not a language model; give one made by fairseq-train --task language_modeling"
            )
        own = model.decoder.dictionary
        unknown = [
            symbol
            for symbol in dictionary.symbols[dictionary.nspecial :]
            if symbol not in own and symbol != dictionary[blank]
        ]
        if unknown:
            raise UserError(
                f"--lm-path {path}: does not know {len(unknown)} of the dictionary's symbols ({unknown[0]!r}, ...); train it on the same labels: "
                "fairseq-preprocess --only-source --srcdict DATA/dict.ltr.txt --trainpref FILE.ltr (or .bpe)"
            )
        model.eval()  # returns None once fairseq-generate has prepared the model
        self.model, self.padding, self.end = model, own.pad(), own.eos()
        self.recurrent = isinstance(model.decoder, LSTMDecoder)
        self.longest = model.max_positions()
        self.columns = torch.tensor([own.index(symbol) for symbol in dictionary.symbols] + [self.end])  # (V + 1,)

    def after(
        self, texts: torch.Tensor, lengths: torch.Tensor, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read N texts, or the last symbol of each.

        Args:
            texts: (N, L) int64 dictionary indices; anything behind a text's end.
            lengths: (N,) int64, from 0 to L.
            states: (N, ...) what was returned for the texts without their last symbols; anything for texts of length 0.

        Returns:
            (N, V + 1) float32 natural-log probabilities of each symbol and, in the last column, of the end; on the texts' device.
            (N, 2, layers, width) what an LSTM remembers of the texts; (N, 0) for other networks.
        """
        device = next(self.model.parameters()).device
        tokens = torch.nn.functional.pad(self.columns.to(texts.device)[texts], (1, 0), value=self.end)  # (N, 1 + L)
        tokens, lengths = tokens.to(device), lengths.to(device)
        logits, extra, states = (
            self.step(tokens, lengths, states.to(device)) if self.recurrent else self.read(tokens, lengths)
        )
        log_probs = self.model.get_normalized_probs((logits, extra), log_probs=True)[
            :, 0
        ]  # (N, 1, own symbols) -> (N, own symbols)
        return log_probs[:, self.columns.to(device)].float().to(texts.device), states.to(texts.device)

    def step(self, tokens: torch.Tensor, lengths: torch.Tensor, states: torch.Tensor):
        """(N, 1, symbols) logits, the model's other output, new states; the start of a sentence has no state."""
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
        """As ``step``, without states; of a text longer than the model can read, only the end is."""
        start = (lengths + 1 - self.longest).clamp(min=0)
        places = start[:, None] + torch.arange(
            min(tokens.size(1), int(self.longest)), device=tokens.device
        )  # (N, at most longest)
        tokens = tokens.gather(1, places.clamp(max=tokens.size(1) - 1)).masked_fill(
            places > lengths[:, None], self.padding
        )
        logits, extra = self.model(tokens)
        rows = torch.arange(len(tokens), device=tokens.device)
        return logits[rows, lengths - start][:, None], extra, logits.new_zeros(len(tokens), 0)

"""Scores and hidden states of unit language models, which are fairseq language models trained on units.

A sequence u_1 ... u_T is scored as in the ZeroSpeech 2021 baseline (Nguyen et al. 2020, section 3.3): the sum of
log P(u_i | u_<i) over u_1 ... u_T and the end of the sequence, as natural logarithms, not divided by the length.

Every sequence begins with ``</s>``, as in fairseq's training and evaluation (``fairseq-eval-lm --sample-break-mode
eos`` gives the same sum): the end of an utterance precedes the next utterance. The baseline's own script begins with
``<s>`` instead; data from fairseq-preprocess never contains it, so its embedding is never trained. Sequences for a
model that was trained with ``--add-bos-token`` begin with ``<s> </s>``.
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.models import FairseqLanguageModel
from fairseq.models.lstm import LSTMDecoder
from fairseq.sequence_scorer import SequenceScorer
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ..compat.language_models import HOW_TO, dictionary_folder, language_model_faults
from ..errors import UserError
from ..files import claim_folder, claim_new, is_file, output, write_array, write_files
from .features import default_device
from .unit_files import read_units

BATCH_TOKENS = 16384  # tokens per batch, padding included


class UnitLanguageModel:
    """A language model of units: a checkpoint of fairseq's task language_modeling, by either training command.

    Args:
        checkpoint: the model.
        dictionary: its ``dict.txt``; None: the one next to the checkpoint, or in the folder that it was trained on.
        device: where to run the model; None: a GPU if there is one.

    Attributes:
        layers: number of layers.
        max_units: maximum length of a sequence; None: unlimited (LSTM).

    Raises:
        UserError: the file is missing or is not a language model, or the dictionary is missing or does not fit it.
    """

    def __init__(
        self, checkpoint: str | Path, dictionary: str | Path | None = None, device: str | torch.device | None = None
    ):
        self.name = str(checkpoint)
        with language_model_faults(self.name, self.name):
            folder = given_folder(Path(dictionary)) if dictionary else dictionary_folder(self.name, [], self.name)
            (self.model,), cfg, _ = checkpoint_utils.load_model_ensemble_and_task([self.name], {"data": str(folder)})
        if not isinstance(self.model, FairseqLanguageModel):
            raise UserError(
                f"{self.name}: contains a {type(self.model).__name__}, which does not predict text from left to right; "
                f"{HOW_TO}"
            )
        self.device = torch.device(device or default_device())
        self.model.eval().to(self.device)
        self.dictionary = self.model.decoder.dictionary
        self.scorer = SequenceScorer(self.dictionary)
        end = self.dictionary.eos()
        self.start = [self.dictionary.bos(), end] if cfg.task.get("add_bos_token") else [end]
        self.layers = len(self.model.decoder.layers)
        is_recurrent = isinstance(self.model.decoder, LSTMDecoder)
        self.max_units = None if is_recurrent else int(self.model.max_positions()) - len(self.start)

    def score(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Log-probabilities (N,) float64 of N sequences (n,) of unit ids, end included; n may be 0. One forward pass.

        Raises UserError as ``tokens``, and if the model has diverged.
        """
        rows = [self.tokens(units) for units in sequences]
        target = self.padded([row[1:] for row in rows])
        sample = {"net_input": self.inputs([row[:-1] for row in rows]), "target": target}
        results = self.scorer.generate([self.model], sample)
        skipped = len(self.start) - 1
        scores = np.array([best["positional_scores"][skipped:].double().sum().item() for (best,) in results])
        if not np.isfinite(scores).all():
            raise UserError(
                f"{self.name}: has diverged, because its scores contain NaN or infinity; "
                "train it again with a lower learning rate"
            )
        return scores

    @torch.no_grad()
    def hidden_states(self, sequences: Sequence[np.ndarray], layer: int) -> list[np.ndarray]:
        """Hidden states (n + 2, D) float32 of layer number ``layer``, from 1, for each sequence (n,) of unit ids.

        There is one state for the start, for each unit and for the end: an LSTM's hidden state, or the output of a
        Transformer layer. Raises UserError as ``tokens``, and ValueError if there is no such layer.
        """
        if not 1 <= layer <= self.layers:
            raise ValueError(f"layer {layer} of {self.layers}")
        rows = [self.tokens(units) for units in sequences]
        outputs_seen: list[torch.Tensor] = []  # LSTM: (B, D) for each step; Transformer: (T, B, D) once
        hook = self.model.decoder.layers[layer - 1].register_forward_hook(
            lambda module, inputs, outputs: outputs_seen.append(outputs[0])
        )
        try:
            self.model(**self.inputs(rows))
        finally:
            hook.remove()
        states = outputs_seen[0] if outputs_seen[0].dim() == 3 else torch.stack(outputs_seen)  # (T, B, D)
        by_row = states.transpose(0, 1).float().cpu().numpy()  # (B, T, D)
        first = len(self.start) - 1
        return [of_row[first : len(row)] for of_row, row in zip(by_row, rows, strict=True)]

    def tokens(self, units: np.ndarray) -> torch.Tensor:
        """(n,) unit ids -> (n + 2,) int64 dictionary indices of start, units and end; (n + 3,) with ``<s>``.

        Raises UserError if the dictionary lacks a unit, or if there are more units than a Transformer has positions.
        """
        if self.max_units is not None and len(units) > self.max_units:
            what = f"reads at most {self.max_units} units, but a sequence has {len(units)}"
            how = "train it with a larger --tokens-per-sample, or cut the speech into shorter utterances"
            raise UserError(f"{self.name}: {what}; {how}")
        ids = [self.dictionary.index(str(unit)) for unit in units.tolist()]
        if self.dictionary.unk() in ids:
            unit = units[ids.index(self.dictionary.unk())]
            raise UserError(
                f"{self.name}: unit {unit} is not in its dictionary; "
                "give units like those that it was trained on, or its own dict.txt with --dict"
            )
        return torch.tensor([*self.start, *ids, self.dictionary.eos()])

    def inputs(self, rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            "src_tokens": self.padded(rows),
            "src_lengths": torch.tensor([len(row) for row in rows], device=self.device),
        }

    def padded(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, T), padded at the ends, which a model that reads from left to right does not see."""
        return pad_sequence(list(rows), batch_first=True, padding_value=self.dictionary.pad()).to(self.device)


def given_folder(dictionary: Path) -> Path:
    """The folder that fairseq loads ``dict.txt`` from. Raises UserError if the file has another name or is missing."""
    if dictionary.name != "dict.txt" or not is_file(dictionary):
        raise UserError(f"--dict {dictionary}: not a file called dict.txt; give the one that fairseq-preprocess wrote")
    return dictionary.parent


# ---- whole files -----------------------------------------------------------------------------------------------------


def batches_by_length(sequences: Sequence[np.ndarray], batch_tokens: int) -> Iterator[list[int]]:
    """Batches of row numbers with similar lengths, each of at most ``batch_tokens`` tokens, padding included.

    The longest come first, so that a lack of memory shows at once.
    """
    batch: list[int] = []
    for row in sorted(range(len(sequences)), key=lambda row: -len(sequences[row])):
        if batch and (len(sequences[batch[0]]) + 2) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def score_all(
    lm: UnitLanguageModel, units: dict[str, np.ndarray], batch_tokens: int = BATCH_TOKENS
) -> dict[str, float]:
    """Utterance -> log-probability, in the order of ``units``; shows a progress bar.

    Equal sequences are scored only once: rounding differs between batches, but equal sequences must be a tie.
    """
    keys = {utt: sequence.tobytes() for utt, sequence in units.items()}
    distinct = {keys[utt]: sequence for utt, sequence in units.items()}
    sequences = list(distinct.values())
    scores = np.empty(len(sequences))
    with tqdm(desc="scoring", total=len(sequences), unit="seq", disable=None) as bar:
        for batch in batches_by_length(sequences, batch_tokens):
            scores[batch] = lm.score([sequences[row] for row in batch])
            bar.update(len(batch))
    of_key = dict(zip(distinct, scores.tolist(), strict=True))
    return {utt: of_key[key] for utt, key in keys.items()}


def write_scores(lm: UnitLanguageModel, units: str | Path, out: str | Path) -> tuple[int, float]:
    """Score a unit file; writes lines ``utt log-probability``, as in ZeroSpeech's ``lexical/dev.txt``.

    Returns the number of utterances and the mean log-probability per token, ends included. Raises UserError for errors
    in units, model or output.
    """
    out = Path(out)
    with claim_new(out):
        sequences = read_units(units)
        scores = score_all(lm, sequences)
        write_files(out.parent, {out.name: [f"{utt} {score:.6f}" for utt, score in scores.items()]})
    return len(scores), sum(scores.values()) / sum(len(sequence) + 1 for sequence in sequences.values())


def write_hidden_states(
    lm: UnitLanguageModel, units: str | Path, layer: int, out: str | Path, batch_tokens: int = BATCH_TOKENS
) -> int:
    """Write a layer's hidden states for a unit file: ``out/UTT.npy``, (n + 2, D) float32, as for ZeroSpeech's sSIMI.

    Returns the number of utterances. Raises UserError for a missing layer and for errors in units, model or output.
    """
    if not 1 <= layer <= lm.layers:
        raise UserError(f"--layer {layer}: {lm.name} has layers 1 to {lm.layers}; give one of these")
    out, sequences = Path(out), read_units(units)
    names, rows = list(sequences), list(sequences.values())
    if wrong := next((name for name in names if "/" in name or name in (".", "..")), None):
        raise UserError(f"{units}: utterance {wrong!r} cannot be the name of a file; rename it")
    with claim_folder(out), tqdm(desc=f"layer {layer}", total=len(rows), unit="utt", disable=None) as bar:
        for batch in batches_by_length(rows, batch_tokens):
            for row, states in zip(batch, lm.hidden_states([rows[row] for row in batch], layer), strict=True):
                with output(out / f"{names[row]}.npy") as unfinished:
                    write_array(unfinished, states)
            bar.update(len(batch))
    return len(rows)

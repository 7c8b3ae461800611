"""How likely sequences of units are to a language model of fairseq's, and what it makes of them.

A sequence u_1 ... u_T is scored as the ZeroSpeech 2021 baseline does (Nguyen et al. 2020, section 3.3): the sum of log P(u_i | u_<i) over
u_1 ... u_T and the end of the sequence, natural logarithms, not divided by the length.

Every sequence begins with ``</s>``, as fairseq trains and evaluates (``fairseq-eval-lm --sample-break-mode eos`` adds up to the same): the end
of an utterance is what stands before the next. (The baseline's own script begins with ``<s>``, which no training data of fairseq-preprocess
holds: that vector stays what it was drawn as. A model trained with ``--add-bos-token`` reads ``<s> </s>``, here too.)
"""

from .. import compat  # noqa: F401  # isort: skip  (before fairseq is imported)
import os
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
from ..data.manifest import require_writable, unwritable, write_files
from ..errors import UserError
from .codes import read_units
from .features import default_device

BATCH_TOKENS = 16384  # tokens and padding that the model reads at a time


class UnitLanguageModel:
    """A checkpoint of ``fairseq-train --task language_modeling`` that was trained on units, of either entry point.

    Args:
        checkpoint: the model.
        dictionary: its ``dict.txt``; None: beside the checkpoint, or in the folder it was trained on.

    Attributes:
        layers: how many.
        longest: units that a sequence may have; None: any number (an LSTM).

    Raises:
        UserError: no such file, not a language model, no dictionary or another model's.
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
                f"{self.name}: a {type(self.model).__name__}, which reads no text from left to right; {HOW_TO}"
            )
        self.device = torch.device(device or default_device())
        self.model.eval().to(self.device)
        self.dictionary = self.model.decoder.dictionary
        self.scorer = SequenceScorer(self.dictionary)
        end = self.dictionary.eos()
        self.start = [self.dictionary.bos(), end] if cfg.task.get("add_bos_token") else [end]
        self.layers = len(self.model.decoder.layers)
        is_recurrent = isinstance(self.model.decoder, LSTMDecoder)
        self.longest = None if is_recurrent else int(self.model.max_positions()) - len(self.start)

    def score(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Sequences (n,) of unit ids, n may be 0 -> (N,) float64 log-probabilities, end included. One forward pass.

        Raises UserError as ``tokens``, and where the model has diverged.
        """
        rows = [self.tokens(units) for units in sequences]
        target = self.padded([row[1:] for row in rows])
        found = self.scorer.generate(
            [self.model], {"net_input": self.inputs([row[:-1] for row in rows]), "target": target}
        )
        skipped = len(self.start) - 1
        scores = np.array([best["positional_scores"][skipped:].double().sum().item() for (best,) in found])
        if not np.isfinite(scores).all():
            raise UserError(
                f"{self.name}: gives NaN or infinity, it has diverged; train it again with a lower learning rate"
            )
        return scores

    @torch.no_grad()
    def hidden_states(self, sequences: Sequence[np.ndarray], layer: int) -> list[np.ndarray]:
        """Sequences (n,) of unit ids -> for each (n + 2, D) float32: what layer number ``layer``, from 1, holds after the start, each unit, the end.

        An LSTM's hidden states, or what a Transformer's layer puts out. Raises UserError as ``tokens``, ValueError for no such layer.
        """
        if not 1 <= layer <= self.layers:
            raise ValueError(f"layer {layer} of {self.layers}")
        rows = [self.tokens(units) for units in sequences]
        seen: list[torch.Tensor] = []  # of an LSTM (B, D), each step; of a Transformer (T, B, D), once
        hook = self.model.decoder.layers[layer - 1].register_forward_hook(
            lambda module, inputs, outputs: seen.append(outputs[0])
        )
        try:
            self.model(**self.inputs(rows))
        finally:
            hook.remove()
        states = (
            (seen[0] if seen[0].dim() == 3 else torch.stack(seen)).transpose(0, 1).float().cpu().numpy()
        )  # (B, T, D)
        first = len(self.start) - 1
        return [own[first : len(row)] for own, row in zip(states, rows, strict=True)]

    def tokens(self, units: np.ndarray) -> torch.Tensor:
        """(n,) unit ids -> start, units and end in the dictionary's numbers, (n + 2,) int64; (n + 3,) with ``<s>``.

        Raises UserError for a unit that the dictionary lacks, and for more units than a Transformer has positions.
        """
        if self.longest is not None and len(units) > self.longest:
            how = "train it with a greater --tokens-per-sample, or cut the speech into shorter utterances"
            raise UserError(f"{self.name}: reads at most {self.longest} units, a sequence has {len(units)}; {how}")
        ids = [self.dictionary.index(str(unit)) for unit in units.tolist()]
        if self.dictionary.unk() in ids:
            unit = units[ids.index(self.dictionary.unk())]
            raise UserError(
                f"{self.name}: unit {unit} is not in its dictionary; give the units that it was trained on, or its own dict.txt with --dict"
            )
        return torch.tensor([*self.start, *ids, self.dictionary.eos()])

    def inputs(self, rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            "src_tokens": self.padded(rows),
            "src_lengths": torch.tensor([len(row) for row in rows], device=self.device),
        }

    def padded(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, T): padded behind the ends, where a model that reads from left to right does not look."""
        return pad_sequence(list(rows), batch_first=True, padding_value=self.dictionary.pad()).to(self.device)


def given_folder(dictionary: Path) -> Path:
    """The folder that fairseq loads ``dict.txt`` from. Raises UserError where that is not the given file."""
    if dictionary.name != "dict.txt" or not dictionary.is_file():
        raise UserError(f"--dict {dictionary}: give the dict.txt that fairseq-preprocess wrote")
    return dictionary.parent


# ---- whole files ------------------------------------------------------------------------------------------------------------


def batches_by_length(sequences: Sequence[np.ndarray], batch_tokens: int) -> Iterator[list[int]]:
    """Rows in batches of similar length, longest first (what does not fit in memory fails at once), each of at most ``batch_tokens`` with padding."""
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
    """Utterance -> log-probability, in the order of ``units``; with a progress bar.

    A sequence that comes twice is read once: rounding differs from batch to batch, and what is equal must be a tie.
    """
    keys = {utt: own.tobytes() for utt, own in units.items()}
    distinct = {keys[utt]: own for utt, own in units.items()}
    sequences = list(distinct.values())
    scores = np.empty(len(sequences))
    with tqdm(desc="scoring", total=len(sequences), unit="seq", disable=None) as bar:
        for batch in batches_by_length(sequences, batch_tokens):
            scores[batch] = lm.score([sequences[row] for row in batch])
            bar.update(len(batch))
    of_key = dict(zip(distinct, scores.tolist(), strict=True))
    return {utt: of_key[key] for utt, key in keys.items()}


def write_scores(lm: UnitLanguageModel, units: str | Path, out: str | Path) -> tuple[int, float]:
    """Score a unit file: ``utt log-probability`` a line, which is what ZeroSpeech's ``lexical/dev.txt`` holds.

    Returns how many utterances, and the mean log-probability of a token, ends included. Raises UserError from the units, the model and the file.
    """
    out = Path(out)
    require_writable(out.parent)
    sequences = read_units(units)
    scores = score_all(lm, sequences)
    write_files(out.parent, {out.name: [f"{utt} {score:.6f}" for utt, score in scores.items()]})
    return len(scores), sum(scores.values()) / sum(len(own) + 1 for own in sequences.values())


def write_hidden_states(
    lm: UnitLanguageModel, units: str | Path, layer: int, out: str | Path, batch_tokens: int = BATCH_TOKENS
) -> int:
    """A layer's hidden states of every utterance of a unit file: ``out/UTT.npy``, (n + 2, D) float32, as ZeroSpeech's ``semantic`` wants them.

    Returns how many. Raises UserError from the units, the model and the folder, and for a layer that the model does not have.
    """
    if not 1 <= layer <= lm.layers:
        raise UserError(f"--layer {layer}: {lm.name} has layers 1 to {lm.layers}; give one of these")
    out, sequences = Path(out), read_units(units)
    require_writable(out)
    names, rows = list(sequences), list(sequences.values())
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tqdm(desc=f"layer {layer}", total=len(rows), unit="utt", disable=None) as bar:
            for batch in batches_by_length(rows, batch_tokens):
                for row, states in zip(batch, lm.hidden_states([rows[row] for row in batch], layer), strict=True):
                    unfinished = out / f".{names[row]}.npy"
                    np.save(unfinished, states)
                    os.replace(unfinished, out / f"{names[row]}.npy")
                bar.update(len(batch))
    except OSError as error:
        raise unwritable(out, error.strerror) from error
    return len(rows)

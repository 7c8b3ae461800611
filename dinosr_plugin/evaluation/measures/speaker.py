"""A linear probe of the speaker: how well a linear classifier names the speaker of an utterance from its mean.

As in the speaker probes of SUPERB (Yang et al. 2021), an utterance is the mean of its frames, and the classifier is
multinomial logistic regression. The classifier is trained on other utterances of the same speakers. Utterances of a
chapter or session also share its channel, so the figures are upper bounds of what is known about the voice.

- Folds: the utterances of each speaker are ordered by the SHA-256 of their names and dealt to ``FOLDS`` folds in turn.
  Each utterance is classified by a model of the other folds. Nothing is random, and the order of the utterances does
  not matter.
- Dimensions are standardised to mean 0 and variance 1 over the training utterances.
- The L2 penalty is 1 / C; of ``PENALTIES`` the C is used that has the highest accuracy in a cross-validation over the
  training folds, the smallest of equals.
"""

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from ..measuring import Source
from ..speech import Speech
from ..table import Column

FOLDS = 5
MIN_UTTERANCES = 3  # of a speaker: one to test, one to train on, one to choose C by
PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
COLUMNS = (
    Column("speaker_accuracy", "speaker probe", ".3f"),
    Column("unit_speaker_accuracy", "of units", ".3f"),
    Column("speaker_chance", "chance", ".3f"),
    Column("probed_speakers", "speakers", "d"),
    Column("probed_utterances", "utterances", "d"),
)


class SpeakerProbe:
    """Accuracy of the linear probe.

    ``speaker_accuracy``: of the means of the features, None for MFCC and log-Mel, whose means are always 0;
    ``unit_speaker_accuracy``: of the shares of the units in an utterance; ``speaker_chance``: share of the speaker with
    the most utterances, the accuracy of a constant answer. Speakers with fewer than ``MIN_UTTERANCES`` utterances are
    left out.
    """

    columns: Sequence[Column] = COLUMNS

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        """Raises UserError as ``probed_speakers``."""
        speakers = probed_speakers(speech)
        utts = list(speakers)
        labels = np.array(list(speakers.values()))
        folds = fold_numbers(speakers)
        figures: dict[str, Any] = dict.fromkeys(column.key for column in self.columns)
        if source.features is not None and not source.centred:
            means = np.stack([source.features[utt].mean(axis=0, dtype=np.float64) for utt in utts])  # (N, D)
            figures["speaker_accuracy"] = probe_accuracy(means, labels, folds)
        if source.units is not None:
            size = source.n_codes or 1 + max(int(source.units[utt].max()) for utt in utts)
            shares = np.stack([np.bincount(source.units[utt], minlength=size) for utt in utts]).astype(np.float64)
            figures["unit_speaker_accuracy"] = probe_accuracy(shares / shares.sum(axis=1, keepdims=True), labels, folds)
        chance = max(Counter(labels.tolist()).values()) / len(labels)
        about = {"speaker_chance": chance, "probed_speakers": len(set(labels)), "probed_utterances": len(labels)}
        return figures | about


def require_probe(speech: Speech) -> None:
    """Raise UserError if the probe cannot be measured, before any computation."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("--speakers: requires the package scikit-learn: pip install scikit-learn")
    probed_speakers(speech)


def probed_speakers(speech: Speech) -> dict[str, str]:
    """Utterance -> speaker of those that are probed, by name.

    Raises UserError if there are fewer than two speakers with enough utterances.
    """
    speakers = {utt: speech.speaker(utt) for utt in sorted(speech.names)}
    counts = Counter(speakers.values())
    probed = {utt: speaker for utt, speaker in speakers.items() if counts[speaker] >= MIN_UTTERANCES}
    if len(set(probed.values())) < 2:
        raise UserError(
            f"{speech.manifest}: the speaker probe requires at least two speakers with {MIN_UTTERANCES} utterances "
            "each; give a manifest with more of them, whose folders name the speakers, or omit --speakers"
        )
    return probed


def fold_numbers(speakers: Mapping[str, Any]) -> np.ndarray:
    """Utterance -> speaker; (N,) the fold of each utterance, from 0 to ``FOLDS`` - 1."""
    place: Counter = Counter()
    folds = {}
    for utt in sorted(speakers, key=lambda utt: hashlib.sha256(utt.encode()).digest()):
        folds[utt] = place[speakers[utt]] % FOLDS
        place[speakers[utt]] += 1
    return np.array([folds[utt] for utt in speakers])


def probe_accuracy(x: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """Share of the rows of x (N, D) whose label (N,) a probe trained on the other folds (N,) predicts."""
    return float((predict_speakers(x, labels, folds).labels == labels).mean())


class Predicted(NamedTuple):
    """``labels``: (N,) of each utterance; ``penalties``: fold -> the C, or the penalty, of the probe that predicts it.

    ``mix``: (L,) weights of layers, if there are several.
    """

    labels: np.ndarray
    penalties: Mapping[int, float]
    mix: np.ndarray | None = None


def predict_speakers(
    x: np.ndarray, labels: np.ndarray, folds: np.ndarray, penalties: Mapping[int, float] | None = None
) -> Predicted:
    """The label of each row of x (N, D) that a probe trained on the labels (N,) of the other folds (N,) predicts.

    ``penalties``: C of each fold; None: chosen.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted, chosen = np.empty_like(labels), {}
    for fold in np.unique(folds).tolist():
        train, test = folds != fold, folds == fold
        if penalties:
            chosen[fold] = penalties[fold]
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=chosen[fold], max_iter=1000))
            predicted[test] = probe.fit(x[train], labels[train]).predict(x[test])
            continue
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": PENALTIES},
            cv=PredefinedSplit(folds[train]),
        )  # the first of equal accuracies
        predicted[test] = search.fit(x[train], labels[train]).predict(x[test])
        chosen[fold] = search.best_params_["logisticregression__C"]
    return Predicted(predicted, chosen)

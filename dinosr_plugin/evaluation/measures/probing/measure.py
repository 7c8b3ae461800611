"""Probes as measures of the engine.

For a task T a row has ``T``, the score on the test speech (accuracy of classes, R² of numbers), ``T_low`` and
``T_high``, its interval over test speakers, ``T_control``, the score of the same probe, with the same penalty, fitted
on shuffled labels, ``T_selectivity`` = score - control (Hewitt and Liang, EMNLP 2019), ``T_majority``, the share of the
most frequent class, ``T_penalty``, ``T_train`` and ``T_test``, the numbers of examples, and for a weighted sum of
layers ``T_weights``. Of few examples, such as utterances, a control depends on how they were shuffled: it is the mean
over several. Without controls, which take time, these two are None.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ....errors import UserError, first_few
from ....units.frames import UtteranceArrays
from ...measuring import Source
from ...speech import Speech
from ...table import Column
from ..speaker import Predicted, fold_numbers, predict_speakers, probed_speakers
from . import intervals
from .labels import Examples, Labels, Place
from .linear import (
    Fit,
    LinearProbe,
    Scale,
    accuracy,
    determination,
    fit_classifier,
    fit_regressor,
    fit_with_best_penalty,
)

HELD_OUT = 0.2  # share of the training speakers, or utterances, on which the penalty is chosen
MIN_SPEAKERS = 5  # for a split by speaker
SHUFFLES, MANY = 5, 2000  # controls whose mean is taken; of so many examples one is enough
SPEAKER = "speaker"


def columns_of(task: str) -> Sequence[Column]:
    return (
        Column(task, task, ".3f"),
        Column(f"{task}_low", "low", ".3f"),
        Column(f"{task}_high", "high", ".3f"),
        Column(f"{task}_control", "control", ".3f"),
        Column(f"{task}_selectivity", "selectivity", ".3f"),
        Column(f"{task}_majority", "majority", ".3f"),
        Column(f"{task}_penalty", "penalty", "g"),
        Column(f"{task}_train", "train", "d"),
        Column(f"{task}_test", "test", "d"),
        Column(f"{task}_weights", "weights"),
    )


class TrainingSpeech(NamedTuple):
    """``speakers``: utterance -> speaker of the speech that probes are fitted on, in order."""

    speakers: Mapping[str, str]

    @property
    def groups(self) -> Mapping[str, str]:
        """Utterance -> its speaker, or itself if there are few speakers."""
        return self.speakers if self.by_speaker else {utt: utt for utt in self.speakers}

    @property
    def held_out_groups(self) -> set[str]:
        """A fifth of the groups."""
        ordered = sorted(set(self.groups.values()), key=lambda name: hashlib.sha256(name.encode()).digest())
        return set(ordered[: max(1, round(HELD_OUT * len(ordered)))])

    @property
    def held_out(self) -> set[str]:
        """The utterances on which the penalty is chosen: of a fifth of the speakers, or a fifth of the utterances."""
        chosen = self.held_out_groups
        return {utt for utt, group in self.groups.items() if group in chosen}

    @property
    def by_speaker(self) -> bool:
        return len(set(self.speakers.values())) >= MIN_SPEAKERS


class ProbeMeasure:
    """The probe of one task on a source.

    Args:
        task: its name.
        labels: what it predicts.
        training: the speech that it is fitted on.
        frames: examples that it is fitted on at most, random ones, the same ones for all sources with the same frames.
        seed: of these, of the shuffled labels and of the bootstrap.
        content: identifies the labels, for tables that are kept on the disk.
        controls: fit probes of shuffled labels, too.
    """

    def __init__(
        self,
        task: str,
        labels: Labels,
        training: TrainingSpeech,
        frames: int,
        seed: int = 0,
        content: str = "",
        controls: bool = True,
    ):
        self.task, self.columns, self.controls = task, columns_of(task), controls
        self.labels, self.training, self.frames, self.seed = labels, training, frames, seed
        self.content = f"{content} {labels.classes}"

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        """Raises UserError without features of training speech, or with too few examples; NaN in features."""
        if source.features is None or source.training is None:
            raise UserError("a probe requires features of the training speech and of the test speech")
        x, targets, kept = self.training_examples(source)
        if kept in (0, len(targets)) or len(np.unique(targets)) < 2:
            raise UserError(
                f"--task {self.task}: {len(targets)} training examples of {len(np.unique(targets))} label(s) are too "
                "few; give a larger --train"
            )
        scale = Scale.of(x)
        scale.apply(x)
        fit: Fit = (
            fit_regressor if self.labels.classes is None else partial(fit_classifier, classes=len(self.labels.classes))
        )
        probe = fit_with_best_penalty(x, targets, kept, fit, determination if self.labels.classes is None else accuracy)
        rng = np.random.default_rng(self.seed)
        shuffles = (1 if len(targets) >= MANY else SHUFFLES) if self.controls else 0
        shuffled = [rng.permutation(targets) for _ in range(shuffles)]
        controls = [fit(x, labels, probe.penalty, None) for labels in shuffled]
        del x
        figures = self.measured([probe, *controls], scale, source, speech)
        if len(probe.mix) > 1:
            figures[f"{self.task}_weights"] = [round(float(weight), 4) for weight in probe.mix]
        return figures | {f"{self.task}_train": len(targets), f"{self.task}_penalty": probe.penalty}

    def training_examples(self, source: Source) -> tuple[np.ndarray, np.ndarray, int]:
        """x (L, N, D) float32, labels (N,), and how many come first that are not held out."""
        features = source.training
        assert features is not None
        of_utterance = {utt: self.examples(features, utt, source) for utt in self.training.speakers}
        total = sum(len(examples.labels) for examples in of_utterance.values())
        rng = np.random.default_rng(self.seed)
        chosen = np.zeros(total, dtype=bool)
        chosen[rng.permutation(total)[: self.frames]] = True
        ends = np.cumsum([len(examples.labels) for examples in of_utterance.values()])
        for (utt, examples), end in zip(of_utterance.items(), ends):
            used = chosen[end - len(examples.labels) : end]
            of_utterance[utt] = Examples(*(values[used] for values in examples))
        held_out = self.training.held_out
        order = sorted((utt for utt in of_utterance if len(of_utterance[utt].labels)), key=held_out.__contains__)
        kept = sum(len(of_utterance[utt].labels) for utt in order if utt not in held_out)
        x = gathered(features, ((utt, of_utterance[utt]) for utt in order), min(total, self.frames))
        labels = [of_utterance[utt].labels for utt in order]
        return x, np.concatenate(labels) if labels else np.zeros(0), kept

    def examples(self, features: UtteranceArrays, utt: str, source: Source) -> Examples:
        return self.labels.examples(utt, Place(len(features[utt]), source.rate, source.first_centre))

    def measured(self, probes: Sequence[LinearProbe], scale: Scale, source: Source, speech: Speech) -> dict[str, Any]:
        """Figures of the first probe, and of the others, its controls, on all examples of the test speech."""
        features, classes = source.features, self.labels.classes
        assert features is not None
        count = intervals.sums_of_numbers if classes is None else intervals.sums_of_classes
        sums: dict[str, list[np.ndarray]] = {}  # speaker -> (k,) of each probe
        of_class: Counter = Counter()
        for utt in speech.names:
            examples = self.examples(features, utt, source)
            if not len(examples.labels):
                continue
            x = gathered(features, [(utt, examples)], len(examples.labels))
            scale.apply(x)
            found = [count(probe(x), examples.labels) for probe in probes]
            before = sums.setdefault(speech.speaker(utt), [np.zeros_like(one) for one in found])
            sums[speech.speaker(utt)] = [a + b for a, b in zip(before, found)]
            of_class.update(examples.labels.tolist() if classes is not None else [0] * len(examples.labels))
        if not sums:
            raise UserError(f"--task {self.task}: no example in {speech.manifest}; give other test speech")
        table = np.array([sums[speaker] for speaker in sorted(sums)])  # (S, probes, k)
        figures = figures_with_interval(self.task, table[:, 0], table[:, 1:], classes is not None, self.seed)
        if classes is not None:
            figures[f"{self.task}_majority"] = max(of_class.values()) / of_class.total()
        return figures | {f"{self.task}_test": of_class.total()}


class SpeakerMeasure:
    """Accuracy of ``measures.speaker``'s probe, on held-out utterances of the test speakers, with interval and control.

    Of a weighted sum of layers the probe is that of ``linear``, in the same folds; its penalty is chosen on one of the
    training folds, and the weights are means over the folds.
    """

    columns = columns_of(SPEAKER)

    def __init__(self, seed: int = 0, controls: bool = True):
        self.seed, self.controls = seed, controls

    def __call__(self, source: Source, speech: Speech) -> dict[str, Any]:
        """Raises UserError as ``probed_speakers``."""
        speakers = probed_speakers(speech)
        names, labels = np.unique(list(speakers.values()), return_inverse=True)
        folds = fold_numbers(speakers)
        features = source.require_features()
        x = np.stack([features[utt].mean(axis=0, dtype=np.float64) for utt in speakers])  # (N, D) or (N, L, D)
        predict = predict_speakers if x.ndim == 2 else predict_by_weighted_sum
        predicted = predict(x, labels, folds)
        rng = np.random.default_rng(self.seed)
        controls = []
        for _ in range(SHUFFLES if self.controls else 0):
            shuffled = rng.permutation(labels)
            folds = fold_numbers(dict(zip(speakers, shuffled.tolist())))  # each label is in several folds
            controls.append(predict(x, shuffled, folds, predicted.penalties).labels)
        right = np.stack([one == labels for one in (predicted.labels, *controls)], axis=1)  # (N, 1 + SHUFFLES)
        counts = np.bincount(labels)  # (S,)
        of_speaker = np.stack([right[labels == speaker].sum(axis=0) for speaker in range(len(names))])
        sums = np.stack(np.broadcast_arrays(counts[:, None], of_speaker), axis=-1)  # (S, 1 + SHUFFLES, 2)
        figures = figures_with_interval(SPEAKER, sums[:, 0], sums[:, 1:], True, self.seed)
        majority = float(counts.max() / len(labels))
        figures |= {"speaker_majority": majority, "speaker_test": len(labels)}
        if predicted.mix is not None:
            figures["speaker_weights"] = [round(float(weight), 4) for weight in predicted.mix]
        return figures


def predict_by_weighted_sum(
    x: np.ndarray, labels: np.ndarray, folds: np.ndarray, penalties: Mapping[int, float] | None = None
) -> Predicted:
    """As ``predict_speakers``, of x (N, L, D); the penalty of a fold is chosen on the next one."""
    predicted, chosen, mixes = np.empty_like(labels), {}, []
    fit = partial(fit_classifier, classes=int(labels.max()) + 1)
    existing = np.unique(folds).tolist()  # all speakers may have fewer utterances than there are folds
    for fold, held_out in zip(existing, [*existing[1:], existing[0]]):
        train = np.flatnonzero(folds != fold)
        train = train[np.argsort(folds[train] == held_out, kind="stable")]  # the fold that is held out last
        of_layers, tested = (
            np.ascontiguousarray(x[rows].transpose(1, 0, 2), dtype=np.float32)  # (L, N, D)
            for rows in (train, folds == fold)
        )
        scale = Scale.of(of_layers)
        scale.apply(of_layers)
        scale.apply(tested)
        if penalties:
            probe = fit(of_layers, labels[train], penalties[fold])
        else:
            kept = int((folds[train] != held_out).sum())
            probe = fit_with_best_penalty(of_layers, labels[train], kept, fit, accuracy)
        predicted[folds == fold] = probe(tested).argmax(axis=1)
        chosen[fold] = probe.penalty
        mixes.append(probe.mix)
    return Predicted(predicted, chosen, np.mean(mixes, axis=0))


# ---- what both have in common ----------------------------------------------------------------------------------------


def gathered(features: UtteranceArrays, examples: Iterable[tuple[str, Examples]], count: int) -> np.ndarray:
    """The mean of the frames of each example, (L, ``count``, D) float32. Raises UserError for NaN and infinity."""
    x: np.ndarray | None = None
    filled = 0
    for utt, (starts, stops, _) in examples:
        frames = features[utt]
        means = spans(frames, starts, stops)  # (k, D) or (k, L, D)
        if not np.isfinite(means).all():
            raise UserError(f"{utt}: NaN or infinity in its features; check the audio and the checkpoint")
        layers = means[None] if means.ndim == 2 else means.transpose(1, 0, 2)  # (L, k, D)
        if x is None:
            x = np.empty((len(layers), count, layers.shape[-1]), dtype=np.float32)
        x[:, filled : filled + len(starts)] = layers
        filled += len(starts)
    return np.empty((1, 0, 1), dtype=np.float32) if x is None else x


def spans(frames: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Means over frames ``starts[i]`` to ``stops[i]`` - 1: (n, ...) -> (k, ...) float32."""
    if (stops - starts == 1).all():
        return frames[starts].astype(np.float32)
    pairs: Iterator[tuple[int, int]] = zip(starts.tolist(), stops.tolist())
    return np.stack([frames[start:stop].mean(axis=0, dtype=np.float64) for start, stop in pairs]).astype(np.float32)


def figures_with_interval(
    task: str, sums: np.ndarray, controls: np.ndarray, of_classes: bool, seed: int
) -> dict[str, Any]:
    """Score, interval, control and selectivity; all other columns None.

    Args:
        sums: (S, k) of the speakers; ``controls``: (S, n, k), of n controls, or of none.
    """
    figure = intervals.figure_of(sums, of_classes)
    score = float(figure(sums.sum(axis=0)))
    low, high = intervals.bootstrap(sums, figure, seed) or (None, None)
    figures: dict[str, Any] = dict.fromkeys(column.key for column in columns_of(task))
    figures |= {task: score, f"{task}_low": low, f"{task}_high": high}
    if controls.shape[1]:
        control = float(figure(controls.sum(axis=0)).mean())
        figures |= {f"{task}_control": control, f"{task}_selectivity": score - control}
    return figures


def require_other_speakers(training: Mapping[str, str], speech: Speech, train: str, task: str) -> None:
    """Raise UserError if speakers of the test speech are in the training speech, too."""
    tested = sorted({speech.speaker(utt) for utt in speech.names})
    if shared := [speaker for speaker in tested if speaker in set(training.values())]:
        raise UserError(
            f"{speech.manifest}: {len(shared)} of its {len(tested)} speakers ({first_few(shared)}) are in {train} too, "
            f"but --task {task} is measured on other speakers; split by speaker, or probe only the speaker"
        )

"""Scores of trials: cosines of embeddings, perhaps normalised by a cohort; and files of scores.

A line of a file is that of the trial list, with the score at its end: ``1 FILE FILE 0.731``.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError, first_few
from ...files import read_lines, text_output
from .embeddings import Embeddings
from .trials import Trial, names_of, read_trials

CHUNK = 1 << 24  # numbers of a temporary array
TOP = 300


class Scored(NamedTuple):
    """``scores``: (N,) float32 of the trials; ``notes``: for the user."""

    trials: list[Trial]
    scores: np.ndarray
    notes: list[str]

    def by_kind(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores of target and of nontarget trials."""
        same = np.array([trial.same for trial in self.trials])
        return self.scores[same], self.scores[~same]


def score_list(
    folder: str | Path,
    trials: str | Path,
    cohort: str | Path | None = None,
    top: int = TOP,
    skip_missing: bool = False,
) -> Scored:
    """Scores of a trial list by the embeddings in a folder.

    Args:
        cohort: folder of embeddings of other speakers, for ``adaptive_s_norm``.
        top: as ``adaptive_s_norm``.
        skip_missing: leave out trials of files without an embedding.

    Raises:
        UserError: as ``Embeddings`` and ``read_trials``; files without an embedding, unless they are skipped and
            others remain; a cohort of another width, or that contains files of the list.
    """
    listed, embeddings = read_trials(trials), Embeddings(folder)
    missing = [name for name in names_of(listed) if name not in embeddings.row_of]
    kept = [trial for trial in listed if trial.first in embeddings.row_of and trial.second in embeddings.row_of]
    notes = []
    if missing:
        what = f"{trials}: {len(missing)} file(s) have no embedding in {folder} ({first_few(missing)})"
        if not skip_missing or not kept:
            raise UserError(
                f"{what}; embed them with `dinosr speaker embed ... --trials {trials}`, or leave out their trials with "
                "--skip-missing"
            )
        notes.append(f"{what}; {len(listed) - len(kept)} of {len(listed)} trials left out")
    if cohort is None:
        return Scored(kept, cosines(embeddings, kept), notes)
    others = Embeddings(cohort)
    require_cohort(others, embeddings, kept)
    if top > len(others):
        notes.append(f"{cohort}: contains {len(others)} embeddings, so these are used instead of the top {top}")
    return Scored(kept, adaptive_s_norm(embeddings, kept, others, top), notes)


def require_cohort(cohort: Embeddings, embeddings: Embeddings, trials: Sequence[Trial]) -> None:
    if cohort.width != embeddings.width:
        raise UserError(
            f"--cohort {cohort.path}: embeddings of width {cohort.width}, those of {embeddings.path} have "
            f"{embeddings.width}; make both with the same model"
        )
    if shared := [name for name in names_of(trials) if name in cohort.row_of]:
        raise UserError(
            f"--cohort {cohort.path}: contains {len(shared)} file(s) of the trials ({first_few(shared)}); give "
            "recordings of other speakers"
        )
    if len(cohort) < 2:
        raise UserError(f"--cohort {cohort.path}: contains one embedding, and two are required; give more recordings")


def rows_of(embeddings: Embeddings, trials: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (N,): the rows of both sides."""
    rows = [(embeddings.row_of[trial.first], embeddings.row_of[trial.second]) for trial in trials]
    first, second = np.array(rows).T
    return first, second


def cosines(embeddings: Embeddings, trials: Sequence[Trial]) -> np.ndarray:
    """(N,) float32. Embeddings of all trials must exist."""
    first, second = rows_of(embeddings, trials)
    x, step = embeddings.vectors, max(1, CHUNK // embeddings.width)
    parts = [
        np.einsum("nw,nw->n", x[first[i : i + step]], x[second[i : i + step]], dtype=np.float64)
        for i in range(0, len(first), step)
    ]
    return np.concatenate(parts).astype(np.float32)


def adaptive_s_norm(embeddings: Embeddings, trials: Sequence[Trial], cohort: Embeddings, top: int) -> np.ndarray:
    """(N,) float32: adaptive symmetric score normalisation (Matejka et al., Interspeech 2017).

    The cosine of a trial minus the mean, over the standard deviation, of the ``top`` highest cosines of one side with
    the cohort (all, if there are fewer); then the mean over both sides. The deviation is at least 1e-6.
    """
    first, second = rows_of(embeddings, trials)
    used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    means, deviations = cohort_statistics(embeddings.vectors[used], cohort.vectors, top)
    scores = cosines(embeddings, trials).astype(np.float64)
    sides = [(scores - means[place]) / deviations[place] for place in np.split(places, 2)]
    return ((sides[0] + sides[1]) / 2).astype(np.float32)


def cohort_statistics(x: np.ndarray, cohort: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, W), (C, W) of norm 1 -> (N,) means and (N,) standard deviations of the ``top`` highest cosines of each."""
    top, step = min(top, len(cohort)), max(1, CHUNK // len(cohort))
    means, deviations = [], []
    for i in range(0, len(x), step):
        highest = np.partition(x[i : i + step] @ cohort.T, len(cohort) - top, axis=1)[:, -top:]  # (n, top)
        means.append(highest.mean(axis=1, dtype=np.float64))
        deviations.append(highest.std(axis=1, dtype=np.float64).clip(min=1e-6))
    return np.concatenate(means), np.concatenate(deviations)


# ---- files -----------------------------------------------------------------------------------------------------------


def write_scores(path: str | Path, scored: Scored) -> None:
    """Nine digits, which are exact for float32."""
    with text_output(path) as file:
        file.writelines(f"{trial.line()} {score:.9g}\n" for trial, score in zip(scored.trials, scored.scores.tolist()))


def read_scores(path: str | Path) -> Scored:
    """Raises UserError for a file that cannot be read, a line of another form, or no line."""
    remedy = "make it with `dinosr speaker score`"
    trials, scores = [], []
    for number, line in enumerate(read_lines(path, remedy), start=1):
        fields = line.split()
        if len(fields) != 4 or fields[0] not in ("0", "1"):
            hint = "; it is a trial list" if len(fields) == 3 and fields[0] in ("0", "1") else ""
            raise UserError(f"{path} line {number}: not `0|1 FILE FILE SCORE`{hint}; {remedy}")
        trials.append(Trial(fields[0] == "1", fields[1], fields[2]))
        scores.append(parse_score(fields[3], f"{path} line {number}"))
    if not trials:
        raise UserError(f"{path}: empty; {remedy}")
    return Scored(trials, np.array(scores, dtype=np.float64), [])


def parse_score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{where}: the score must be a finite number; correct it")
    return score

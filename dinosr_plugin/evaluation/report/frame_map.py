"""The map of frames: a balanced sample of frames, projected by t-SNE."""

from collections import Counter
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ...data.audio import SAMPLE_RATE
from ...errors import UserError
from ...units.features import LiveFeatures
from ...units.store import FeatureFolder
from ..projection import balanced, has_t_sne, t_sne
from ..speech import Speech

FRAMES = 3000
SPEAKERS = 7  # maximum; more colours would be hard to tell apart
MAX_SAMPLES = 20 * 60 * SAMPLE_RATE  # of a larger corpus, random utterances of 20 minutes are used


class FrameMap(NamedTuple):
    """points: (N, 2) float; phones: (N,) int64, indices into the alignment's names, or None; speakers: (N,) names."""

    points: np.ndarray
    phones: np.ndarray | None
    speakers: np.ndarray


def frame_map(features: FeatureFolder | LiveFeatures, speech: Speech, seed: int = 0) -> FrameMap:
    """Frames, balanced over phones (if they are known) and speakers as far as possible, projected by t-SNE.

    t-SNE: van der Maaten and Hinton (2008).

    At most ``SPEAKERS`` speakers are used, those with the most speech. Only neighbourhoods are meaningful in such a
    map; the distances between remote groups, their sizes and the axes are not.

    Raises UserError for unreadable audio, and for an utterance without alignment.
    """
    rng = np.random.default_rng(seed)
    chosen = choose(speech, rng)
    frames = {utt: features[utt] for utt in tqdm(chosen, desc="frames for the map", unit="utt", disable=None)}  # (n, D)
    place = (features.rate, features.first_centre)
    speaker_of = np.repeat([speech.speaker(utt) for utt in chosen], [len(frames[utt]) for utt in chosen])
    phone_of, groups = None, speaker_of
    if speech.phones is not None:
        phone_of = np.concatenate([speech.phones.frame_phones(utt, len(frames[utt]), *place) for utt in chosen])
        groups = np.char.add(np.char.add(phone_of.astype(str), " "), speaker_of)
    sample = balanced(groups, FRAMES, rng)
    points = t_sne(np.concatenate([frames[utt] for utt in chosen])[sample], seed)
    return FrameMap(points, None if phone_of is None else phone_of[sample], speaker_of[sample])


def require_library() -> None:
    """Raise UserError if scikit-learn is not installed, before any computation."""
    if not has_t_sne():
        raise UserError("the map of frames requires the package scikit-learn: pip install scikit-learn")


def choose(speech: Speech, rng: np.random.Generator) -> list[str]:
    """Names of random utterances of the speakers with the most speech, at most 20 minutes."""
    samples: Counter = Counter()
    for utterance in speech.utterances:
        samples[speech.speaker(utterance.name)] += utterance.samples
    frequent = {speaker for speaker, _ in samples.most_common(SPEAKERS)}
    candidates = [utterance for utterance in speech.utterances if speech.speaker(utterance.name) in frequent]
    order = rng.permutation(len(candidates))
    total = np.cumsum([candidates[i].samples for i in order])
    return [candidates[i].name for i in order[: max(1, int(np.searchsorted(total, MAX_SAMPLES)))]]

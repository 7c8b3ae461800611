"""Which frames a map shows, and where it puts them: a balanced sample, and t-SNE."""

import importlib.util
from collections import Counter
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ...data.audio import SAMPLE_RATE
from ...errors import UserError
from ...units.features import LiveFeatures
from ...units.store import FeatureFolder
from ..speech import Speech

FRAMES = 3000
SPEAKERS = 7  # more would be too many colours
SOUND = 20 * 60 * SAMPLE_RATE  # samples; of a larger corpus, random utterances of 20 minutes are read
WIDTH = 50  # principal components that t-SNE works on
PERPLEXITY = 30


class FrameMap(NamedTuple):
    """points: (N, 2) float; phones: (N,) int64, indices into the alignment's names; speakers: (N,) names."""

    points: np.ndarray
    phones: np.ndarray
    speakers: np.ndarray


def frame_map(features: FeatureFolder | LiveFeatures, speech: Speech, seed: int = 0) -> FrameMap:
    """Frames of every phone and speaker in equal parts, as far as possible, placed by t-SNE (van der Maaten and Hinton
    2008).

    Of many speakers, the ``SPEAKERS`` with the most speech. Only neighbourhoods mean something in such a map, not the
    distances between far groups, their sizes, or the axes.

    Raises UserError from the audio, or for an utterance without alignment.
    """
    rng = np.random.default_rng(seed)
    chosen = choose(speech, rng)
    frames = {utt: features[utt] for utt in tqdm(chosen, desc="frames for the map", unit="utt", disable=None)}  # (n, D)
    place = (features.rate, features.first_centre)
    phone_of = np.concatenate([speech.phones.frame_phones(utt, len(frames[utt]), *place) for utt in chosen])
    speaker_of = np.repeat([speech.speaker(utt) for utt in chosen], [len(frames[utt]) for utt in chosen])
    sample = balanced(np.char.add(np.char.add(phone_of.astype(str), " "), speaker_of), FRAMES, rng)
    points = project(np.concatenate([frames[utt] for utt in chosen])[sample], seed)
    return FrameMap(points, phone_of[sample], speaker_of[sample])


def require_library() -> None:
    """Raise UserError before any work if scikit-learn is missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("the map of frames requires the package scikit-learn: pip install scikit-learn")


def choose(speech: Speech, rng: np.random.Generator) -> list[str]:
    """Names of random utterances of the speakers with the most speech, 20 minutes at most."""
    samples: Counter = Counter()
    for utterance in speech.utterances:
        samples[speech.speaker(utterance.name)] += utterance.samples
    frequent = {speaker for speaker, _ in samples.most_common(SPEAKERS)}
    theirs = [utterance for utterance in speech.utterances if speech.speaker(utterance.name) in frequent]
    order = rng.permutation(len(theirs))
    total = np.cumsum([theirs[i].samples for i in order])
    return [theirs[i].name for i in order[: max(1, int(np.searchsorted(total, SOUND)))]]


def balanced(groups: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most ``most`` items of groups (N,), in order: one of each group in turn until there are enough."""
    shuffled = rng.permutation(len(groups))
    shuffled = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, starts, sizes = np.unique(groups[shuffled], return_index=True, return_counts=True)
    turn = np.arange(len(groups)) - np.repeat(starts, sizes)  # place within its group
    return np.sort(shuffled[np.lexsort((rng.random(len(groups)), turn))[:most]])


def project(frames: np.ndarray, seed: int) -> np.ndarray:
    """(N, D) -> (N, 2) by t-SNE on the first principal components; the same for the same seed."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    frames = np.asarray(frames, dtype=np.float32)
    components = PCA(min(WIDTH, *frames.shape), random_state=seed).fit_transform(frames)
    return TSNE(perplexity=min(PERPLEXITY, (len(frames) - 1) / 3), init="pca", random_state=seed).fit_transform(
        components
    )

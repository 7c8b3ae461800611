"""Which frames a map shows, and where it puts them: a balanced sample, and t-SNE."""

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ...data.audio import SAMPLE_RATE
from ...errors import UserError
from ...units.features import LiveFeatures, Utterance
from ..phones import PhoneAlignment

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


def frame_map(
    features: LiveFeatures,
    utterances: Sequence[Utterance],
    phones: PhoneAlignment,
    speakers: Mapping[str, str],
    seed: int = 0,
) -> FrameMap:
    """Frames of every phone and speaker in equal parts, as far as there are any, laid out by t-SNE (van der Maaten and Hinton 2008).

    Of many speakers, the ``SPEAKERS`` with the most speech. Neighbourhoods mean something in such a map; distances between far groups, their sizes
    and the axes do not.

    Raises UserError from the audio, or for an utterance without alignment.
    """
    rng = np.random.default_rng(seed)
    chosen = choose(utterances, speakers, rng)
    found = {
        utt: features[utt] for utt in tqdm(chosen, desc="frames for the map", unit="utt", disable=None)
    }  # (n, D) each
    phone_of = np.concatenate([phones.frame_phones(utt, len(found[utt]), features.rate) for utt in chosen])
    speaker_of = np.repeat([speakers[utt] for utt in chosen], [len(found[utt]) for utt in chosen])
    sample = balanced(np.char.add(np.char.add(phone_of.astype(str), " "), speaker_of), FRAMES, rng)
    return FrameMap(
        project(np.concatenate([found[utt] for utt in chosen])[sample], seed), phone_of[sample], speaker_of[sample]
    )


def require_library() -> None:
    """Raise UserError before any work where scikit-learn is missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("the map of frames takes the package scikit-learn: pip install scikit-learn")


def choose(utterances: Sequence[Utterance], speakers: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Names of random utterances of the speakers with the most speech, 20 minutes at most."""
    spoken: Counter = Counter()
    for utterance in utterances:
        spoken[speakers[utterance.name]] += utterance.samples
    heard = {speaker for speaker, _ in spoken.most_common(SPEAKERS)}
    own = [utterance for utterance in utterances if speakers[utterance.name] in heard]
    order = rng.permutation(len(own))
    total = np.cumsum([own[i].samples for i in order])
    return [own[i].name for i in order[: max(1, int(np.searchsorted(total, SOUND)))]]


def balanced(groups: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most ``most`` items of groups (N,), in order: one of every group in turn until enough are chosen or none is left."""
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

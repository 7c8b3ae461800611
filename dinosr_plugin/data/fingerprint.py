"""What identifies a training set: digests of its utterances and of their labels, small enough for every checkpoint."""

import hashlib
import heapq
from collections.abc import Iterator
from typing import Any

from .dataset import SpeechDataset
from .labels import FrameLabels

SAMPLE = 1000
"""Number of utterances whose labels have a digest each."""


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Plain data, equal for two training sets exactly if their utterances and labels are, in the same order.

    The folder that contains the files does not count.

    Args:
        dataset: a ``SpeechDataset``, or any of the wrappers of it that this package and fairseq's audio tasks use.

    Returns:
        ``data``: a list with ``file``, ``utterances`` (their number) and ``digest`` of every manifest, and with
        ``transcripts``, a digest, in fine-tuning. ``labels``: a list with ``file``, ``digest`` and ``sample`` (hash of
        a name -> digest of its labels) of every label file, if the manifest has any.
    """
    parts = list(utterances_of(dataset))
    return {
        "data": [describe_rows(speech) | describe_transcripts(texts) for speech, texts in parts],
        "labels": [
            {"file": file, "digest": digest(labels.values.numpy(), labels.ends), "sample": sample_of(labels, speech)}
            for speech, _ in parts
            for file, labels in zip(speech.label_files, speech.labels)
        ],
    }


def utterances_of(dataset: Any, texts: Any = None) -> Iterator[tuple[SpeechDataset, Any]]:
    """The datasets of whole utterances inside a dataset, each with the wrapper that has its transcripts, or None."""
    if isinstance(dataset, SpeechDataset):
        yield dataset, texts
    elif hasattr(dataset, "datasets"):  # a mixture of corpora
        for part in dataset.datasets.values():
            yield from utterances_of(part, texts)
    elif hasattr(dataset, "utterances"):  # windows
        yield from utterances_of(dataset.utterances, texts)
    elif hasattr(dataset, "dataset"):
        yield from utterances_of(dataset.dataset, dataset if hasattr(dataset, "get_label") else texts)


def describe_rows(speech: SpeechDataset) -> dict[str, Any]:
    names = speech.fnames
    return {
        "file": str(speech.manifest_path),
        "utterances": len(speech.sizes),
        "digest": digest(names.text, names.ends, speech.sizes),
    }


def describe_transcripts(texts: Any) -> dict[str, str]:
    if texts is None:
        return {}
    return {"transcripts": digest("\n".join(texts.get_label(i).strip() for i in range(len(texts.labels))).encode())}


def sample_of(labels: FrameLabels, speech: SpeechDataset) -> dict[str, str]:
    """Hash of the name -> digest of the labels, for the ``SAMPLE`` utterances with the smallest hashes.

    Two sets that share most utterances have samples that share most utterances.
    """
    hashed = ((digest(speech.fnames[i], size=8), i) for i in range(len(labels)))
    return {name: digest(labels[i].numpy(), size=8) for name, i in heapq.nsmallest(SAMPLE, hashed)}


def digest(*parts: Any, size: int = 32) -> str:
    """Digest of buffers, each with its length, of ``size`` bytes, as hexadecimal digits."""
    result = hashlib.blake2b(digest_size=size)
    for part in parts:
        with memoryview(part) as buffer:
            result.update(buffer.nbytes.to_bytes(8, "little"))
            result.update(buffer.cast("B") if buffer.nbytes else b"")
    return result.hexdigest()

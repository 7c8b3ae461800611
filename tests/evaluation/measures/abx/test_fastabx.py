"""ABX errors equal those of fastabx (Python 3.12, ``pip install dinosr-plugin[oracle]``), with either last frame."""

import numpy as np
import pytest
import torch

from dinosr_plugin.evaluation.measures.abx.errors import abx
from dinosr_plugin.evaluation.measures.abx.items import Item, write_items

fastabx = pytest.importorskip("fastabx")
RATE = 50


def corpus(seed: int, shift: float = 0.0) -> tuple[dict[str, np.ndarray], list[Item]]:
    """Random features of six utterances, and items of 60 to 120 ms at multiples of 10 ms plus ``shift`` seconds."""
    rng = np.random.default_rng(seed)
    features = {f"{speaker}{n}": rng.normal(size=(200, 6)).astype(np.float32) for speaker in "xyz" for n in range(2)}
    items = []
    for utt in features:
        for _ in range(12):
            start, length = rng.integers(0, 300), rng.integers(6, 13)
            onset, offset = round(start / 100 + shift, 3), round((start + length) / 100 + shift, 3)
            items.append(Item(utt, onset, offset, rng.choice(["A", "B", "C"]), rng.choice(["k", "t"]), "s", utt[0]))
    return features, items


def require_equal_to_fastabx(folder, features, items, last_frame):
    for utt, frames in features.items():
        torch.save(torch.from_numpy(frames), folder / f"{utt}.pt")
    write_items(folder / "some.item", items)
    ours = abx(features, items, RATE, "angular", max_group=None, max_speakers=None, last_frame=last_frame)
    settings = dict(max_size_group=None, max_x_across=None, frequency=RATE, device="cpu", progress=False)
    for speaker in ("within", "across"):
        theirs = fastabx.zerospeech_abx(folder / "some.item", folder, speaker=speaker, **settings)
        assert ours.scores[speaker].error == pytest.approx(100 * theirs, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_keep_equals_fastabx(tmp_path, monkeypatch, seed):
    """Half of the times lie exactly on the centre of a frame, where float and decimal arithmetic differ."""
    monkeypatch.setenv("FASTABX_WITH_LIBRILIGHT_BUG", "0")
    require_equal_to_fastabx(tmp_path, *corpus(seed), "keep")


@pytest.mark.parametrize("seed", range(3))
def test_drop_equals_fastabx_with_the_rule_of_libri_light(tmp_path, monkeypatch, seed):
    """Away from the centres of frames: on them, fastabx's decimals differ from the floats of Libri-light's scorer."""
    monkeypatch.setenv("FASTABX_WITH_LIBRILIGHT_BUG", "1")
    require_equal_to_fastabx(tmp_path, *corpus(seed, shift=0.003), "drop")

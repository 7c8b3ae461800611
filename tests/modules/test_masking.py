"""Random spans: fairseq's numbers of spans, on valid frames only, from torch's generator."""

import numpy as np
import pytest
import torch
from fairseq.data.data_utils import compute_mask_indices
from hypothesis import given, settings
from hypothesis import strategies as st

from dinosr_plugin.modules.masking import span_mask

rows = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@given(rows, st.floats(0.01, 1.0), st.integers(1, 20), st.booleans(), st.integers(0, 5), st.integers(0, 2**31))
def test_properties_of_every_mask(sizes, prob, length, same_count, extra, seed):
    sizes = torch.tensor(sizes)
    width = int(sizes.max()) + extra
    torch.manual_seed(seed)
    mask = span_mask(sizes, width, prob, length, same_count)
    assert mask.shape == (len(sizes), width) and mask.dtype == torch.bool
    assert not (mask & (torch.arange(width) >= sizes.unsqueeze(1))).any(), "a padded frame was masked"
    masked = mask.sum(1)
    assert (masked < sizes).all(), "no unmasked frame remains"
    if same_count:
        assert len(set(masked.tolist())) == 1, "a row has more masked frames than another"
    else:
        assert ((masked > 0) | (sizes == 1)).all(), "a row without a masked frame"
    torch.manual_seed(seed)
    assert torch.equal(mask, span_mask(sizes, width, prob, length, same_count)), (
        "the mask is not determined by the seed"
    )


def test_masks_differ_between_seeds_calls_and_rows():
    sizes = torch.full((4,), 300)
    torch.manual_seed(1)
    first, second = (span_mask(sizes, 300, 0.65, 10) for _ in range(2))
    torch.manual_seed(2)
    third = span_mask(sizes, 300, 0.65, 10)
    assert not torch.equal(first, second) and not torch.equal(first, third)
    assert not torch.equal(first[0], first[1]), "rows share one mask"


def test_masked_frames_form_spans():
    mask = span_mask(torch.tensor([200, 400]), 400, 0.3, 10, same_count=False)
    for row in mask.int():
        edges = torch.diff(torch.cat([torch.zeros(1), row, torch.zeros(1)]))
        lengths = (edges == -1).nonzero() - (edges == 1).nonzero()
        assert (lengths >= 10).all()


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("prob, length", [(0.8, 10), (0.65, 10), (0.5, 5), (1.0, 1)])
def test_short_rows(size, prob, length):
    """Shorter than a span: some frames are masked (unless there is only one), and some are not."""
    for seed in range(20):
        torch.manual_seed(seed)
        n = int(span_mask(torch.tensor([size]), size, prob, length).sum())
        assert min(1, size - 1) <= n <= size - 1


def test_a_short_row_limits_the_count_of_all_rows():
    assert span_mask(torch.tensor([500, 3]), 500, 0.8, 10).sum(1).max() <= 2


@pytest.mark.parametrize("prob, length", [(0.8, 10), (0.65, 10), (0.5, 5)])
@pytest.mark.parametrize("same_count", [True, False])
def test_as_many_masked_frames_as_in_fairseq(prob, length, same_count):
    """Mean share over 1600 rows of 500 frames; its standard error is below 0.1 %."""
    torch.manual_seed(0)
    np.random.seed(0)  # of fairseq's masks
    ours = (
        span_mask(torch.full((1600,), 500), 500, prob, length, same_count=False)
        if not same_count
        else torch.cat([span_mask(torch.full((8,), 500), 500, prob, length) for _ in range(200)])
    )
    theirs = np.concatenate(
        [
            compute_mask_indices((8, 500), None, prob, length, min_masks=1, require_same_masks=same_count)
            for _ in range(200)
        ]
    )
    assert ours.float().mean().item() == pytest.approx(theirs.mean(), abs=0.01)
    # and over time: the share rises during the first span
    ours, theirs = ours.float().mean(0), torch.tensor(theirs.mean(0))
    assert ours[0] == pytest.approx(theirs[0].item(), abs=0.03)
    assert ours[-length:].mean() == pytest.approx(theirs[-length:].mean().item(), abs=0.03)

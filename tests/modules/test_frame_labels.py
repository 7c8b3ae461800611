"""Labels stay aligned with the audio when it is cropped."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dinosr_plugin.modules.frame_labels import labels_of_frames

HOP = 320


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 300)), min_size=1, max_size=4),
    st.sampled_from([50, 100]),
    st.integers(1, 60),
)
def test_no_crop_shifts_a_label_by_more_than_half_a_frame(crops, rate, n_frames):
    """Label i of every utterance is the number i, from which its start follows."""
    starts = torch.tensor([start for start, _ in crops])
    rows = [torch.arange(length) for _, length in crops]
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).unsqueeze(0)
    result = labels_of_frames(labels, starts, rate, HOP, n_frames)
    assert result.shape == (1, len(crops), n_frames) and (result >= 0).all()
    for (start, length), frames in zip(crops, result[0].tolist()):
        for t, label in enumerate(frames):
            sample = start + HOP * t
            if label < length - 1 or sample * rate <= 16_000 * label:  # not a repetition of the last label
                assert abs(label * 16_000 - sample * rate) <= rate * HOP / 2
            else:
                assert label == length - 1


@given(st.integers(0, 5), st.integers(1, 40), st.sampled_from([50, 100]))
def test_a_crop_at_a_frame_boundary_has_the_labels_of_the_whole_utterance(first, n_frames, rate):
    labels = torch.randint(0, 9, (2, 1, 200))
    whole = labels_of_frames(labels, torch.tensor([0]), rate, HOP, 60)
    crop = labels_of_frames(labels, torch.tensor([first * HOP]), rate, HOP, n_frames)
    assert torch.equal(crop, whole[:, :, first : first + n_frames])
    assert torch.equal(whole, labels[:, :, :: rate // 50][:, :, :60])


def test_sets_of_different_lengths():
    """Two label sets, the second one shorter: each repeats its own last label."""
    labels = torch.tensor([[[0, 1, 2, 3]], [[5, 6, -1, -1]]])
    assert labels_of_frames(labels, torch.tensor([0]), 50, HOP, 5).tolist() == [[[0, 1, 2, 3, 3]], [[5, 6, 6, 6, 6]]]
    assert labels_of_frames(labels, torch.tensor([320 * 100]), 50, HOP, 1).tolist() == [[[3]], [[6]]]

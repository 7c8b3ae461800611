"""Training or validation: the share that is chosen if the user gives none."""

import pytest

from dinosr_plugin.data.corpora.splitting import USUAL_SHARE, split_names, usual_share


@pytest.mark.parametrize("number", [2, 3, 5, 12, 40])
@pytest.mark.parametrize("seed", range(4))
def test_the_usual_share_leaves_no_split_empty(number, seed):
    keys = [f"speaker {n}" for n in range(number)]
    share, notes = usual_share(keys, "speaker", seed)
    names = split_names(keys, "speaker", share, seed)
    assert set(names) == {"train", "valid"}
    if share != USUAL_SHARE:
        assert names.count("valid") == 1 and notes == [
            f"--valid-share {share}, because 0.05 of {number} speaker(s) leaves valid empty; give it to keep the split "
            "when files are added"
        ]
    else:
        assert not notes


def test_many_files_have_the_usual_share():
    keys = [f"{n}" for n in range(2000)]
    assert usual_share(keys, "file", 0) == (USUAL_SHARE, [])
    assert 60 < split_names(keys, "file", USUAL_SHARE, 0).count("valid") < 140


def test_one_speaker_is_for_training():
    share, notes = usual_share(["anna"] * 3, "speaker", 0)
    assert split_names(["anna"] * 3, "speaker", share, 0) == ["train"] * 3
    assert notes == ["only one speaker, so that there is no valid.tsv"]

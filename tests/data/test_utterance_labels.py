"""Labels of utterances: valid and invalid files."""

import pytest
import torch

from dinosr_plugin.data.utterance_labels import read_utterance_labels
from dinosr_plugin.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.cluster"


def test_labels_and_number_of_clusters(path):
    path.write_text("0\n2\r\n 1 \n0\n")
    labels, n_clusters = read_utterance_labels(path, 4)
    assert labels.tolist() == [0, 2, 1, 0] and labels.dtype == torch.int64 and n_clusters == 3
    assert read_utterance_labels(path, 4, n_clusters=4)[1] == 4


def test_labels_of_skipped_rows_are_left_out(path):
    path.write_text("0\n\n1\nx\n0\n")
    labels, n_clusters = read_utterance_labels(path, 3, skipped={1, 3})
    assert labels.tolist() == [0, 1, 0] and n_clusters == 2


@pytest.mark.parametrize(
    "text, clusters, message",
    [
        (
            "0\n1\n",
            None,
            "{path}: 2 lines for the 3 rows of train.tsv; give it one cluster, an integer from 0, for each",
        ),
        ("0\n1\n1\n1\n", None, "{path}: 4 lines for the 3 rows of train.tsv; give it"),
        ("", None, "{path}: 0 lines for the 3 rows of train.tsv; give it"),
        ("0\n-1\n1\n", None, "{path} line 2: '-1' is not one integer from 0; give it one cluster"),
        ("0\n1\n1.0\n", None, "{path} line 3: '1.0' is not one integer from 0; give it"),
        ("0\n\n1\n", None, "{path} line 2: '' is not one integer from 0; give it"),
        ("0 1\n1\n1\n", None, "{path} line 1: '0 1' is not one integer from 0; give it"),
        ("0\n1\n" + "9" * 50 + "\n", None, "{path} line 3: '" + "9" * 37 + "...' is not one integer from 0; give it"),
        ("0\n2\n1\n", 2, "{path} line 2: there is no cluster 2; clusters are 0 to 1"),
        ("0\n1\n3\n", None, "{path}: 3 utterances are fewer than the 4 clusters; number clusters from 0"),
        ("0\n1\n1\n", 9, "{path}: 3 utterances are fewer than the 9 clusters; number clusters from 0"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_line(path, text, clusters, message):
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_utterance_labels(path, 3, clusters)
    assert str(error.value).startswith(message.format(path=path)) and "\n" not in str(error.value)


def test_a_missing_file(path):
    with pytest.raises(UserError, match="no such file; give it one cluster"):
        read_utterance_labels(path, 3)

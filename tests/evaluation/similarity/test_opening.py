"""From what the user names to representations and pairs."""

import numpy as np
import pytest

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.similarity.opening import make_plan, model_names, open_suppliers, read_speech
from dinosr_plugin.units.store import FeatureFolder
from support.fairseq_models import fairseq_checkpoint
from support.feature_folder import FRAMES, NAMES, writer
from support.paths import GOLDEN
from support.recordings import white_noise, write_recordings
from support.spin import spin_checkpoint

TINY = str(GOLDEN / "official_format_tiny.pt")


def names_of(suppliers) -> list[str]:
    return [one.name for supplier in suppliers for one in supplier.representations]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/checkpoint_last.pt", "runs/b/checkpoint_last.pt"], ["a", "b"]),
        (["run/checkpoint_1_50.pt", "run/checkpoint_2_100.pt"], ["checkpoint_1_50", "checkpoint_2_100"]),
        (["x/1/m.pt", "y/2/m.pt", "mfcc"], ["x/1", "y/2", "mfcc"]),
        (["x/m.pt", "fbank"], ["m", "fbank"]),
        (["m.pt", "a/m.pt"], ["m", "a/m"]),
        (["a.pt"], ["a"]),
    ],
)
def test_names_are_the_parts_of_the_paths_that_differ(paths, names):
    assert model_names(paths) == names


def test_only_names_of_files_have_suffixes(tmp_path):
    for name in ("run.1", "run.2"):
        (tmp_path / name).mkdir()
    assert model_names([str(tmp_path / name) for name in ("run.1", "run.2", "a.pt")]) == ["run.1", "run.2", "a"]


def test_a_model_that_is_named_twice_is_refused():
    with pytest.raises(UserError, match=r"m\.pt: given twice; give it once"):
        model_names(["m.pt", "n.pt", "m.pt"])


def test_all_layers_of_one_or_two_models_and_the_last_of_more(tmp_path):
    spin_checkpoint(tmp_path / "spin.pt")
    fairseq_checkpoint(tmp_path / "hubert.pt", "hubert")
    one = open_suppliers([TINY])
    n = len(names_of(one))
    assert names_of(one) == [f"official_format_tiny {layer}" for layer in range(n)] and n > 1
    three = open_suppliers([TINY, str(tmp_path / "spin.pt"), "mfcc", str(tmp_path / "hubert.pt")])
    assert len(names_of(three)) == 4


def test_models_of_a_kind_are_next_to_each_other(tmp_path):
    for name in ("b.pt", "d.pt"):
        spin_checkpoint(tmp_path / name)
    models = [str(tmp_path / "b.pt"), TINY, str(tmp_path / "d.pt")]
    kinds = [supplier.representations[0].kind for supplier in open_suppliers(models)]
    assert kinds == ["Spin", "Spin", "DinoSR"]


def test_untrained_models_and_outputs(tmp_path):
    spin_checkpoint(tmp_path / "spin.pt")
    suppliers = open_suppliers([str(tmp_path / "spin.pt")], [0, "projection"], untrained=True)
    assert names_of(suppliers) == ["spin 0", "spin projection", "spin untrained 0", "spin untrained projection"]
    assert {one.kind for one in suppliers[1].representations} == {"untrained"}


def test_pairs_are_between_the_layers_of_two_models():
    suppliers = open_suppliers([TINY], untrained=True)
    plan = make_plan(suppliers, all_pairs=False)
    assert list(plan.rows) == names_of(suppliers[:1]) and list(plan.columns) == names_of(suppliers[1:])
    assert len(plan.pairs) == len(plan.rows) ** 2
    square = make_plan(suppliers, all_pairs=True)
    assert square.rows == square.columns and len(square.pairs) == 2 * len(plan.rows) * (2 * len(plan.rows) - 1) // 2


def test_one_representation_is_not_a_pair():
    with pytest.raises(UserError, match="mfcc: one representation is not a pair; give another model"):
        make_plan(open_suppliers(["mfcc"]), all_pairs=False)


def test_a_folder_without_some_utterances_is_refused(tmp_path):
    with writer(tmp_path / "features") as features:
        for row, frames in enumerate(FRAMES):
            features.add(row, frames)
        features.close()
    suppliers = open_suppliers([str(tmp_path / "features"), "mfcc"])
    manifest = write_recordings(tmp_path, [white_noise(), white_noise(6000)])
    with pytest.raises(UserError, match=r"features: 2 of 2 utterances of the manifest are not in it"):
        read_speech(manifest, suppliers, 10)
    folder = FeatureFolder(tmp_path / "features")
    (arrays,) = suppliers[0].read([type("U", (), {"name": NAMES[2]})], [])
    np.testing.assert_array_equal(arrays[0], folder[NAMES[2]])

"""Fine-tuning of the models of frames that do not have the trunk, and refusal of those without frames."""

import logging

import pytest
import torch

from dinosr_plugin.checkpoints.load import load_model
from dinosr_plugin.checkpoints.opening import open_reader
from dinosr_plugin.checkpoints.readers import padded_waves, trunk_of
from dinosr_plugin.errors import UserError
from support.training import fine_tune, train, write_corpus

LENGTHS = [16000, 12000, 17000, 9000]  # samples
UNUSED = "does not use model.mask_prob=0.3, model.activation_dropout=0.1, model.feature_grad_mult=0.0: nothing of it"
CASES = {
    "cpc_tiny": (["model.encoder_norm=batch"], [], UNUSED, 16),
    "apc_fwbw_rnn": (
        [],
        ["model.apply_mask=false", "model.dropout=0.3", "model.layerdrop=0.1"],
        "APC does not use model.layerdrop=0.1, model.activation_dropout=0.1, model.feature_grad_mult=0.0: ",
        32,
    ),
    "mpc_trf": (["model.positions=convolution"], ["model.mask_prob=0"], "does not use model.activation_dropout=", 16),
}
"""Config -> settings of pre-training, of fine-tuning, what is logged, and the width of the features."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_corpus(tmp_path_factory.mktemp("data"), lengths=LENGTHS)
    (folder / "train.ltr").write_text("A B |\n" * 4)
    (folder / "dict.ltr.txt").write_text("| 1\nA 1\nB 1\n")
    return folder


@pytest.mark.parametrize("config", CASES)
def test_fine_tuning_trains_all_but_the_heads(data, tmp_path, config, caplog):
    """... and the checkpoint is a recogniser whose emissions do not depend on padding, and whose layers can be read."""
    before, now, logged, width = CASES[config]
    schedule = ["dataset.disable_validation=true", "optimization.max_update=1", "task.normalize=false"]
    heads = train(data, tmp_path / "pretrained", *schedule, *before, config=config).get_model().pretraining_modules
    pretrained = tmp_path / "pretrained/checkpoint_last.pt"
    with caplog.at_level(logging.WARNING):
        tuned = fine_tune(
            data, tmp_path / "tuned", pretrained, "task.normalize=false", "optimization.max_update=2", *now
        )
    lines = [record.getMessage() for record in caplog.records]
    assert [logged in line for line in lines if "does not use" in line] == [True]

    loaded, reader = load_model(tuned), open_reader(tuned)
    start, state = torch.load(pretrained, weights_only=False)["model"], trunk_of(loaded.model).state_dict()
    assert state.keys() == {name for name in start if name.split(".")[0] not in heads} < start.keys()
    assert not [name for name, p in trunk_of(loaded.model).named_parameters() if torch.equal(p, start[name])]
    assert loaded.task.grid == reader.grid and reader.grid.rate == 100
    assert reader.width == loaded.model.w2v_encoder.proj.in_features == width

    waves = [torch.randn(n) for n in LENGTHS]
    source, padding_mask = padded_waves(waves)
    with torch.no_grad():
        together = loaded.model(source=source, padding_mask=padding_mask)["encoder_out"]  # (F, B, V)
        for row, wave in enumerate(waves):
            alone = loaded.model(source=wave[None], padding_mask=None)["encoder_out"]  # (F of the row, 1, V)
            assert len(alone) == reader.frames(len(wave))
            torch.testing.assert_close(together[: len(alone), row], alone[:, 0], rtol=0, atol=1e-4)
        frames = reader.read(waves[:1], [0, 1])[0].layers
        features = trunk_of(loaded.model).extract_features(source[:1, : len(waves[0])], mask=True)
        assert torch.equal(frames[1], features["x"][0])


@pytest.mark.parametrize("model", ["dino_speaker", "ssrl_speaker"])
def test_models_without_frames_are_refused(data, tmp_path, model):
    """In any scale of the waveforms, although their configs have the width of a trunk."""
    cfg = {"model": {"_name": model, "encoder_embed_dim": 8}, "task": {"_name": "dinosr_speaker", "normalize": False}}
    # without this history fairseq treats it as a checkpoint of an old version
    history = {"optimizer_history": [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}]}
    torch.save({"cfg": cfg, "model": {}, "extra_state": {}, **history}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"^model.w2v_path=.*x.pt: contains \w+, which has no features of frames"):
        fine_tune(data, tmp_path / "tuned", tmp_path / "x.pt")

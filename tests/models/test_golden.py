"""DinoSR against figures that were computed independently (tests/golden)."""

import pytest
import torch
from fairseq import checkpoint_utils

from dinosr_plugin.models.dinosr import DinoSR, DinoSRConfig
from dinosr_plugin.modules.codebook_figures import FIGURES
from support.paths import GOLDEN


def model_from(cfg: dict) -> DinoSR:
    config = DinoSRConfig(
        **{name: cfg[name] for name in DinoSRConfig.__dataclass_fields__ if name in cfg and name != "_name"}
    )
    return DinoSR(config)


@pytest.fixture(scope="module")
def golden():
    return torch.load(GOLDEN / "dinosr_tiny.pt", weights_only=True)


def close(actual, expected, rtol=1e-4):
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float32),
        torch.as_tensor(expected, dtype=torch.float32),
        rtol=rtol,
        atol=1e-6,
    )


def test_five_training_steps(golden):
    model = model_from(golden["cfg"]).train()
    model.load_state_dict(golden["init_state"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for i, step in enumerate(golden["steps"]):
        output = model(step["source"], mask_indices=step["mask"])
        loss = output.losses["dinosr"]
        optimizer.zero_grad()
        (loss / output.sample_size).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        optimizer.step()
        model.end_update(i + 1)
        assert output.sample_size == step["sample_size"]
        close(loss.detach(), step["loss_sum"])
        close(norm, step["grad_norm"])
        close(FIGURES["target_ppl"](output.codebook_sums).mean(), step["target_ppl"])
        close(FIGURES["pred_ppl"](output.codebook_sums).mean(), step["pred_ppl"])
        close(output.scalars["ema_decay"], step["ema_decay"])
        close(model.codebooks.sums, step["codebook_sums"])
        close(model.codebooks.counts, step["codebook_counts"])
    state = model.state_dict()
    final = golden["final_state"]
    for name, value in final["_ema"].items():
        close(state["_ema"][name], value)
    for name in final.keys() - {"_ema"}:
        close(state[name], final[name])
    assert state.keys() == final.keys() and list(state["_ema"]) == list(final["_ema"])


def test_released_checkpoint_format():
    expected = torch.load(GOLDEN / "official_format_tiny_outputs.pt", weights_only=True)
    models, cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(GOLDEN / "official_format_tiny.pt")])
    model = models[0].eval()
    assert cfg.model._name == "dinosr" and isinstance(model, DinoSR)
    with torch.no_grad():
        features = model.extract_features(expected["source"])
    torch.testing.assert_close(features["x"], expected["features"], rtol=1e-5, atol=1e-5)
    assert len(features["layer_results"]) == len(expected["layer_outputs"])
    for (output, _, _), reference in zip(features["layer_results"], expected["layer_outputs"]):
        torch.testing.assert_close(output.transpose(0, 1), reference, rtol=1e-5, atol=1e-5)
    for codes, reference in zip(model.codes(expected["source"]), expected["teacher_codes"]):
        assert torch.equal(codes.view(-1), reference.view(-1).long())

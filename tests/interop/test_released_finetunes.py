"""fairseq's CTC fine-tuning, run as a command, of a checkpoint in the released format: student or teacher weights."""

import subprocess

import numpy as np
import pytest
import soundfile
import torch

from dinosr_plugin.cli import main as dinosr
from support.paths import REPOSITORY

RELEASED = REPOSITORY / "tests/golden/official_format_tiny.pt"


@pytest.mark.parametrize("load_ema", ["false", "true"])
def test_fine_tuning_starts_from_the_weights_of_the_student_or_teacher(tmp_path, load_ema, commands):
    rng = np.random.default_rng(0)
    (tmp_path / "corpus").mkdir()
    for n in range(4):
        soundfile.write(tmp_path / f"corpus/u{n}.wav", rng.normal(0, 0.1, 16000), 16000)
        (tmp_path / f"corpus/u{n}.txt").write_text("AB BA")
    assert dinosr(["manifest", "folder", str(tmp_path / "corpus"), "--out", str(tmp_path), "--valid-share", "0"]) == 0
    command = [
        commands / "fairseq-hydra-train",
        "--config-dir",
        REPOSITORY / "dinosr_plugin/config/finetuning",
        "--config-name",
        "tiny",
    ]
    command += [
        f"common.user_dir={REPOSITORY / 'dinosr_plugin'}",
        f"task.data={tmp_path}",
        f"model.w2v_path={RELEASED}",
        f"model.load_ema={load_ema}",
    ]
    command += [
        "optimization.max_update=10",
        "model.freeze_finetune_updates=10",
        "dataset.disable_validation=true",
        "dataset.num_workers=0",
    ]
    result = subprocess.run(
        [*map(str, command), f"checkpoint.save_dir={tmp_path}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]

    tuned = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)["model"]
    released = torch.load(RELEASED, weights_only=True)["model"]
    name = "layers.0.fc1.weight"  # frozen for all 10 updates, so equal to the loaded weights
    expected = released["_ema"][name] if load_ema == "true" else released[f"encoder.{name}"]
    assert torch.equal(tuned[f"w2v_encoder.w2v_model.encoder.{name}"], expected)
    assert not torch.equal(released["_ema"][name], released[f"encoder.{name}"])
    assert not any("heads" in key or "codebook" in key or "_ema" in key for key in tuned)

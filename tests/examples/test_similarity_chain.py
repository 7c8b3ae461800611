"""examples/similarity/run.sh: its control flow, with commands that only record their arguments."""

import re
import subprocess
from pathlib import Path

import pytest

from support.chains import calls, run_command, write_recording_commands
from support.paths import CONFIGS, EXAMPLES
from support.training import read_config

RUN = EXAMPLES / "similarity/run.sh"
MODELS = {path.stem for path in (CONFIGS / "pretraining").glob("*.yaml") if path.stem.startswith(("apc", "mpc"))}
MODELS |= {"cpc_mixed_rnn", "cpc_within_rnn", "cpc_within_cnn"}


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with data and with commands that only record their arguments."""
    write_recording_commands(tmp_path)
    return tmp_path


def run(sandbox: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return run_command([RUN, "data", "out", *words], sandbox, sandbox / "bin", **environment)


def trainings(sandbox: Path) -> dict[str, str]:
    """Folder below ``out`` -> command, of the trainings since the last time, in order."""
    return {re.search(r"checkpoint.save_dir=out/(\S+)", call)[1]: call for call in calls(sandbox)}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nine_models_for_each_seed(sandbox):
    """... whose fields all exist, and which have as many updates and layers of the same width."""
    assert run(sandbox, "model.n_mels=40", UPDATES="10", SEEDS="3 5").returncode == 0
    commands = trainings(sandbox)
    assert set(commands) == {f"seed{seed}/{model}" for seed in (3, 5) for model in MODELS} and len(MODELS) == 9
    for name, command in commands.items():
        seed, model = name.removeprefix("seed").split("/")
        assert f"--config-name {model} " in command and command.endswith(" model.n_mels=40")
        cfg = read_config("pretraining", model, [word for word in command.split()[5:] if "=" in word])
        assert (cfg.common.seed, cfg.optimization.max_update, cfg.common.log_file) == (
            int(seed), 10, f"out/{name}/train.log",
        )  # fmt: skip
        assert cfg.checkpoint.save_interval_updates == cfg.dataset.validate_interval_updates == 3  # 3, 6, 9 and 10
        assert cfg.model.get("context_dim", cfg.model.get("width")) == 128
        assert cfg.model.get("encoder") != "transformer" or cfg.model.positions == "convolution"


def test_it_resumes(sandbox):
    """A training that failed is started again, those that are finished are not, unless they have more updates now."""
    assert run(sandbox, SEEDS="1", FAIL_AT="4").returncode == 3  # `dinosr path` is the first call
    names = [re.search(r"save_dir=out/(\S+)", call)[1] for call in calls(sandbox)]
    assert len(names) == 4
    assert run(sandbox, SEEDS="1").returncode == 0
    assert list(trainings(sandbox))[0] == names[-1]
    assert run(sandbox, SEEDS="1").returncode == 0 and not trainings(sandbox)
    assert run(sandbox, SEEDS="1", UPDATES="500").returncode == 0 and len(trainings(sandbox)) == 9


def test_too_few_arguments_print_the_usage():
    printed = subprocess.run([RUN, "data"], text=True, capture_output=True)
    assert printed.returncode == 2 and "run.sh DATA OUT [FIELD...]" in printed.stderr
    assert printed.stderr.strip().endswith("has four checkpoints and train.log.")

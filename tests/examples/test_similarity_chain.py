"""examples/similarity: the control flow of run.sh, with commands that only record their arguments; conclusions.py."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from support.chains import calls, load_script, run_command, write_recording_commands
from support.paths import CONFIGS, EXAMPLES
from support.training import read_config

RUN = EXAMPLES / "similarity/run.sh"
MODELS = {path.stem for path in (CONFIGS / "pretraining").glob("*.yaml") if path.stem.startswith(("apc", "mpc"))}
MODELS |= {"cpc_mixed_rnn", "cpc_within_rnn", "cpc_within_cnn"}


conclusions = load_script(EXAMPLES / "similarity/conclusions.py")


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with data and with commands that only record their arguments."""
    write_recording_commands(tmp_path)
    return tmp_path


def run(sandbox: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return run_command([RUN, "data", "out", *words], sandbox, sandbox / "bin", **environment)


def trainings(sandbox: Path) -> dict[str, str]:
    """Folder below ``out`` -> command, of the trainings since the last time, in order."""
    found = [(re.search(r"checkpoint.save_dir=out/(\S+)", call), call) for call in calls(sandbox)]
    return {folder[1]: call for folder, call in found if folder}


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
        assert (cfg.common.seed, cfg.optimization.max_update, cfg.checkpoint.save_dir) == (int(seed), 10, f"out/{name}")
        assert cfg.checkpoint.save_interval_updates == cfg.dataset.validate_interval_updates == 2  # of 10
        assert cfg.model.get("context_dim", cfg.model.get("width")) == 128
        assert cfg.model.get("encoder") != "transformer" or cfg.model.positions == "convolution"


def test_it_resumes(sandbox):
    """A training that failed is started again, those that are finished are not, unless they have more updates now."""
    assert run(sandbox, SEEDS="1", FAIL_AT="3").returncode == 3
    names = list(trainings(sandbox))
    assert len(names) == 4
    assert run(sandbox, SEEDS="1").returncode == 0
    assert list(trainings(sandbox))[0] == names[-1]
    assert run(sandbox, SEEDS="1").returncode == 0 and not trainings(sandbox)
    assert run(sandbox, SEEDS="1", UPDATES="500").returncode == 0 and len(trainings(sandbox)) == 9


def test_too_few_arguments_print_the_usage():
    printed = subprocess.run([RUN, "data"], text=True, capture_output=True)
    assert printed.returncode == 2 and "run.sh DATA OUT [FIELD...]" in printed.stderr
    assert printed.stderr.strip().endswith("checkpoints of each model.")


def test_the_last_layers_of_all_models_are_compared_in_the_end(sandbox):
    assert run(sandbox, SEEDS="3 5", DRAWS="7").returncode == 0
    *_, command, conclusions = calls(sandbox)
    assert (
        command.startswith("dinosr similarity out/seed3/apc_fw_rnn/checkpoint_last.pt ") and "--layers last" in command
    )
    assert command.count("checkpoint_last.pt") == 18 and " fbank --manifest " in command and "--bootstrap 7" in command
    assert conclusions.endswith("conclusions.py out/similarity")


def test_losses_and_probes_of_each_seed_are_compared_if_there_are_phones(sandbox):
    assert run(sandbox, SEEDS="3 5", PHONES="a.tsv b.tsv").returncode == 0
    *_, first, second = calls(sandbox)
    for seed, command in ((3, first), (5, second)):
        folders = command.split("--checkpoints ")[1].split(" --train ")[0].split()
        assert sorted(folders) == sorted(f"out/seed{seed}/{model}" for model in MODELS)
        assert " --phones a.tsv b.tsv " in command and command.endswith(f" --out out/loss_probes{seed}")


# ---- conclusions.py --------------------------------------------------------------------------------------------------


def write_figures(folder: Path, values: dict[str, np.ndarray], names: list[str]) -> None:
    measures = {name: {"values": matrix.tolist()} for name, matrix in values.items()}
    (folder / "similarity.json").write_text(json.dumps({"rows": names, "measures": measures}))
    noise = np.random.default_rng(0).normal(scale=0.004, size=(200, len(names), len(names)))
    np.savez(folder / "draws.npz", **{name: matrix + noise for name, matrix in values.items()})


def test_the_papers_own_heat_maps_support_its_conclusions(tmp_path):
    values = {name: conclusions.of_paper(name) for name in conclusions.MEASURES}
    write_figures(tmp_path, values, list(conclusions.MODELS))
    figures = conclusions.Figures(tmp_path)
    for conclusion in conclusions.CONCLUSIONS:
        for measure in conclusions.MEASURES:
            row = conclusions.row(figures, conclusion, measure, "")
            assert row["holds"] == "yes" and row["low"] < row["difference"] < row["high"]
            assert row["paper"] == f"{row['more']:.3f} {row['less']:.3f}"


def test_conclusions_of_two_seeds(tmp_path, capsys):
    names = [f"seed{seed}/{model}" for seed in (1, 2) for model in conclusions.MODELS]
    paper = conclusions.of_paper("cka")
    values = np.block([[paper, 0.9 * np.ones((9, 9))], [0.9 * np.ones((9, 9)), 1 - paper]])  # seed 2: the reverse
    write_figures(tmp_path, {"cka": values, "svcca": values}, names)
    conclusions.main(str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[7] for line in lines if line.startswith(("seed1 ", "seed2 "))] == ["yes", "no"] * 6
    assert sum(line.split()[-1] == "0.900" for line in lines[-9:]) == 9

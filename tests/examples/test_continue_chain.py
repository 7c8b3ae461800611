"""examples/continue: run.sh once with the real commands; its control flow with commands that only record their
arguments; table.py."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from dinosr_plugin.data.manifest import read_manifest
from support.chains import calls, load_script, modification_times, run_chain, write_recording_commands, write_tones
from support.paths import EXAMPLES
from support.training import SMALL, read_config, train

RUN = EXAMPLES / "continue/run.sh"
FEW = ["dataset.num_workers=0", "common.tensorboard_logdir=null", "task.min_sample_size=16000"]
FEW += [f"model.{setting}" for setting in SMALL]
RUNS = ["warm_0.001", "warm_0.0003", "warm_0.0001", "new_0.0003", "mixed_0.0003", "scratch", "back_0.0003"]

table = load_script(EXAMPLES / "continue/table.py")


def test_the_whole_chain_and_again(tmp_path, commands):
    """Started again it trains and measures nothing, and prints the same table."""
    write_tones(tmp_path)
    train(tmp_path / "data", tmp_path / "base", "optimization.max_update=1", "task.min_sample_size=16000")
    few = {"UPDATES": "2", "RATES": "0.001", "RATE": "0.001", "MINUTES": "0.6", "VOICES": "3", "EVERY": "2"}
    start = {"path": commands, "base": ["base/checkpoint_last.pt"], "phones": "-", "LAYER": "1", **few}
    first = run_chain(RUN, tmp_path, *FEW, **start)
    assert first.returncode == 0, first.stderr[-3000:]
    out = tmp_path / "out"
    rows = (out / "table.txt").read_text().splitlines()
    assert "spanish: loss at start" in rows[0] and "PNMI" in rows[0] and (out / "losses.png").is_file()
    names = ["before", "warm_0.001", "new_0.001", "mixed_0.001", "scratch", "back_0.001"]
    assert [row.split()[0] for row in rows[2:-1]] == names
    mixed = read_manifest(out / "mixed/train.tsv")
    paths = [mixed.root / row.path for row in mixed.utterances]
    parts = [[path for path in paths if path.is_relative_to(folder)] for folder in (out / "corpus", tmp_path / "data")]
    spanish = read_manifest(out / "es/train.tsv")
    assert len(parts[0]) == len(spanish.utterances) and len(parts[1]) == 2 and len(paths) == sum(map(len, parts))
    assert all(path.is_file() for path in paths)
    kept = {path: time for path, time in modification_times(out).items() if path.suffix in (".pt", ".npy", ".json")}
    del kept[out / "measured2/abx/spanish/abx.json"]  # rewritten from the stored rows
    again = run_chain(RUN, tmp_path, *FEW, **start)
    assert again.returncode == 0, again.stderr[-3000:]
    after = modification_times(out)
    assert {path: after[path] for path in kept} == kept
    assert (out / "table.txt").read_text().splitlines() == rows


# ---- the control flow ------------------------------------------------------------------------------------------------


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with data, the manifests of Spanish, and commands that only record their arguments."""
    write_recording_commands(tmp_path)
    (tmp_path / "out/es").mkdir(parents=True)
    (tmp_path / "out/es/english.tsv").write_text("/\n")
    return tmp_path


def run(sandbox: Path, *words: str, **settings: str) -> subprocess.CompletedProcess:
    return run_chain(RUN, sandbox, *words, path=sandbox / "bin", base=["base.pt"], **settings)


def trainings(recorded: list[str]) -> dict[str, str]:
    """Name of a run -> command."""
    found = [(re.search(r"checkpoint.save_dir=\S+/out/runs/(\S+)", call), call) for call in recorded]
    return {name[1]: call for name, call in found if name}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_trainings(sandbox):
    """... whose fields all exist: all have as many updates, and validate both languages ten times."""
    assert run(sandbox, "model.dropout=0.1", UPDATES="50").returncode == 0
    commands = trainings(calls(sandbox))
    assert list(commands) == RUNS
    for name, command in commands.items():
        cfg = read_config("pretraining", "dinosr_tiny", [word for word in command.split()[5:] if "=" in word])
        kind, _, rate = name.partition("_")
        assert cfg.optimization.lr == [float(rate or 0.001)] and cfg.optimization.max_update == 50
        subsets = ["spanish", "english"]
        assert cfg.dataset.valid_subset.split(",") == (subsets[::-1] if kind == "back" else subsets)
        assert not cfg.dataset.disable_validation and cfg.dataset.validate_interval_updates == 5
        folder = {"mixed": "mixed", "back": "en"}.get(kind, "es")
        assert cfg.task.data == f"{sandbox}/out/{folder}" and cfg.model.dropout == 0.1
        start = {"scratch": None, "back": f"{sandbox}/out/runs/warm_0.001/checkpoint_last.pt"}.get(kind, "base.pt")
        assert cfg.model.start_from == start
        assert cfg.model.start_codebooks == ("new" if kind == "new" else "warm")


def test_the_measures(sandbox):
    """Units and features of the model before and of all others, in each language that has phones."""
    assert run(sandbox, UPDATES="5", LAYER="2").returncode == 0
    recorded = calls(sandbox)
    for language, phones in (("spanish", f"{sandbox}/out/corpus/dev.phones.tsv"), ("english", "dev.phones.tsv")):
        manifest = f"{sandbox}/out/es/{language}.tsv"
        units = [call for call in recorded if call.startswith("dinosr quality ") and f" --manifest {manifest} " in call]
        assert len(units) == 8 and units[0].startswith("dinosr quality base.pt ")
        assert all(f" --phones {phones} " in call for call in units)
        features = [call for call in recorded if call.startswith("dinosr features ") and f" {manifest} " in call]
        assert len(features) == 8 and all(" --layer 2 " in call for call in features)
        (abx,) = [
            call for call in recorded if call.startswith("dinosr abx ") and call.endswith(f"/measured5/abx/{language}")
        ]
        assert [Path(folder).name for folder in abx.split(" --phones ")[0].split()[2:]] == ["before", *RUNS]
    assert recorded[-1].endswith(f"table.py {sandbox}/out {sandbox}/out/measured5 before {' '.join(RUNS)}")
    assert run(sandbox, phones="-", UPDATES="5").returncode == 0
    assert not [call for call in calls(sandbox) if "english" in call]


def test_it_resumes(sandbox):
    """A training that failed is started again; those that are finished are not, unless there are more updates."""
    assert run(sandbox, UPDATES="5", FAIL_AT="3").returncode == 3
    assert list(trainings(calls(sandbox))) == RUNS[:3]
    assert run(sandbox, UPDATES="5").returncode == 0
    assert list(trainings(calls(sandbox))) == RUNS[2:]
    assert run(sandbox, UPDATES="5").returncode == 0 and not trainings(calls(sandbox))
    assert run(sandbox, UPDATES="6").returncode == 0 and list(trainings(calls(sandbox))) == RUNS


def test_too_few_arguments_print_the_usage():
    printed = subprocess.run([RUN, "base.pt", "data", "-"], text=True, capture_output=True)
    assert printed.returncode == 2 and "run.sh CHECKPOINT DATA PHONES OUT [FIELD...]" in printed.stderr
    assert printed.stderr.strip().endswith("losses on both languages.")


# ---- table.py --------------------------------------------------------------------------------------------------------


def test_table(tmp_path, capsys):
    """Losses at the start and in the end; the best of the default codebooks; what was not measured is missing."""
    log = tmp_path / "runs/warm/training.log"
    log.parent.mkdir(parents=True)
    losses = {"spanish": {0: 3.5, 10: 2.25}, "english": {0: 2.5, 10: 3.125}}
    for language, values in losses.items():
        for update, loss in values.items():
            record = {f"{language}_loss_dinosr": loss, f"{language}_loss": 9, f"{language}_num_updates": update}
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
    for name, pnmi in {"before": 0.4, "warm": 0.5}.items():
        folder = tmp_path / "measured/units/spanish" / name
        folder.mkdir(parents=True)
        rows = [{"kind": "codes", "pnmi": 0.1}, {"kind": "codes", "pnmi": pnmi}, {"kind": "predicted", "pnmi": 0.9}]
        (folder / "quality.json").write_text(json.dumps({"rows": rows}))
    table.main(str(tmp_path), str(tmp_path / "measured"), "before", "warm")
    *rows, picture = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows[2:]] == [
        ["before", "-", "-", "0.400", "-", "-"],
        ["warm", "3.500", "2.250", "0.500", "2.500", "3.125"],
    ]
    assert Path(picture) == tmp_path / "losses.png" and Path(picture).is_file()

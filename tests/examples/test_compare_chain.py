"""examples/compare: the control flow of run.sh, with commands that only record their arguments; page.py."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from dinosr_plugin.errors import UserError
from dinosr_plugin.evaluation.web_page import POLICY
from support.chains import calls, load_script, run_command, write_recording_commands
from support.paths import EXAMPLES
from support.training import read_config

RUN = EXAMPLES / "compare/run.sh"
page = load_script(EXAMPLES / "compare/page.py")

# ---- run.sh ----------------------------------------------------------------------------------------------------------

MEASURING = """#!/usr/bin/env bash
case $1 in
    quality | probe) mkdir -p "${@: -1}"; touch "${@: -1}"/{quality,probes}.json; echo "dinosr $*" >> calls ;;
    *) exec "$0-others" "$@" ;;
esac
"""
DECODED = '#!/usr/bin/env bash\necho "fairseq-generate $*" >> calls\necho "Generate dev with beam=1: WER: 50.00"\n'


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with prepared data and with commands that only record their arguments."""
    write_recording_commands(tmp_path)
    (tmp_path / "bin/dinosr").rename(tmp_path / "bin/dinosr-others")
    for name, text in (("dinosr", MEASURING), ("fairseq-generate", DECODED)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "out/data").mkdir(parents=True)
    for name in ("train.tsv", "train10.tsv", "more.tsv", "dev.tsv", "words.tsv"):
        (tmp_path / "out/data" / name).write_text("/\n" + "a.wav\t16000\n" * 64)
    return tmp_path


def run(sandbox: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return run_command([RUN, "corpus", "out", *words], sandbox, sandbox / "bin", **environment)


def trainings(recorded: list[str]) -> dict[str, str]:
    """Folder below ``out`` -> command, in order."""
    found = [(re.search(r"checkpoint.save_dir=out/(\S+)", call), call) for call in recorded]
    return {folder[1]: call for folder, call in found if folder}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_model_is_trained_measured_and_fine_tuned(sandbox):
    done = run(sandbox, "common.log_interval=7", MINUTES="3", LABEL_UPDATES="9")
    assert done.returncode == 0, done.stderr[-3000:]
    recorded = [call.replace("dinosr-others", "dinosr") for call in calls(sandbox)]
    commands = trainings(recorded)
    stages = [f"{key}/{stage}" for key, model in page.MODELS.items() for stage in model.stages]
    recognisers = [f"{key}/recogniser" for key in [*page.MODELS, "scratch"] if key != "ssrl"]
    assert sorted(commands) == sorted(stages + recognisers)
    for folder, command in commands.items():
        part = "finetuning" if folder.endswith("recogniser") else "pretraining"
        name = re.search(r"--config-name (\S+)", command)[1]
        cfg = read_config(part, name, [word for word in command.split()[5:] if "=" in word])
        assert cfg.checkpoint.save_dir.startswith(f"out/{folder}"), folder
        if part == "finetuning":
            assert cfg.optimization.max_update == cfg.dataset.validate_interval_updates == 9
            assert cfg.task.normalize == (not folder.startswith(("cpc", "apc", "mpc")))
            assert f"model.w2v_path=out/{folder.split('/')[0]}/".replace("scratch", "dinosr_1") in command
        else:
            assert command.endswith(" common.log_interval=7")
    assert [call.split()[1] for call in recorded if call.startswith("dinosr") and "--out out/hubert/" in call] == [
        *["kmeans"] * 6,
        "quality",
        "probe",
    ]
    measured = [call for call in recorded if call.startswith("dinosr probe ")]
    assert len(measured) == len(page.MODELS)
    with_phones = [call for call in measured if " --task phone " in call]
    assert len(with_phones) == len(measured) - 1 and all(
        " --phones corpus/train.phones.tsv " in call for call in with_phones
    )
    assert [call for call in measured if "--phones" not in call and " --task speaker --cache" in call]  # SSRL
    similar = [call for call in recorded if call.startswith("dinosr similarity ")]
    assert [call.count("checkpoint_last.pt") for call in similar] == [8, 8]  # all but SSRL
    assert recorded[-1].endswith("page.py out")


def test_equal_minutes(sandbox):
    """Updates times milliseconds of an update, summed over the stages of a model, are the minutes."""
    assert run(sandbox, MINUTES="5").returncode == 0
    commands = trainings(calls(sandbox))
    cost = dict(re.findall(r"\[(\w+)\]=(\d+)", RUN.read_text()))
    of_stage = {"iteration1": "hubert", "iteration2": "hubert", "round1": "deepcluster"}
    for key, model in page.MODELS.items():
        if key == "ssrl":  # counted in epochs
            continue
        spent = 0
        for stage in model.stages:
            updates = int(re.search(r"optimization.max_update=(\d+)", commands[f"{key}/{stage}"])[1])
            spent += updates * int(cost[of_stage.get(stage, stage)])
        assert spent == pytest.approx(5 * 60000, rel=0.01), key


def test_it_resumes(sandbox):
    """A command that failed is started again; what is finished is not."""
    assert run(sandbox, MODELS="dinosr_1 hubert", FAIL_AT="4").returncode == 3  # `dinosr path` is the first call
    assert list(trainings(calls(sandbox))) == ["dinosr_1/dinosr"]
    assert run(sandbox, MODELS="dinosr_1 hubert").returncode == 0
    again = calls(sandbox)
    assert list(trainings(again))[0] == "hubert/iteration1" and "--mfcc" not in again[0]
    assert run(sandbox, MODELS="dinosr_1 hubert").returncode == 0
    assert not trainings(calls(sandbox))


def test_too_few_arguments_print_the_usage():
    printed = subprocess.run([RUN, "corpus"], text=True, capture_output=True)
    assert printed.returncode == 2 and "run.sh CORPUS OUT [FIELD...]" in printed.stderr
    assert printed.stderr.strip().endswith("that are complete.")


# ---- page.py ---------------------------------------------------------------------------------------------------------


def write_model(out: Path, key: str, good: float) -> None:
    """A measured model; higher ``good``: better figures."""
    quality, probes = [], []
    for kind, index in (("mfcc", None), ("fbank", None), ("untrained", 0), ("layer", 0), ("layer", 1)):
        value = good + 0.01 * (index or 0) if kind == "layer" else 0.3
        head = {"name": kind if index is None else f"{kind} {index}", "kind": kind, "index": index}
        quality.append({**head, "pnmi": value, "speaker_pnmi": 0.05, "unit_abx_across": 30 * (1 - value)})
        quality[-1] |= {"abx_across": 20 * (1 - value), "abx_within": 10 * (1 - value)}
        probes.append({**head, **dict.fromkeys(page.TASKS, value)})
    about = {"train_hours": 1.7, "train_speakers": 16, "test_hours": 0.3, "test_speakers": 4, "examples": 20000}
    about["penalty_chosen_on"] = "3 training speakers"
    for name, content in (("quality", {"rows": quality}), ("probes", {"about": about, "rows": probes})):
        (out / key / name).mkdir(parents=True)
        (out / key / name / f"{name}.json").write_text(json.dumps(content))
    for stage in page.MODELS[key].stages:
        (out / key / stage).mkdir()
        weights = {"encoder.weight": torch.zeros(300, 1000), "heads.0.weight": torch.zeros(7)}
        weights["student.head.weight"] = torch.zeros(9)
        state = {"model": weights, "args": None, "cfg": {"model": {"_name": "dinosr"}, "task": {"_name": "x"}}}
        state |= {"extra_state": {"previous_training_time": 90.0}, "optimizer_history": [{"num_updates": 40}]}
        torch.save(state, out / key / stage / "checkpoint_last.pt")


@pytest.fixture
def measured(tmp_path) -> Path:
    for key, good in (("dinosr_1", 0.5), ("dinosr_2", 0.52), ("hubert", 0.53), ("cpc", 0.4)):
        write_model(tmp_path, key, good)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.tsv").write_text(f"{tmp_path}\na.wav\t57600000\n")  # an hour
    (tmp_path / "cpc/recogniser").mkdir()
    (tmp_path / "cpc/recogniser/dev.txt").write_text("Generate dev with beam=1: WER: 98.10, CER: 61.25\n")
    return tmp_path


def stars(html: str, name: str) -> str:
    return re.search(rf"<th scope=row>{name}</th>(.*?)</tr>", html)[1]


def test_the_page(measured, capsys):
    """One file without scripts and links; the best model is marked, and those within the gap of two seeds."""
    paths = page.write_page(measured)
    assert [path.name for path in paths] == ["page.html", "layers.png", "figures.csv"]
    html = paths[0].read_text()
    assert POLICY in html and "<script" not in html and not re.search(r'(src|href)="(?!data:)', html)
    assert "&#9733;&nbsp;0.540" in stars(html, "HuBERT-style")
    assert "&#9733;&nbsp;0.530" in stars(html, "DinoSR, second seed")
    assert "&#9733;&nbsp;0.510" not in html and "&#9733;&nbsp;0.410" not in html
    assert "<b>HuBERT, DinoSR</b>" in html
    assert "Training: 1.00 h, 16 speakers" in html and "seeds of DinoSR: units PNMI 0.020, " in html
    assert "SSRL" not in re.sub(r"For SSRL see", "", html)  # it has not been measured
    table = paths[2].read_text().splitlines()
    assert table[0].startswith("key,name,short,units,pnmi,") and len(table) == 1 + 4 + 3
    assert "HuBERT-style" in capsys.readouterr().out


def test_minutes_size_and_error_rates(measured):
    row = page.model_row(measured, "hubert")
    assert (row["updates"], row["minutes"], row["parameters"]) == (80, 3.0, 0.3)  # two stages; without heads
    assert row["cer"] is None and page.error_rates(measured, "cpc") == {"cer": 61.25, "wer": 98.10}


def test_seed_gaps(measured):
    rows = [page.model_row(measured, key) for key in page.SEEDS]
    gaps = page.seed_gaps(rows)
    assert gaps["pnmi"] == pytest.approx(0.02) and gaps["cer"] == 0 and page.seed_gaps(rows[:1])["pnmi"] == 0


def test_a_speaker_probe_that_tells_nothing_is_noted():
    rows = [{"key": name, "speaker": accuracy} for name, accuracy in (("hubert", 0.97), ("cpc", 0.96), ("mfcc", 0.5))]
    assert "does not separate the models" in page.notes(rows)[1]
    rows[1]["speaker"] = 0.9
    assert len(page.notes(rows)) == 1


def test_nothing_measured(tmp_path):
    with pytest.raises(UserError, match="no model has been measured"):
        page.write_page(tmp_path)
